"""FlowFrames: from the observed chunk of a video to the next one ("Flowing from Observed to Future Frames").

    x(t) = x0 + t (x1 - x0),    L = E |u(x(t), t, c) - (x1 - x0)|^2                              (1)   paper, eq. 1 and 2

x0 is the observed chunk, x1 the next one of the same video, both in the latents of an autoencoder, c a caption; u starts
from a text-to-video flow u*, learned by (1) with x0 ~ N(0, I). So u gets one chunk, and gives the next in few steps.
mu and sigma are the autoencoder's posterior:

    algorithm 1    consecutive    x0 = mu_0 + sigma_0 xhat_1 with probability rho, else mu_0     (2)   paper, algorithm 1
    algorithm 2    independent    x0 = mu_0                                                            paper, appendix B
    algorithm 3    consecutive    x0 = mu_0                                                            paper, appendix B

with x1 = mu_1. The pairs are a `jvflow.flow.coupling`. xhat_1 is the target inverted to noise: u* is solved backwards from it,

    dx/dt = u*(x, t, c),  x(1) = x1,  xhat_1 = x(0)     target inversion, by RF-Solver           (3)   paper, section 3.2

Number of steps and guidance of (3) are in neither the paper nor what its authors released: 25 and 1 here, and the error of
the way back stands beside every xhat_1. A prediction starts from mu_0 alone.

    conventional   noise flows to x1 beside the observed chunk, which is held at t = 1           (4)   LTX-Video's "condition"

is the design that the paper compares with: every frame has its own t, and the network gets twice the tokens.

    S = mean over t of |u(x(t), t) - (x(1) - x(0))|^2 / |x(1) - x(0)|^2                          (5)

along a trajectory is 0 where it is straight, and is solved exactly by one step there.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from jvflow.flow import unipc
from jvflow.flow.field import Condition, Field, along, as_partial, column, guide
from jvflow.flow.path import LINEAR, Ends, matching_loss, squared_error
from jvflow.flow.solver import Solver
from jvflow.flow.times import TimeDensity, grid
from jvflow.flow.unipc import UniPC

Chunk = Float[Array, "b f h w c"]


# --- objectives -----------------------------------------------------------------------------------


def text_to_video_loss(
    field: Field, chunk: Chunk, keys: Key[Array, "b"], condition: Condition | None = None, *,
    times: TimeDensity = TimeDensity(), tokens: int = 0,
) -> Float[Array, "b"]:
    """The objective (1) of the pretrained model u*: x0 is noise. Times as of `loss`."""
    t, noise = _drawn(keys, chunk, times, tokens)
    return matching_loss(LINEAR, field, Ends(noise, chunk), (t,), condition)


def loss(
    field: Field, observed: Chunk, future: Chunk, keys: Key[Array, "b"], condition: Condition | None = None, *,
    times: TimeDensity = TimeDensity(), tokens: int = 0,
) -> Float[Array, "b"]:
    """The objective (1), one number per example.

    Args:
      field: gets s = (t,) and returns one velocity.
      observed: x0, of algorithm 1 by `with_inversion`.
      future: x1, of the same shape.
      keys: one per example.
      condition: captions.
      times: where t is drawn; uniform in algorithm 1, logit-normal in the paper's table 3 for LTX-Video.
      tokens: of an example, where `times` asks for it.
    """
    _check_chunks(observed, future)
    t, _ = _drawn(keys, None, times, tokens)
    return matching_loss(LINEAR, field, Ends(observed, future), (t,), condition)


def conventional_loss(
    field: Field, observed: Chunk, future: Chunk, keys: Key[Array, "b"], condition: Condition | None = None, *,
    times: TimeDensity = TimeDensity(), tokens: int = 0,
) -> Float[Array, "b"]:
    """The objective (1) of noise that flows to x1 beside the observed chunk (4). Arguments as of `loss`."""
    _check_chunks(observed, future)
    t, noise = _drawn(keys, future, times, tokens)
    return matching_loss(LINEAR, beside(field, observed), Ends(noise, future), (t,), condition)


def _drawn(keys, like, times, tokens) -> tuple[Array, Array | None]:
    """t (b,), and noise of the shape of `like`, from one key for each example."""
    key_t, key_noise = jax.vmap(lambda key: tuple(jax.random.split(key)))(keys)
    return times(key_t, tokens), None if like is None else _noise(key_noise, like)


def _noise(keys, like):
    return jax.vmap(lambda key: jax.random.normal(key, like.shape[1:], like.dtype))(keys)


def _check_chunks(observed, future):
    if observed.shape != future.shape:
        raise ValueError(f"the observed chunk is {observed.shape}, the next one {future.shape}: (b, f, h, w, c) of both must be the same")


def beside(field: Field, observed: Chunk) -> Field:
    """The field (4) of the second half of a field's frames, beside the observed chunk at t = 1. It gets t (b,)."""
    return jax.tree_util.Partial(_beside, as_partial(field), observed)


def _beside(field, observed, x, s, condition=None):
    (t,) = s
    known = jnp.ones(observed.shape[:2], t.dtype)
    each = jnp.broadcast_to(t[:, None], x.shape[:2])
    velocities = field(jnp.concatenate([observed, x], axis=1), (jnp.concatenate([known, each], axis=1),), condition)
    return tuple(v[:, observed.shape[1] :] for v in velocities)


# --- target inversion -----------------------------------------------------------------------------


class Inverted(NamedTuple):
    """A chunk inverted to noise (3).

    Attributes:
      latents: xhat_1, of the shape of the chunk.
      error: of the way back, RMS(x1' - x1) / RMS(x1), for each chunk.
    """

    latents: Chunk
    error: Float[Array, "b"]


@partial(jax.jit, static_argnames=("steps", "guidance", "method", "back"))
def invert(
    field: Field, chunk: Chunk, condition: Condition | None = None, *, steps: int = 25, guidance: float = 1.0,
    method: str = "rf_solver", back: str = "rf_solver",
) -> Inverted:
    """Inverts chunks to noise through a text-to-video field (3), and tells how well they come back.

    Args:
      field: u*; a `jax.tree_util.Partial`, as of `networks.as_field`.
      chunk: x1.
      condition: its caption.
      steps: from t = 1 to 0, and as many back.
      guidance: 1 is none.
      method: of the inversion.
      back: the method of the way back; the paper goes back by Euler, which does not come near.
    """
    derivative = along(guide(field, guidance), lambda t: (t,), condition)
    solve = lambda method, x, t0, t1: Solver(method, steps=steps, per_sample=False)(derivative, x, t0, t1).x
    noise = solve(method, chunk, 1.0, 0.0)
    again = solve(back, noise, 0.0, 1.0)
    size = squared_error(chunk, jnp.zeros_like(chunk))
    return Inverted(noise, jnp.sqrt(squared_error(again, chunk) / size))


def with_inversion(
    mean: Chunk, std: Chunk | float | None, inverted: Chunk, keys: Key[Array, "b"], *, rho: float = 0.7, usable: Bool[Array, "b"] | None = None
) -> Chunk:
    """The observed chunk of algorithm 1 (2).

    Args:
      mean, std: mu_0 and sigma_0, in the units of the latents.
      inverted: xhat_1.
      keys: one per example, of the coin; equal keys are one coin for the micro-batch, as the authors' code has it.
      rho: how often xhat_1 is added, in [0, 1].
      usable: which of `inverted` are good enough to be used; all when None.
    """
    if not 0 <= rho <= 1:
        raise ValueError(f"rho is a probability and must be in [0, 1], got {rho}")
    if std is None:
        raise ValueError("target inversion adds sigma_0 xhat_1, and this codec has no sigma_0: give its size with config.inversion.std")
    _check_chunks(mean, inverted)
    coin = jax.vmap(lambda key: jax.random.bernoulli(key, rho))(keys)
    coin = coin if usable is None else coin & usable
    return jnp.where(column(coin, mean), mean + std * inverted, mean)


# --- prediction -----------------------------------------------------------------------------------


class Prediction(NamedTuple):
    """Chunks that were made.

    Attributes:
      frames: (b, f, h, w, c), all chunks in order.
      nfe: evaluations of the field for each example, in all chunks together.
    """

    frames: Chunk
    nfe: Int[Array, "b"]


def predict(
    field: Field, observed: Chunk, condition: Condition | None = None, *, steps: int = 5, chunks: int = 1, guidance: float = 1.0,
    solver: Callable | None = None,
) -> Chunk:
    """The chunks after the observed one, by Euler steps of (1) from it.

    Args:
      field: u.
      observed: x0, the mean of its latents; as many frames as a chunk of training has, or more for one longer prediction.
      condition: captions.
      steps: Euler steps for each chunk, equally long.
      chunks: how many; each starts from the one before it.
      guidance: of the captions; 1 is none.
      solver: in place of Euler with `steps`.

    Returns:
      The future, (b, chunks f, h, w, c).
    """
    return predicted(field, observed, None, condition, design=FLOWFRAMES, chunks=chunks, guidance=guidance, solver=solver or euler(steps)).frames


def stepping(method: str, steps: int, warp: float = 1.0) -> Callable:
    """A method of `jvflow.flow.solver` on the grid of `times.grid`, or "unipc" on its own."""
    return UniPC(unipc.grid(steps, warp)) if method == "unipc" else Solver(method, steps=grid(steps, warp), per_sample=False)


euler = partial(stepping, "euler")


@dataclass(frozen=True)
class Design:
    """What flows, and what the network sees.

    Attributes:
      loss: the objective.
      source: where a prediction starts: "observed" or "noise".
      beside: whether the observed chunk stands beside what flows (4).
    """

    loss: Callable
    source: str
    beside: bool = False


FLOWFRAMES = Design(loss, "observed")
CONVENTIONAL = Design(conventional_loss, "noise", beside=True)
TEXT_TO_VIDEO = Design(text_to_video_loss, "noise")

DESIGNS = {"flowframes": FLOWFRAMES, "conventional": CONVENTIONAL, "text_to_video": TEXT_TO_VIDEO}


def predicted(
    field: Field, observed: Chunk, key: Key[Array, ""] | None, condition: Condition | None = None, *, design: Design = FLOWFRAMES,
    solver: Callable, chunks: int = 1, guidance: float = 1.0,
) -> Prediction:
    """`predict` for each `Design`, with what it cost. `key` is that of the noise; of TEXT_TO_VIDEO the shape of `observed` counts alone.

    Row i draws its noise from fold_in(key, i). Guidance costs each evaluation twice and is not in `nfe`.
    """
    if observed.ndim != 5:
        raise ValueError(f"a chunk must be (b, f, h, w, c), got shape {observed.shape}")
    if chunks < 1 or chunks != int(chunks):
        raise ValueError(f"chunks must be a positive whole number, got {chunks}")
    if design.source == "noise" and key is None:
        raise ValueError("chunks of this design start from noise: give a key")
    frames, nfe = [jnp.asarray(observed, jnp.float32)], 0
    for number in range(int(chunks)):
        if design.source == "noise":
            keys = jax.vmap(partial(jax.random.fold_in, jax.random.fold_in(key, number)))(jnp.arange(len(observed)))
        else:
            keys = None
        chunk, cost = next_chunk(as_partial(field), frames[-1], keys, condition, design=design, solver=solver, guidance=float(guidance))
        frames.append(chunk)
        nfe = nfe + cost
    return Prediction(jnp.concatenate(frames[1:], axis=1), nfe)


@partial(jax.jit, static_argnames=("design", "solver", "guidance"))
def next_chunk(field, observed, keys, condition, *, design, solver, guidance):
    """One chunk of `predicted`: `observed (b, f, h, w, c) -> (future, nfe (b,))`."""
    start = observed if design.source == "observed" else _noise(keys, observed)
    solution = solver(_derivative(field, observed, condition, design, guidance), start)
    return solution.x, solution.nfe


def _derivative(field, observed, condition, design, guidance):
    field = guide(field, guidance)
    return along(beside(field, observed) if design.beside else field, lambda t: (t,), condition)


@partial(jax.jit, static_argnames=("design", "steps", "guidance"))
def straightness(
    field: Field, observed: Chunk, keys: Key[Array, "b"], condition: Condition | None = None, *, design: Design = FLOWFRAMES, steps: int = 40,
    guidance: float = 1.0,
) -> Float[Array, "b"]:
    """S of (5) along the trajectories that `steps` Euler steps follow, each from its own observed chunk or noise."""
    start = observed if design.source == "observed" else _noise(keys, observed)
    derivative = _derivative(field, observed, condition, design, guidance)
    at = np.linspace(0, 1, steps + 1)

    def step(x, t):
        v = derivative(jnp.full(len(x), t, x.dtype), x)
        return x + v / steps, v

    end, velocities = jax.lax.scan(step, start, jnp.asarray(at[:-1], start.dtype))
    whole = end - start
    off = jax.vmap(lambda v: squared_error(v, whole))(velocities).mean(0)
    return off / squared_error(whole, jnp.zeros_like(whole))  # (5)
