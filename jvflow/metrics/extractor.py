"""Features of clips: batches of one shape through a network, on all devices of this process."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Num

from jvflow.metrics import resize
from jvflow.metrics import weights as weights_of
from jvflow.metrics.protocol import METRICS, RANGES, Protocol
from jvflow.metrics.sums import FeatureSums
from jvflow.parallel.mesh import batched, local_mesh, replicated


def prepare(clip: Num[np.ndarray, "f h w 3"], protocol: Protocol) -> Float[np.ndarray, "f s s 3"]:
    """Returns a clip of pixels in 0..255 as the input of the network: resized, in the protocol's range."""
    if protocol.via:
        clip = resize.fit(clip, protocol.via, protocol.via_fit, protocol.via_filter)
        clip = np.floor(np.clip(clip, 0, 255)) if protocol.via_uint8 else clip
    clip = resize.fit(clip, protocol.size, protocol.fit, protocol.filter)
    scale, offset = RANGES[protocol.range]
    return clip / np.float32(scale) + np.float32(offset)


@dataclass
class Extractor:
    """A feature network for one protocol; one compiled program serves all batches.

    Attributes:
      protocol: the protocol.
      file: of the weights, or None for those of the extra `metrics`.
      batch: clips of a batch on all devices together; the number of devices rounds it up.
    """

    protocol: Protocol
    file: str | None = None
    batch: int = 8

    def __post_init__(self):
        if not isinstance(self.batch, int) or self.batch < 1:
            raise ValueError(f"batch is {self.batch!r}: use a whole number of clips of 1 or more")
        name = METRICS[self.protocol.metric]
        options = dict(epsilon=self.protocol.batchnorm_epsilon) if name == "i3d" else {}
        self.network = weights_of.load(name, self.file, **options)
        mesh = local_mesh()
        self.batch = -(-self.batch // mesh.size) * mesh.size
        self._params = jax.device_put(self.network.params, replicated(mesh))
        self._rows = batched(mesh)
        if name == "i3d":
            method, self.width = (lambda module, x: module(x)), 400
        else:
            layer = self.protocol.layer
            method, self.width = (lambda module, x: module(x[:, 0], layer)), int(layer)
        self._apply = jax.jit(lambda params, clips: self.network.apply(params, method, clips))

    def __call__(self, clips: Float[np.ndarray, "b f s s 3"]) -> Float[np.ndarray, "b d"]:
        """Returns the features of at most `batch` prepared clips."""
        count = len(clips)
        padded = np.concatenate([clips, np.zeros((self.batch - count, *clips.shape[1:]), clips.dtype)])
        with jax.default_matmul_precision("highest"):
            return np.asarray(self._apply(self._params, jax.device_put(padded, self._rows)))[:count]

    def sums(self, clips: Iterable[tuple[int, int, np.ndarray]]) -> Iterator[FeatureSums]:
        """Yields the sums of all features so far after each batch of (place, video, clip of pixels in 0..255)."""
        total = FeatureSums.empty(self.width)
        for batch in self.batches(clips):
            total = total.add(*batch)
            yield total

    def batches(self, clips: Iterable[tuple[int, int, np.ndarray]]) -> Iterator[tuple[np.ndarray, ...]]:
        """Yields the features (b, d), places (b,) and videos (b,) of each batch of (place, video, clip)."""
        clips = iter(clips)
        while group := list(islice(clips, self.batch)):
            places, videos, pixels = zip(*group)
            features = self(np.stack([prepare(clip, self.protocol) for clip in pixels]))
            yield features, np.asarray(places), np.asarray(videos)


def i3d(weights: str | None = None) -> Callable[[Num[Array | np.ndarray, "b f h w 3"]], Float[Array, "b 400"]]:
    """Returns a compiled function from videos (b, f, 224, 224, 3), float in [-1, 1], to I3D's logits (b, 400).

    `weights` is a file with its parameters; default: the package of the extra `metrics`. One call takes at least 9
    frames, and compiles once for each shape.
    """
    network = weights_of.load("i3d", weights)
    apply = jax.jit(lambda params, video: network.apply(params, lambda module: module(video)))

    def logits(video):
        if not jnp.issubdtype(video.dtype, jnp.floating):
            raise ValueError(f"video is {video.dtype}, pixels must be float in [-1, 1]: convert with x / 127.5 - 1")
        with jax.default_matmul_precision("highest"):
            return apply(network.params, jnp.asarray(video, jnp.float32))

    return logits
