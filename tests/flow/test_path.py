import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jvflow.flow.curved import CURVED
from jvflow.flow.path import BILINEAR, LINEAR, Ends, Path, matching_loss
from jvflow.flow.prediction import MIN_DENOMINATOR, MIN_IN_LOSS, from_clean, loss_weight, to_data

SHAPE = (3, 1, 4, 4, 2)


@pytest.fixture
def ends():
    keys = jax.random.split(jax.random.key(0), 4)
    three = (jax.random.normal(k, SHAPE) for k in keys[:3])
    return Ends(*three, between=jax.random.normal(keys[3], (SHAPE[0], 3, *SHAPE[1:])))


def coordinates(n, value=None):
    if value is not None:
        return tuple(jnp.full(SHAPE[0], v) for v in value)
    return tuple(jax.random.uniform(k, (SHAPE[0],)) for k in jax.random.split(jax.random.key(1), n))


def test_endpoints(ends):
    for path, rest in ((LINEAR, ()), (BILINEAR, (0.0,)), (CURVED, (0.0,))):
        np.testing.assert_allclose(path(ends, coordinates(0, (0.0, *rest)))[0], ends.x0, atol=1e-7)
        np.testing.assert_allclose(path(ends, coordinates(0, (1.0, *rest)))[0], ends.x1, atol=1e-6)
    at_noise = BILINEAR(ends, coordinates(0, (0.0, 1.0)))[0]
    np.testing.assert_allclose(at_noise, ends.x0 + ends.noise, atol=1e-6)


@pytest.mark.parametrize("path", [LINEAR, BILINEAR, CURVED], ids=["linear", "bilinear", "curved"])
def test_velocities_are_numerical_derivatives(path, ends):
    with jax.enable_x64(True), jax.numpy_dtype_promotion("strict"):
        ends = jax.tree.map(lambda a: jnp.asarray(np.asarray(a), jnp.float64), ends)
        s = tuple(jnp.asarray(np.asarray(c), jnp.float64) for c in coordinates(path.coordinates))
        _, velocities = path(ends, s)
        h = 1e-5
        move = lambda i, d: tuple(c + d * (i == j) for j, c in enumerate(s))
        for i, velocity in enumerate(velocities):
            numerical = (path(ends, move(i, h))[0] - path(ends, move(i, -h))[0]) / (2 * h)
            np.testing.assert_allclose(velocity, numerical, atol=1e-6 if path is CURVED else 1e-9)


def test_velocities_of_a_curved_path():
    # x = x0 cos(s) + x1 sin(s): Path does not assume straight lines
    circle = Path(lambda e, s: e.x0 * jnp.cos(s[0]) + e.x1 * jnp.sin(s[0]), coordinates=1)
    x0, x1 = jnp.ones((2, 3)), 2 * jnp.ones((2, 3))
    s = jnp.array([0.3, 1.1])
    x, (v,) = circle(Ends(x0, x1), (s,))
    np.testing.assert_allclose(v, np.broadcast_to((-np.sin(s) + 2 * np.cos(s))[:, None], (2, 3)), atol=1e-6)


def test_the_curved_path_passes_through_its_frames_smoothly(ends):
    """Checks knots and smoothness, and that lines and, away from the ends, parabolas are reproduced without error."""
    for i in range(3):
        x, _ = CURVED(ends, coordinates(0, ((i + 1) / 4, 0.0)))
        np.testing.assert_allclose(x, ends.between[:, i], atol=1e-6)
    t = np.linspace(0, 1, 5)
    frames = lambda f: jnp.asarray(np.broadcast_to(f(t)[:, None, None, None, None, None], (5, *SHAPE)), jnp.float32)
    along = lambda f: Ends(frames(f)[0], frames(f)[4], jnp.zeros(SHAPE), jnp.moveaxis(frames(f)[1:4], 0, 1))
    for at in (0.05, 0.3, 0.5, 0.6, 0.99):
        x, (v, _) = CURVED(along(lambda t: 3 * t - 1), coordinates(0, (at, 0.0)))
        np.testing.assert_allclose([x.max(), v.min()], [3 * at - 1, 3], atol=1e-5)
    for at in (0.3, 0.5, 0.6):
        x, (v, _) = CURVED(along(lambda t: t**2), coordinates(0, (at, 0.0)))
        np.testing.assert_allclose([x.max(), v.max()], [at**2, 2 * at], atol=1e-5)
    (x, (v, d)), (clean, (v_clean, _)) = (CURVED(ends, coordinates(0, (0.4, alpha))) for alpha in (0.7, 0.0))
    np.testing.assert_allclose(x - clean, 0.7 * ends.noise, atol=1e-6)
    np.testing.assert_array_equal([d, v], [ends.noise, v_clean])
    before, after = (CURVED(ends, coordinates(0, (at, 0.0)))[1][0] for at in (0.49999, 0.50001))
    np.testing.assert_allclose(before, after, atol=0.02)


def test_loss_is_per_example_and_zero_at_the_truth(ends):
    truth = lambda x, s, c: (ends.x1 - ends.x0, ends.noise)
    assert matching_loss(BILINEAR, truth, ends, coordinates(2)).shape == (SHAPE[0],)
    np.testing.assert_allclose(matching_loss(BILINEAR, truth, ends, coordinates(2)), 0, atol=1e-10)
    one_off = lambda x, s, c: (ends.x1 - ends.x0 + jnp.array([0.0, 2.0, 0.0]).reshape(3, 1, 1, 1, 1), ends.noise)
    np.testing.assert_allclose(matching_loss(BILINEAR, one_off, ends, coordinates(2)), [0, 4, 0], atol=1e-5)


def test_loss_sums_over_coordinates(ends):
    zero = lambda x, s, c: (jnp.zeros_like(x), jnp.zeros_like(x))
    mean = lambda a: np.mean(np.square(a).reshape(SHAPE[0], -1), axis=1)
    expected = mean(ends.x1 - ends.x0) + mean(ends.noise)
    np.testing.assert_allclose(matching_loss(BILINEAR, zero, ends, coordinates(2)), expected, rtol=1e-5)


def test_velocities_follow_from_the_ends_of_paths(ends):
    t, alpha = jnp.array([0.0, 0.5, 0.95]), jnp.array([1.0, 0.5, 0.05])
    x, velocities = BILINEAR(ends, (t, alpha))
    clean, (along_t,) = LINEAR(ends, (t,))
    np.testing.assert_allclose(to_data(clean, t, ends.x1), along_t, atol=2e-5)
    np.testing.assert_allclose(from_clean(x, alpha, clean), velocities[1], atol=2e-5)
    np.testing.assert_allclose(to_data(x, jnp.full(3, 0.999), ends.x1), (ends.x1 - x) / MIN_DENOMINATOR, rtol=1e-5)
    np.testing.assert_allclose(from_clean(x, jnp.zeros(3), clean), (x - clean) / MIN_DENOMINATOR, rtol=1e-5)


def test_a_loss_divides_errors_of_the_end_by_at_least_a_twentieth(ends):
    t, off = jnp.array([0.3, 0.97]), 0.1
    ends = jax.tree.map(lambda a: a[:2], ends)
    field = lambda x, s, condition: (to_data(x, s[0], ends.x1 + off),)
    losses = matching_loss(LINEAR, field, ends, (t,), loss_weights=(lambda s: 2.0 * loss_weight(1 - s[0]),))
    np.testing.assert_allclose(losses, 2 * (off / np.array([0.7, MIN_IN_LOSS])) ** 2, rtol=1e-3)


def test_errors(ends):
    with pytest.raises(ValueError, match="2 coordinates, 1 were given"):
        BILINEAR(ends, coordinates(1))
    with pytest.raises(ValueError, match="2 velocities, the field returned 1"):
        matching_loss(BILINEAR, lambda x, s, c: (x,), ends, coordinates(2))
