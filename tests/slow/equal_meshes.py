"""Trains an experiment for a few steps on one device and on meshes of eight, and prints the largest differences.

    python tests/slow/equal_meshes.py biflow|vlfm|flowframes|conventional|ltx|wan [--steps=20] [--meshes=fsdp,all]
    python tests/slow/equal_meshes.py wan --attention=splash|cudnn

The devices are simulated. --attention computes the attention on the meshes by the kernel of a TPU or GPU, as far as a
CPU runs it; the one device uses XLA. Compares the losses of AdamW and the parameters of SGD, because AdamW turns
rounding errors into steps of parameters that have no gradient.
"""

import json
import os
import sys
from contextlib import nullcontext
from pathlib import Path

os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"
os.environ["JAX_PLATFORMS"] = "cpu"

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the folder of conftest

import jax
import numpy as np
import optax
from attention_kernels import attention_by
from conftest import CACHE, load_config

from jvflow.data import dataset, pipeline
from jvflow.experiment import assemble
from jvflow.parallel import mesh as meshes
from jvflow.parallel import sharding
from jvflow.training.sharded import compiled_step, init_and_abstract_state

FILES = dict(
    biflow="biflow/procedural.py",
    vlfm="vlfm/procedural.py",
    flowframes="flowframes/procedural.py",
    conventional="flowframes/procedural.py",
    ltx="flowframes/ltx_2b.py",
    wan="flowframes/wan_1p3b.py",
)
MESHES = {
    "data": dict(data=8),
    "fsdp": dict(fsdp=8),
    "tensor": dict(data=4, tensor=2),
    "sequence": dict(sequence=8),  # does not divide the 6 heads
    "all": dict(fsdp=2, sequence=2, tensor=2),
    "microbatches": dict(data=2, fsdp=2, sequence=2),
}


def experiment_of(paper: str, folder):
    """Returns a config whose arrays are large enough to be split, and small enough for many steps."""
    config = load_config(FILES[paper], "debug")
    config.data.cache = str(folder)
    if paper in ("ltx", "wan"):  # Wan's 12 heads; 48 tokens, which eight devices divide
        config.codec.piece, config.data.size, config.chunk.frames = (
            0,
            (64, 64) if paper == "wan" else (128, 128),
            (9,) if paper == "wan" else (17,),
        )
        config.network.update(heads=12, head=12)
    else:
        config.network.update(width=96, depth=2, heads=6, scan=paper == "vlfm")
        if paper != "biflow":
            config.text.update(width=96, depth=2, heads=4)
    config.optimizer.update(warmup_steps=0)
    config.train.update(batch_size=16)
    if FILES[paper].startswith("flowframes"):
        config.objective = paper if paper in ("flowframes", "conventional") else "flowframes"
        config.inversion.rho = 0.0
        config.network.attention = 4
    return config


def trained(config, mesh, batches, optimizer=None, start=None):
    """Trains from the parameters `start`; returns the losses, the last parameters and the number of split arrays."""
    experiment = assemble(config)
    if optimizer:
        experiment = experiment.__class__(**dict(vars(experiment), optimizer=optimizer))
    create, abstract = init_and_abstract_state(experiment, config, mesh)
    shardings = jax.tree.map(lambda a: a.sharding, abstract)
    state = jax.jit(create, out_shardings=shardings)(jax.random.key(0), params=start)
    step, losses = compiled_step(experiment, config, shardings), []
    for batch in batches:
        with jax.set_mesh(mesh):
            state, metrics = step(state, meshes.put_batch(batch, mesh, config.train.batch_size), jax.random.key(1))
        losses.append(float(metrics["loss"]))
    return (
        np.array(losses),
        jax.device_get(state.params),
        sum(a.sharding.spec != jax.P() for a in jax.tree.leaves(abstract.params)),
    )


def main(paper: str, steps: int = 20, names=tuple(MESHES), attention: str = "") -> dict:
    import tempfile

    sharding.MIN_ELEMENTS = 2**8
    with tempfile.TemporaryDirectory() as folder:
        config = experiment_of(paper, folder)
        experiment = assemble(config)
        data = dataset.prepare(config.data, folder, frames=experiment.window.span)
        stream = pipeline.batches(
            data,
            windows=experiment.windows,
            batch_size=16,
            seed=0,
            threads=0,
            tokenize=experiment.text and experiment.text.tokenize,
        )
        batches = [next(stream) for _ in range(steps)]
    first = jax.jit(experiment.network.init)(jax.random.key(0))
    leaves, tree = jax.tree.flatten(first)
    noise = np.random.default_rng(0)  # adaLN-zero starts as the zero field, which hides differences
    start = jax.tree.unflatten(
        tree, [np.asarray(leaf) + 0.05 * noise.normal(size=leaf.shape).astype(np.float32) for leaf in leaves]
    )
    sgd = optax.sgd(1e-2)
    one = meshes.make_mesh(devices=jax.devices()[:1])
    losses, _, _ = trained(config, one, batches, start=start)
    _, params, _ = trained(config, one, batches, sgd, start)
    moved = max(float(np.abs(a - b).max()) for a, b in zip(jax.tree.leaves(params), jax.tree.leaves(start)))
    found = dict(moved=moved, losses=[float(losses[0]), float(losses[-1])])
    for name in names:
        mesh = meshes.make_mesh(MESHES[name])
        config.run.microbatches = 2 if name == "microbatches" else 1
        with attention_by(attention) if attention else nullcontext(["XLA"]) as used:
            here, _, split = trained(config, mesh, batches, start=start)
            _, there, _ = trained(config, mesh, batches, sgd, start)
        assert used, f"{paper} computed no attention by {attention}"
        apart = max(float(np.abs(a - b).max()) for a, b in zip(jax.tree.leaves(params), jax.tree.leaves(there)))
        found[name] = dict(loss=float(np.abs(here / losses - 1).max()), params=apart, split_arrays=split)
    return found


if __name__ == "__main__":
    jax.config.update("jax_compilation_cache_dir", str(CACHE))
    options = dict(argument.removeprefix("--").split("=") for argument in sys.argv[2:])
    names = options.get("meshes", ",".join(MESHES)).split(",")
    found = main(sys.argv[1], int(options.get("steps", 20)), names, options.get("attention", ""))
    print(sys.argv[1], json.dumps(found, indent=1))
    far = {name: of for name, of in found.items() if name in MESHES and max(of["loss"], of["params"]) > 1e-5}
    sys.exit(f"differences from one device above 1e-5: {far}" if far else 0)
