"""LPIPS, the learned perceptual distance of two images (Zhang et al., arXiv 1801.03924), version 0.1.

x' = (x - SHIFT) / SCALE                                    images in [-1, 1], per channel           (1)
f_i = tap_i / (|tap_i| + 1e-10)                             the norm is over channels                (2)
m_i = head_i (f_i(x) - f_i(y))^2                            head_i is a 1x1 convolution to 1 channel (3)
LPIPS = sum_i mean_hw m_i                                                                            (4)
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from jvflow.metrics.networks import alexnet, vgg

SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
BACKBONES = {"alex": (alexnet.AlexNet, alexnet), "vgg": (vgg.VGG16, vgg)}

Images = Float[Array, "b h w 3"]


class LPIPS(nnx.Module):
    """The distance with its network; see the top of the file."""

    def __init__(self, net: str, *, rngs):
        backbone, sizes = BACKBONES[net]
        self.net, self.min_size = backbone(rngs=rngs), sizes.MIN_SIZE
        for number, channels in enumerate(sizes.CHANNELS):
            setattr(self, f"head{number}", nnx.Conv(channels, 1, (1, 1), use_bias=False, rngs=rngs))

    def maps(self, x: Images, y: Images) -> list[Float[Array, "b _ _"]]:
        """Returns the five maps (3); raises ValueError for images that are too small for the network."""
        if min(x.shape[1:3]) < self.min_size:
            raise ValueError(
                f"LPIPS with this network needs images of {self.min_size} x {self.min_size} or more, "
                f"got {x.shape[1]} x {x.shape[2]}: resize both"
            )
        shift, scale = (np.asarray(values, np.float32)[None, None, None] for values in (SHIFT, SCALE))
        taps = zip(self.net((x - shift) / scale), self.net((y - shift) / scale))
        return [
            getattr(self, f"head{number}")(jnp.square(_unit(a) - _unit(b)))[..., 0]
            for number, (a, b) in enumerate(taps)
        ]

    def layers(self, x: Images, y: Images) -> Float[Array, "b 5"]:
        """Returns the terms of (4), one for each tap."""
        return jnp.stack([each.mean((1, 2)) for each in self.maps(x, y)], axis=1)

    def spatial(self, x: Images, y: Images) -> Float[Array, "b h w"]:
        """Returns the distance at each pixel: the sum of the maps (3), each resized bilinearly to the images."""
        height, width = x.shape[1:3]
        resized = lambda each: jax.image.resize(each, (len(each), height, width), "linear", antialias=False)
        return sum(resized(each) for each in self.maps(x, y))

    def __call__(self, x: Images, y: Images) -> Float[Array, "b"]:
        """Returns the distance (4)."""
        return self.layers(x, y).sum(1)


def _unit(tap: Array) -> Array:
    return tap / (jnp.sqrt(jnp.square(tap).sum(-1, keepdims=True)) + 1e-10)  # (2)
