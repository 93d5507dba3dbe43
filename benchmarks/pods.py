"""Compiles the train steps of the three papers at two sizes for slices of 8, 64 and 256 chips, and compares meshes.

    python -m benchmarks.pods [--papers=biflow,vlfm,flowframes] [--sizes=dit_xl,ltx] [--topologies=v5e:2x4,...]

The networks are DiT-XL/2 (28 layers, width 1152, 16 heads) and a DiT of LTX-Video's size (28 layers, width 2048, 32
heads). Inputs have the shapes of latents: 64 x 64 for Bi-flow and VLFM (512 x 512 pixels through an autoencoder with 8
x 8 pixels to a latent), chunks of 6 x 16 x 24 for FlowFrames (41 frames of 512 x 768 pixels through LTX-Video's). Tries
each mesh of `MESHES` for the number of chips, with the fewest `MICROBATCHES` that fit, and recommends the mesh that
fits and has the best bound on efficiency. Keeps existing results. A compilation takes about a minute and needs no
accelerator. Writes `out/benchmarks/pods.json`.
"""

import json
import os
from itertools import product

os.environ["JAX_PLATFORMS"] = "cpu"

from absl import flags

from benchmarks import record
from jvflow import cli

SIZES = dict(dit_xl=dict(width=1152, depth=28, heads=16), ltx=dict(width=2048, depth=28, heads=32))
MESHES = {
    8: [dict(fsdp=8)],
    64: [dict(fsdp=64), dict(data=4, fsdp=16)],
    256: [dict(data=16, fsdp=16), dict(data=8, fsdp=32)],
}
MICROBATCHES = (1, 4, 16)
BATCH = 256
PAPERS = flags.DEFINE_list("papers", ["biflow", "vlfm", "flowframes"], "Papers whose train steps are compiled.")
NETWORKS = flags.DEFINE_list("sizes", list(SIZES), "Sizes of the networks.")
TOPOLOGIES = flags.DEFINE_list("topologies", ["v5e:2x4", "v5p:4x4x4", "v6e:8x8", "v5e:16x16"], "Slices to compile for.")


def _config(paper: str, size: str):
    """Returns the config of a paper, with the network of a size and the shapes of latents."""
    from importlib import import_module

    config = import_module(f"configs.{paper}.{dict(flowframes='procedural').get(paper, 'paper')}").get_config()
    config.codec = dict(name="pixels", checkpoint=(), scale=1.0)
    config.network.update(**SIZES[size], patch=(1, 2, 2), dtype="bfloat16", scan=True, local=False)
    config.data.size = (64, 64)
    if paper == "flowframes":
        config.inversion.rho, config.network.patch = 0.0, (1, 1, 1)
        config.data.size, config.data.frames, config.chunk.frames = (16, 24), 12, (6,)
    config.train.batch_size = BATCH
    config.run.remat = "full"
    return config


def main():
    from jvflow.training import dryrun

    file = record.file("pods.json")
    results = json.loads(file.read_text())["results"] if file.exists() else {}
    for paper, size, topology in product(PAPERS.value, NETWORKS.value, TOPOLOGIES.value):
        _, count = dryrun.parse(topology)
        for mesh in MESHES[count]:
            for microbatches in MICROBATCHES:
                name = f"{paper} {size} {topology} " + " ".join(f"{axis}={n}" for axis, n in mesh.items())
                name += f" microbatches={microbatches}" if microbatches > 1 else ""
                if name not in results:
                    config = _config(paper, size)
                    config.run.mesh.update(dict(data=1) | mesh)
                    config.run.microbatches = microbatches
                    found = dryrun.report(config, topology, sampler=False, largest=False)
                    results[name] = {key: value for key, value in found.items() if key != "decisions"}
                    print(dryrun.table(found), flush=True)
                    record.write("pods", dict(results=results, recommended=_recommended(results)))
                if results[name]["train"]["fits"]:
                    break


def _recommended(results: dict) -> dict:
    """Returns the mesh with the best bound on efficiency for each paper, size and topology.

    The mesh must fit, and the bound assumes no overlap of computation and communication.
    """
    best = {}
    for name, found in results.items():
        case, mesh = " ".join(name.split()[:3]), " ".join(name.split()[3:])
        bound = found["train"]["efficiency_bound"]["one_after_the_other"] if found["train"]["fits"] else 0.0
        if bound >= best.get(case, (0.0, ""))[0]:
            best[case] = (bound, mesh if bound else "none fits")
    return {case: dict(mesh=mesh, bound=bound) for case, (bound, mesh) in best.items()}


if __name__ == "__main__":
    cli.run(main)
