"""Evaluation of streams: distance to real video over time, motion, cost, and errors against the true frames.

The distance is a Frechet distance between features of windows of frames. The feature map is fitted to real training
videos and named in the protocol. Distances are comparable only under one protocol, and are not FVD. With
`config.evaluate.fvd`, the record also has FVD.
"""

import itertools
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jaxtyping import Float, UInt8

from jvflow import metrics
from jvflow.biflow.legend import LEGEND
from jvflow.biflow.sample import backward, correcting, stream_frames, stream_protocol
from jvflow.data import pipeline, records
from jvflow.flow import torchode
from jvflow.method import Preview
from jvflow.metrics import flatten_windows, in_evaluation, to_unit_range
from jvflow.parallel import processes, progress
from jvflow.run import Run, described, explained, lowered

Videos = UInt8[np.ndarray, "b f h w c"]


@dataclass(frozen=True)
class Reference:
    """Real video to compare with, under one protocol.

    Attributes:
      feature_map: maps windows to features; fitted to training clips.
      features: features of the windows of held-out clips, (n, d).
      motion: mean absolute frame difference of held-out clips.
      settings: `config.evaluate`, as `fit_settings` adapts it.
      split: the split of the held-out clips; "train" if the data set has none.
      adapted: {name: [value in the config, value in `settings`]} of the adapted entries.
    """

    feature_map: Callable
    features: Float[np.ndarray, "n d"]
    motion: float
    settings: Any
    split: str = "test"
    adapted: dict = field(default_factory=dict)

    @classmethod
    def from_dataset(cls, settings, data: Path, asked: Collection[str] = ()) -> "Reference":
        """Fits the feature map to a data set.

        Args:
          settings: `config.evaluate`; a small data set lowers its entries.
          data: the folder of the data set.
          asked: names of the entries that stay as they are.

        Raises:
          ValueError: if the clips are too short or too few.
        """
        _check_length(settings, settings.frames)
        settings, adapted = fit_settings(settings, data, asked)
        split = pipeline.held_out(data)
        train = to_unit_range(pipeline.clips(data, "train", count=settings.real_clips))
        test = to_unit_range(pipeline.clips(data, split))
        flat = lambda video: flatten_windows(metrics.windows(video, settings.window, settings.stride))
        if len(flat(test)) < 2:
            raise ValueError(
                f"split {split!r} of {data} has one window of {settings.window} frames, a distance needs at least 2: "
                "use shorter windows (config.evaluate.window) or more videos"
            )
        feature_map = metrics.feature_map(settings.features)(flat(train), dimensions=settings.dimensions)
        motion = metrics.motion(test, settings.window, settings.stride).mean()
        return cls(feature_map, feature_map(flat(test)), float(motion), settings, split, adapted)

    def drift(self, video: Videos, *, reverse: bool = False) -> dict:
        """Computes distance and motion over time: per window, pooled over the first and the last windows, and the mean.

        With `reverse` the frames run back in time, and each window is reversed before the comparison.
        """
        return self.summarize(*self.window_figures(video, reverse=reverse))

    def window_figures(self, video: Videos, *, reverse: bool = False) -> tuple[np.ndarray, Any]:
        """Computes the features (b, n, d) and the motion (b, n), over the real one, of the n windows of each video."""
        window, stride = self.settings.window, self.settings.stride
        _check_length(self.settings, video.shape[1])
        signal = to_unit_range(video)
        windows = metrics.windows(signal, window, stride)[:, :, :: -1 if reverse else 1]
        motion = metrics.motion(signal, window, stride) / self.motion
        features = np.stack([self.feature_map(np.asarray(windows[:, i])) for i in range(windows.shape[1])], axis=1)
        return features, motion

    def summarize(self, features: Float[np.ndarray, "b n d"], motion: Float[np.ndarray, "b n"]) -> dict:
        """Computes the result of `drift` from that of `window_figures`."""
        stride, pooled = self.settings.stride, self.settings.pooled
        distance = lambda some: metrics.distance(rearrange(some, "b n d -> (b n) d"), self.features)
        starts = [i * stride for i in range(features.shape[1])]
        # one window has too few samples for a covariance, so each distance pools `pooled` windows
        over_time = [
            (s, distance(features[:, i : i + pooled])) for i, s in enumerate(starts[: len(starts) - pooled + 1])
        ]
        return dict(
            distance_first_window=over_time[0][1],
            distance_last_window=over_time[-1][1],
            distance_mean=float(np.mean([value for _, value in over_time])),
            motion_first_window=float(motion[:, :pooled].mean()),
            motion_last_window=float(motion[:, -pooled:].mean()),
            distance=over_time,
            motion=[(s, float(motion[:, i].mean())) for i, s in enumerate(starts)],
        )


def fit_settings(settings, data: Path, asked: Collection[str] = ()) -> tuple[Any, dict]:
    """Lowers entries of `config.evaluate` until a small data set suffices for a distance; see `lowered`.

    Windows become shorter and closer to each other until there are 5 in training and 2 in held-out clips; then there
    are two dimensions less than training windows, and as many videos as held-out clips.
    """
    made = records.manifest(data)
    frames, held = made["shape"][0], made["splits"][pipeline.held_out(data)]
    train = min(made["splits"]["train"], settings.real_clips)
    count = lambda clips, window, stride: clips * ((frames - window) // stride + 1)
    sizes = [
        (window, stride)
        for window in ([settings.window] if "window" in asked else _halves(min(settings.window, frames), 2))
        for stride in (
            [settings.stride] if "stride" in asked else _halves(max(settings.stride * window // settings.window, 1), 1)
        )
    ]
    enough = (size for size in sizes if count(train, *size) >= 5 and count(held, *size) >= 2)
    window, stride = next(enough, sizes[-1])
    dimensions = max(count(train, window, stride) - 2, 3)
    return lowered(settings, data, asked, window=window, stride=stride, dimensions=dimensions, videos=held)


def _halves(number: int, least: int) -> list[int]:
    """Returns a number, its half, a quarter and so on, down to `least`."""
    return [number] + (_halves(max(number // 2, least), least) if number > least else [])


def _span(settings) -> int:
    """Returns the number of frames that the pooled windows cover."""
    return settings.window + (settings.pooled - 1) * settings.stride


def _check_length(settings, frames: int):
    if frames < _span(settings):
        raise ValueError(
            f"{settings.pooled} windows need {_span(settings)} frames, there are {frames}: "
            "evaluate more frames, or pool fewer"
        )


def controls(reference: Reference, data: Path) -> dict:
    """Computes distances of videos that need no model, from as many windows as the first distance of a method.

    real_vs_real: training clips, more clips if they are shorter than the pooled windows;
    frozen: first frames repeated; noise: uniform pixels.
    """
    settings, need = reference.settings, _span(reference.settings)
    count = settings.videos * settings.pooled
    cut = lambda clips: metrics.windows(to_unit_range(clips), settings.window, settings.stride)
    each = cut(pipeline.clips(data, "train", count=1, frames=need)).shape[1]
    real = flatten_windows(cut(pipeline.clips(data, "train", count=-(-count // each), frames=need)))[:count]
    first = pipeline.clips(data, reference.split, count=settings.videos, frames=1)
    shape = (len(first), need, *first.shape[2:])
    noise = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    videos = dict(frozen=np.repeat(first, need, axis=1), noise=noise)
    return dict(
        real_vs_real=metrics.distance(reference.feature_map(real), reference.features),
        **{name: reference.drift(video)["distance_first_window"] for name, video in videos.items()},
    )


def stream_videos(
    run: Run, first: Videos, key, length: int, *, advance: Callable[[], None] = lambda: None, **options
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Samples streams from the given frames; returns video, nfe and seconds after the first frame, see `generate`.

    Calls `advance` after each frame.
    """
    given = first.shape[1]
    video = np.empty((len(first), length, *first.shape[2:]), np.uint8)
    nfe = np.zeros((len(first), length - given))
    video[:, :given] = first
    frames = stream_frames(run, first, key, **options)
    clock = time.perf_counter()
    for number, (frame, cost) in zip(range(length - given), frames):
        if number == 0:
            clock = time.perf_counter()  # the first frame includes the compilation
        video[:, given + number], nfe[:, number] = frame[:, 0], cost
        advance()
    return video, nfe, np.array(time.perf_counter() - clock)


def generate(
    run: Run, start: Videos, *, length: int, batch: int, seed: int, **options
) -> tuple[np.ndarray, np.ndarray, float]:
    """Samples streams from the given frames, `batch` streams at a time; the videos begin with these frames.

    Returns:
      video uint8 (b, length, h, w, c); nfe (b, length - given); seconds per frame of one stream: wall time without
      compilation, divided by frames times streams.
    """
    videos, given = start.shape[:2]

    def make(group: int) -> tuple:
        first, key = start[group * batch : (group + 1) * batch], jax.random.fold_in(jax.random.key(seed), group)
        return stream_videos(run, first, key, length, advance=advance, **options)

    groups = -(-videos // batch)
    with progress.bar("generate streams", processes.share(groups) * (length - given), unit="frame") as advance:
        video, nfe, seconds = zip(*processes.distributed_map(groups, make))
    return np.concatenate(video), np.concatenate(nfe), float(sum(seconds)) / (max(length - given - 1, 1) * videos)


def frame_errors(video: Videos, real: UInt8[np.ndarray, "b n h w c"], given: int = 1) -> dict:
    """Computes mean PSNR (dB) and SSIM against the true frames, by frame number after the `given` ones."""
    video, real = video[:, given - 1 :], real[:, given - 1 :]
    length = min(video.shape[1], real.shape[1])
    numbers = [n for n in (1, 2, 4, 8, 16, 32, 63) if n < length]
    pair = lambda n: (jnp.asarray(to_unit_range(video[:, n : n + 1])), jnp.asarray(to_unit_range(real[:, n : n + 1])))
    return dict(
        psnr={n: float(np.mean(metrics.psnr(*pair(n)))) for n in numbers},
        ssim={n: float(np.mean(metrics.ssim(*pair(n)))) for n in numbers},
    )


def evaluate(run: Run, data: Path) -> dict:
    """Evaluates a run as its config sets; returns the record: figures, curves over time, controls, protocol, legend."""
    reference = Reference.from_dataset(run.config.evaluate, data, run.asked)
    baselines = controls(reference, data)
    if baselines["real_vs_real"] >= baselines["frozen"]:
        pipeline.warn_once(
            "warning: the distance cannot rank streams here: real video is at %.3g, a frozen frame at %.3g: use more "
            "held-out videos",
            *(baselines[name] for name in ("real_vs_real", "frozen")),
        )
    scorer = video_scorer(run, reference, data, run.config.evaluate.fvd, asked="fvd" in run.asked)
    figures, video = evaluate_streams(run, reference, data)
    protocol = describe(run, reference)
    if scorer:
        groups = in_evaluation.sources(data, reference.split, len(video))
        figures["fvd"] = scorer.score(video, groups=groups, reverse=run.experiment.sampler.curve is backward)
        protocol["fvd"] = scorer.described
    return explained(dict(figures, controls=baselines, protocol=protocol), LEGEND)


def video_scorer(
    run: Run, reference: Reference, data: Path, text: str, *, asked: bool
) -> in_evaluation.VideoScorer | None:
    """Returns what computes the FVD `text` of streams, or None; see `VideoScorer.of`."""
    settings = reference.settings
    options = dict(frames=settings.frames, videos=settings.videos, asked=asked)
    cure = "longer streams (--protocol=frames=N) and a data set with longer clips (--real=DATA --real_frames=N)"
    return in_evaluation.VideoScorer.of(text, data, reference.split, **options, cure=cure)


def evaluate_streams(run: Run, reference: Reference, data: Path) -> tuple[dict, np.ndarray]:
    """Returns the figures and the videos of one run.

    Streams start from the first frames of held-out clips, or from the last ones on the curve `backward`.
    """
    settings, curve, given = reference.settings, run.experiment.sampler.curve, run.experiment.start_frames
    real = pipeline.clips(data, reference.split, count=settings.videos)
    if len(real) < settings.videos:
        raise ValueError(
            f"{settings.videos} videos need as many clips, split {reference.split!r} of {data} has {len(real)}: "
            f"use config.evaluate.videos={len(real)} or fewer"
        )
    real = real[:, ::-1] if curve is backward else real
    video, nfe, seconds = generate(
        run, real[:, :given], length=settings.frames, batch=settings.batch, seed=settings.seed
    )
    figures: dict = dict(
        nfe_per_frame=float(nfe.mean()),
        nfe_batch=float(torchode.slowest_of_each(nfe).mean()),
        seconds_per_frame=seconds,
        **reference.drift(video, reverse=curve is backward),
    )
    if curve is not correcting:
        figures["truth"] = frame_errors(video, real, given)
    return figures, video


def describe(run: Run, reference: Reference) -> dict:
    """Returns the protocol of an evaluation: everything that determines its figures."""
    return stream_protocol(run) | dict(
        preset="small",
        distance=metrics.DISTANCE_NAME,
        nfe_batch=f"evaluations of the slowest of each {torchode.BATCH} streams, mean over frames",
        reference_windows=len(reference.features),
        real_motion=reference.motion,
        split=reference.split,
        adapted=reference.adapted,
        seconds="wall time over frames times streams, without compilation",
        **described(reference.settings),
    )


def preview(run: Run, data: Path) -> Preview:
    """Samples streams from the first frames of held-out clips."""
    first = pipeline.clips(data, pipeline.held_out(data), count=4, frames=run.experiment.start_frames)
    stream = stream_frames(run, first, jax.random.key(run.config.seed))
    frames = [frame for frame, _ in itertools.islice(stream, run.config.run.sample_frames)]
    return Preview(np.concatenate([first, *frames], axis=1), float(run.config.data.fps))
