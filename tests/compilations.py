"""Counts the programs that JAX compiles, by JAX's own events, for other settings of a sampler."""

from contextlib import contextmanager

import jax
import jax.numpy as jnp
import numpy as np

from jvflow.flow.field import Condition, expand_like

COMPILES = "/jax/core/compile/backend_compile_duration"
STEPS, LEVELS, WEIGHTS = (1, 2, 4, 5, 8), (0.05, 0.1, 0.2, 0.3, 0.4), (1.5, 2.0, 3.5, 5.0, 7.5)
TOLERANCES = (1e-1, 3e-2, 1e-2, 3e-3, 1e-3)


@contextmanager
def compilations():
    """Counts the programs that are compiled in the block: yields a list with one entry for each."""
    found = []
    listen = lambda event, duration, **_: found.append(event) if event == COMPILES else None
    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield found
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)


def programs_compiled(sample, settings) -> int:
    """Samples with each of the settings; returns how many programs the others compile after the first.

    Fails if two settings that follow one another have the same result.
    """
    jax.block_until_ready(sample(settings[0]))
    with compilations() as found:
        made = [np.asarray(sample(setting)) for setting in settings]
    for a, b in zip(made, made[1:]):
        assert np.isfinite(a).all() and abs(a - b).max() > 1e-6
    return len(found)


def curved_field(velocities: int = 1):
    """Returns a curved field whose velocities follow the caption."""

    def apply(x, s, condition=None):
        text = 0.0 if condition is None or condition.text is None else expand_like(condition.text.mean((1, 2)), x)
        return tuple(jnp.sin(3 * x + expand_like(s[0], x)) + text for _ in range(velocities))

    return jax.tree_util.Partial(apply)


START = jax.random.normal(jax.random.key(0), (2, 1, 4, 4, 3)) / 3
TEXT = Condition(text=jnp.ones((2, 3, 2)), text_mask=jnp.ones((2, 3), bool))
