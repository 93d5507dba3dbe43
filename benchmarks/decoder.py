"""Measures how much a decoder amplifies the errors of a path: L0 of VLFM's Theorem 5.3.

    python -m benchmarks.decoder --data=FOLDER --checkpoint=ENCODER.safetensors,DECODER.safetensors

Theorem 5.3 bounds the error of frames by L0 times the error of latents, where L0 is the Lipschitz constant of the
decoder. L0 is at least the largest singular value of the decoder's Jacobian at a real latent (power iteration; latents
in the codec's units, pixels in [0, 1], Euclidean norms). Also measures the error of frames that the latent error of
mu(t) causes between known frames, at orders 4 to 64, for clips of 25 frames. Writes `out/benchmarks/decoder.json`.
Takes two minutes.
"""

from itertools import islice
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from benchmarks.record import write
from jvflow import cli

DATA = flags.DEFINE_string("data", None, "A folder of videos.")
CHECKPOINT = flags.DEFINE_list("checkpoint", None, "Encoder and decoder of the TAESD family, as safetensors.")
FIRST, FRAMES, SIDE, ITERATIONS, ORDERS = 40, 25, 128, 30, (4, 8, 16, 32, 64)
flags.mark_flags_as_required(["data", "checkpoint"])


def main():
    from jvflow import codecs
    from jvflow.data import video
    from jvflow.networks import taesd
    from jvflow.vlfm import hippo

    codec = codecs.build("tiny", checkpoint=tuple(CHECKPOINT.value))
    decode = jax.jit(lambda z: taesd.decode(codec.params["decoder"], z))
    results = {}
    for path in sorted(p for p in Path(DATA.value).iterdir() if p.suffix in video.VIDEO_SUFFIXES):
        frames = [frame for _, frame in islice(video.frames(path), FIRST, FIRST + 2 * FRAMES - 1)]
        if len(frames) < 2 * FRAMES - 1:
            continue
        clip = np.stack([video.resize(frame, (SIDE, SIDE), "squeeze") for frame in frames])
        latents = np.asarray(codec.encode(codec.params, clip[None]).mean[0])
        known, between = latents[::2], latents[1::2]
        shown, rows = decode(between), {}
        for order in ORDERS:
            w, _ = hippo.weights((np.arange(1, FRAMES) + 0.5) / FRAMES, FRAMES, order)
            mean = np.einsum("mn,n...->m...", w, known).astype(np.float32)
            latent_error = np.linalg.norm((mean - between).reshape(len(mean), -1), axis=1)
            frame_error = np.linalg.norm(np.asarray(decode(mean) - shown).reshape(len(mean), -1), axis=1)
            rows[order] = dict(
                latent_error=float(latent_error.mean()),
                frame_error=float(frame_error.mean()),
                amplified=float((frame_error / latent_error).max()),
            )
        results[path.name] = dict(
            jacobian=_largest(decode, jnp.asarray(between[:1])),
            orders=rows,
            selected=hippo.select_order(known.reshape(FRAMES, -1)),
        )
        print(
            path.name,
            round(results[path.name]["jacobian"], 3),
            {n: round(row["amplified"], 3) for n, row in rows.items()},
            flush=True,
        )
    amplified = [row["amplified"] for result in results.values() for row in result["orders"].values()]
    summary = dict(
        lipschitz_at_least=max(r["jacobian"] for r in results.values()),
        amplified_at_most=max(amplified),
        amplified_median=float(np.median(amplified)),
    )
    print(summary)
    write(
        "decoder",
        dict(
            summary=summary,
            results=results,
            protocol=dict(first=FIRST, frames=FRAMES, side=SIDE, iterations=ITERATIONS),
        ),
    )


def _largest(decode, z) -> float:
    """Returns the largest singular value of the Jacobian of `decode` at z, by power iteration."""
    _, back = jax.vjp(decode, z)

    @jax.jit
    def step(v):
        (u,) = back(jax.jvp(decode, (z,), (v / jnp.linalg.norm(v),))[1])
        return u

    v = jax.random.normal(jax.random.key(0), z.shape)
    for _ in range(ITERATIONS):
        v = step(v)
    return float(jnp.sqrt(jnp.linalg.norm(v)))


if __name__ == "__main__":
    cli.run(main)
