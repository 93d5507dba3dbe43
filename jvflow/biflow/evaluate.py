"""How good streams are: distance to real video over time, motion, cost, and error where a truth exists.

The distance is a Frechet distance between features of windows of frames. The feature map is fitted
on real training videos alone and named in the protocol; its numbers compare with nothing but
numbers of the same protocol, and are no FVD.
"""

import time
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, UInt8

from jvflow import metrics
from jvflow.biflow.sample import backward, correcting, stream_frames, stream_protocol
from jvflow.data import pipeline
from jvflow.metrics import flatten_windows, to_unit_range
from jvflow.parallel import processes
from jvflow.run import Run


@dataclass(frozen=True)
class Yardstick:
    """Real video to compare with, under one protocol.

    Attributes:
      features: the map from windows to features, fitted on training clips.
      reference: features of the windows of held-out clips, (n, d).
      motion: mean absolute frame difference of held-out clips.
      settings: `config.evaluate`.
    """

    features: object
    reference: Float[np.ndarray, "n d"]
    motion: float
    settings: object

    @classmethod
    def of(cls, settings, data: Path) -> "Yardstick":
        """The yardstick of a data set."""
        _check_length(settings, settings.frames)
        train, test = (
            to_unit_range(pipeline.clips(data, "train", count=settings.real_clips)),
            to_unit_range(pipeline.clips(data, "test")),
        )
        if len(test) < 2:
            raise ValueError(f"{data} has {len(test)} held-out clips, a distance needs at least 2")
        fit = metrics.feature_map(settings.features)
        flat = lambda video: flatten_windows(metrics.windows(video, settings.window, settings.stride))
        features = fit(flat(train), dimensions=settings.dimensions)
        motion = metrics.motion(test, settings.window, settings.stride).mean()
        return cls(features, features(flat(test)), float(motion), settings)

    def drift(self, video: UInt8[np.ndarray, "b f h w c"], *, reverse: bool = False) -> dict:
        """Distance and motion over time: per window, pooled over the first and the last windows, and the mean.

        With `reverse` the frames go back in time, and each window is turned round before it is compared.
        """
        window, stride, pooled = self.settings.window, self.settings.stride, self.settings.pooled
        _check_length(self.settings, video.shape[1])
        signal = to_unit_range(video)
        windows = metrics.windows(signal, window, stride)[:, :, :: -1 if reverse else 1]
        motion = metrics.motion(signal, window, stride) / self.motion
        features = np.stack([self.features(np.asarray(windows[:, i])) for i in range(windows.shape[1])], axis=1)
        distance = lambda some: metrics.distance(flatten_windows(some), self.reference)
        starts = [i * stride for i in range(windows.shape[1])]
        # a single window has too few samples for a covariance of its own: pooled as the first and the last
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


def _span(settings) -> int:
    """How many frames the pooled windows cover."""
    return settings.window + (settings.pooled - 1) * settings.stride


def _check_length(settings, frames: int):
    if frames < _span(settings):
        raise ValueError(
            f"{settings.pooled} windows need {_span(settings)} frames, there are {frames}: evaluate more frames, or pool fewer"
        )


def controls(yardstick: Yardstick, data: Path) -> dict:
    """Distances of what needs no model, from as many windows as the first window of a method has.

    real_vs_real: training clips, more of them where they are too short for all windows of one;
    frozen: first frames repeated; noise: uniform pixels.
    """
    settings, need = yardstick.settings, _span(yardstick.settings)
    count = settings.videos * settings.pooled
    cut = lambda clips: metrics.windows(to_unit_range(clips), settings.window, settings.stride)
    each = cut(pipeline.clips(data, "train", count=1, frames=need)).shape[1]
    real = flatten_windows(cut(pipeline.clips(data, "train", count=-(-count // each), frames=need)))[:count]
    first = pipeline.clips(data, "test", count=settings.videos, frames=1)
    shape = (len(first), need, *first.shape[2:])
    noise = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    videos = dict(frozen=np.repeat(first, need, axis=1), noise=noise)
    return dict(
        real_vs_real=metrics.distance(yardstick.features(real), yardstick.reference),
        **{name: yardstick.drift(video)["distance_first_window"] for name, video in videos.items()},
    )


def generate(
    run: Run, start: UInt8[np.ndarray, "b n h w c"], *, length: int, batch: int, seed: int, **options
) -> tuple[np.ndarray, np.ndarray, float]:
    """Streams from the given frames, these first, `batch` streams at a time.

    Returns:
      video uint8 (videos, length, h, w, c); nfe (videos, length - given); seconds per frame of one
      stream (wall time without compilation over frames times streams).
    """
    videos, given = start.shape[:2]

    def make(group: int) -> tuple:
        first = start[group * batch : (group + 1) * batch]
        video = np.empty((len(first), length, *start.shape[2:]), np.uint8)
        nfe = np.zeros((len(first), length - given))
        video[:, :given] = first
        frames = stream_frames(run, first, jax.random.fold_in(jax.random.key(seed), group), **options)
        clock = time.perf_counter()
        for number, (frame, cost) in zip(range(length - given), frames):
            if number == 0:
                clock = time.perf_counter()  # compiled by now
            video[:, given + number], nfe[:, number] = frame[:, 0], cost
        return video, nfe, np.array(time.perf_counter() - clock)

    video, nfe, seconds = zip(*processes.distributed_map(-(-videos // batch), make))
    return np.concatenate(video), np.concatenate(nfe), float(sum(seconds)) / (max(length - given - 1, 1) * videos)


def frame_errors(video: UInt8[np.ndarray, "b f h w c"], real: UInt8[np.ndarray, "b f h w c"], given: int = 1) -> dict:
    """PSNR and SSIM against the frames that really followed, by frame number after the `given` ones: mean over streams."""
    video, real = video[:, given - 1 :], real[:, given - 1 :]
    length = min(video.shape[1], real.shape[1])
    numbers = [n for n in (1, 2, 4, 8, 16, 32, 63) if n < length]
    pair = lambda n: (jnp.asarray(to_unit_range(video[:, n : n + 1])), jnp.asarray(to_unit_range(real[:, n : n + 1])))
    return dict(
        psnr={n: float(np.mean(metrics.psnr(*pair(n)))) for n in numbers},
        ssim={n: float(np.mean(metrics.ssim(*pair(n)))) for n in numbers},
    )


def evaluate(run: Run, data: Path) -> dict:
    """Returns the record of a run under its config's protocol: figures, curves over time, controls, and the protocol.

    Args:
      run: a trained run.
      data: the folder of its data set.
    """
    yardstick = Yardstick.of(run.config.evaluate, data)
    references = controls(yardstick, data)
    return dict(evaluate_streams(run, yardstick, data)[0], controls=references, protocol=describe(run, yardstick))


def evaluate_streams(run: Run, yardstick: Yardstick, data: Path) -> tuple[dict, np.ndarray]:
    """Returns the figures of one run and its videos, which start from held-out clips: from their first frames, or backwards from their last ones."""
    settings, curve, given = yardstick.settings, run.experiment.sampler.curve, run.experiment.start_frames
    real = pipeline.clips(data, "test", count=settings.videos)
    if len(real) < settings.videos:
        raise ValueError(
            f"{settings.videos} videos need as many held-out clips, {data} has {len(real)}: evaluate videos={len(real)}"
        )
    real = real[:, ::-1] if curve is backward else real
    video, nfe, seconds = generate(
        run, real[:, :given], length=settings.frames, batch=settings.batch, seed=settings.seed
    )
    figures = dict(
        nfe_per_frame=float(nfe.mean()),
        seconds_per_frame=seconds,
        **yardstick.drift(video, reverse=curve is backward),
    )
    if curve is not correcting:
        figures["truth"] = frame_errors(video, real, given)
    return figures, video


def describe(run: Run, yardstick: Yardstick) -> dict:
    """Returns the protocol: everything that decides the figures."""
    return stream_protocol(run) | dict(
        distance=metrics.DISTANCE_NAME,
        reference_windows=len(yardstick.reference),
        real_motion=yardstick.motion,
        seconds="wall time over frames times streams, without compilation",
        **yardstick.settings.to_dict(),
    )
