"""Networks over frames that take a video whole, or in pieces with the same result.

A layer that sees other frames asks for them: `frames.around(x, before, after)`. To `Whole` a video is there at once. A `Stream` gets one
piece after the other, keeps of each what the next one needs, and gives results as late as they look ahead: after each layer it knows

    at = step n + offset         the first of n frames of this piece, at the rate of this layer         (1)

which is below 0 before the first result is out, and above the last frame when the last ones come. Frames before the first one are the first one,
or zeros, those after the last one the last one, for each layer anew, as for the whole video. What is kept does not grow with the video.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

Frames = Float[Array, "b f h w c"]


class Whole:
    """All frames of a video."""

    def around(self, x: Frames, before: int, after: int = 0, stride: int = 1, *, zeros: bool = False) -> Frames:
        """The frames with so many more before the first and after the last, which are as that one or zeros; every `stride`-th is looked around."""
        del stride
        first, last = (jnp.zeros_like(x[:, :1]),) * 2 if zeros else (x[:, :1], x[:, -1:])
        return jnp.concatenate([first] * before + [x] + [last] * after, axis=1)

    def numbers(self, x: Frames) -> Int[Array, "1 f 1 1 1"]:
        """Of the frames, from 0 on."""
        return jnp.arange(x.shape[1]).reshape(1, -1, 1, 1, 1)

    def ends(self, x: Frames, each: int) -> Frames:
        """The last frame of each group of `each`; the first frame is a group of its own."""
        return x[:, ::each]

    def late(self, x: Frames, frames: int) -> Frames:
        """What went beside layers that look `frames` ahead."""
        del frames
        return x

    def paired(self, x: Frames, each: int) -> Frames:
        """The frames so that the first one ends a group of `each`."""
        return jnp.concatenate([x[:, : each - 1], x], axis=1)

    def grouped(self, each: int) -> None:
        """Each group has become one frame."""

    def unpaired(self, x: Frames) -> Frames:
        """Frames made of groups of two, of which the first one is one frame."""
        return x[:, 1:]

    def ungrouped(self) -> None:
        """Each frame has become a group of two."""

    def through(self, layer: Callable, x: Frames) -> Frames:
        """`layer(x, frames)`."""
        return layer(x, self)


WHOLE = Whole()


class Stream:
    """A piece of a video: see the top of the file. `states` are those of the piece before it, None where none was."""

    def __init__(self, step: Int[Array, ""], offset: int, count: int, states: list | None = None):
        self.step, self.offset, self.count = step, offset, count
        self.states, self._before = [], None if states is None else iter(states)

    def around(self, x: Frames, before: int, after: int = 0, stride: int = 1, *, zeros: bool = False) -> Frames:
        """The frames that this piece's results look at."""
        keep = before + after + 1 - stride
        window = self._with_kept(x, keep)
        at = self.step * x.shape[1] + self.offset - keep
        numbers = at + jnp.arange(window.shape[1])
        there = jnp.clip(numbers, 0, self.count - 1)
        if zeros:
            window = jnp.where((numbers == there).reshape(1, -1, 1, 1, 1), window, 0)
        else:
            window = jnp.take(window, there - at, axis=1, mode="clip")
        self.offset -= after
        if stride > 1:
            self.grouped(stride)
        return window

    def numbers(self, x: Frames) -> Int[Array, "1 f 1 1 1"]:
        """Of the piece's frames (1)."""
        return (self.step * x.shape[1] + self.offset + jnp.arange(x.shape[1])).reshape(1, -1, 1, 1, 1)

    def ends(self, x: Frames, each: int) -> Frames:
        """The last frame of each group of `each`, with which a piece ends."""
        return x[:, each - 1 :: each]

    def late(self, x: Frames, frames: int) -> Frames:
        """What goes beside layers that look `frames` ahead."""
        return self._with_kept(x, frames)[:, : x.shape[1]] if frames else x

    def paired(self, x: Frames, each: int) -> Frames:
        """The piece, where the frames before the first one are the first one."""
        return self.around(x, 0, 0) if each > 1 else x

    def grouped(self, each: int) -> None:
        """Each group has become one frame; the first group ends with the first frame."""
        if (self.offset - 1) % each:
            raise ValueError(f"a piece that begins {self.offset} frames from the first one does not begin with a group of {each}")
        self.offset, self.count = (self.offset + each - 1) // each, (self.count - 1) // each + 1

    def unpaired(self, x: Frames) -> Frames:
        """Frames made of groups of two: that of the first group which is none comes before the first frame."""
        return x

    def ungrouped(self) -> None:
        """Each frame has become a group of two."""
        self.offset, self.count = 2 * self.offset - 1, 2 * self.count - 1

    def through(self, layer: Callable, x: Frames) -> Frames:
        """`layer(x, frames)`, which is not computed where nothing of the piece, and of what the layer kept, is of the video."""
        if self._before is None:
            inner = Stream(self.step, self.offset, self.count)
            y = layer(x, inner)
        else:
            states, inner = next(self._before), None

            def run(x, states):
                nonlocal inner
                inner = Stream(self.step, self.offset, self.count, states)
                return layer(x, inner), inner.states

            skipped = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), jax.eval_shape(run, x, states)[0])
            first, last = self.step * x.shape[1] + self.offset, self.step * skipped.shape[1] + inner.offset
            needed = (first + x.shape[1] > 0) & (last < inner.count)
            y, inner.states = jax.lax.cond(needed, run, lambda x, states: (skipped, states), x, states)
        self.states.append(inner.states)
        self.offset, self.count = inner.offset, inner.count
        return y

    def _with_kept(self, x: Frames, keep: int) -> Frames:
        kept = jnp.zeros((len(x), keep, *x.shape[2:]), x.dtype) if self._before is None else next(self._before)
        window = jnp.concatenate([kept, x], axis=1)
        self.states.append(window[:, window.shape[1] - keep :])
        return window


def streamed(layer: Callable, video: Frames, *, piece: int, offset: int = 0) -> Frames:
    """What a layer makes of a video, in pieces: memory is that of one piece and of what the layer keeps, beside the video and the result.

    Args:
      layer: `(piece (b, n, ...), frames) -> (b, m, ...)`, which looks at other frames through `frames` alone.
      video: (b, f, ...).
      piece: n.
      offset: of the first piece (1): its first frame, 0 or below.
    """
    count = video.shape[1]

    def step(k, states):
        there = jnp.clip(k * piece + offset + jnp.arange(piece), 0, count - 1)
        frames = Stream(k, offset, count, states)
        return layer(jnp.take(video, there, axis=1), frames), frames.states, frames

    after = None

    def first(k):
        nonlocal after
        made, states, after = step(k, None)
        return made, states

    made, states = jax.eval_shape(first, jnp.zeros((), int))
    n, results = made.shape[1], after.count
    zeros = lambda a: jnp.zeros(a.shape, a.dtype)

    def body(k, carry):
        out, states = carry
        made, states, _ = step(k, states)
        at = k * n + after.offset + jnp.arange(n)
        return out.at[:, jnp.where(at < 0, results, at)].set(made, mode="drop"), states

    out = jnp.zeros((made.shape[0], results, *made.shape[2:]), made.dtype)
    return jax.lax.fori_loop(0, int(np.ceil((results - after.offset) / n)), body, (out, jax.tree.map(zeros, states)))[0]
