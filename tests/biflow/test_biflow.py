"""Curves with exact fields, and objectives of Bi-flow."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jvflow.biflow.method import OBJECTIVES, biflow_loss
from jvflow.biflow.sample import CURVES, backward, correcting, corruption, joint, plain, stream
from jvflow.flow.field import along
from jvflow.flow.solver import Solver

pytestmark = pytest.mark.slow

TIGHT = Solver(rtol=1e-4, atol=1e-4)
SHAPE = (4, 1, 2, 2, 3)


def normal(seed, shape=SHAPE):
    return jax.random.normal(jax.random.key(seed), shape)


def point_field(x0, x1):
    """Returns the exact field when each row has one x0 and one x1: v = x1 - x0, d = (x - x_t) / alpha."""

    def field(x, s, condition):
        t, alpha = (c.reshape(-1, 1, 1, 1, 1) for c in s)
        return x1 - x0, (x - x0 - t * (x1 - x0)) / jnp.maximum(alpha, 1e-6)

    return field


def gaussian_field(scale, slope, shift):
    """Returns the exact field for x0 ~ N(0, scale^2), x1 = slope x0 + shift, by conditional expectation."""

    def field(x, s, condition):
        t, alpha = (c.reshape(-1, 1, 1, 1, 1) for c in s)
        gain = 1 + t * (slope - 1)
        rest = (x - t * shift) / (gain**2 * scale**2 + alpha**2)
        return (slope - 1) * gain * scale**2 * rest + shift, alpha * rest

    return field


# --- curves, with exact fields --------------------------------------------------------------------


def test_joint_takes_a_noised_frame_to_the_next_one():
    x0, x1 = normal(0), normal(1)
    frame, _ = next(
        stream(point_field(x0, x1), x0, jax.random.key(2), curve=joint, epsilon=0.3, solver=TIGHT, clamp=None)
    )
    np.testing.assert_allclose(frame, x1, atol=3e-4)


def test_backward_takes_a_frame_to_the_one_before():
    x0, x1 = normal(0), normal(1)
    frame, _ = next(
        stream(point_field(x0, x1), x1, jax.random.key(2), curve=backward, epsilon=0.3, solver=TIGHT, clamp=None)
    )
    np.testing.assert_allclose(frame, x0, atol=3e-4)


def test_correcting_removes_noise_and_plain_moves_without_any():
    x0, x1 = normal(0), normal(1)
    cleaned, _ = next(
        stream(point_field(x0, x1), x0, jax.random.key(2), curve=correcting, epsilon=0.3, solver=TIGHT, clamp=None)
    )
    np.testing.assert_allclose(cleaned, x0, atol=3e-4)
    moved, nfe = next(
        stream(point_field(x0, x1), x0, jax.random.key(2), curve=plain, epsilon=0.0, solver=TIGHT, clamp=None)
    )
    np.testing.assert_allclose(moved, x1, atol=1e-5)
    assert nfe.tolist() == [nfe[0]] * 4


@pytest.mark.parametrize("curve", [joint, backward, correcting])
def test_curves_transport_gaussian_marginals(curve):
    """Solves (4) with exact velocities and compares the states at the end of the curve with their marginal.

    The noised start has deviation sqrt(0.5^2 + 0.3^2). The map is linear, so two points determine it.
    """
    scale, slope, shift, epsilon = 0.5, 0.8, 0.3, 0.3
    k = jnp.array(curve.start)
    t, alpha = curve(epsilon)(k)
    start_mean, start_gain = float(t) * shift, 1 + float(t) * (slope - 1)
    start_deviation = np.hypot(start_gain * scale, float(alpha))
    x = (start_mean + start_deviation * jnp.array([-1.0, 0.0, 1.0])).reshape(3, 1, 1, 1, 1)
    if curve is backward:
        expected = (0.0, scale)  # x0 ~ N(0, 0.5^2)
    else:
        end = 1.0 if curve is joint else 0.0
        expected = (end * shift, (1 + end * (slope - 1)) * scale)
    derivative = along(gaussian_field(scale, slope, shift), curve(epsilon), None, num_moving=curve.num_moving)
    y = TIGHT(derivative, x, curve.start, curve.stop).x.ravel()
    np.testing.assert_allclose(y, expected[0] + expected[1] * np.array([-1, 0, 1]), atol=2e-3)


def test_curves_start_and_end_where_the_paper_says():
    at = lambda curve, k: [float(c) for c in curve(0.2)(jnp.array(k))]
    assert at(plain, 0.0) == [0, 0] and at(plain, 1.0) == [1, 0]
    np.testing.assert_allclose([at(joint, 0.0), at(joint, 1.0)], [[0, 0.2], [1, 0]])
    np.testing.assert_allclose([at(backward, 1.0), at(backward, 0.0)], [[1, 0.2], [0, 0]])
    np.testing.assert_allclose([at(correcting, 0.0), at(correcting, 1.0)], [[0, 0.2], [0, 0]])
    assert (backward.start, backward.stop) == (1.0, 0.0)


def test_each_frame_gets_the_noise_that_its_own_corruption_asks_for():
    """Checks that (5) is the RMS of the error added to x0, with the exact field of one x0 and one x1.

    After the start the noise velocity of this field is 1, so each frame shows its noise level.
    """
    x0, x1 = normal(0), normal(1)
    error = jnp.array([0.0, 0.02, 0.1, 0.4]).reshape(4, 1, 1, 1, 1) * normal(2)
    size = np.sqrt(np.square(error).mean((1, 2, 3, 4)))
    exact = point_field(x0, x1)
    np.testing.assert_allclose(corruption(exact, x0 + error, 0.3), size, rtol=1e-4)

    def field(x, s, condition):
        v, d = exact(x, s, None)
        return v, jnp.where(s[0].reshape(-1, 1, 1, 1, 1) == 0, d, 1)

    take = lambda **options: next(stream(field, x0 + error, jax.random.key(3), solver=TIGHT, clamp=None, **options))
    frame, nfe = take(epsilon=0.3, gain=2.0)
    for row, level in enumerate(np.minimum(2 * size, 0.3)):
        alone, cost = take(epsilon=float(level))
        np.testing.assert_allclose(frame[row], alone[row], atol=1e-4)
        assert nfe[row] == cost[row] + 1
    assert float(abs(frame[1] - take(epsilon=0.3)[0][1]).max()) > 0.01


# --- objectives -----------------------------------------------------------------------------------


def keys(n):
    return jax.random.split(jax.random.key(7), n)


def test_losses_vanish_at_the_exact_field():
    past, future = normal(0), normal(1)
    for name, field in (("flow", lambda x, s, c: (future - past,)), ("biflow", point_field(past, future))):
        loss = OBJECTIVES[name].loss(field, past, future, keys(4))
        assert loss.shape == (4,)
        np.testing.assert_allclose(loss, 0, atol=1e-8)


def test_condiff_gives_the_past_as_context_and_starts_from_noise():
    past, future = normal(0), normal(1)
    seen = {}

    def field(x, s, condition):
        seen.update(context=condition.context, s=s)
        # x = n + t (x1 - n)  =>  x1 - n = (x1 - x) / (1 - t)
        return ((future - x) / (1 - s[0].reshape(-1, 1, 1, 1, 1)),)

    np.testing.assert_allclose(OBJECTIVES["condiff"].loss(field, past, future, keys(4)), 0, atol=1e-6)
    np.testing.assert_array_equal(seen["context"], past)
    assert len(seen["s"]) == 1


def velocities_of(objective, clean):
    """Returns the velocity field of `clean`, a network that predicts clean states."""
    return lambda x, s, condition: OBJECTIVES[objective].clean_to_velocity(x, s, clean(x, s, condition))


def test_clean_states_become_velocities():
    """Checks (6): velocities are exact where its denominator is at least 0.01, and finite elsewhere."""
    x0, x1, noise = normal(0), normal(1), normal(2)
    t, level = jnp.array([0.0, 0.3, 0.8, 1.0]), jnp.array([0.01, 0.4, 1.0, 0.0])
    column = lambda c: c.reshape(-1, 1, 1, 1, 1)
    state = x0 + column(t) * (x1 - x0)
    v, d = OBJECTIVES["biflow"].clean_to_velocity(state + column(level) * noise, (t, level), (x1 - x0, state))
    np.testing.assert_array_equal(v, x1 - x0)
    np.testing.assert_allclose(d[:3], noise[:3], atol=1e-4)
    np.testing.assert_array_equal(d[3], 0)
    near = jnp.array([0.0, 0.5, 0.99, 1.0])
    (v,) = OBJECTIVES["condiff"].clean_to_velocity(noise + column(near) * (x1 - noise), (near,), (x1,))
    np.testing.assert_allclose(v[:3], (x1 - noise)[:3], atol=1e-4)
    np.testing.assert_allclose(v[3], 0, atol=5e-5)
    assert OBJECTIVES["flow"].clean_to_velocity(state, (t,), (x1,)) == (x1,)


@pytest.mark.parametrize("curve", [joint, correcting])
def test_a_network_of_clean_states_takes_the_noise_out(curve):
    """Checks that noise of deviation 0.01 exp(-1) remains, because (6) divides by at least 0.01."""
    x0, x1 = normal(0), normal(1)
    clean = lambda x, s, condition: (x1 - x0, x0 + s[0].reshape(-1, 1, 1, 1, 1) * (x1 - x0))
    field, start, stop = velocities_of("biflow", clean), x0, x1 if curve is joint else x0
    rest = [
        next(stream(field, start, jax.random.key(2), curve=curve, epsilon=epsilon, solver=TIGHT, clamp=None))[0] - stop
        for epsilon in (0.3, 0.6)
    ]
    np.testing.assert_allclose(np.std(rest[0]), 0.01 * np.exp(-1), rtol=0.3)
    np.testing.assert_allclose(*rest, atol=2e-4)


def test_biflow_draws_both_coordinates_uniformly_and_noise_from_a_unit_normal():
    n = 4096
    zero = jnp.zeros((n, 1, 1, 1, 1))
    seen = {}

    def field(x, s, condition):
        seen.update(x=x, t=s[0], alpha=s[1])
        return jnp.zeros_like(x), jnp.zeros_like(x)

    biflow_loss(field, zero, zero, keys(n))
    for name in ("t", "alpha"):
        np.testing.assert_allclose(np.quantile(seen[name], [0.1, 0.5, 0.9]), [0.1, 0.5, 0.9], atol=0.03)
    noise = np.asarray(seen["x"]).ravel() / np.asarray(seen["alpha"])
    assert abs(noise.mean()) < 0.06 and abs(noise.std() - 1) < 0.05
    assert abs(np.corrcoef(seen["t"], seen["alpha"])[0, 1]) < 0.05


def test_an_example_does_not_depend_on_its_batch():
    past, future = normal(0), normal(1)
    field = lambda x, s, c: (x, x * s[1].reshape(-1, 1, 1, 1, 1))
    whole = biflow_loss(field, past, future, keys(4))
    half = biflow_loss(field, past[2:], future[2:], keys(4)[2:])
    np.testing.assert_array_equal(whole[2:], half)


def seen_by(name, frames, *, n=4, **options):
    """Returns the inputs of an objective's field when `frames` frames with values 1, 2, ... are known."""
    seen = {}

    def field(x, s, condition):
        seen.update(x=x, condition=condition, s=s)
        return (jnp.zeros_like(x),) * len(s)

    past = jnp.broadcast_to(jnp.arange(1.0, frames + 1).reshape(1, -1, 1, 1, 1), (n, frames, 1, 1, 2))
    OBJECTIVES[name].loss(field, past, past[:, -1:] + 1, keys(n), **options)
    return seen


@pytest.mark.parametrize(
    "name, values", [("flow", [1, 1, 2, 2]), ("biflow", [1, 1, 2, 2]), ("condiff", [1, 1, 2, 2, 3, 3])]
)
def test_older_frames_are_context_in_order(name, values):
    context = seen_by(name, 3)["condition"].context
    assert context.shape == (4, 1, 1, 1, len(values)) and context[0].ravel().tolist() == values
    assert OBJECTIVES[name].context_frames(3) * 2 == len(values)
    if name != "condiff":
        assert seen_by(name, 1)["condition"] is None and OBJECTIVES[name].context_frames(1) == 0


def test_flow_starts_at_the_last_of_the_known_frames():
    seen = seen_by("flow", 3)
    np.testing.assert_allclose(seen["x"][..., 0].ravel(), 3 + seen["s"][0], rtol=1e-6)


def test_the_context_has_noise_of_its_own_at_uniform_levels():
    n = 4096
    seen = seen_by("biflow", 2, n=n, context_noise=0.5)
    added = np.asarray(seen["condition"].context).reshape(n, 2) - 1
    # E |l n| = E l E |n| = 0.25 sqrt(2 / pi), E (l n)^2 = 0.5^2 / 3
    np.testing.assert_allclose(np.abs(added).mean(), 0.25 * np.sqrt(2 / np.pi), rtol=0.04)
    np.testing.assert_allclose(np.square(added).mean(), 0.25 / 3, rtol=0.08)
    of_x = np.asarray(seen["x"]).reshape(n, 2) - 2 - np.asarray(seen["s"][0])[:, None]
    assert np.abs(np.corrcoef(added.ravel(), of_x.ravel())[0, 1]) < 0.05
    # both values of a row have the same noise level, so their magnitudes correlate
    assert np.corrcoef(*np.abs(added).T)[0, 1] > 0.15


def test_all_names_are_there():
    assert set(CURVES) == {"plain", "joint", "backward", "correcting"}
    assert [OBJECTIVES[n].coordinates for n in ("flow", "biflow", "condiff")] == [1, 2, 1]
