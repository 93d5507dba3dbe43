"""Renders videos from a seed, of any size, frame rate and length, exact at every real time.

A scene is a function of time. Nothing is stored from frame to frame, so in-between and future frames are as exact as
the others, and frames have the same pixels whether they are rendered together or one by one.

    comets     shapes that chase one another on a ring; their tails show where they go: one frame determines the next
    maze       a first-person walk along the right-hand wall: one frame shows the motion, not the map
    bouncing   discs that collide elastically behind bars: seeing the motion takes two frames
    shapes     the same three plain shapes in every clip, without bars: only motion and ground differ

Times are in seconds and suit 16 frames per second: objects move by about 0.5 to 1.2 pixels a frame at 32 x 32.
"""

from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, UInt8

from jvflow.data.scenes_maze import maze
from jvflow.data.scenes_shapes import bouncing, comets, shapes

KINDS = ("maze", "comets", "bouncing", "shapes")
SMALLEST = 8  # pixels of a side
PIXELS = 2**16  # rendered at once, unless a single frame has more


@runtime_checkable
class World(Protocol):
    """The content of a scene."""

    caption: str

    def draw(self, seconds: Float[np.ndarray, "f"], height: int, width: int) -> Float[np.ndarray, "f 3 h w"]:
        """Returns colours in [0, 1] at the given times."""


@dataclass(frozen=True)
class Scene:
    """An endless video; two scenes are equal if their kinds and seeds are equal."""

    kind: str
    seed: int
    caption: str
    world: World = field(repr=False, compare=False)

    def render(self, times, size: int | tuple[int, int]) -> UInt8[np.ndarray, "f h w 3"]:
        """Returns the frames at `times`.

        Args:
          times: seconds (f,), any real numbers >= 0 in any order.
          size: (h, w) in pixels, or one number for both; at least 8.
        """
        times = np.asarray(times, np.float64)
        if times.ndim != 1 or not np.all(np.isfinite(times) & (times >= 0)):
            raise ValueError(f"times must be finite seconds >= 0 of shape (f,), got {times!r}")
        height, width = (size, size) if np.ndim(size) == 0 else size
        if min(height, width) < SMALLEST:
            raise ValueError(f"size {(height, width)} is too small: use at least {SMALLEST} pixels a side")
        frames = np.empty((len(times), height, width, 3), np.uint8)
        chunk = max(1, PIXELS // (height * width))
        for first in range(0, len(times), chunk):
            colours = self.world.draw(times[first : first + chunk], height, width)
            colours = (255 * colours + 0.5).astype(np.uint8)
            frames[first : first + chunk] = np.moveaxis(colours, 1, -1)
        return frames


def scene(kind: str, seed: int) -> Scene:
    """Returns the scene of a kind, one of `KINDS`, for a seed >= 0."""
    makers = {"maze": maze, "comets": comets, "bouncing": bouncing, "shapes": shapes}
    if kind not in makers:
        raise ValueError(f"unknown kind {kind!r}: use one of {', '.join(KINDS)}")
    world = makers[kind](np.random.default_rng((seed, KINDS.index(kind))))
    return Scene(kind, seed, world.caption, world)
