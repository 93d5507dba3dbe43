"""Chooses the frames of a clip to suit short videos, and reports the videos that are too short or too slow."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from jvflow.data import video
from jvflow.data.splits import some

SECOND = 0.95
"""Seconds of the shortest video that `fit` makes room for."""
MIN_RATE = 0.99
"""Smallest ratio of a video's frame rate to its clips' (23.976 to 24 is enough). Below, clips would repeat frames."""


@dataclass(frozen=True)
class Cutting:
    """How videos become clips.

    Attributes:
      frames: frames in a clip.
      fps: frames per second in a clip; `video.frames` resamples to it.
      size: (height, width).
      fit: "crop" or "squeeze", see `video.resize`.
      stride: frames from the start of one clip to the start of the next; `frames` by default, without overlap.
      image_fps: frames per second of folders of images; 0 skips them.
      min_frames: `fit` may lower `frames` to this number; 0 keeps them.
      slow: "skip" leaves out videos with fewer than `MIN_RATE * fps` frames per second; "error" makes `folder.build`
        raise ValueError.
    """

    frames: int
    fps: float | int
    size: tuple[int, ...]
    fit: str = "crop"
    stride: int | None = None
    image_fps: float | int = 0.0
    min_frames: int = 0
    slow: str = "skip"

    def __post_init__(self):
        if self.stride is None:
            object.__setattr__(self, "stride", self.frames)
        if self.frames < 1 or self.stride < 1:
            raise ValueError(f"frames and stride must be at least 1, not {self.frames} and {self.stride}")
        if self.min_frames < 0:
            raise ValueError(f"min_frames must be at least 0, not {self.min_frames}: 0 keeps the length of clips")
        if self.slow not in ("skip", "error"):
            raise ValueError(f"config.data.slow must be 'skip' or 'error', not {self.slow!r}")
        video.exact_rate(self.fps)  # raises for a wrong rate; the last line for a wrong size or fit
        if self.image_fps:
            video.exact_rate(self.image_fps)
        video.resize(np.zeros((1, 1, 3), np.uint8), self.size, self.fit)

    @property
    def bytes(self) -> int:
        """Size of a clip in bytes."""
        return self.frames * math.prod(self.size) * 3

    def is_slow(self, length: video.Length) -> bool:
        """Returns whether a video has so few frames per second that clips would repeat them."""
        return bool(length.pictures) and length.fps < MIN_RATE * self.fps

    def clips(self, length: int) -> int:
        """Returns the number of clips of a shot of `length` frames."""
        return 0 if length < self.frames else (length - self.frames) // self.stride + 1


def fit(cutting: Cutting, longest: Sequence[int]) -> Cutting:
    """Returns the cutting with the most frames with which every video of a second gives a clip.

    Lowers `frames` to `min_frames` at most, and `stride` with it. Where no video has a second, takes all of them.

    Args:
      cutting: the wanted cutting.
      longest: frames of the longest shot of each video, at the rate of the clips.
    """
    usable = [length for length in longest if length >= cutting.min_frames > 0]
    seconds = [length for length in usable if length >= math.floor(SECOND * cutting.fps)]
    frames = min([cutting.frames, *(seconds or usable)])
    stride = min(cutting.stride, frames) if cutting.stride <= cutting.frames else cutting.stride
    return replace(cutting, frames=frames, stride=stride)


def notes(wanted: Cutting, used: Cutting, longest: Mapping[str, int]) -> list[str]:
    """Returns sentences for the log and the report: how clips were shortened, and which videos give no clip.

    Args:
      wanted, used: the cutting before and after `fit`.
      longest: frames of the longest shot of each video that decodes, by name.
    """
    seconds = lambda frames: f"{frames / wanted.fps:.2g} s"
    shorter = lambda frames: [name for name, length in longest.items() if length < frames]
    short = lambda frames: f"{len(shorter(frames))} of {len(longest)} videos are shorter than {seconds(frames)}"
    made = []
    if used.frames < wanted.frames:
        made.append(
            f"clips have {used.frames} frames ({seconds(used.frames)} at {wanted.fps:g} fps), not "
            f"config.data.frames={wanted.frames}: {short(wanted.frames)}, or consist of shorter shots, and would give "
            f"no clip; --config.data.min_frames={wanted.frames} leaves these videos out"
        )
    lost = shorter(used.frames)
    if lost:
        need = min([longest[name] for name in lost if longest[name]], default=1)
        flags = [f"--config.data.frames={need}"]
        flags += [f"--config.data.stride={need}"] * (wanted.stride <= wanted.frames)
        made.append(
            f"{short(used.frames)} ({used.frames} frames at {wanted.fps:g} fps), or consist of shorter shots, and give "
            f"no clip: {some(lost)}: {' '.join(flags)} takes all of them"
        )
    return made
