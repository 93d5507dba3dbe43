"""How good a video is: per-pixel errors, the Frechet distance over windows, and motion."""

from jvflow.metrics.features import DISTANCE_NAME, FEATURE_MAPS, WindowPCA, feature_map, fit_window_pca
from jvflow.metrics.frechet import distance, frechet_distance, moments
from jvflow.metrics.image import psnr, psnr_side, ssim
from jvflow.metrics.window import motion, windows

__all__ = [
    "DISTANCE_NAME",
    "FEATURE_MAPS",
    "WindowPCA",
    "distance",
    "feature_map",
    "fit_window_pca",
    "frechet_distance",
    "moments",
    "motion",
    "psnr",
    "psnr_side",
    "ssim",
    "windows",
]
