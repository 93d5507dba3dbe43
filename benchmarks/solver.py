"""Times a frame by adaptive Heun: diffrax through `solver.solve` against a hand-written loop for this method."""

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import subject
from benchmarks.timing import in_turn
from jvflow.biflow import joint
from jvflow.flow.field import along, expand_like
from jvflow.flow.solver import FIRST_STEP
from jvflow.networks import as_field

SOLVES, ROUNDS, VIDEOS = 3, 15, 16


def by_hand(derivative, x, *, rtol, atol):
    """Solves from 0 to 1 with separate steps for each sample; returns `(x, nfe (b,))`."""
    b = len(x)
    wide = lambda a: expand_like(a, x)

    def body(carry):
        x, k, step, nfe = carry
        running = k < 1
        k_next = jnp.where(running, jnp.minimum(k + step, 1.0), k)
        h = k_next - k
        a = derivative(k, x)
        c = derivative(k_next, x + wide(h) * a)
        proposed = x + wide(h) * (a + c) / 2
        scale = atol + rtol * jnp.maximum(abs(x), abs(proposed))
        error = jnp.sqrt(jnp.mean(jnp.square(wide(h) * (c - a) / 2 / scale).reshape(b, -1), 1))
        accept = running & (error < 1)
        factor = jnp.clip(
            0.9 * jnp.maximum(error, 1e-12) ** -0.5, jnp.where(accept, 1.0, 0.2), jnp.where(accept, 10.0, 0.9)
        )
        return (
            jnp.where(wide(accept), proposed, x),
            jnp.where(accept, k_next, k),
            jnp.where(running, h * factor, step),
            nfe + 2 * running,
        )

    start = x, jnp.zeros(b), jnp.full(b, FIRST_STEP), jnp.zeros(b, jnp.int32)
    x, _, _, nfe = jax.lax.while_loop(lambda carry: jnp.any(carry[1] < 1), body, start)
    return x, nfe


def measure() -> dict:
    config = subject.config()
    experiment, state = subject.experiment()
    solver, field = experiment.sampler.solver, as_field(experiment.network, state.params)
    x = jax.random.normal(jax.random.key(0), (VIDEOS, 1, *config.data.size, 3))
    derivative = lambda field: along(field, joint(config.sample.epsilon), None)

    @jax.jit
    def ours(field, x):
        solution = solver(derivative(field), x)
        return solution.x, solution.nfe

    @jax.jit
    def hand(field, x):
        return by_hand(derivative(field), x, rtol=solver.rtol, atol=solver.atol)

    (a, nfe_a), (b, nfe_b) = ours(field, x), hand(field, x)
    difference = float(abs(a - b).max())
    if difference > 1e-3 or not np.array_equal(nfe_a, nfe_b):
        raise ValueError(f"not the same computation: x differs by {difference}, NFE {nfe_a} and {nfe_b}")

    def times(solve):
        def work():
            for _ in range(SOLVES):
                jax.block_until_ready(solve(field, x))

        return work

    seconds = in_turn(dict(diffrax=times(ours), hand=times(hand)), ROUNDS)
    return dict(
        overhead=seconds["diffrax"] / seconds["hand"] - 1,
        seconds_per_solve={name: s / SOLVES for name, s in seconds.items()},
        difference=difference,
        nfe=float(np.mean(nfe_a)),
        protocol=dict(videos=VIDEOS, size=list(config.data.size), rtol=solver.rtol, atol=solver.atol, rounds=ROUNDS),
    )
