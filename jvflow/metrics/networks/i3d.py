"""I3D (Carreira and Zisserman, arXiv 1705.07750), RGB, trained on Kinetics-400: the features of FVD.

    unit      convolution (SAME, no bias), batch norm with running statistics and without scale, relu    (1)
    mixed     concatenation of  1x1;  1x1, 3x3;  1x1, 3x3;  max-pool 3x3, 1x1                            (2)
    logits    average over 2 x 7 x 7, 1x1 convolution to 400 classes, mean over time                     (3)

Videos are (b, f, h, w, 3) in [-1, 1] with at least 9 frames, at 224 x 224 in every published FVD. The names of the
layers are those of the public PyTorch ports.
"""

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import nnx
from jaxtyping import Array, Float

CLASSES = 400
MIN_FRAMES = 9
"""Frames that the average pool of (3) needs: two, after three steps of stride 2 over time."""
EPSILON = 1e-3
"""The epsilon of batch norm in the original network; some PyTorch ports have 1e-5."""

STEM = (("Conv3d_1a_7x7", 3, 64, 7, 2), ("Conv3d_2b_1x1", 64, 64, 1, 1), ("Conv3d_2c_3x3", 64, 192, 3, 1))
"""Name, inputs, outputs, size and stride of the units before the first mixed layer."""
MIXED = {
    "Mixed_3b": (192, 64, 96, 128, 16, 32, 32),
    "Mixed_3c": (256, 128, 128, 192, 32, 96, 64),
    "Mixed_4b": (480, 192, 96, 208, 16, 48, 64),
    "Mixed_4c": (512, 160, 112, 224, 24, 64, 64),
    "Mixed_4d": (512, 128, 128, 256, 24, 64, 64),
    "Mixed_4e": (512, 112, 144, 288, 32, 64, 64),
    "Mixed_4f": (528, 256, 160, 320, 32, 128, 128),
    "Mixed_5b": (832, 256, 160, 320, 32, 128, 128),
    "Mixed_5c": (832, 384, 192, 384, 48, 128, 128),
}
"""Channels of each mixed layer: inputs, then b0, b1a, b1b, b2a, b2b, b3b."""
POOLS = {
    "Conv3d_2b_1x1": ("MaxPool3d_2a_3x3", (1, 3, 3), (1, 2, 2)),
    "Mixed_3b": ("MaxPool3d_3a_3x3", (1, 3, 3), (1, 2, 2)),
    "Mixed_4b": ("MaxPool3d_4a_3x3", (3, 3, 3), (2, 2, 2)),
    "Mixed_5b": ("MaxPool3d_5a_2x2", (2, 2, 2), (2, 2, 2)),
}
"""The max-pool before a layer: its name, window and strides."""

Video, Output = Float[Array, "b f h w c"], Float[Array, "b _ _ _ _"]


class Unit(nnx.Module):
    """A convolution with batch norm (1)."""

    def __init__(self, inputs: int, outputs: int, size: int, stride: int, epsilon: float, rngs):
        window = (size,) * 3
        self.conv3d = nnx.Conv(inputs, outputs, window, strides=stride, padding="SAME", use_bias=False, rngs=rngs)
        self.bn = nnx.BatchNorm(outputs, epsilon=epsilon, use_scale=False, use_running_average=True, rngs=rngs)

        self.stride = stride

    def __call__(self, x: Video) -> Output:
        on_cpu = jax.default_backend() == "cpu"
        x = convolve_by_frames(x, self.conv3d.kernel[...], self.stride) if on_cpu else self.conv3d(x)
        return jax.nn.relu(self.bn(x))


def convolve_by_frames(x: Video, kernel: Float[Array, "t y x c d"], stride: int) -> Output:
    """Returns the 3-D convolution with SAME padding, as a sum of 2-D ones: XLA has a fast one for CPUs in 2-D only."""
    batch, frames = x.shape[:2]
    kept = -(-frames // stride)
    padding = max((kept - 1) * stride + len(kernel) - frames, 0)
    x = jnp.pad(x, ((0, 0), (padding // 2, padding - padding // 2), (0, 0), (0, 0), (0, 0)))
    total = 0
    for tap in range(len(kernel)):
        images = rearrange(x[:, tap : tap + (kept - 1) * stride + 1 : stride], "b f h w c -> (b f) h w c")
        total = total + jax.lax.conv_general_dilated(
            images, kernel[tap], (stride, stride), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
    return rearrange(total, "(b f) h w c -> b f h w c", b=batch)


class Mixed(nnx.Module):
    """Four branches over the same input (2)."""

    def __init__(self, channels: tuple[int, ...], epsilon: float, rngs):
        inputs, one, middle1, three1, middle2, three2, pooled = channels
        unit = lambda inputs, outputs, size: Unit(inputs, outputs, size, 1, epsilon, rngs)
        self.b0 = unit(inputs, one, 1)
        self.b1a, self.b1b = unit(inputs, middle1, 1), unit(middle1, three1, 3)
        self.b2a, self.b2b = unit(inputs, middle2, 1), unit(middle2, three2, 3)
        self.b3b = unit(inputs, pooled, 1)

    def __call__(self, x: Video) -> Output:
        pooled = nnx.max_pool(x, (3, 3, 3), (1, 1, 1), "SAME")
        return jnp.concatenate([self.b0(x), self.b1b(self.b1a(x)), self.b2b(self.b2a(x)), self.b3b(pooled)], axis=-1)


class I3D(nnx.Module):
    """The network; see the top of the file."""

    def __init__(self, *, epsilon: float = EPSILON, rngs):
        for name, inputs, outputs, size, stride in STEM:
            setattr(self, name, Unit(inputs, outputs, size, stride, epsilon, rngs))
        for name, channels in MIXED.items():
            setattr(self, name, Mixed(channels, epsilon, rngs))
        self.logits = nnx.Conv(1024, CLASSES, (1, 1, 1), rngs=rngs)

    def __call__(self, video: Video) -> Float[Array, "b 400"]:
        """Returns the logits (3); raises ValueError for a video that is too small."""
        return self.endpoints(video)["logits"]

    def endpoints(self, video: Video) -> dict[str, Array]:
        """Returns the output of every layer by name, `avg_pool_mean` (b, 1024), and `logits` (b, 400)."""
        if video.shape[1] < MIN_FRAMES or min(video.shape[2:4]) < 193 or video.shape[4] != 3:
            raise ValueError(
                f"I3D takes (b, f >= {MIN_FRAMES}, h, w, 3) of at least 193 x 193 pixels (224 x 224 in published "
                f"values), got {video.shape}: use longer clips, and resize them"
            )
        x, found = video, {}
        for name in [*(row[0] for row in STEM), *MIXED]:
            if name in POOLS:
                pool, window, strides = POOLS[name]
                x = found[pool] = nnx.max_pool(x, window, strides, "SAME")
            x = found[name] = getattr(self, name)(x)
        pooled = nnx.avg_pool(x, (2, 7, 7), (1, 1, 1), "VALID")
        found["avg_pool_mean"] = pooled.mean((1, 2, 3))
        # (3) is linear: the mean comes first. Sums of 32 products, then of 32 sums, halve the rounding error
        kernel = self.logits.kernel[...].reshape(32, 32, CLASSES)
        sums = jnp.einsum("bgk,gkc->bgc", found["avg_pool_mean"].reshape(-1, 32, 32), kernel)
        found["logits"] = sums.sum(1) + self.logits.bias[...][None]
        return found
