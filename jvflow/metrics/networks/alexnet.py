"""AlexNet (Krizhevsky, arXiv 1404.5997), its convolutions only: the features of LPIPS with net "alex".

Images are (b, h, w, 3), normalised by `jvflow.metrics.networks.lpips`. A tap follows each relu.
"""

import jax
from flax import nnx
from jaxtyping import Array, Float

CONVOLUTIONS = ((3, 64, 11, 4, 2), (64, 192, 5, 1, 2), (192, 384, 3, 1, 1), (384, 256, 3, 1, 1), (256, 256, 3, 1, 1))
"""Inputs, outputs, size, stride and padding."""
POOL_BEFORE = (1, 2)
"""The convolutions before which a max-pool 3 x 3 of stride 2 stands, without padding."""
CHANNELS = (64, 192, 384, 256, 256)
MIN_SIZE = 31
"""Pixels that the second pool needs."""


class AlexNet(nnx.Module):
    """The network; see the top of the file."""

    def __init__(self, *, rngs):
        for number, (inputs, outputs, size, stride, around) in enumerate(CONVOLUTIONS):
            pads = ((around, around),) * 2
            layer = nnx.Conv(inputs, outputs, (size, size), strides=stride, padding=pads, rngs=rngs)
            setattr(self, f"conv{number}", layer)

    def __call__(self, x: Float[Array, "b h w 3"]) -> list[Float[Array, "b _ _ _"]]:
        """Returns the five taps."""
        taps = []
        for number in range(len(CONVOLUTIONS)):
            if number in POOL_BEFORE:
                x = nnx.max_pool(x, (3, 3), (2, 2), "VALID")
            x = jax.nn.relu(getattr(self, f"conv{number}")(x))
            taps.append(x)
        return taps
