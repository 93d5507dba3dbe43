"""Networks over frames that process a video whole, or in pieces with the same result.

A layer that needs other frames calls `stream.pad(x, before, after)`. A `WholeVideo` has all frames. A `VideoPiece` has
the frames of one piece. It keeps the frames that the next piece needs, and its results are delayed by the look-ahead of
the layers. After each layer it knows

    at = step n + offset         index of the first of the n frames of this piece, at this layer's frame rate       (1)

which is below 0 before the first result, and can exceed the index of the last frame while the last results come. Each
layer pads as it pads the whole video: with copies of the first and the last frame, or with zeros. The kept frames do
not grow with the length of the video.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Num

Frames = Float[Array, "b f h w c"]
Resized = Float[Array, "b _ _ _ _"]
"""Frames whose sizes may differ from the sizes of the input."""


class WholeVideo:
    """All frames of a video."""

    def pad(self, x: Frames, before: int, after: int = 0, stride: int = 1, *, zeros: bool = False) -> Resized:
        """Returns x with `before` frames added in front and `after` at the end: copies of the end frames, or zeros.

        Args:
          stride: stride of the layer that takes the result.
        """
        del stride
        first, last = (jnp.zeros_like(x[:, :1]),) * 2 if zeros else (x[:, :1], x[:, -1:])
        return jnp.concatenate([first] * before + [x] + [last] * after, axis=1)

    def indices(self, x: Frames) -> Int[Array, "1 f 1 1 1"]:
        """Returns the index of each frame."""
        return jnp.arange(x.shape[1]).reshape(1, -1, 1, 1, 1)

    def last_of_groups(self, x: Frames, size: int) -> Resized:
        """Returns the last frame of each group of `size`; the first frame is a group of its own."""
        return x[:, ::size]

    def delay(self, x: Frames, frames: int) -> Frames:
        """Returns a residual, delayed to match layers with a look-ahead of `frames`."""
        del frames
        return x

    def complete_first_group(self, x: Frames, size: int) -> Resized:
        """Returns x with copies of its first frame in front, so that this frame ends a group of `size`."""
        return jnp.concatenate([x[:, : size - 1], x], axis=1)

    def merge_groups(self, size: int) -> None:
        """Records that each group of `size` frames has become one frame."""

    def trim_first_pair(self, x: Frames) -> Resized:
        """Returns x, whose frames have become pairs, without the first frame of the first pair."""
        return x[:, 1:]

    def split_pairs(self) -> None:
        """Records that each frame has become a pair."""

    def run(self, layer: Callable, x: Frames) -> Resized:
        """Returns `layer(x, self)`."""
        return layer(x, self)


WHOLE = WholeVideo()


class VideoPiece:
    """A piece of a video; see the top of the file. It has the methods of `WholeVideo`.

    Args:
      step: number of the piece.
      offset: see (1).
      count: frames of the whole video at this layer's frame rate.
      states: the frames that layers kept from the previous piece; None for the first piece.
    """

    def __init__(self, step: Int[Array, ""], offset: int, count: int, states: list | None = None):
        self.step, self.offset, self.count = step, offset, count
        self.states, self._previous = [], None if states is None else iter(states)

    def pad(self, x: Frames, before: int, after: int = 0, stride: int = 1, *, zeros: bool = False) -> Resized:
        keep = before + after + 1 - stride
        window = self._prepend_kept(x, keep)
        at = self.step * x.shape[1] + self.offset - keep
        indices = at + jnp.arange(window.shape[1])
        inside = jnp.clip(indices, 0, self.count - 1)
        if zeros:
            window = jnp.where((indices == inside).reshape(1, -1, 1, 1, 1), window, 0)
        else:
            window = jnp.take(window, inside - at, axis=1, mode="clip")
        self.offset -= after
        if stride > 1:
            self.merge_groups(stride)
        return window

    def indices(self, x: Frames) -> Int[Array, "1 f 1 1 1"]:
        return (self.step * x.shape[1] + self.offset + jnp.arange(x.shape[1])).reshape(1, -1, 1, 1, 1)

    def last_of_groups(self, x: Frames, size: int) -> Resized:
        return x[:, size - 1 :: size]  # a piece ends where a group ends

    def delay(self, x: Frames, frames: int) -> Frames:
        return self._prepend_kept(x, frames)[:, : x.shape[1]] if frames else x

    def complete_first_group(self, x: Frames, size: int) -> Resized:
        return self.pad(x, 0, 0) if size > 1 else x

    def merge_groups(self, size: int) -> None:
        if (self.offset - 1) % size:
            raise ValueError(f"a piece that begins at frame {self.offset} does not begin with a group of {size} frames")
        self.offset, self.count = (self.offset + size - 1) // size, (self.count - 1) // size + 1

    def trim_first_pair(self, x: Frames) -> Resized:
        return x  # one frame of the first pair has an index below 0

    def split_pairs(self) -> None:
        self.offset, self.count = 2 * self.offset - 1, 2 * self.count - 1

    def run(self, layer: Callable, x: Frames) -> Resized:
        """Returns `layer(x, stream)`; skips the layer while its input or its output holds no frame of the video."""
        if self._previous is None:
            inner = VideoPiece(self.step, self.offset, self.count)
            y = layer(x, inner)
        else:
            states, inner = next(self._previous), None

            def compute(x, states):
                nonlocal inner
                inner = VideoPiece(self.step, self.offset, self.count, states)
                return layer(x, inner), inner.states

            skipped = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), jax.eval_shape(compute, x, states)[0])
            first, last = self.step * x.shape[1] + self.offset, self.step * skipped.shape[1] + inner.offset
            needed = (first + x.shape[1] > 0) & (last < inner.count)
            y, inner.states = jax.lax.cond(needed, compute, lambda x, states: (skipped, states), x, states)
        self.states.append(inner.states)
        self.offset, self.count = inner.offset, inner.count
        return y

    def _prepend_kept(self, x: Frames, keep: int) -> Resized:
        kept = jnp.zeros((len(x), keep, *x.shape[2:]), x.dtype) if self._previous is None else next(self._previous)
        window = jnp.concatenate([kept, x], axis=1)
        self.states.append(window[:, window.shape[1] - keep :])
        return window


def apply_in_pieces(
    layer: Callable, video: Num[Array, "b f h w c"], *, piece: int, offset: int = 0
) -> Num[Array, "b _ _ _ _"]:
    """Applies a layer to a video piece by piece, in memory for the video, the result and one piece.

    Args:
      layer: `(piece (b, n, ...), stream) -> (b, m, ...)`, which sees other frames only through `stream`.
      video: (b, f, ...).
      piece: n, the frames of a piece.
      offset: index of the first frame of the first piece (1), 0 or below.
    """
    count = video.shape[1]

    def step(k, states):
        inside = jnp.clip(k * piece + offset + jnp.arange(piece), 0, count - 1)
        stream = VideoPiece(k, offset, count, states)
        return layer(jnp.take(video, inside, axis=1), stream), stream.states, stream

    after = None  # the stream after the layer, which has the offset and count of the result

    def first(k):
        nonlocal after
        output, states, after = step(k, None)
        return output, states

    output, states = jax.eval_shape(first, jnp.zeros((), int))
    n, results = output.shape[1], after.count
    zeros = lambda a: jnp.zeros(a.shape, a.dtype)

    def body(k, carry):
        out, states = carry
        output, states, _ = step(k, states)
        at = k * n + after.offset + jnp.arange(n)
        return out.at[:, jnp.where(at < 0, results, at)].set(output, mode="drop"), states

    out = jnp.zeros((output.shape[0], results, *output.shape[2:]), output.dtype)
    steps = int(np.ceil((results - after.offset) / n))
    return jax.lax.fori_loop(0, steps, body, (out, jax.tree.map(zeros, states)))[0]
