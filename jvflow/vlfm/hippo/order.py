"""The number of coefficients that a clip needs: the order with the least estimated error between its frames."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jvflow.vlfm.hippo.coefficients import check_finite
from jvflow.vlfm.hippo.legs import HOLDS, MAX_ORDER, ORDER_PER_FRAME, weights

TOLERANCE = 1.1
"""Errors up to this factor above the least one count as equally good."""


def cross_validation(
    u: Float[Array | np.ndarray, "N ..."],
    orders: tuple[int, ...],
    rule: str = "first_order_hold",
    *,
    generalised: bool | None = None,
) -> Float[Array, "o"]:
    """Estimates the squared error between frames for each order; works under jit.

    For the holds, half of the frames predict the other half, with half the order. For least_squares, all other frames
    predict frame k: the error is r_k / (1 - S_kk) with the smoother S and r = u - S u. For other rules, or with
    `generalised`, the estimate is |r|^2 / N / (1 - tr S / N)^2 (Craven and Wahba 1979). For the holds this estimate
    picks too low orders, because a hold has no more degrees of freedom than frames, and fits the frames at every order.
    """
    frames = len(u)
    flat = jnp.asarray(u).reshape(frames, -1)
    if generalised is None:
        generalised = rule not in (*HOLDS, "least_squares")
    if rule in HOLDS and not generalised:
        matrices = [_halves_matrix(frames, order, rule) for order in orders]
    else:
        matrices = [_left_out_matrix(frames, order, rule, generalised) for order in orders]
    error = lambda matrix: jnp.mean(jnp.square(matrix @ flat))
    errors = jax.lax.map(error, jnp.asarray(np.stack(matrices), flat.dtype))
    return jnp.where(jnp.isfinite(errors), errors, jnp.inf)


def _left_out_matrix(frames, order, rule, generalised):
    """Returns the matrix that maps the frames to the error at each frame when this frame is left out."""
    S = weights(np.arange(1, frames + 1) / frames, frames, order, rule, allow_divergence=True)[0]
    with np.errstate(all="ignore"):
        return (np.eye(frames) - S) / (1 - (np.trace(S) / frames if generalised else np.diagonal(S)[:, None]))


def _halves_matrix(frames, order, rule):
    """Returns the matrix that maps the frames to the errors of even frames predicted by odd ones, and vice versa."""
    rows = []
    for first in (0, 1):
        known = np.arange(first, frames, 2)
        missing = known[:-1] + 1
        if len(known) > 1:
            few = max(1, round(order * len(known) / frames))
            w, _ = weights((np.arange(1, len(known)) + 0.5) / len(known), len(known), few, rule)
            row = -np.eye(frames)[missing]
            row[:, known] += w
            rows.append(row)
    return np.concatenate(rows)


def select_order(
    u: Float[Array | np.ndarray, "N ..."], rule: str = "first_order_hold", orders: tuple[int, ...] | None = None
) -> int:
    """Returns the order with the least error between frames by `cross_validation`, without training anything.

    For the holds the error hardly changes once the order exceeds the number of frames. Among the orders whose error is
    within a tenth of the least one, they get the order nearest to 1.3 N, where the error is least for most clips.

    Args:
      u: the frames of one clip, at least 3.
      rule: see `legs`.
      orders: the candidates; None means all up to 64, and below N for rules other than the holds.
    """
    check_finite(u)
    orders = _candidates(len(u), rule, orders)
    return int(orders[int(_best(jnp.asarray(u), orders, rule))])


@partial(jax.jit, static_argnames=("rule", "maximum"))
def select_orders(
    u: Float[Array, "b N ..."], rule: str = "first_order_hold", maximum: int = MAX_ORDER
) -> Int[Array, "b"]:
    """Selects an order up to `maximum` for each clip of a batch, under jit; `weights` takes them as `orders`."""
    orders = tuple(n for n in _candidates(u.shape[1], rule, None) if n <= maximum)
    return jnp.asarray(orders, jnp.int32)[jax.vmap(lambda clip: _best(clip, orders, rule))(u)]


def _best(u, orders, rule):
    """Returns the index of the selected order."""
    errors = cross_validation(u, orders, rule)
    if rule not in HOLDS:
        return jnp.argmin(errors)
    distance = np.abs(np.asarray(orders) - ORDER_PER_FRAME * len(u)).astype(np.float32)
    return jnp.argmin(jnp.where(errors <= TOLERANCE * errors.min(), distance, jnp.inf))


def _candidates(frames, rule, orders):
    if frames < 3:
        raise ValueError(f"choosing an order by leaving frames out needs at least 3 frames, got {frames}")
    most = MAX_ORDER if rule in HOLDS else min(frames - 1, MAX_ORDER)
    orders = tuple(range(1, most + 1)) if orders is None else tuple(orders)
    if not orders or min(orders) < 1 or (rule == "least_squares" and max(orders) >= frames):
        raise ValueError(
            f"candidate orders must be 1 or more, and below {frames} frames for least_squares, got {orders}"
        )
    return orders
