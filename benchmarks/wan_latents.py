"""Decodes real latents of Wan 2.1 with its decoder at full size and random parameters; measures time and memory.

    python -m benchmarks.wan_latents --latents=FILE.npy

FILE holds latents (n, c, f, h, w) of the public model. One program decodes them, one latent frame at a time.
Writes `out/benchmarks/wan_latents.json`.
"""

import resource
import time

import numpy as np
from absl import flags

from benchmarks.record import write
from jvflow import cli

LATENTS = flags.DEFINE_string("latents", None, "Latents (n, c, f, h, w), as a NumPy file.")
flags.mark_flags_as_required(["latents"])


def main():
    import jax

    from jvflow import codecs, networks
    from jvflow.networks.wan_vae import WanVAE, WanVAEConfig

    latents = np.moveaxis(np.load(LATENTS.value).astype(np.float32), 1, -1)
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(networks.functional(WanVAE, WanVAEConfig()).init, jax.random.key(0))

    def draw(path, array):
        if "gamma" in str(path[-1]):
            return np.ones(array.shape, np.float32)
        return rng.standard_normal(array.shape, np.float32) / np.prod(array.shape[:-1]) ** 0.5

    params = jax.tree.map_with_path(draw, shapes)
    codec = codecs.build("wan_vae", abstract=True, piece=1)
    program = codec.decode.lower(params, latents).compile()
    start = time.perf_counter()
    video = np.asarray(program(params, latents))
    figures = dict(
        latents=list(latents.shape),
        video=list(video.shape),
        seconds=time.perf_counter() - start,
        temporaries_gb=program.memory_analysis().temp_size_in_bytes / 1e9,
        process_gb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6,
        pixels=dict(mean=float(video.mean()), std=float(video.std())),
    )
    print(figures)
    write("wan_latents", figures)


if __name__ == "__main__":
    cli.run(main)
