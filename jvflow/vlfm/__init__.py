"""Video Latent Flow Matching: a clip as one continuous flow of latents, read at any frame rate."""

from jvflow.vlfm.direct import regress
from jvflow.vlfm.exact import exact_field
from jvflow.vlfm.sample import generate, sample_frames

__all__ = ["exact_field", "generate", "regress", "sample_frames"]
