"""Compiles a config's train step and sampler for devices that this machine does not have; reports memory and time.

    memory       bytes of each device: arguments, outputs and temporaries of the compiled program
    time         compute = operations / peak rate; collectives = bytes sent / bandwidth of the chip's links
    efficiency   at most compute / (compute + collectives), or compute / max(compute, collectives) if both overlap

The TPU compiler compiles for a TPU slice. For n GPUs, the CPU compiler compiles for n simulated devices: arrays and
collectives are split as on GPUs, but memory is an estimate: the GPU compiler schedules differently, and attention is
not one kernel here, so that its logits count (`jvflow.networks.attention`).
"""

import os
import re
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import topologies

from jvflow.assembly import Experiment
from jvflow.data.pipeline import Batch
from jvflow.experiment import assemble
from jvflow.files import with_local_paths
from jvflow.networks import as_field
from jvflow.parallel import hlo, sharding
from jvflow.parallel import mesh as meshes
from jvflow.parallel.sharding import DATA, FSDP, TENSOR
from jvflow.training.config_check import check_config
from jvflow.training.sharded import check_mesh, compiled_step, init_and_abstract_state
from jvflow.training.step import merge


class Chip(NamedTuple):
    """Published figures of one chip: bytes of memory, bfloat16 operations per second, bytes per second of all links."""

    memory: float
    flops: float
    links: float


CHIPS = {
    "v4": Chip(32e9, 275e12, 300e9),
    "v5e": Chip(16e9, 197e12, 200e9),
    "v5p": Chip(95e9, 459e12, 600e9),
    "v6e": Chip(32e9, 918e12, 448e9),
    "a100": Chip(80e9, 312e12, 300e9),
    "h100": Chip(80e9, 989e12, 450e9),
    "h200": Chip(141e9, 989e12, 450e9),
}
"""Sources: cloud.google.com/tpu/docs (each chip's page) and NVIDIA's data sheets (NVLink in one direction)."""
TPU_ENVIRONMENT = dict(
    TPU_SKIP_MDS_QUERY="1", TPU_ACCELERATOR_TYPE="", TPU_WORKER_HOSTNAMES="localhost", ALLOW_MULTIPLE_LIBTPU_LOAD="1"
)
"""Environment variables that keep libtpu from searching for a TPU and locking it: this machine has none."""
TPUS = ("v4", "v5e", "v5p", "v6e")


def parse(topology: str) -> tuple[str, int]:
    """Parses a topology such as "v5e:4x4" or "h100:8" into (chip, number of devices).

    Raises:
      ValueError: if the chip is unknown or the size is not a number.
    """
    chip, _, sizes = topology.partition(":")
    if chip not in CHIPS or not re.fullmatch(r"[1-9]\d*(x[1-9]\d*)*" if chip in TPUS else r"[1-9]\d*", sizes):
        raise ValueError(
            f"unknown topology {topology!r}: use a TPU slice such as v5e:4x4 or v5p:4x4x4, or GPUs such as h100:8; "
            f"chips are {', '.join(CHIPS)}"
        )
    return chip, int(np.prod([int(n) for n in sizes.split("x")]))


def devices(topology: str) -> list:
    """Returns the devices to compile for; GPUs are simulated on the host, see `jvflow.cli.dryrun`."""
    chip, count = parse(topology)
    if chip in TPUS:
        os.environ.update(TPU_ENVIRONMENT | os.environ)
        try:
            return list(topologies.get_topology_desc(platform="tpu", topology_name=topology).devices)
        except Exception as error:  # libtpu is not installed, or knows no such slice
            raise ValueError(
                f"cannot compile for the slice {topology} ({str(error).partition(chr(10))[0][:200]}): "
                "pip install 'jvflow[tpu]', and use a slice that exists"
            ) from error
    if len(jax.devices()) < count:
        raise ValueError(
            f"{topology} needs {count} simulated devices, there are {len(jax.devices())}: "
            f"set XLA_FLAGS=--xla_force_host_platform_device_count={count}"
        )
    return jax.devices()[:count]


def report(config, topology: str, *, sampler: bool = True, largest: bool = True) -> dict:
    """Compiles a config's train step for a topology; returns the figures.

    Args:
      config: an experiment's config. With a codec other than pixels, a batch holds latents (`jvflow encode`).
      topology: see `parse`.
      sampler: also compile the sampler.
      largest: also find the largest batch size that fits, which takes some more compilations.
    """
    chip, count = parse(topology)
    config, experiment, mesh, abstract = _abstract(config, devices(topology))
    whole = merge(abstract.frozen, abstract.params)
    decisions = sharding.decide(whole, experiment.network.rules, mesh)
    total, trained = (sum(a.size for a in jax.tree.leaves(part)) for part in (whole, abstract.params))
    train = _train(experiment, config, mesh, abstract, CHIPS[chip])
    found = dict(
        topology=topology,
        devices=count,
        mesh={axis: n for axis, n in mesh.shape.items() if n > 1},
        objective=config.objective,
        parameters=total,
        trained=trained,
        copied_parameters=sum(int(np.prod(d.shape)) for d in decisions if not any(d.spec)),
        batch=config.train.batch_size,
        memory_is="the compiler's" if chip in TPUS else "an estimate",
        state_bytes={name: _per_device(getattr(abstract, name)) for name in ("params", "frozen", "ema", "opt_state")},
        train=train,
        decisions=[str(d) for d in decisions],
    )
    if largest:
        found["largest_batch"] = _largest(experiment, config, mesh, abstract, CHIPS[chip], train)
    if sampler:
        sample = _sample_program(experiment, config, mesh, whole)
        found["sample"] = dict(_compiled(sample, mesh, CHIPS[chip]), videos=_videos(mesh))
    return found


# --- programs -------------------------------------------------------------------------------------


class Program(NamedTuple):
    """A jitted function, and the shapes and shardings of its arguments.

    Lower it under `jax.sharding.use_abstract_mesh(mesh.abstract_mesh)`, because its devices may not exist.
    """

    function: Any
    arguments: tuple


def programs(config, devices: list) -> tuple[dict[str, Program], Any]:
    """Returns the programs "train" and "sample" of a config for these devices, not compiled yet, and their mesh."""
    config, experiment, mesh, abstract = _abstract(config, devices)
    params = merge(abstract.frozen, abstract.params)
    train, sample = (
        _train_program(experiment, config, mesh, abstract),
        _sample_program(experiment, config, mesh, params),
    )
    return dict(train=train, sample=sample), mesh


def _abstract(config, devices: list) -> tuple:
    """Returns a config with local paths, its experiment, a mesh of these devices, and the shapes of its state."""
    check_config(config)
    config = with_local_paths(config)
    mesh = meshes.make_mesh(config.run.mesh, devices)
    meshes.check_batch(config.train.batch_size, mesh, config.run.microbatches)
    experiment = assemble(config, abstract=True)
    check_mesh(experiment, mesh)
    return config, experiment, mesh, init_and_abstract_state(experiment, config, mesh)[1]


def _train_program(experiment: Experiment, config, mesh, abstract) -> Program:
    shardings = jax.tree.map(lambda a: a.sharding, abstract)
    batch, (key, encoder_params) = batch_shapes(experiment, config, mesh), _everywhere(experiment, mesh)
    return Program(compiled_step(experiment, config, shardings), (abstract, batch, key, encoder_params))


def _train(experiment: Experiment, config, mesh, abstract, chip: Chip) -> dict:
    figures = _compiled(_train_program(experiment, config, mesh, abstract), mesh, chip)
    itemsize = jnp.dtype(config.network.dtype).itemsize  # parameters are gathered in the dtype of the computation
    split = lambda part: sum(a.size * itemsize for a in jax.tree.leaves(part) if FSDP in a.sharding.spec)
    # gathered in the forward and the backward pass; gradients of trained parameters are scattered
    sharded = 3 * split(abstract.params) + 2 * split(abstract.frozen)
    n = mesh.shape[FSDP]
    if n > 1 and "collectives" in figures:
        # each microbatch gathers all parameters
        figures["minimum_bytes"] = sharded / mesh.shape[TENSOR] * (n - 1) / n * config.run.microbatches
        sent = sum(kind["bytes"] for kind in figures["collectives"].values())
        figures["bytes_over_minimum"] = sent / figures["minimum_bytes"]
    return figures


def batch_shapes(experiment: Experiment, config, mesh) -> Batch:
    """Returns the shapes and shardings of one training batch."""
    b = config.train.batch_size
    rows, frames = meshes.batched(mesh), experiment.window.frames
    of = lambda shape, dtype=jnp.float32: jax.ShapeDtypeStruct((b, *shape), dtype, sharding=rows)
    pixels, chunks = config.codec.name == "pixels", experiment.chunks
    each, *places = experiment.codec.latent_shape((frames // chunks, *config.data.size))
    latent = (chunks * each, *places)
    tokens = experiment.text.tokenize([""]) if experiment.text else None
    embedded = tokens and experiment.text.init is None  # `jvflow encode` stores embeddings with the latents
    inverted = each if experiment.window.inverted else 0
    return Batch(
        video=of((frames, *config.data.size, 3), jnp.uint8) if pixels and not inverted else None,
        fps=of(()),
        start=of(()),
        latent_mean=None if pixels and not inverted else of(latent),
        latent_std=of(latent) if experiment.codec.posterior and not pixels else None,
        inverted=of((inverted, *latent[1:])) if inverted else None,
        inverted_error=of(()) if inverted else None,
        text_tokens=of(tokens[0].shape[1:], tokens[0].dtype) if tokens and not embedded else None,
        text_mask=tokens and of(tokens[1].shape[1:], bool),
        text_embedding=of((*tokens[1].shape[1:], experiment.text.width)) if embedded else None,
    )


def _sample_program(experiment: Experiment, config, mesh, params) -> Program:
    """Returns the sampler, with one video for each part of the mesh along `data` and `fsdp`."""
    count = _videos(mesh)
    rows, (key, encoder_params) = meshes.batched(mesh), _everywhere(experiment, mesh)
    frames = experiment.start_frames
    of = lambda shape, dtype=jnp.float32: jax.ShapeDtypeStruct((count, *shape), dtype, sharding=rows)
    first = of(experiment.codec.latent_shape((frames, *config.data.size)))
    text = dict(fps=of(()))
    if experiment.text:
        tokens, mask = experiment.text.tokenize([""])
        text |= dict(tokens=of(tokens.shape[1:], tokens.dtype), mask=of(mask.shape[1:], bool))
        if experiment.text.init is None:  # a separate program embeds captions
            text |= dict(embedding=of((*mask.shape[1:], experiment.text.width)))

    program = experiment.method.sampling_program(experiment)

    def sample(params, encoder_params, first, key, text):
        tokens, mask, embedding = (text.get(name) for name in ("tokens", "mask", "embedding"))
        condition = experiment.condition(params, tokens, mask, encoder_params, embedding, text["fps"])
        return program(as_field(experiment.network, params), first, key, condition)

    return Program(jax.jit(sample), (params, encoder_params, first, key, text))


def _videos(mesh) -> int:
    return mesh.shape[DATA] * mesh.shape[FSDP]


def _compiled(program: Program, mesh, chip: Chip) -> dict:
    """Compiles one program and returns its figures."""
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):  # these devices may not exist
        return _figures(program, mesh, chip)


def _figures(program: Program, mesh, chip: Chip) -> dict:
    operations = hlo.flops(program.function, *program.arguments) / mesh.size
    try:
        compiled = program.function.lower(*program.arguments).compile()
    except jax.errors.JaxRuntimeError as error:
        used = re.search(r"(?:Used|Exceeded).*", str(error))
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return dict(fits=False, flops=operations, says=used[0][:200] if used else str(error).partition("\n")[0][:200])
    memory = compiled.memory_analysis()
    bytes_ = dict(
        arguments=memory.argument_size_in_bytes,
        outputs=memory.output_size_in_bytes - memory.alias_size_in_bytes,
        temporaries=memory.temp_size_in_bytes,
        program=memory.generated_code_size_in_bytes,
    )
    found = hlo.by_kind(hlo.collectives(compiled.as_text(), mesh.size))
    sent = sum(kind["bytes"] for kind in found.values())
    compute, links = operations / chip.flops, sent / chip.links
    return dict(
        fits=sum(bytes_.values()) <= chip.memory,
        bytes=bytes_,
        peak_bytes=sum(bytes_.values()),
        flops=operations,
        collectives=found,
        seconds=dict(compute=compute, collectives=links),
        collective_share=links / (compute + links),
        efficiency_bound=dict(
            one_after_the_other=compute / (compute + links), at_the_same_time=compute / max(compute, links)
        ),
    )


def _largest(experiment, config, mesh, abstract, chip: Chip, train: dict) -> int:
    """Returns the largest batch size that fits; 0 if none does.

    Temporaries grow in proportion to the batch, so two compilations give a guess, and a third one checks it.
    """
    step = mesh.shape[DATA] * mesh.shape[FSDP] * config.run.microbatches
    config = config.copy_and_resolve_references()

    def needed(batch: int) -> int | float:
        config.train.batch_size = batch
        figures = train if batch == start else _train(experiment, config, mesh, abstract, chip)
        return figures.get("peak_bytes", np.inf)

    start = config.train.batch_size
    known = {step: needed(step)}
    if known[step] > chip.memory:
        return 0
    known[2 * step] = needed(2 * step)
    each = max((known[2 * step] - known[step]) / step, 1.0) if np.isfinite(known[2 * step]) else np.inf
    guess = int((chip.memory - known[step]) / each) // step * step + step
    while guess > step:
        if needed(guess) <= chip.memory:
            return guess
        guess = max(int(guess * 0.9) // step * step, step)
    return step


def _everywhere(experiment: Experiment, mesh) -> tuple[jax.ShapeDtypeStruct, Any]:
    """Returns the shapes of a key and of `Experiment.encoder_params`, replicated on every device."""
    text = experiment.text
    params = lambda: dict(codec=experiment.codec.params, text=text and text.params)
    key, shapes = jax.eval_shape(lambda: (jax.random.key(0), params()))
    mask = None if text is None or text.init else text.tokenize([""])[1]  # its embedding may be too costly to compute
    shapes["empty"] = None if mask is None else (np.broadcast_to(np.float32(0), (*mask.shape, text.width)), mask)
    place = lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=meshes.replicated(mesh))
    return jax.tree.map(place, (key, shapes))


def _per_device(tree) -> int:
    if tree is None:
        return 0
    return sum(int(np.prod(a.sharding.shard_shape(a.shape))) * a.dtype.itemsize for a in jax.tree.leaves(tree))


# --- the report as text ---------------------------------------------------------------------------


def table(found: dict) -> str:
    """Returns the figures of `report` as text."""
    mib = lambda n: f"{n / 2**20:,.0f} MiB"
    mesh = ", ".join(f"{axis} {n}" for axis, n in found["mesh"].items()) or "one device"
    sizes = found["state_bytes"].items()
    state = ", ".join(f"{name} {mib(n)}" for name, n in sizes if n or name != "frozen")
    lines = [
        f"{found['objective']} on {found['topology']} ({mesh}), batch {found['batch']}, "
        f"{found['parameters']:,} parameters, "
        + f"{found['trained']:,} of them trained, " * (found["trained"] < found["parameters"])
        + f"{found['copied_parameters']:,} of them copied to every device",
        f"  state per device    {state}",
    ]
    for name in ("train", "sample"):
        part = found.get(name)
        if part is None:
            continue
        if "bytes" not in part:
            lines.append(f"  {name:19} DOES NOT FIT: {part['says']}")
            continue
        lines.append(
            f"  {name:19} {'fits' if part['fits'] else 'DOES NOT FIT'}, "
            f"{mib(part['peak_bytes'])} ({found['memory_is']}): "
            + ", ".join(f"{key} {mib(n)}" for key, n in part["bytes"].items())
        )
        kinds = [f"{kind} {mib(of['bytes'])} in {of['count']}" for kind, of in part["collectives"].items()]
        over = f", {part['bytes_over_minimum']:.2f} times the minimum" if "bytes_over_minimum" in part else ""
        lines.append(f"  {'':19} collectives {', '.join(kinds) or 'none'}{over}")
        lines.append(
            f"  {'':19} {part['flops'] / 1e12:,.2f} TFLOP in {part['seconds']['compute'] * 1e3:,.1f} ms at least, "
            f"collectives {part['seconds']['collectives'] * 1e3:,.1f} ms: at best "
            f"{100 * part['efficiency_bound']['at_the_same_time']:.0f} % of the peak, "
            f"{100 * part['efficiency_bound']['one_after_the_other']:.0f} % without overlap"
        )
    if "largest_batch" in found:
        lines.append(f"  largest batch       {found['largest_batch'] or 'none fits'}")
    return "\n".join(lines)
