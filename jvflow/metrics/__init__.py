"""Measures of generated video: errors per pixel, published distances (FVD, FID, LPIPS), and motion."""

from jvflow.metrics.extractor import i3d
from jvflow.metrics.features import DISTANCE_NAME, FEATURE_MAPS, WindowPCA, feature_map, fit_window_pca
from jvflow.metrics.frechet import distance, frechet_distance, moments
from jvflow.metrics.image import psnr, psnr_side, ssim, to_unit_range
from jvflow.metrics.pairs import PairProtocol, PairScore, score_pairs
from jvflow.metrics.perceptual import lpips, temporal_flickering
from jvflow.metrics.protocol import PRESETS, Protocol
from jvflow.metrics.score import Score, fvd, score_folders
from jvflow.metrics.window import flatten_windows, motion, motion_ratio, windows

__all__ = [
    "DISTANCE_NAME",
    "FEATURE_MAPS",
    "PRESETS",
    "PairProtocol",
    "PairScore",
    "Protocol",
    "Score",
    "WindowPCA",
    "distance",
    "feature_map",
    "fit_window_pca",
    "flatten_windows",
    "frechet_distance",
    "fvd",
    "i3d",
    "lpips",
    "moments",
    "motion",
    "motion_ratio",
    "psnr",
    "psnr_side",
    "score_folders",
    "score_pairs",
    "ssim",
    "temporal_flickering",
    "to_unit_range",
    "windows",
]
