"""The attention kernels of GPU and TPU, as a CPU runs them, and a way to compute all attention of networks by one."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from unittest import mock

from jvflow.networks import attention as ways
from jvflow.networks import layers

KERNELS = {
    "splash": partial(ways.splash, interpret=True),
    "cudnn": partial(ways.cudnn, implementation="xla"),  # the same lengths and order of keys, without the device
}


@contextmanager
def attention_by(name: str) -> Iterator[list]:
    """Computes all attention of networks by a kernel, whatever its size; yields the shapes of q and k in each trace.

    `kernel="xla"` in a config still means XLA.
    """
    shapes = []

    def choose(kernel, platform, q, k):
        if kernel == "xla":
            return None
        shapes.append((q.shape, k.shape))
        return partial(ways.on_mesh, KERNELS[name])

    with mock.patch.object(ways, "choose", choose), mock.patch.object(layers, "platform", lambda: "another"):
        yield shapes
