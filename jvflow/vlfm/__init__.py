"""Video Latent Flow Matching: a clip as one continuous flow of latents, read at any frame rate."""

from jvflow.vlfm.sample import generate, regress, sample_frames

__all__ = ["generate", "regress", "sample_frames"]
