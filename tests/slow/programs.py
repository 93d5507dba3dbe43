"""Compiles large programs for an H200, without a GPU, and holds their kernels against limits and against the record.

    python tests/slow/gpu_programs.py [--only=ltx] [--record]

XLA's compiler for GPUs, cuDNN's attention included, runs on any machine with the extra `cuda`: this script installs it
into an environment of its own, out/gpu (5 GB). It passes when

    no program holds logits of tokens x tokens
    the kernels have the operations of the traced program, within 3 %
    each floor (`jvflow.parallel.kernels`) and the temporaries are below their `LIMITS`
    bytes, kernels and temporaries are at most 5 % above benchmarks/results/gpu_programs.json, for the same JAX

--record writes that file. A floor is no measurement: `benchmarks.gpu` measures. pytest does not collect this file.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
RECORD = ROOT / "benchmarks" / "results" / "gpu_programs.json"
FOLDER = ROOT / "out" / "gpu"
RATE, BANDWIDTH = 790e12, 4.3e12
"""Operations in bfloat16 and bytes per second that an H200 reaches in practice; 989e12 and 4.8e12 are published."""
LIMITS = dict(dit_b64=(100, 16), dit_b256=(392, 60), ltx=(38, 1), wan=(770, 1))
"""Milliseconds of the floor, and GiB of temporaries. 392 ms are 0.6 of RATE."""
RISE = 1.05
H200 = """
gpu_device_info {
  threads_per_block_limit: 1024 threads_per_warp: 32 shared_memory_per_block: 49152 shared_memory_per_core: 233472
  threads_per_core_limit: 2048 core_count: 132 fpus_per_core: 128
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  memory_bandwidth: 4800000000000 l2_cache_size: 52428800 clock_rate_ghz: 1.98 device_memory_size: 151397597184
  shared_memory_per_block_optin: 232448 cuda_compute_capability { major: 9 }
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 10 patch: 0 }
device_description_str: "NVIDIA H200 141GB HBM3e"
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=LIMITS, help="one program; all by default")
    parser.add_argument("--record", action="store_true", help="write benchmarks/results/gpu_programs.json")
    parser.add_argument("--here", action="store_true", help="this Python has the extra cuda: install nothing")
    options = parser.parse_args()
    if not options.here:
        return _in_environment()
    failures, found = [], {}
    import jax

    recorded = json.loads(RECORD.read_text()) if RECORD.exists() else {}
    comparable = recorded.get("jax") == jax.__version__ and not options.record
    for name in [options.only] if options.only else LIMITS:
        found[name] = figures = _measure(name)
        print(name, json.dumps(figures), flush=True)
        limit, temporaries = LIMITS[name]
        if figures["floor_ms"] > limit or figures["temporaries_gib"] > temporaries:
            failures.append(f"{name}: a floor of at most {limit} ms and {temporaries} GiB were asked")
        if abs(figures["operations_in_kernels"] / figures["operations"] - 1) > 0.03:
            failures.append(f"{name}: the kernels have other operations than the program")
        if figures.pop("logits"):
            failures.append(f"{name}: an array holds logits of tokens x tokens")
        before = recorded.get("programs", {}).get(name, {}) if comparable else {}
        for key in before.keys() & {"bytes_gib", "kernels", "temporaries_gib"}:
            if figures[key] > RISE * before[key]:
                failures.append(f"{name}: {key} rose from {before[key]} to {figures[key]}")
    if options.record and not failures:
        what = dict(what="compiled for an H200, not run", rate=RATE, bandwidth=BANDWIDTH, jax=jax.__version__)
        RECORD.write_text(json.dumps(what | dict(programs=recorded.get("programs", {}) | found), indent=1) + "\n")
    print("\n".join(failures) or "passed")
    return len(failures)


def _in_environment() -> int:
    python, installed = FOLDER / "bin" / "python", FOLDER / "installed"
    if not installed.exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", FOLDER], check=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", "--editable", f"{ROOT}[cuda]"], check=True)
        installed.touch()
    environment = os.environ | dict(
        JAX_PLATFORMS="cuda,cpu", XLA_FLAGS="--xla_gpu_autotune_level=0 --xla_gpu_enable_triton_gemm=false"
    )
    return subprocess.run([python, *sys.argv, "--here"], cwd=ROOT, env=environment).returncode


def _device():
    import jax

    jax.config.update("jax_platforms", "cpu")  # nothing runs on the GPU that is not there
    import jax_plugins.xla_cuda13  # noqa: F401  registers the compiler
    from jax.experimental import topologies

    described = topologies.get_topology_desc(
        platform="cuda", topology_name="h200", topology="1x1x1", target_config=H200
    )
    return described.devices[0]


def _measure(name: str) -> dict:
    """Compiles a program; returns its floor, bytes, kernels and temporaries."""
    import jax
    import numpy as np
    from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

    from jvflow.parallel import hlo, kernels
    from jvflow.parallel.sharding import AXES

    mesh = Mesh(np.array([_device()]).reshape(1, 1, 1, 1), AXES, axis_types=(AxisType.Auto,) * 4)
    function, arguments, donated, tokens, evaluations = PROGRAMS[name]()
    place = NamedSharding(mesh, PartitionSpec())
    arguments = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=place), arguments)
    clock = time.perf_counter()
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        operations = evaluations * hlo.flops(function, *arguments)  # it counts the body of the solver once
        compiled = jax.jit(function, donate_argnums=donated).lower(*arguments).compile()
    text = compiled.as_text()
    found = kernels.kernels(text)
    floor = kernels.floor_seconds(found, rate=RATE, bandwidth=BANDWIDTH)
    executed = sum(one.times * one.flops for one in found)
    return dict(
        floor_ms=round(1e3 * floor, 1),
        share_of_rate=round(executed / floor / RATE, 3),
        bytes_gib=round(sum(one.times * one.bytes for one in found) / 2**30, 2),
        kernels=sum(one.times for one in found),
        temporaries_gib=round(compiled.memory_analysis().temp_size_in_bytes / 2**30, 3),
        operations=operations,
        operations_in_kernels=executed,
        compile_seconds=round(time.perf_counter() - clock, 1),
        logits=any(len(shape) > 2 and shape[-2:] == (tokens, tokens) for shape in hlo.shapes(text)),
    )


def _dit(batch: int) -> tuple:
    """Returns a train step of DiT-XL/2 on 32 x 32 latents, unrolled, with remat dots; AdamW and a moving average."""
    import jax
    import jax.numpy as jnp
    import optax

    from jvflow import networks

    sizes = dict(width=1152, depth=28, heads=16, patch=(1, 2, 2), channels=4)
    network = networks.build("dit", **sizes, dtype="bfloat16", remat="dots")
    optimizer = optax.adamw(1e-4)
    params = jax.eval_shape(network.init, jax.random.key(0))

    def step(params, average, state, x, target, t):
        loss = lambda p: jnp.square(networks.as_field(network, p)(x, (t,), None)[0] - target).mean()
        value, gradients = jax.value_and_grad(loss)(params)
        updates, state = optimizer.update(gradients, state, params)
        params = optax.apply_updates(params, updates)
        return params, jax.tree.map(lambda a, p: 0.999 * a + 0.001 * p, average, params), state, value

    x, t = jax.ShapeDtypeStruct((batch, 1, 32, 32, 4), jnp.float32), jax.ShapeDtypeStruct((batch,), jnp.float32)
    return step, (params, params, jax.eval_shape(optimizer.init, params), x, x, t), (0, 1, 2), 256, 1


def _backbone(name: str) -> tuple:
    """Returns a prediction of 41 frames of 480 x 832: LTX-Video's in one guided evaluation, Wan's in five without."""
    import jax
    import jax.numpy as jnp

    from jvflow import networks
    from jvflow.flow.field import Condition
    from jvflow.flowframes.sample import make_solver, predict_chunks

    sizes, shape, steps, guidance, tokens = dict(
        ltx=(dict(depth=28, heads=32, head=64, channels=128), (6, 15, 26, 128), 1, 3.0, 2340),
        wan=(dict(depth=30, heads=12, head=128, hidden=8960, channels=16), (11, 60, 104, 16), 5, 1.0, 17160),
    )[name]
    network = networks.build(name, **sizes, dtype="bfloat16", scan=True, attention=512, text_width=4096)
    params = jax.eval_shape(network.init, jax.random.key(0))

    def predict(params, x, text, mask, empty):
        condition = Condition(text=text, text_mask=mask, fps=jnp.full(1, 24.0), empty=(empty, mask))
        solver, field = make_solver("euler", steps), networks.as_field(network, params)
        return predict_chunks(field, x, None, condition, solver=solver, guidance=guidance).frames

    text = jax.ShapeDtypeStruct((1, 128, 4096), jnp.float32)
    x, mask = jax.ShapeDtypeStruct((1, *shape), jnp.float32), jax.ShapeDtypeStruct((1, 128), bool)
    return predict, (params, x, text, mask, text), (), tokens, steps


PROGRAMS = dict(
    dit_b64=partial(_dit, 64), dit_b256=partial(_dit, 256), ltx=partial(_backbone, "ltx"), wan=partial(_backbone, "wan")
)


if __name__ == "__main__":
    sys.exit(main())
