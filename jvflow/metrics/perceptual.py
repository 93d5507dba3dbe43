"""LPIPS of pairs of images, and the temporal flickering of videos."""

from functools import lru_cache

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Num

from jvflow.metrics import weights as weights_of

NETS = ("alex", "vgg")


@lru_cache(maxsize=4)
def _loaded(net: str, file: str | None):
    network = weights_of.load(f"lpips_{net}", file)
    return network, {
        method: jax.jit(
            lambda params, x, y, method=method: network.apply(params, lambda module: getattr(module, method)(x, y))
        )
        for method in ("__call__", "layers", "spatial")
    }


def lpips_network(net: str, weights: str | None = None) -> weights_of.Loaded:
    """Returns the network of `lpips` with its parameters; raises ValueError if there are none."""
    return _loaded(net, weights)[0]


def lpips(
    x: Num[Array | np.ndarray, "..."],
    y: Num[Array | np.ndarray, "..."],
    net: str = "alex",
    weights: str | None = None,
    *,
    result: str = "mean",
) -> Float[Array, "..."]:
    """Returns LPIPS (Zhang et al., arXiv 1801.03924), version 0.1, of each pair of images.

    Args:
      x, y: float images (b, h, w, 3) in [-1, 1].
      net: "alex" or "vgg".
      weights: safetensors or the state dict of the package lpips; default: the package of the extra `metrics`.
      result: "mean" (b,); "layers": its five terms (b, 5); "spatial": the distance at each pixel (b, h, w).

    Raises:
      ValueError: for another net, shapes that differ, images that are no floats or too small, or missing weights.
    """
    methods = dict(mean="__call__", layers="layers", spatial="spatial")
    if net not in NETS or result not in methods:
        raise ValueError(
            f"net={net!r}, result={result!r}: use a net of {', '.join(NETS)} and a result of {', '.join(methods)}"
        )
    for name, value in (("x", x), ("y", y)):
        if not jnp.issubdtype(value.dtype, jnp.floating):
            raise ValueError(f"{name} is {value.dtype}, images must be float in [-1, 1]: convert with x / 127.5 - 1")
    if x.shape != y.shape or x.ndim != 4 or x.shape[-1] != 3:
        raise ValueError(f"x and y must share one shape (b, h, w, 3), got {x.shape} and {y.shape}: crop or resize")
    network, methods_of = _loaded(net, weights)
    with jax.default_matmul_precision("highest"):
        return methods_of[methods[result]](network.params, jnp.asarray(x, jnp.float32), jnp.asarray(y, jnp.float32))


def temporal_flickering(video: Num[np.ndarray, "f h w c"]) -> float:
    """Returns VBench's temporal flickering of one video: 1 - mean |x_{k+1} - x_k| / 255, so 1 is a frozen video.

    Args:
      video: pixels in 0..255, (f, h, w, c) with at least two frames.
    """
    if len(video) < 2:
        raise ValueError(f"flickering needs at least 2 frames, got {len(video)}")
    # the larger minus the smaller: uint8 does not wrap around, and is several times faster than float32
    change = [
        (np.maximum(before, after) - np.minimum(before, after)).mean(dtype=np.float64)
        for before, after in zip(video, video[1:])
    ]
    return float(1 - np.mean(change) / 255)
