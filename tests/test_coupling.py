import jax
import jax.numpy as jnp
import numpy as np

from jvflow import coupling


def pairs(n=16):
    past = jnp.arange(n, dtype=jnp.float32).reshape(n, 1, 1, 1, 1)
    return past, past + 100


def test_consecutive_keeps_pairs():
    past, future = pairs()
    x0, x1 = coupling.consecutive(past, future, jax.random.key(0))
    np.testing.assert_array_equal(x1 - x0, 100 * np.ones_like(x0))


def test_independent_permutes_the_past_alone():
    past, future = pairs()
    x0, x1 = coupling.independent(past, future, jax.random.key(0))
    np.testing.assert_array_equal(x1, future)
    np.testing.assert_array_equal(np.sort(x0, axis=0), past)
    assert not np.array_equal(x0, past)
    other, _ = coupling.independent(past, future, jax.random.key(1))
    assert not np.array_equal(x0, other)
