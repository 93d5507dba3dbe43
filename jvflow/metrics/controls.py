"""Controls of a distance: whether it tells altered real videos from real ones, with the videos at hand.

    A, B       two random halves of the real videos
    real       d(A, B)                                                                      (1)
    control    d(A, altered B): the first frame repeated, blurred, or with time reversed    (2)
    excess     (2) - (1); its interval comes from bootstrap samples that both share         (3)

A distance has power if the interval (3) of frozen and of blurred video lies above 0. Reversed time is reported only:
few distances see it.
"""

from collections.abc import Iterable
from dataclasses import replace
from itertools import islice

import numpy as np
import scipy  # loads its parts when they are used
from jaxtyping import Float

from jvflow.metrics import distances
from jvflow.metrics.extractor import Extractor, prepare
from jvflow.metrics.protocol import Protocol
from jvflow.metrics.sums import FeatureSums

MIN_VIDEOS = 4
"""Real videos that two halves with a distance need."""
SIGMA = 2.0
"""Standard deviation of the blur: pixels of the network's input, or of the video where its pixels are larger."""
DECISIVE = ("frozen", "blurred")

Prepared = Float[np.ndarray, "b f s s 3"]


def controls_of(protocol: Protocol) -> tuple[str, ...]:
    """Returns the names of the controls: single frames have no time to change."""
    return ("frozen", "blurred", "reversed") if protocol.frames > 1 else ("blurred",)


def altered(clips: Prepared, control: str, short_sides: list[int]) -> Prepared:
    """Returns the network's input of clips with a control; `short_sides` are the short sides of their videos."""
    if control == "frozen":
        return np.repeat(clips[:, :1], clips.shape[1], axis=1)
    if control == "reversed":
        return clips[:, ::-1]
    if control != "blurred":
        raise ValueError(f"unknown control {control!r}: use frozen, blurred or reversed")
    sigmas = [SIGMA * max(1.0, clips.shape[2] / side) for side in short_sides]
    blurred = [scipy.ndimage.gaussian_filter(clip, (0, sigma, sigma, 0)) for clip, sigma in zip(clips, sigmas)]
    return np.stack(blurred)


def check_count(videos: int) -> None:
    """Raises ValueError if two halves of this many real videos are too few."""
    if videos < MIN_VIDEOS:
        raise ValueError(
            f"controls need clips of {MIN_VIDEOS} or more real videos, got {videos}: "
            "use more videos, or leave out --controls"
        )


def halves(real: FeatureSums, seed: int) -> tuple[FeatureSums, FeatureSums]:
    """Returns two random halves of the kept rows; the clips of a video stay together.

    Raises:
      ValueError: if there are too few videos.
    """
    videos = np.unique(real.groups)
    check_count(len(videos))
    chosen = np.random.default_rng(seed).permutation(videos)[: len(videos) // 2]
    first = np.isin(real.groups, chosen)
    return _part(real, first), _part(real, ~first)


def _part(sums: FeatureSums, rows: np.ndarray) -> FeatureSums:
    empty = FeatureSums.empty(sums.rows.shape[1], sums.kept)
    return empty.add(sums.rows[rows], sums.places[rows], sums.groups[rows])


def features(
    extractor: Extractor, clips: Iterable[tuple[int, int, np.ndarray]], wanted: FeatureSums
) -> dict[str, FeatureSums]:
    """Returns the features of each control for the clips of `wanted`, out of (place, video, clip of pixels).

    Each clip is decoded and resized once.
    """
    names = controls_of(extractor.protocol)
    sums = {name: FeatureSums.empty(extractor.width, wanted.kept) for name in names}
    places = set(wanted.places.tolist())
    clips = (item for item in clips if item[0] in places)
    while group := list(islice(clips, extractor.batch)):
        numbers, videos, pixels = zip(*group)
        prepared = np.stack([prepare(clip, extractor.protocol) for clip in pixels])
        sides = [min(clip.shape[1:3]) for clip in pixels]
        for name in names:
            found = extractor(np.ascontiguousarray(altered(prepared, name, sides)))
            sums[name] = sums[name].add(found, np.asarray(numbers), np.asarray(videos))
    if any(not np.array_equal(each.places, wanted.places) for each in sums.values()):
        raise ValueError("the real videos changed while they were read: run the command again, on a folder at rest")
    return sums


def measure(
    first: FeatureSums, second: FeatureSums, altered: dict[str, FeatureSums], protocol: Protocol, seed: int
) -> dict:
    """Returns the distances (1) and (2) with their intervals, the excess (3), and whether the distance has power.

    Returns:
      `power`; `out_of_order`: the decisive controls whose excess has no interval above 0; `videos`, `clips`: of both
      halves; `sigma`: of the blur; `real`: `value` and `interval`; `controls`: for each one `value`, `interval` and
      `excess`, which has them too.
    """
    sets = [second, *altered.values()]
    # the rows of a clip next to one another, so that every bootstrap sample holds the same clips of all sets
    joined = replace(second, rows=np.concatenate([each.rows for each in sets], axis=1))

    def distance(rows: np.ndarray, others: np.ndarray) -> np.ndarray:
        options = dict(ddof=protocol.ddof, precision=protocol.precision)
        parts = np.split(others, len(sets), axis=1)
        return np.array([distances.frechet_of_rows(rows, part, **options) for part in parts])

    values = distance(first.rows, joined.rows)
    draws, videos = distances.bootstrap_values(first, joined, distance, seed=seed)
    measured = lambda value, draws: dict(
        value=float(value), interval=distances.interval_of(float(value), draws, videos)
    )
    controls = {
        name: measured(values[i], draws[:, i]) | dict(excess=measured(values[i] - values[0], draws[:, i] - draws[:, 0]))
        for i, name in enumerate(altered, 1)
    }
    failed = [name for name in DECISIVE if name in controls and controls[name]["excess"]["interval"]["low"] <= 0]
    return dict(
        power=not failed,
        out_of_order=failed,
        videos=videos,
        clips=[len(first.rows), len(second.rows)],
        sigma=SIGMA,
        real=measured(values[0], draws[:, 0]),
        controls=controls,
    )


def warnings(found: dict, name: str) -> list[str]:
    """Returns a sentence if the distance has no power; `name` is its protocol."""
    if found["power"]:
        return []
    each = lambda control: found["controls"][control]["excess"]
    listed = " and ".join(
        f"{control} video (excess {each(control)['value']:.4g}, interval {each(control)['interval']['low']:.4g} to "
        f"{each(control)['interval']['high']:.4g})"
        for control in found["out_of_order"]
    )
    first, second = found["videos"]
    return [
        f"without power: {name} with {first} and {second} real videos does not tell {listed} from real video; "
        "its values do not separate better from worse videos: use more or longer videos"
    ]
