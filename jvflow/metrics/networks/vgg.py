"""VGG16 (Simonyan and Zisserman, arXiv 1409.1556), its convolutions only: the features of LPIPS with net "vgg".

Images are (b, h, w, 3), normalised by `jvflow.metrics.networks.lpips`. All convolutions are 3 x 3 with a relu. A tap
follows the last one of each group, and a max-pool 2 x 2 follows each tap but the last.
"""

import jax
from flax import nnx
from jaxtyping import Array, Float

GROUPS = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
"""Output channels of the convolutions in each group."""
CHANNELS = (64, 128, 256, 512, 512)
MIN_SIZE = 16
"""Pixels that the four pools need."""


class VGG16(nnx.Module):
    """The network; see the top of the file."""

    def __init__(self, *, rngs):
        inputs, number = 3, 0
        for group in GROUPS:
            for outputs in group:
                setattr(self, f"conv{number}", nnx.Conv(inputs, outputs, (3, 3), padding="SAME", rngs=rngs))
                inputs, number = outputs, number + 1

    def __call__(self, x: Float[Array, "b h w 3"]) -> list[Float[Array, "b _ _ _"]]:
        """Returns the five taps."""
        taps, number = [], 0
        for group in GROUPS:
            x = nnx.max_pool(x, (2, 2), (2, 2), "VALID") if taps else x
            for _ in group:
                x = jax.nn.relu(getattr(self, f"conv{number}")(x))
                number += 1
            taps.append(x)
        return taps
