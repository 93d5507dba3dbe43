"""Measures how fast the loader reads latents of 256 x 256 pixels: with the video in records of its own, and without.

The latents are those of Stable Diffusion's autoencoder in shape, (f, 32, 32, 4) mean and deviation in float16.
"""

import shutil
import time
from functools import partial

import numpy as np

from benchmarks import subject
from jvflow.data import pipeline, procedural, records
from jvflow.data.columns import latent_columns

SIZE, CLIPS, BATCH, BATCHES, ROUNDS = 256, 48, 16, 12, 5
FRAMES, THREADS = (16, 64), (1, 2, 4)


def measure() -> dict:
    pipeline.MEMORY_CACHE_BYTES = 0  # a large data set does not stay in memory
    figures = {f"frames_{frames}": _of_length(frames) for frames in FRAMES}
    needed = "CPU milliseconds of an example, read by one thread; examples in a second of wall time, by threads"
    return figures | dict(
        protocol=dict(size=SIZE, clips=CLIPS, batch=BATCH, batches=BATCHES, rounds=ROUNDS, dtype="float16", what=needed)
    )


def _of_length(frames: int) -> dict:
    """Returns the figures of clips of `frames` frames, by where the video lies."""
    folders = dict(inside=subject.folder() / f"inside_{frames}", apart=subject.folder() / f"apart_{frames}")
    clips = subject.folder() / f"clips_{frames}"
    make = partial(_clip, frames)
    whole = records.LazyClips(CLIPS, make)
    records.write(clips, dict(train=records.LazyClips(CLIPS, lambda i: _without_latents(make(i)))), settings={})
    records.write(folders["inside"], dict(train=whole), settings={})
    latents = records.LazyClips(CLIPS, lambda i: {name: a for name, a in make(i).items() if name != "video"})
    records.write(folders["apart"], dict(train=latents), settings={}, video_from=clips)
    readers = {
        name: {threads: _batches(folder, frames, threads) for threads in THREADS} for name, folder in folders.items()
    }
    cpu, rate = {name: [] for name in folders}, {name: {threads: [] for threads in THREADS} for name in folders}
    for number in range(ROUNDS + 1):  # the first warms up
        for name in list(folders)[:: 1 if number % 2 else -1]:
            for threads, batches in readers[name].items():
                wall, used = time.perf_counter(), time.process_time()
                for _ in range(BATCHES):
                    next(batches)
                wall, used = time.perf_counter() - wall, time.process_time() - used
                if number:
                    rate[name][threads].append(BATCHES * BATCH / wall)
                    cpu[name] += [1000 * used / (BATCHES * BATCH)] if threads == 1 else []
    for folder in (clips, *folders.values()):
        shutil.rmtree(folder)
    median = lambda values: float(np.median(values))
    return {
        name: dict(cpu_ms=median(cpu[name]), per_second={str(t): median(values) for t, values in rate[name].items()})
        for name in folders
    }


def _clip(frames: int, index: int) -> dict:
    video = procedural.scene("bouncing", index).render(np.arange(frames) / 24, SIZE)
    rng, shape = np.random.default_rng(index), (frames, SIZE // 8, SIZE // 8, 4)
    latents = {name: rng.normal(size=shape).astype(np.float16) for name in latent_columns()}
    return dict(video=video, fps=24.0, start=0.0, caption="shapes", source=str(index)) | latents


def _without_latents(clip: dict) -> dict:
    return {name: value for name, value in clip.items() if name not in latent_columns()}


def _batches(folder, frames: int, threads: int):
    options = dict(windows=[pipeline.Window(frames)], batch_size=BATCH, seed=0, latents=True)
    return pipeline.batches(folder, threads=threads, **options)
