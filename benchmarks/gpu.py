"""Measures what one accelerator reaches with these programs, in at most ten minutes.

    python -m benchmarks.gpu [--record] [--cases=rates,attention] [--size=tiny]

rates       the matrix rate in bfloat16 and the bandwidth that the device reaches: what the other cases are measured by
attention   forward and backward with each kernel, at the sizes of DiT-XL/2, LTX-Video and Wan
dit         a train step of DiT-XL/2 at batch 64, with each attention kernel, each `remat`, scanned and unrolled
pytorch     the forward and backward pass of the same network in PyTorch, compiled, with its fused attention
ltx, wan    one guided evaluation at 41 frames of 480 x 832, and a prediction in five of them
unet        streaming with Bi-flow's U-Net at 128 x 128
memory      how the peak memory grows with the size of a prediction: FlowFrames against the conventional design

Each case is a process with a limit of its own: one that fails, or takes too long, leaves its reason and the others.
Writes out/benchmarks/gpu.json after every case. With --size=tiny the figures say nothing: they show that it runs.
"""

import importlib.util
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from itertools import product

import jax
import jax.numpy as jnp
from absl import flags

from benchmarks import record
from jvflow import cli

CASES = flags.DEFINE_list("cases", None, "Cases to measure; all if not given.")
SIZE = flags.DEFINE_enum("size", "full", ["full", "tiny"], "Size of the programs.")
CASE = flags.DEFINE_string("case", "", "The case that this process measures; the other processes give it.")
LIMITS = dict(rates=30, attention=100, dit=200, pytorch=90, ltx=50, wan=60, unet=40, memory=30)
"""Seconds of each case: 600 together."""
NOMINAL = {"H200": 989e12, "H100": 989e12, "A100": 312e12}
"""FLOPs per second of dense bfloat16 products, by a part of the device's name."""
ROUNDS = 5


def main():
    if CASE.value:
        print(json.dumps(MEASURES[CASE.value](SIZE.value == "tiny")))
        return
    found = {}
    for name in CASES.value or MEASURES:
        if name not in MEASURES:
            raise ValueError(f"unknown case {name!r}: use {', '.join(MEASURES)}")
        clock = time.perf_counter()
        found[name] = _in_a_process(name) | dict(wall_seconds=round(time.perf_counter() - clock, 1))
        print(name, json.dumps(found[name]), flush=True)
        record.write("gpu", dict(size=SIZE.value, cases=found))


def _in_a_process(name: str) -> dict:
    command = [sys.executable, "-m", "benchmarks.gpu", f"--case={name}", f"--size={SIZE.value}"]
    limit = LIMITS[name] * (5 if SIZE.value == "tiny" else 1)  # a processor compiles for longer
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit)
    except subprocess.TimeoutExpired:
        return dict(failed=f"not done after {limit} seconds")
    if done.returncode:
        return dict(failed=done.stderr.strip()[-500:])
    return json.loads(done.stdout.strip().splitlines()[-1])


def milliseconds(run: Callable, *arguments) -> float:
    """Returns the median time of a compiled function, after a first call."""
    jax.block_until_ready(run(*arguments))
    times = []
    for _ in range(ROUNDS):
        clock = time.perf_counter()
        jax.block_until_ready(run(*arguments))
        times.append(1e3 * (time.perf_counter() - clock))
    return statistics.median(times)


def normal(shape, dtype=jnp.bfloat16, seed: int = 0):
    return jax.random.normal(jax.random.key(seed), shape, dtype)


def _rates(tiny: bool) -> dict:
    n, repeats = (256, 2) if tiny else (8192, 10)
    a = normal((n, n))

    @jax.jit
    def chain(a, b):
        return jax.lax.fori_loop(0, repeats, lambda _, x: (x @ b) * jnp.bfloat16(0.01), a)

    seconds = milliseconds(chain, a, a) / 1e3
    big = jnp.zeros(2**20 if tiny else 2**30, jnp.float32)
    copy = milliseconds(jax.jit(lambda x: x + 1), big) / 1e3
    kind = jax.devices()[0].device_kind
    nominal = next((rate for name, rate in NOMINAL.items() if name in kind), None)
    rate = 2 * n**3 * repeats / seconds
    share = dict(share_of_nominal=rate / nominal) if nominal else {}
    return dict(device=kind, bfloat16_flops=rate, bytes_per_second=2 * big.nbytes / copy) | share


def _attention(tiny: bool) -> dict:
    from jvflow.networks.layers import attention

    sizes = dict(dit_xl=(64, 256, 16, 72), ltx=(2, 2340, 32, 64), wan=(1, 17160, 12, 128))
    sizes = dict(tiny=(1, 64, 2, 16)) if tiny else sizes
    found = {}
    for (name, (b, n, h, d)), kernel in product(sizes.items(), ("auto", "xla")):
        block = 0 if n <= 4096 else 512
        attend = partial(attention, query_block=block, kernel=kernel)
        q, k, v = (normal((b, n, h, d), seed=i) for i in range(3))
        both = jax.jit(jax.grad(lambda q, k, v, f=attend: f(q, k, v).astype(jnp.float32).sum(), (0, 1, 2)))
        flops = 4 * b * h * n * n * d
        forward, backward = milliseconds(jax.jit(attend), q, k, v), milliseconds(both, q, k, v)
        figures = dict(forward_ms=forward, with_backward_ms=backward, forward_flops=1e3 * flops / forward)
        temporaries = both.lower(q, k, v).compile().memory_analysis().temp_size_in_bytes
        found[f"{name} {kernel}"] = figures | dict(temporaries_mib=temporaries / 2**20)
    return found


DIT_XL = dict(width=1152, depth=28, heads=16, patch=(1, 2, 2))


def _dit_network(tiny: bool, **options) -> tuple:
    """Returns a DiT, its input (b, 1, 32, 32, 4), and the FLOPs of its matrix products in one forward pass."""
    from jvflow import networks

    sizes = dict(width=64, depth=1, heads=2, patch=(1, 2, 2)) if tiny else DIT_XL
    network = networks.build("dit", **sizes | dict(channels=4, dtype="bfloat16") | options)
    b, side = (2, 8) if tiny else (64, 32)
    n, d = (side // 2) ** 2, sizes["width"]
    flops = 2 * b * sizes["depth"] * (n * 12 * d * d + 2 * n * n * d + 6 * d * d)
    return network, normal((b, 1, side, side, 4), jnp.float32), flops


def _dit(tiny: bool) -> dict:
    import optax

    from jvflow.networks import as_field
    from jvflow.training.step import create

    found = {}
    variants = [("auto", "none", False), ("auto", "dots", False), ("auto", "dots", True), ("xla", "dots", False)]
    for kernel, remat, scan in variants[2:] if tiny else variants:
        network, x, flops = _dit_network(tiny, kernel=kernel, remat=remat, scan=scan)
        optimizer = optax.adamw(1e-4)
        state = create(jax.random.key(0), network, optimizer, ema=True)

        def step(state, x, network=network, optimizer=optimizer):
            loss = lambda params: jnp.square(as_field(network, params)(x, (jnp.full(len(x), 0.5),), None)[0] - 1).mean()
            value, gradients = jax.value_and_grad(loss)(state.params)
            updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
            params = optax.apply_updates(state.params, updates)
            ema = jax.tree.map(lambda a, p: 0.999 * a + 0.001 * p, state.ema, params)
            return state.replace(step=state.step + 1, params=params, ema=ema, opt_state=opt_state), value

        compiled = jax.jit(step, donate_argnums=0)
        clock = time.perf_counter()
        state, value = jax.block_until_ready(compiled(state, x))
        first = time.perf_counter() - clock
        times = []
        for _ in range(3 * ROUNDS):
            clock = time.perf_counter()
            state, value = jax.block_until_ready(compiled(state, x))
            times.append(time.perf_counter() - clock)
        seconds = statistics.median(times)
        figures = dict(step_ms=1e3 * seconds, first_seconds=first, flops_per_second=3 * flops / seconds)
        found[f"kernel {kernel}, remat {remat}, {'scanned' if scan else 'unrolled'}"] = figures | _peak()
    return found


def _peak() -> dict:
    statistics_ = jax.devices()[0].memory_stats()
    return dict(peak_gib=statistics_["peak_bytes_in_use"] / 2**30) if statistics_ else {}


def _pytorch(tiny: bool) -> dict:
    if importlib.util.find_spec("torch") is None:
        return dict(skipped="PyTorch is not installed: pip install torch, in the build of this device")
    import torch
    from torch import nn
    from torch.nn import functional as F

    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu" and not tiny:
        return dict(skipped="this build of PyTorch sees no GPU")
    sizes = dict(width=64, depth=2, heads=2) if tiny else DIT_XL
    d, heads, (b, n) = sizes["width"], sizes["heads"], (2, 16) if tiny else (64, 256)

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.qkv, self.proj, self.modulation = nn.Linear(d, 3 * d), nn.Linear(d, d), nn.Linear(d, 6 * d)
            self.mlp = nn.Sequential(nn.Linear(d, 4 * d), nn.GELU(approximate="tanh"), nn.Linear(4 * d, d))

        def forward(self, x, c):
            shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = self.modulation(F.silu(c))[:, None].chunk(6, -1)
            y = F.layer_norm(x, (d,), eps=1e-6) * (1 + scale_a) + shift_a
            q, k, v = self.qkv(y).unflatten(-1, (3, heads, d // heads)).permute(2, 0, 3, 1, 4)
            y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
            x = x + gate_a * self.proj(y)
            return x + gate_m * self.mlp(F.layer_norm(x, (d,), eps=1e-6) * (1 + scale_m) + shift_m)

    blocks = nn.ModuleList(Block() for _ in range(sizes["depth"])).to(device)
    optimizer = torch.optim.AdamW(blocks.parameters(), fused=device == "cuda")
    x, c = torch.randn(b, n, d, device=device), torch.randn(b, d, device=device)

    def forward(x, c):
        for block in blocks:
            x = block(x, c)
        return x.float().square().mean()

    compiled = forward if tiny else torch.compile(forward)

    def step():
        with torch.autocast(device, torch.bfloat16):
            loss = compiled(x, c)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if device == "cuda":
            torch.cuda.synchronize()

    clock = time.perf_counter()
    step()
    first, times = time.perf_counter() - clock, []
    for _ in range(3 * ROUNDS):
        clock = time.perf_counter()
        step()
        times.append(1e3 * (time.perf_counter() - clock))
    return dict(device=device, step_ms=statistics.median(times), first_seconds=first, what="blocks and AdamW, no EMA")


def _backbone(name: str, tiny: bool) -> dict:
    from jvflow import networks
    from jvflow.flow.field import Condition
    from jvflow.flowframes.sample import make_solver, predict_chunks

    full = dict(
        ltx=(dict(depth=28, heads=32, head=64, channels=128), (6, 15, 26, 128)),
        wan=(dict(depth=30, heads=12, head=128, hidden=8960, channels=16), (11, 60, 104, 16)),
    )[name]
    small = dict(depth=1, heads=2, head=16, channels=8) | (dict(hidden=64) if name == "wan" else {})
    sizes, shape = (small, (2, 4, 4, 8)) if tiny else full
    width = 16 if tiny else 4096
    network = networks.build(name, **sizes, dtype="bfloat16", scan=True, text_width=width)
    params = jax.jit(network.init)(jax.random.key(0))
    text = normal((1, 8 if tiny else 256, width), jnp.float32)
    condition = Condition(text=text, text_mask=jnp.ones(text.shape[:2], bool), fps=jnp.full(1, 24.0))
    observed, field = normal((1, *shape), jnp.float32), networks.as_field(network, params)
    found = {}
    for steps in (2,) if tiny else (1, 5):
        solver = make_solver("euler", steps)
        run = lambda x, solver=solver: predict_chunks(field, x, None, condition, solver=solver, guidance=3.0).frames
        found[f"{steps} guided evaluations"] = dict(milliseconds=milliseconds(run, observed))
    return found | _peak()


def _unet(tiny: bool) -> dict:
    from importlib import import_module

    from jvflow.biflow.sample import stream
    from jvflow.experiment import assemble
    from jvflow.networks import as_field

    config = import_module("configs.biflow.unet").get_config("debug" if tiny else "")
    experiment = assemble(config)
    params = jax.jit(experiment.network.init)(jax.random.key(0))
    first = jnp.zeros((1, experiment.start_frames, *config.data.size, 3))
    field, frames = as_field(experiment.network, params), 3 if tiny else 32
    video = stream(field, first, jax.random.key(0), **vars(experiment.sampler))
    next(video)
    clock, evaluations = time.perf_counter(), 0
    for _, (x, nfe) in zip(range(frames), video):
        jax.block_until_ready(x)
        evaluations += int(nfe[0])
    seconds = time.perf_counter() - clock
    return dict(frames_per_second=frames / seconds, ms_per_evaluation=1e3 * seconds / evaluations) | _peak()


def _memory(tiny: bool) -> dict:
    from benchmarks import memory

    if tiny:
        memory.FRAMES, memory.SIDE = (2, 4), 8
    found = {}
    for design in ("flowframes", "conventional"):
        figures = memory.measure(design, "latents")
        found[design] = dict(planned=figures["fit"], device=figures.get("device_fit"))
    ratio = lambda kind: found["flowframes"][kind]["slope_mb"] / found["conventional"][kind]["slope_mb"]
    kinds = ["planned", *(["device"] if found["flowframes"]["device"] and found["conventional"]["device"] else [])]
    return found | {f"slope_ratio_{kind}": ratio(kind) for kind in kinds}


MEASURES: dict[str, Callable[[bool], dict]] = {
    "rates": _rates,
    "attention": _attention,
    "dit": _dit,
    "pytorch": _pytorch,
    "ltx": partial(_backbone, "ltx"),
    "wan": partial(_backbone, "wan"),
    "unet": _unet,
    "memory": _memory,
}


if __name__ == "__main__":
    cli.run(main)
