"""FlowFrames at the size of its backbones, LTX-Video 2B and Wan 2.1 1.3B, computed: the paper's train steps and samplers on slices, and memory over the
size of a prediction.

    python -m benchmarks.backbones [--models=ltx,wan] [--parts=train,memory]

train     configs/flowframes/ltx_2b.py and wan_1p3b.py (batch 14,336 in 8 microbatches, the longer chunks, 41 frames) compiled for each of `SLICES`, with
          each `REMAT`: memory of a device, and the sampler of 5 evaluations with guidance
memory    Mem(V) = k V / 1e6 + b of a prediction of 480 x 832 in 5 Euler steps, one video on one chip, for FlowFrames and the conventional design, at the
          volumes of the paper's table 5 and larger ones (it measures ratios of slopes of 0.50 and 0.52). In latents, and with the autoencoder in pieces
          of one latent frame

Nothing here needs a device; a compilation takes about a minute, and what is in the results already is not compiled again. Writes
`benchmarks/results/ltx.json` and `wan.json`.
"""

import json
import os

os.environ["JAX_PLATFORMS"] = "cpu"

from absl import flags

from benchmarks.memory import fit
from benchmarks.record import RESULTS, write
from jvflow import cli

SLICES = {"v5p:4x4x4": dict(data=4, fsdp=16), "v6e:8x8": dict(data=4, fsdp=16), "v5e:16x16": dict(data=16, fsdp=16)}
REMAT = ("none", "dots", "full")
CHIP, SIDES = "v5p:2x2x1", (480, 832)
CONFIGS = dict(ltx="ltx_2b", wan="wan_1p3b")
FRAMES = dict(  # of latents; the paper's are the first five
    ltx=dict(latents=(6, 8, 10, 12, 18, 24, 30, 36), end_to_end=(6, 18, 36)),
    wan=dict(latents=(3, 4, 5, 6, 9, 12, 15, 18), end_to_end=(3, 9, 18)),
)
MODELS = flags.DEFINE_list("models", list(CONFIGS), "Which.")
PARTS = flags.DEFINE_list("parts", ["train", "memory"], "What is compiled.")


def main():
    for model in MODELS.value:
        file = RESULTS / f"{model}.json"
        results = json.loads(file.read_text())["results"] if file.exists() else dict(train={}, memory={})
        if "train" in PARTS.value:
            for topology, mesh in SLICES.items():
                for remat in REMAT:
                    if f"{topology} {remat}" not in results["train"]:
                        results["train"][f"{topology} {remat}"] = _train(model, topology, mesh, remat)
                        write(model, dict(results=results))
        if "memory" in PARTS.value:
            for part, lengths in FRAMES[model].items():
                for name in [
                    f"{part} {design} {frames}" for design in ("flowframes", "conventional") for frames in lengths
                ]:
                    if name not in results["memory"]:
                        results["memory"][name] = _prediction(model, *name.split())
                        print(name, results["memory"][name], flush=True)
                        write(model, dict(results=results))
            results["slopes"] = {
                part: _slopes(results["memory"], part, lengths) for part, lengths in FRAMES[model].items()
            }
            print(json.dumps(results["slopes"], indent=1))
            write(model, dict(results=results))


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
    """Megabytes that one prediction needs on one chip, and V = c f h w of its observed latents."""
    import jax
    import jax.numpy as jnp

    from jvflow import codecs, dryrun, networks
    from jvflow.flow.field import Condition
    from jvflow.flowframes import method as flowframes
    from jvflow.networks.ltx_vae import LTXVAE, LTXVAEConfig
    from jvflow.networks.wan_vae import WanVAE, WanVAEConfig

    config = _config(model)
    autoencoder = dict(ltx=(LTXVAE, LTXVAEConfig()), wan=(WanVAE, WanVAEConfig()))[model]
    codec = codecs.build(config.codec.name, abstract=True, piece=1)
    length = codec.frames_per_latent * (int(frames) - 1) + 1
    shape = codec.latent_shape((length, *SIDES))
    network = networks.build(**dict(config.network, attention=512), channels=shape[-1], text_width=4096)
    design, solver = flowframes.DESIGNS[name], flowframes.euler(5)

    def predict(params, observed, text):
        condition = Condition(text=text, text_mask=jnp.ones(text.shape[:2], bool), fps=jnp.full(1, 24.0))
        key = jax.random.key(0)
        return flowframes.predicted(
            networks.as_field(network, params),
            observed,
            key,
            condition,
            design=design,
            solver=solver,
            guidance=config.sample.guidance,
        ).frames

    def whole(params, weights, video, text):
        return codec.decode(weights, predict(params, codec.encode(weights, video).mean, text))

    place = jax.sharding.SingleDeviceSharding(dryrun.devices(CHIP)[0])
    on = lambda tree: jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=place), tree)
    params, text = (
        jax.eval_shape(network.init, jax.random.key(0)),
        jax.ShapeDtypeStruct((1, config.text.length, 4096), jnp.float32),
    )
    if part == "latents":
        arguments, function = (params, jax.ShapeDtypeStruct((1, *shape), jnp.float32), text), predict
    else:
        weights = jax.eval_shape(networks.functional(*autoencoder).init, jax.random.key(0))
        arguments, function = (params, weights, jax.ShapeDtypeStruct((1, length, *SIDES, 3), jnp.uint8), text), whole
    memory = jax.jit(function).lower(*on(arguments)).compile().memory_analysis()
    needed = memory.temp_size_in_bytes + memory.argument_size_in_bytes + memory.output_size_in_bytes
    return dict(
        volume=int(jnp.prod(jnp.array(shape))), megabytes=needed / 1e6, temporaries=memory.temp_size_in_bytes / 1e6
    )


def _slopes(results: dict, part: str, lengths: tuple) -> dict:
    """The fit of each design, and the ratio of their slopes."""
    of = lambda design: [results[f"{part} {design} {frames}"] for frames in lengths]
    fits = {
        design: fit(*([figures[key] for figures in of(design)] for key in ("volume", "megabytes")))
        for design in ("flowframes", "conventional")
    }
    return fits | dict(ratio=fits["flowframes"]["slope_mb"] / fits["conventional"]["slope_mb"])


if __name__ == "__main__":
    cli.run(main)
