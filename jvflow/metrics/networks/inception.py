"""InceptionV3 of FID (Szegedy et al., arXiv 1512.00567; weights of 2015-12-05): features of single frames.

It differs from the usual InceptionV3 in the pools inside its mixed layers: average pools count only the pixels inside
the image, and the last layer has a max-pool. Images are (b, 299, 299, 3) in [-1, 1], without other normalisation.
Every convolution has batch norm with scale, and a relu. Layers have the names of the public tensors.
"""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

SIZE = 299
EPSILON = 1e-3
FEATURES = {"64": 64, "192": 192, "768": 768, "2048": 2048}
"""Layers whose features have a distance, by their names in public code, with their channels. FID uses 2048."""

Images, Output = Float[Array, "b h w c"], Float[Array, "b _ _ _"]


class Convolution(nnx.Module):
    """A convolution without bias, batch norm and relu. Padding keeps the size at stride 1, unless `valid`."""

    def __init__(self, inputs: int, outputs: int, size, rngs, *, stride: int = 1, valid: bool = False):
        window = (size, size) if isinstance(size, int) else size
        pads = [(0, 0) if valid else (n // 2, n // 2) for n in window]
        self.conv = nnx.Conv(inputs, outputs, window, strides=stride, padding=pads, use_bias=False, rngs=rngs)
        self.bn = nnx.BatchNorm(outputs, epsilon=EPSILON, use_running_average=True, rngs=rngs)

    def __call__(self, x: Images) -> Output:
        return jax.nn.relu(self.bn(self.conv(x)))


def mean_pool(x: Images) -> Output:
    """Returns the 3 x 3 mean at each pixel over the pixels inside the image."""
    return nnx.avg_pool(x, (3, 3), (1, 1), "SAME", count_include_pad=False)


def half(x: Images) -> Output:
    """Returns a max-pool 3 x 3 of stride 2, without padding."""
    return nnx.max_pool(x, (3, 3), (2, 2), "VALID")


class Mixed(nnx.Module):
    """A layer of branches, each a chain of convolutions; their outputs are concatenated.

    Attributes:
      branches: for each branch, the names of its convolutions; a pair of names are two that see the same input.
      pool: the pool before the branch `branch_pool`, and what a layer without that branch appends to its output.
    """

    def __init__(self, convolutions: dict, branches, pool, rngs):
        for name, (inputs, outputs, size, stride) in convolutions.items():
            layer = Convolution(inputs, outputs, size, rngs, stride=stride, valid=stride == 2)
            setattr(self, name, layer)
        self.branches, self.pool = branches, pool

    def __call__(self, x: Images) -> Output:
        found = []
        for chain in self.branches:
            y = [self.pool(x) if chain[:1] in ((), ("branch_pool",)) else x]
            for step in chain:
                y = [getattr(self, name)(y[0]) for name in ((step,) if isinstance(step, str) else step)]
            found += y
        return jnp.concatenate(found, axis=-1)


def _plain(inputs: int, pooled: int) -> tuple[dict, tuple, object]:
    """Returns the layers 5b to 5d."""
    table = dict(branch1x1=(inputs, 64, 1, 1), branch5x5_1=(inputs, 48, 1, 1), branch5x5_2=(48, 64, 5, 1))
    table |= dict(branch3x3dbl_1=(inputs, 64, 1, 1), branch3x3dbl_2=(64, 96, 3, 1), branch3x3dbl_3=(96, 96, 3, 1))
    table |= dict(branch_pool=(inputs, pooled, 1, 1))
    return table, (*_chains(table, 1, 2, 3), ("branch_pool",)), mean_pool


def _factored(inputs: int, width: int) -> tuple[dict, tuple, object]:
    """Returns the layers 6b to 6e: convolutions of 7 x 7 as 1 x 7 and 7 x 1."""
    row, column = (1, 7), (7, 1)
    table = dict(branch1x1=(inputs, 192, 1, 1), branch7x7_1=(inputs, width, 1, 1))
    table |= dict(branch7x7_2=(width, width, row, 1), branch7x7_3=(width, 192, column, 1))
    table |= dict(branch7x7dbl_1=(inputs, width, 1, 1), branch7x7dbl_2=(width, width, column, 1))
    table |= dict(branch7x7dbl_3=(width, width, row, 1), branch7x7dbl_4=(width, width, column, 1))
    table |= dict(branch7x7dbl_5=(width, 192, row, 1), branch_pool=(inputs, 192, 1, 1))
    return table, (*_chains(table, 1, 3, 5), ("branch_pool",)), mean_pool


def _wide(inputs: int, pool) -> tuple[dict, tuple, object]:
    """Returns the layers 7b and 7c, whose branches end in two convolutions of the same input."""
    row, column = (1, 3), (3, 1)
    table = dict(branch1x1=(inputs, 320, 1, 1), branch3x3_1=(inputs, 384, 1, 1))
    table |= dict(branch3x3_2a=(384, 384, row, 1), branch3x3_2b=(384, 384, column, 1))
    table |= dict(branch3x3dbl_1=(inputs, 448, 1, 1), branch3x3dbl_2=(448, 384, 3, 1))
    table |= dict(branch3x3dbl_3a=(384, 384, row, 1), branch3x3dbl_3b=(384, 384, column, 1))
    table |= dict(branch_pool=(inputs, 192, 1, 1))
    pair = ("branch3x3_2a", "branch3x3_2b"), ("branch3x3dbl_3a", "branch3x3dbl_3b")
    chains = (
        ("branch1x1",),
        ("branch3x3_1", pair[0]),
        ("branch3x3dbl_1", "branch3x3dbl_2", pair[1]),
        ("branch_pool",),
    )
    return table, chains, pool


def _chains(table: dict, *counts: int) -> Iterator[tuple[str, ...]]:
    """Yields the names of a table in chains of these lengths."""
    names = iter(table)
    for count in counts:
        yield tuple(next(names) for _ in range(count))


def max_pool(x: Images) -> Output:
    """Returns the 3 x 3 maximum at each pixel."""
    return nnx.max_pool(x, (3, 3), (1, 1), "SAME")


REDUCE_6A = dict(branch3x3=(288, 384, 3, 2), branch3x3dbl_1=(288, 64, 1, 1), branch3x3dbl_2=(64, 96, 3, 1))
REDUCE_6A |= dict(branch3x3dbl_3=(96, 96, 3, 2))
REDUCE_7A = dict(branch3x3_1=(768, 192, 1, 1), branch3x3_2=(192, 320, 3, 2), branch7x7x3_1=(768, 192, 1, 1))
REDUCE_7A |= dict(branch7x7x3_2=(192, 192, (1, 7), 1), branch7x7x3_3=(192, 192, (7, 1), 1))
REDUCE_7A |= dict(branch7x7x3_4=(192, 192, 3, 2))

MIXED = {
    "Mixed_5b": _plain(192, 32),
    "Mixed_5c": _plain(256, 64),
    "Mixed_5d": _plain(288, 64),
    "Mixed_6a": (REDUCE_6A, (*_chains(REDUCE_6A, 1, 3), ()), half),
    "Mixed_6b": _factored(768, 128),
    "Mixed_6c": _factored(768, 160),
    "Mixed_6d": _factored(768, 160),
    "Mixed_6e": _factored(768, 192),
    "Mixed_7a": (REDUCE_7A, (*_chains(REDUCE_7A, 2, 4), ()), half),
    "Mixed_7b": _wide(1280, mean_pool),
    "Mixed_7c": _wide(2048, max_pool),
}
"""For each layer: its convolutions (inputs, outputs, size, stride; no padding at stride 2), branches, and pool."""
AFTER = {"Conv2d_2b_3x3": "64", "Conv2d_4a_3x3": "192", "Mixed_6e": "768", "Mixed_7c": "2048"}
"""The features that follow a layer, after its pool if it has one."""


class Inception(nnx.Module):
    """The network; see the top of the file."""

    def __init__(self, *, rngs):
        self.Conv2d_1a_3x3 = Convolution(3, 32, 3, rngs, stride=2, valid=True)
        self.Conv2d_2a_3x3 = Convolution(32, 32, 3, rngs, valid=True)
        self.Conv2d_2b_3x3 = Convolution(32, 64, 3, rngs)
        self.Conv2d_3b_1x1 = Convolution(64, 80, 1, rngs)
        self.Conv2d_4a_3x3 = Convolution(80, 192, 3, rngs, valid=True)
        for name, (convolutions, branches, pool) in MIXED.items():
            setattr(self, name, Mixed(convolutions, branches, pool, rngs))

    def blocks(self, images: Images) -> dict[str, Array]:
        """Returns the output of every layer, and of the pools under the names of `FEATURES`; "2048" is the last."""
        x, found = images, {}
        for name in ("Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3", "Conv2d_3b_1x1", "Conv2d_4a_3x3", *MIXED):
            x = found[name] = getattr(self, name)(x)
            if name in ("Conv2d_2b_3x3", "Conv2d_4a_3x3"):
                x = half(x)
            if name in AFTER:
                found[AFTER[name]] = x
        return found

    def __call__(self, images: Images, layer: str = "2048") -> Float[Array, "b d"]:
        """Returns the features of a layer, averaged over the image."""
        return self.blocks(images)[layer].mean((1, 2))
