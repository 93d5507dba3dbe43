"""Compiles FlowFrames at the size of its backbones, LTX-Video 2B and Wan 2.1 1.3B, and measures its memory.

    python -m benchmarks.backbones [--models=ltx,wan] [--parts=train,memory]

train     memory per device of the train steps of configs/flowframes/ltx_2b.py and wan_1p3b.py (batch 14,336 in 8
          microbatches, the longer chunks, 41 frames), for each of `SLICES` with each `REMAT`; also of the sampler (5
          network evaluations with guidance)
memory    Mem(V) = k V / 1e6 + b, V = c f h w, for the prediction of one video of 480 x 832 pixels in 5 Euler steps on
          one chip, by FlowFrames and by the conventional design, at the volumes of the paper's table 5 and at larger
          ones; in latents, and end to end with an autoencoder that works in pieces of one latent frame. The paper
          measures ratios of the slopes k of 0.50 and 0.52

Needs no accelerator. A compilation takes about a minute. Keeps existing results. Writes `out/benchmarks/ltx.json`
and `wan.json`.
"""

import json
import os
from itertools import product

os.environ["JAX_PLATFORMS"] = "cpu"

from absl import flags

from benchmarks import record
from benchmarks.memory import fit
from jvflow import cli

SLICES = {"v5p:4x4x4": dict(data=4, fsdp=16), "v6e:8x8": dict(data=4, fsdp=16), "v5e:16x16": dict(data=16, fsdp=16)}
REMAT = ("none", "dots", "full")
CHIP, SIDES = "v5p:2x2x1", (480, 832)
CONFIGS = dict(ltx="ltx_2b", wan="wan_1p3b")
FRAMES = dict(  # latent frames; the paper's are the first five
    ltx=dict(latents=(6, 8, 10, 12, 18, 24, 30, 36), end_to_end=(6, 18, 36)),
    wan=dict(latents=(3, 4, 5, 6, 9, 12, 15, 18), end_to_end=(3, 9, 18)),
)
MODELS = flags.DEFINE_list("models", list(CONFIGS), "Backbones to compile.")
PARTS = flags.DEFINE_list("parts", ["train", "memory"], "Parts to compile.")


def main():
    for model in MODELS.value:
        file = record.file(f"{model}.json")
        results = json.loads(file.read_text())["results"] if file.exists() else dict(train={}, memory={})
        if "train" in PARTS.value:
            for topology, mesh in SLICES.items():
                for remat in REMAT:
                    if f"{topology} {remat}" not in results["train"]:
                        results["train"][f"{topology} {remat}"] = _train(model, topology, mesh, remat)
                        record.write(model, dict(results=results))
        if "memory" in PARTS.value:
            for part, lengths in FRAMES[model].items():
                for design, frames in product(("flowframes", "conventional"), lengths):
                    name = f"{part} {design} {frames}"
                    if name not in results["memory"]:
                        results["memory"][name] = _prediction(model, *name.split())
                        print(name, results["memory"][name], flush=True)
                        record.write(model, dict(results=results))
            results["slopes"] = {
                part: _slopes(results["memory"], part, lengths) for part, lengths in FRAMES[model].items()
            }
            print(json.dumps(results["slopes"], indent=1))
            record.write(model, dict(results=results))


def _config(model: str):
    from importlib import import_module

    return import_module(f"configs.flowframes.{CONFIGS[model]}").get_config()


def _train(model: str, topology: str, mesh: dict, remat: str) -> dict:
    from jvflow.training import dryrun

    config = _config(model)
    config.run.mesh.update(mesh)
    config.run.remat = remat
    found = dryrun.report(config, topology, sampler=remat == "full", largest=False)
    print(f"remat {remat}: {dryrun.table(found)}", flush=True)
    return {key: value for key, value in found.items() if key != "decisions"}


def _prediction(model: str, part: str, name: str, frames: str) -> dict:
    """Returns the megabytes that one prediction needs on one chip, and V = c f h w of its observed latents."""
    import jax
    import jax.numpy as jnp

    from jvflow import codecs, networks
    from jvflow.flow.field import Condition
    from jvflow.flowframes.method import OBJECTIVES
    from jvflow.flowframes.sample import make_solver, predict_chunks
    from jvflow.networks.ltx_vae import LTXVAE, LTXVAEConfig
    from jvflow.networks.wan_vae import WanVAE, WanVAEConfig
    from jvflow.training import dryrun

    config = _config(model)
    autoencoder = dict(ltx=(LTXVAE, LTXVAEConfig()), wan=(WanVAE, WanVAEConfig()))[model]
    codec = codecs.build(config.codec.name, abstract=True, piece=1)
    length = codec.frames_per_latent * (int(frames) - 1) + 1
    shape = codec.latent_shape((length, *SIDES))
    network = networks.build(**dict(config.network, attention=512), channels=shape[-1], text_width=4096)
    objective, solver = OBJECTIVES[name], make_solver("euler", 5)

    def predict(params, observed, text):
        condition = Condition(text=text, text_mask=jnp.ones(text.shape[:2], bool), fps=jnp.full(1, 24.0))
        key = jax.random.key(0)
        return predict_chunks(
            networks.as_field(network, params),
            observed,
            key,
            condition,
            source=objective.source,
            context=objective.context,
            frames_per_latent=codec.frames_per_latent,
            solver=solver,
            guidance=config.sample.guidance,
        ).frames

    def end_to_end(params, codec_params, video, text):
        return codec.decode(codec_params, predict(params, codec.encode(codec_params, video).mean, text))

    sharding = jax.sharding.SingleDeviceSharding(dryrun.devices(CHIP)[0])
    on_chip = lambda tree: jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=sharding), tree)
    params = jax.eval_shape(network.init, jax.random.key(0))
    text = jax.ShapeDtypeStruct((1, config.text.length, 4096), jnp.float32)
    if part == "latents":
        arguments, function = (params, jax.ShapeDtypeStruct((1, *shape), jnp.float32), text), predict
    else:
        codec_params = jax.eval_shape(networks.functional(*autoencoder).init, jax.random.key(0))
        video = jax.ShapeDtypeStruct((1, length, *SIDES, 3), jnp.uint8)
        arguments, function = (params, codec_params, video, text), end_to_end
    memory = jax.jit(function).lower(*on_chip(arguments)).compile().memory_analysis()
    needed = memory.temp_size_in_bytes + memory.argument_size_in_bytes + memory.output_size_in_bytes
    return dict(
        volume=int(jnp.prod(jnp.array(shape))), megabytes=needed / 1e6, temporaries=memory.temp_size_in_bytes / 1e6
    )


def _slopes(results: dict, part: str, lengths: tuple) -> dict:
    """Returns the fit of each design, and the ratio of their slopes."""
    fits = {}
    for design in ("flowframes", "conventional"):
        figures = [results[f"{part} {design} {frames}"] for frames in lengths]
        fits[design] = fit([f["volume"] for f in figures], [f["megabytes"] for f in figures])
    return fits | dict(ratio=fits["flowframes"]["slope_mb"] / fits["conventional"]["slope_mb"])


if __name__ == "__main__":
    cli.run(main)
