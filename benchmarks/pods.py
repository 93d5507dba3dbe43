"""Scaling on paper, computed: the train steps of the three papers at two sizes, compiled for slices of 8, 64 and 256 chips.

    python -m benchmarks.pods [--papers=biflow,vlfm,flowframes] [--sizes=dit_xl,ltx] [--topologies=v5e:2x4,...]

The networks are DiT-XL/2 (28 layers, width 1152, 16 heads) and a DiT of LTX-Video's size (28 layers, width 2048, 32 heads). Inputs have
the shapes of latents: 64 x 64 for Bi-flow and VLFM (512 x 512 pixels through an autoencoder of 8 x 8), chunks of 6 x 16 x 24 for
FlowFrames (41 frames of 512 x 768 through LTX's). Each mesh of `MESHES` that the devices allow is tried, with as few of `MICROBATCHES` as
fit; the one with the best bound on efficiency among those that fit is recommended. What is in the results already is not compiled again. A compilation takes about
a minute, and nothing here needs a device.
"""

import json
import os

os.environ["JAX_PLATFORMS"] = "cpu"

from absl import flags

from benchmarks.record import RESULTS, write
from jvflow import cli

SIZES = dict(dit_xl=dict(width=1152, depth=28, heads=16), ltx=dict(width=2048, depth=28, heads=32))
MESHES = {
    8: [dict(fsdp=8)],
    64: [dict(fsdp=64), dict(data=4, fsdp=16)],
    256: [dict(data=16, fsdp=16), dict(data=8, fsdp=32)],
}
MICROBATCHES = (1, 4, 16)
BATCH = 256
PAPERS = flags.DEFINE_list("papers", ["biflow", "vlfm", "flowframes"], "Whose train steps.")
NETWORKS = flags.DEFINE_list("sizes", list(SIZES), "Of networks.")
TOPOLOGIES = flags.DEFINE_list("topologies", ["v5e:2x4", "v5p:4x4x4", "v6e:8x8", "v5e:16x16"], "Slices to compile for.")


def config_of(paper: str, size: str):
    """The config of an experiment of this paper, with the network and the shapes of this size."""
    from importlib import import_module

    config = import_module(f"configs.{paper}.{dict(flowframes='procedural').get(paper, 'paper')}").get_config()
    config.codec = dict(name="pixels", weights=(), scale=1.0)
    config.network.update(**SIZES[size], patch=(1, 2, 2), dtype="bfloat16", scan=True, local=False)
    config.data.size = (64, 64)
    if paper == "flowframes":
        config.inversion.rho, config.network.patch, config.data.size, config.data.frames, config.chunk.frames = (
            0.0,
            (1, 1, 1),
            (16, 24),
            12,
            (6,),
        )
    config.train.batch_size = BATCH
    config.run.remat = "full"
    return config


def main():
    from jvflow.training import dryrun

    file = RESULTS / "pods.json"
    results = json.loads(file.read_text())["results"] if file.exists() else {}
    for paper in PAPERS.value:
        for size in NETWORKS.value:
            for topology in TOPOLOGIES.value:
                _, count = dryrun.parse(topology)
                for sizes in MESHES[count]:
                    for parts in MICROBATCHES:
                        name = f"{paper} {size} {topology} " + " ".join(f"{axis}={n}" for axis, n in sizes.items())
                        name += f" microbatches={parts}" if parts > 1 else ""
                        if name not in results:
                            config = config_of(paper, size)
                            config.run.mesh.update(dict(data=1) | sizes)
                            config.run.microbatches = parts
                            found = dryrun.report(config, topology, sampler=False, largest=False)
                            results[name] = {key: value for key, value in found.items() if key != "decisions"}
                            print(dryrun.table(found), flush=True)
                            write("pods", dict(results=results, recommended=_recommended(results)))
                        if results[name]["train"]["fits"]:
                            break


def _recommended(results: dict) -> dict:
    """For each paper, size and topology the mesh with the best bound on efficiency, without overlap, among those that fit."""
    best = {}
    for name, found in results.items():
        case, mesh = " ".join(name.split()[:3]), " ".join(name.split()[3:])
        bound = found["train"]["efficiency_bound"]["one_after_the_other"] if found["train"]["fits"] else 0.0
        if bound >= best.get(case, (0.0, ""))[0]:
            best[case] = (bound, mesh if bound else "none fits")
    return {case: dict(mesh=mesh, bound=bound) for case, (bound, mesh) in best.items()}


if __name__ == "__main__":
    cli.run(main)
