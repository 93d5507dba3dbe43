"""The data set of latents that VLFM trains on."""

from collections.abc import Callable
from pathlib import Path

from jvflow.data import latents


def encode(config, directory: str | Path, load_model: Callable) -> tuple[dict, str]:
    """Writes the latents of a config's data into `directory`; returns the manifest and a note for the user."""
    del load_model
    manifest = latents.prepare(config, directory)
    change = latents.frame_difference(Path(directory), every=config.window.every)
    return manifest, f"latents change by {change:.3f} per frame: train with --config.path.velocity_scale={change:.3f}"
