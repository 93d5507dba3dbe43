"""From a trained run to moving pictures: streams after given frames (Bi-flow), written as they come."""

import json
import time
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import islice
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import UInt8

from jvflow.vlfm import sample as clips
from jvflow.flowframes import sample as prediction
from jvflow.parallel import processes
from jvflow.biflow.method import CURVES
from jvflow.data import pipeline, video
from jvflow.data.files import write_text
from jvflow.run import Run, load, protocol, solver_protocol


def frames(run: Run, first: UInt8[np.ndarray, "b n h w c"], key, **options) -> Iterator[tuple]:
    """Streams after the given frames: `(frame uint8 (b, 1, h, w, c), nfe (b,))`, on the host.

    `options` replace those of the run's stream (curve, epsilon, context_noise, solver), or number the streams (rows).
    """
    codec = run.experiment.codec
    with run.on_devices():
        start = codec.encode(codec.params, jnp.asarray(first)).mean
        stream = run.experiment.stream(run.field, start, key, **options)  # wrong options raise here, not at the first frame

    def made():
        while True:
            with run.on_devices():
                latent, nfe = next(stream)
                frame = codec.decode(codec.params, latent)
            yield np.asarray(frame), np.asarray(nfe)

    return made()


def first_frames(run: Run, count: int, path=None, need: int | None = None) -> UInt8[np.ndarray, "b n h w c"]:
    """Where streams and predictions start: `need` frames, or as many as the run needs, of held-out clips, or of the image, the
    video, or the folder of images at `path` (taken at the run's rate where `config.data.image_fps` says none)."""
    need, data = need or run.experiment.past_frames, run.config.data
    if path is None:
        found = pipeline.clips(run.data(), "test", count=count, frames=need)
        if len(found) < count:
            raise ValueError(f"{count} streams need as many held-out clips, there are {len(found)}: use --count={len(found)}")
        return found
    if Path(path).suffix.lower() in video.IMAGES:
        given = [video.read_image(path)]
    else:
        source = video.Images(Path(path), data.image_fps or data.fps) if Path(path).is_dir() else path
        given = [frame for _, frame in islice(video.frames(source, fps=float(data.fps)), need)]
    if len(given) < need:
        raise ValueError(f"{path} has {len(given)} frames at {data.fps} fps, a stream of this run starts from {need}: give a longer video")
    start = np.stack([video.resize(frame, tuple(data.size), data.fit) for frame in given])
    return np.repeat(start[None], count, axis=0)


def sample(
    workdir, out, *, count=4, length=None, seed=0, step=None, ema=None, first_frame=None, sampling=None, captions=(), fps=None, extrapolate=False,
    observed=None,
) -> dict:
    """Writes videos of a run into the folder `out`: an mp4 for each, `sheet.png` with a row for each, and `samples.json`.

    Args:
      workdir, step, ema, sampling: of `run.load`.
      count: how many; one for each caption where captions are given.
      length: frames of each; by default 64 of a stream, all of a clip, and one chunk after the observed one.
      seed: of all noise.
      first_frame: where streams start, see `first_frames`.
      captions, fps, extrapolate: of clips, see `clips.sample`; predictions take captions too.
      observed: frames of a chunk, where not the longest of training.

    Returns:
      The content of `samples.json`.
    """
    for name, value in dict(count=count, frames=1 if length is None else length).items():
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    run = load(workdir, step=step, ema=ema, sampling=sampling)
    if run.experiment.generate:
        if first_frame:
            raise ValueError(f"a run of {run.config.objective} starts from noise and takes no first frame: leave out {first_frame}")
        return clips.sample(run, out, count=count, captions=captions, length=length, fps=fps, seed=seed, extrapolate=extrapolate)
    if run.experiment.predict:
        if fps or extrapolate:
            raise ValueError(f"a run of {run.config.objective} makes frames at the rate of its data, and chunks without end: leave out fps and extrapolate")
        return _predictions(run, out, count=count, length=length, seed=seed, first_frame=first_frame, captions=list(captions), observed=observed)
    if observed:
        raise ValueError(f"a run of {run.config.objective} makes no chunks: leave out observed")
    if captions or fps or extrapolate:
        raise ValueError(f"a run of {run.config.objective} streams after given frames at the rate of its data: leave out captions, fps and extrapolate")
    return _streams(run, out, count=count, length=64 if length is None else length, seed=seed, first_frame=first_frame)


def _predictions(run: Run, out, *, count, length, seed, first_frame, captions, observed) -> dict:
    chunk = max(run.config.chunk.frames) if observed is None else observed
    after = prediction.is_after(run)
    if first_frame and not after:
        raise ValueError(f"a run of {run.config.objective} starts from noise and takes no first frame: leave out {first_frame}")
    count = len(captions) or count
    have = run.config.data.frames
    if first_frame is None and chunk > have:
        raise ValueError(f"a chunk of {chunk} frames is longer than the held-out clips, {have} frames: use a shorter one, or give a video")
    first = first_frames(run, count, first_frame, chunk)
    captions = captions or ([""] * count if first_frame else pipeline.captions(run.data(), "test", count=count))
    return prediction.sample(run, out, first, captions, length=chunk * (1 + after) if length is None else length, seed=seed)


def _streams(run: Run, out, *, count, length, seed, first_frame) -> dict:
    """Streams of `length` frames, the given ones first. They are written as they come: memory does not grow with the
    length. On the curve "backward" the frames of a file go into the past. Each process makes its share, the first one writes."""
    given = run.experiment.past_frames
    if length < given:
        raise ValueError(f"frames is {length}, and a stream of this run starts from {given}: use --frames={given} or more")
    first = first_frames(run, count, first_frame)
    rows, record = processes.local_rows(count), {}
    stream = frames(run, first[rows], jax.random.key(seed), rows=rows)
    origin = str(first_frame) if first_frame else "held-out clips"
    processes.gather_stream(stream, count, lambda stream: record.update(_written(run, Path(out), first, stream, length, seed, origin)))
    return record


def _written(run: Run, out: Path, first, stream: Iterator[tuple], length: int, seed: int, origin: str) -> dict:
    count, given = first.shape[:2]
    fps = float(run.config.data.fps)
    out.mkdir(parents=True, exist_ok=True)
    columns = np.unique(np.linspace(0, length - 1, min(length, 8)).round().astype(int))
    kept, nfe, files = [first[:, columns[columns < given]]], np.zeros(count), [out / f"sample_{i:03d}.mp4" for i in range(count)]
    with ExitStack() as stack:
        writers = [stack.enter_context(video.Writer(file, fps)) for file in files]
        write = lambda batch: [writer.append(frame) for writer, video in zip(writers, batch) for frame in video]
        write(first)
        clock = time.perf_counter()
        for number, (batch, cost) in zip(range(given, length), stream):
            write(batch)
            nfe += cost
            kept += [batch] if number in columns else []
        seconds = time.perf_counter() - clock
    video.write_png(out / "sheet.png", video.sheet(np.concatenate(kept, axis=1), columns=len(columns)))
    steps = max(length - given, 1)
    record = {
        "samples": [
            dict(file=file.name, frames=length, fps=fps, nfe_per_frame=float(n / steps),
                 seconds_per_frame=seconds / steps, seed=seed)
            for file, n in zip(files, nfe)
        ],
        "protocol": stream_protocol(run) | dict(
            first_frame=origin,
            seconds="wall time of a frame of all streams together, compilation and writing included",
        ),
    }
    write_text(out / "samples.json", json.dumps(record, indent=1) + "\n")
    return record


def stream_protocol(run: Run) -> dict:
    """How the frames of a run that streams are made: what every record of it carries."""
    stream = run.experiment.stream.keywords
    curve = next(name for name, curve in CURVES.items() if curve is stream["curve"])
    return protocol(run) | dict(
        past_frames=run.experiment.past_frames, curve=curve, epsilon=stream["epsilon"], gain=stream["gain"], context_noise=stream["context_noise"],
    ) | solver_protocol(stream["solver"])
