"""Compiles programs for a processor, an H200 or a TPU, and holds their kernels against limits and against the record.

    python tests/slow/programs.py cpu|h200|tpu [--only=ltx] [--record]

No such device is needed. XLA's compiler for GPUs, cuDNN's attention included, runs on any machine with the extra
`cuda`: this script installs it into an environment of its own, out/gpu (5 GB). It passes when

    no program for H200 or TPU holds logits of tokens x tokens
    the kernels have the operations of the traced program, within 3 %; those of a config's sampler have the operations
    of the record, because its solver chooses how many steps it takes
    each floor (`jvflow.parallel.kernels`) of an H200 and its temporaries are below their `LIMITS`
    bytes, kernels and temporaries are at most 5 % above benchmarks/results/programs_DEVICE.json, for the same JAX

--record writes that file. A floor is no measurement: `benchmarks.gpu` measures. pytest does not collect this file.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "out" / "gpu"
RATE, BANDWIDTH = 790e12, 4.3e12
"""Operations in bfloat16 and bytes per second that an H200 reaches in practice; 989e12 and 4.8e12 are published."""
LIMITS = dict(dit_b64=(100, 16), dit_b256=(392, 60), ltx=(38, 1), wan=(770, 1))
"""Milliseconds of the floor, and GiB of temporaries, on an H200. 392 ms are 0.6 of RATE."""
RISE = 1.05
FLAGS = dict(
    h200="--xla_gpu_autotune_level=0 --xla_gpu_enable_triton_gemm=false",
    cpu="--xla_cpu_max_isa=AVX2 --xla_cpu_multi_thread_eigen=false",  # the same program on each processor
)
TPU = "v5p:2x2x1"
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
    parser.add_argument("device", choices=("cpu", "h200", "tpu"), help="what to compile for")
    parser.add_argument("--only", help="one program; all by default")
    parser.add_argument("--record", action="store_true", help="write the record")
    parser.add_argument("--here", action="store_true", help="this Python has the extra cuda: install nothing")
    options = parser.parse_args()
    os.environ["XLA_FLAGS"] = FLAGS.get(options.device, "")
    os.environ["JAX_PLATFORMS"] = "cuda,cpu" if options.device == "h200" else "cpu"
    if options.device == "h200" and not options.here:
        return _in_environment()
    import jax

    file = ROOT / "benchmarks" / "results" / f"programs_{options.device}.json"
    recorded = json.loads(file.read_text()) if file.exists() else {}
    before = recorded.get("programs", {}) if recorded.get("jax") == jax.__version__ and not options.record else {}
    device = _device(options.device)
    failures, found = [], {}
    for name in [options.only] if options.only else PROGRAMS[options.device]:
        figures = _measure(*PROGRAMS[options.device][name](device))
        print(name, json.dumps(figures), flush=True)
        failures += [f"{name}: {failure}" for failure in _failures(figures, before.get(name, {}))]
        if options.device == "h200":
            limit, temporaries = LIMITS[name]
            if figures["floor_ms"] > limit or figures["temporaries_gib"] > temporaries:
                failures.append(f"{name}: a floor of at most {limit} ms and {temporaries} GiB were asked")
        else:
            del figures["floor_ms"], figures["share_of_rate"]  # of an H200
        found[name] = figures
    if options.record and not failures:
        what = dict(what=f"compiled for {options.device}, not run", jax=jax.__version__)
        what |= dict(rate=RATE, bandwidth=BANDWIDTH) if options.device == "h200" else {}
        file.write_text(json.dumps(what | dict(programs=recorded.get("programs", {}) | found), indent=1) + "\n")
    print("\n".join(failures) or "passed")
    return len(failures)


def _failures(figures: dict, before: dict) -> list[str]:
    found = []
    expected = figures["operations"] or before.get("operations_in_kernels", figures["operations_in_kernels"])
    if abs(figures["operations_in_kernels"] / expected - 1) > 0.03:
        found.append(f"the kernels have {figures['operations_in_kernels']:.4g} operations, not {expected:.4g}")
    if figures.pop("logits"):
        found.append("an array holds logits of tokens x tokens")
    for key in before.keys() & {"bytes_gib", "kernels", "temporaries_gib"}:
        if figures[key] > RISE * before[key]:
            found.append(f"{key} rose from {before[key]} to {figures[key]}")
    return found


def _in_environment() -> int:
    python, installed = FOLDER / "bin" / "python", FOLDER / "installed"
    if not installed.exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", FOLDER], check=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", "--editable", f"{ROOT}[cuda]"], check=True)
        installed.touch()
    return subprocess.run([python, *sys.argv, "--here"], cwd=ROOT).returncode


def _device(name: str):
    import jax

    jax.config.update("jax_platforms", "cpu")  # nothing runs on a device that is not there
    if name == "cpu":
        return jax.devices()[0]
    if name == "tpu":
        from jvflow.training import dryrun

        return dryrun.devices(TPU)[0]
    import jax_plugins.xla_cuda13  # noqa: F401  registers the compiler
    from jax.experimental import topologies

    described = topologies.get_topology_desc(
        platform="cuda", topology_name="h200", topology="1x1x1", target_config=H200
    )
    return described.devices[0]


def _measure(function, arguments: tuple, mesh, tokens: int, evaluations: int) -> dict:
    """Compiles a program; returns its floor, bytes, kernels and temporaries.

    tokens: of which no logits may be held; 0 for no such check. evaluations: of the solver in the program; 0 if they
    depend on data.
    """
    import jax

    from jvflow.parallel import hlo, kernels

    clock = time.perf_counter()
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        # the traced program has the body of the solver once
        operations = evaluations and evaluations * hlo.flops(function, *arguments)
        compiled = function.lower(*arguments).compile()
    text = compiled.as_text()
    found = kernels.kernels(text)
    floor = kernels.floor_seconds(found, rate=RATE, bandwidth=BANDWIDTH)
    executed = sum(one.times * one.flops for one in found)
    return dict(
        floor_ms=round(1e3 * floor, 1),
        share_of_rate=round(executed / floor / RATE, 3),
        bytes_gib=_gib(sum(one.times * one.bytes for one in found)),
        kernels=sum(one.times for one in found),
        temporaries_gib=_gib(compiled.memory_analysis().temp_size_in_bytes),
        operations=operations,
        operations_in_kernels=executed,
        compile_seconds=round(time.perf_counter() - clock, 1),
        logits=tokens > 0 and any(len(shape) > 2 and shape[-2:] == (tokens, tokens) for shape in hlo.shapes(text)),
    )


def _gib(count: float) -> float:
    return float(f"{count / 2**30:.4g}")


def _on(device, make) -> tuple:
    """Returns the arguments of `_measure` for a program of `make`, on one device."""
    import jax
    import numpy as np
    from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

    from jvflow.networks.attention import LONG
    from jvflow.parallel.sharding import AXES

    mesh = Mesh(np.array([device]).reshape(1, 1, 1, 1), AXES, axis_types=(AxisType.Auto,) * 4)
    function, arguments, donated, tokens, evaluations = make()
    if device.platform == "tpu" and tokens**2 < LONG:
        tokens = 0  # attention is not one kernel, by the rule
    place = NamedSharding(mesh, PartitionSpec())
    arguments = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=place), arguments)
    return jax.jit(function, donate_argnums=donated), arguments, mesh, tokens, evaluations


def _of_config(file: str, which: str, device) -> tuple:
    """Returns the arguments of `_measure` for the train step or the sampler of a config."""
    from jvflow.defaults import derive
    from jvflow.training import dryrun

    path = ROOT / "configs" / file
    programs, mesh = dryrun.programs(derive(str(path), path.name, ""), [device])
    return *programs[which], mesh, 0, dict(train=1, sample=0)[which]


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


LARGE = dict(
    dit_b64=partial(_dit, 64), dit_b256=partial(_dit, 256), ltx=partial(_backbone, "ltx"), wan=partial(_backbone, "wan")
)
CONFIGS = ("biflow/procedural.py", "biflow/bouncing.py", "vlfm/procedural.py", "flowframes/procedural.py")
PROGRAMS = dict(
    cpu={
        f"{re.sub(r'[.]py$', '', file)} {which}": partial(_of_config, file, which)
        for file in CONFIGS
        for which in ("train", "sample")
    },
    h200={name: partial(_on, make=make) for name, make in LARGE.items()},
    tpu={name: partial(_on, make=make) for name, make in LARGE.items() if name != "dit_b256"},
)


if __name__ == "__main__":
    sys.exit(main())
