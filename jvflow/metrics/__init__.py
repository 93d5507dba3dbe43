"""Measures of generated video: errors per pixel, the Frechet distance over windows, and motion."""

from jvflow.metrics.features import DISTANCE_NAME, FEATURE_MAPS, WindowPCA, feature_map, fit_window_pca
from jvflow.metrics.frechet import distance, frechet_distance, moments
from jvflow.metrics.image import psnr, psnr_side, ssim, to_unit_range
from jvflow.metrics.window import flatten_windows, motion, windows

__all__ = [
    "DISTANCE_NAME",
    "FEATURE_MAPS",
    "WindowPCA",
    "distance",
    "feature_map",
    "fit_window_pca",
    "flatten_windows",
    "frechet_distance",
    "moments",
    "motion",
    "psnr",
    "psnr_side",
    "ssim",
    "to_unit_range",
    "windows",
]
