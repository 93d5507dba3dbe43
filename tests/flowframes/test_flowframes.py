"""The three algorithms, inversion and prediction, on fields whose solution is known."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jvflow import networks
from jvflow.assembly import Latents
from jvflow.flow.field import Condition, expand_like
from jvflow.flow.solver import SolveError, Solver, solve
from jvflow.flowframes import method as flowframes
from jvflow.flowframes import sample
from jvflow.flowframes.evaluate import straightness
from jvflow.flowframes.inversion import invert, with_inversion
from jvflow.networks import as_field

pytestmark = pytest.mark.slow

SHAPE = (2, 4, 4, 3)


def keys(n=4, seed=0):
    return jax.random.split(jax.random.key(seed), n)


def chunks(n=4, seed=0, shape=SHAPE):
    return jax.random.normal(jax.random.key(seed), (n, *shape))


def to(target):
    """Returns the field whose trajectories run straight to `target` from anywhere."""
    return jax.tree_util.Partial(
        lambda target, x, s, condition=None: ((target - x) / jnp.maximum(1 - _column(s[0], x), 1e-6),), target
    )


def _column(t, x):
    return t.reshape(t.shape + (1,) * (x.ndim - t.ndim))


def gaussian(mean=0.7, std=0.5):
    """Returns the exact field from N(0, 1) to N(mean, std^2), elementwise; its trajectories are curved."""

    def field(x, s, condition=None):
        t = _column(s[0], x)
        variance = (1 - t) ** 2 + (t * std) ** 2
        return (mean + (t * std**2 - (1 - t)) / variance * (x - t * mean),)

    return jax.tree_util.Partial(field)


# --- objectives -----------------------------------------------------------------------------------


def test_the_exact_field_has_no_loss_and_another_its_squared_error():
    observed, future = chunks(seed=1), chunks(seed=2)
    np.testing.assert_allclose(flowframes.loss(to(future), observed, future, keys()), 0, atol=1e-5)
    off = lambda x, s, condition=None: (future - observed + 0.5,)
    np.testing.assert_allclose(flowframes.loss(off, observed, future, keys()), 0.25, rtol=1e-5)
    np.testing.assert_allclose(flowframes.text_to_video_loss(to(future), future, keys()), 0, atol=1e-5)
    np.testing.assert_allclose(
        flowframes.conventional_loss(_second_half(future), observed, future, keys()), 0, atol=1e-5
    )


def _second_half(target):
    """Returns a field that is exact for the second chunk; the loss must ignore its velocity of the first chunk."""

    def field(x, s, condition=None):
        n = x.shape[1] // 2
        (v,) = to(target)(x[:, n:], (s[0][:, n],))
        return (jnp.concatenate([1e3 * jnp.ones_like(v), v], axis=1),)

    return field


@pytest.mark.parametrize("objective", ["loss", "conventional_loss"])
def test_a_network_may_return_the_next_chunk(objective):
    """Checks that the field of a network that knows the next chunk is exact; the conventional t has a frame axis."""
    observed, future = chunks(seed=1), chunks(seed=2)
    knows = lambda x, s, condition=None: (jnp.concatenate([0 * x, future], axis=1)[:, -x.shape[1] :],)
    field = jax.tree_util.Partial(flowframes.PREDICTIONS["clean"](knows))
    early = lambda key, tokens: 0.9 * jax.vmap(jax.random.uniform)(key)  # later the denominator is MIN_DENOMINATOR
    losses = getattr(flowframes, objective)(field, observed, future, keys(), times=early)
    np.testing.assert_allclose(losses, 0, atol=1e-9)
    made = sample.predict(field, observed, steps=5)
    np.testing.assert_allclose(made, future, atol=1e-5)


def test_the_conventional_field_gets_clean_frames_at_one_and_noise():
    seen = {}

    def field(x, s, condition=None):
        seen.update(x=x, s=s[0])
        return (x,)

    observed, future = chunks(seed=1), chunks(seed=2)
    flowframes.conventional_loss(field, observed, future, keys())
    np.testing.assert_array_equal(seen["x"][:, :2], observed)
    np.testing.assert_array_equal(seen["s"][:, :2], 1)
    assert (np.ptp(seen["s"][:, 2:], axis=1) == 0).all() and len(np.unique(seen["s"][:, 2])) == 4
    t = np.asarray(seen["s"][:, 2]).reshape(4, 1, 1, 1, 1)
    noise = (np.asarray(seen["x"][:, 2:]) - t * np.asarray(future)) / (1 - t)
    assert abs(noise.mean()) < 0.2 and abs(noise.std() - 1) < 0.2


def test_chunks_of_other_shapes_are_an_error():
    for loss in (flowframes.loss, flowframes.conventional_loss):
        with pytest.raises(
            ValueError, match=r"the observed chunk has shape \(4, 2, 4, 4, 3\), the next one \(4, 4, 4, 4, 3\)"
        ):
            loss(to(chunks()), chunks(), chunks(shape=(4, 4, 4, 3)), keys())


# --- target inversion -----------------------------------------------------------------------------


def test_rf_solver_is_its_formula():
    field = lambda t, x: jnp.sin(3 * x) + _column(t, x)
    x = expected = chunks(seed=3)[:, :1, :1, 0]
    for i in range(5):
        t, d = i / 5 * jnp.ones(4), 0.2
        v = field(t, expected)
        slope = (field(t + d / 2, expected + d / 2 * v) - v) / (
            d / 2
        )  # RF-Solver: a Taylor step with this slope as the derivative
        expected = expected + d * v + d**2 / 2 * slope
    np.testing.assert_allclose(solve(field, x, method="rf_solver", steps=5).x, expected, rtol=2e-6, atol=1e-6)


def test_inverting_and_back_on_a_known_field():
    """Checks that a sample of N(0.7, 0.5^2) maps to its noise; RF-Solver maps it back accurately, Euler does not."""
    x1 = 0.7 + 0.5 * chunks(seed=4)
    exact = (x1 - 0.7) / 0.5
    fine = invert(gaussian(), x1, steps=400)
    np.testing.assert_allclose(fine.latents, exact, atol=2e-4)
    default = invert(gaussian(), x1)
    assert default.error.max() < 1e-4
    by_euler = invert(gaussian(), x1, back="euler")
    assert by_euler.error.min() > 100 * default.error.max()
    sizes = jnp.sqrt(jnp.mean(x1**2, axis=(1, 2, 3, 4)))
    back = solve(lambda t, x: gaussian()(x, (t,))[0], default.latents, method="euler", steps=25).x
    np.testing.assert_allclose(
        by_euler.error, jnp.sqrt(jnp.mean((back - x1) ** 2, axis=(1, 2, 3, 4))) / sizes, rtol=1e-4
    )


@pytest.mark.integration
def test_the_error_of_the_way_back_falls_at_least_as_second_order_through_a_network():
    network = networks.build("dit", width=32, depth=2, heads=2, patch=(1, 2, 2), channels=3, time_scale=3.0)
    params = jax.jit(network.init)(jax.random.key(0))
    leaves, tree = jax.tree.flatten(params)
    moved = [a + 0.2 * jax.random.normal(key, a.shape) for a, key in zip(leaves, keys(len(leaves)))]
    field = as_field(network, jax.tree.unflatten(tree, moved))
    with jax.enable_x64(True):
        errors = [float(invert(field, chunks(2).astype(jnp.float64), steps=n).error.max()) for n in (20, 40, 80)]
    orders = np.log2(np.array(errors[:-1]) / errors[1:])
    assert (orders > 1.8).all(), (errors, orders)


def test_target_inversion_is_added_by_a_coin_for_each_example():
    mean, inverted = jnp.zeros((1000, 1, 1, 1, 1)), jnp.ones((1000, 1, 1, 1, 1))
    add = partial(with_inversion, mean, 0.3, inverted)
    share = float(jnp.mean(add(keys(1000)) > 0))
    assert abs(share - 0.7) < 0.05
    np.testing.assert_allclose(add(keys(1000), rho=1.0), 0.3)
    np.testing.assert_array_equal(add(keys(1000), rho=0.0), 0)
    one = jnp.broadcast_to(jax.random.key(3), (1000,))
    assert len(np.unique(add(one))) == 1  # one coin for the microbatch
    usable = jnp.arange(1000) % 2 == 0
    np.testing.assert_array_equal(add(keys(1000), rho=1.0, usable=usable)[:, 0, 0, 0, 0] > 0, usable)


@pytest.mark.parametrize("rho", [-0.1, 1.5])
def test_rho_is_a_probability(rho):
    with pytest.raises(ValueError, match=r"rho is a probability and must be in \[0, 1\]"):
        with_inversion(chunks(), 0.1, chunks(), keys(), rho=rho)


def test_without_a_deviation_there_is_nothing_to_add():
    with pytest.raises(ValueError, match="this codec has no sigma_0: set sigma_0 with config.inversion.std"):
        with_inversion(chunks(), None, chunks(), keys())


# --- prediction -----------------------------------------------------------------------------------


def test_chunks_are_fed_back_and_counted():
    further = jax.tree_util.Partial(lambda x, s, condition=None: (jnp.ones_like(x),))
    observed = chunks()
    for steps in (1, 5):
        future = sample.predict(further, observed, steps=steps, chunks=3)
        np.testing.assert_allclose(
            future, jnp.concatenate([observed + 1, observed + 2, observed + 3], axis=1), rtol=1e-5, atol=1e-5
        )
    made = sample.predict_chunks(further, observed, None, solver=sample.make_solver("euler", 5), chunks=3)
    assert made.nfe.tolist() == [15] * 4
    longer = chunks(shape=(10, 4, 4, 3))  # predicts a chunk of any length
    np.testing.assert_allclose(sample.predict(further, longer), longer + 1, rtol=1e-5, atol=1e-5)


def test_a_chunk_whose_solve_failed_is_an_error():
    """Checks that the error names the chunk, the row, and the time that the solve reached."""

    def predict(rows, beyond, solver):
        """Predicts with velocity 1, plus `beyond(t)` where values exceed 2.3."""
        field = lambda x, s, condition=None: (1 + jnp.where(x > 2.3, beyond(_column(s[0], x)), 0.0),)
        observed = jnp.zeros((4, *SHAPE)).at[3].set(0.9)[:rows]
        return sample.predict(field, observed, solver=solver, chunks=2)

    adaptive, euler = Solver(rtol=1e-4, atol=1e-4, max_steps=30), Solver("euler", steps=4)
    hard, broken = lambda t: jnp.sin(1e4 * t), lambda t: jnp.nan
    for beyond, solver in ((hard, adaptive), (broken, euler)):
        np.testing.assert_allclose(predict(3, beyond, solver)[:, 2:], 2, atol=1e-5)
    with pytest.raises(SolveError, match=r"^chunk 2: .* max_steps was reached by row 3 at t = 0\.\d+ after 30 steps"):
        predict(4, hard, adaptive)
    with pytest.raises(SolveError, match=r"^chunk 2: .* for 1 of 4 samples\. The result is not finite in rows \[3\]"):
        predict(4, broken, euler)


def test_steps_are_those_of_euler():
    x, field = chunks(), gaussian()
    for t in (0.0, 0.25, 0.5, 0.75):
        x = x + field(x, (jnp.full(4, t),))[0] / 4
    np.testing.assert_allclose(sample.predict(field, chunks(), steps=4), x, rtol=1e-5, atol=1e-5)


def test_guidance_leaves_the_condition_out():
    """Uses v = text with the condition and v = 0 without it, so that guidance w moves by w text."""
    field = jax.tree_util.Partial(
        lambda x, s, condition=None: (jnp.ones_like(x) * expand_like(condition.text.mean((1, 2)), x),)
    )
    condition = Condition(text=jnp.ones((4, 3, 2)), text_mask=jnp.ones((4, 3), bool))
    for weight in (1.0, 3.5):
        future = sample.predict(field, chunks(), condition, guidance=weight)
        np.testing.assert_allclose(future - chunks(), weight, rtol=1e-5)


def test_a_prediction_from_noise_depends_on_its_row_alone():
    options = dict(source="noise", context=True, solver=sample.make_solver("euler", 4))
    field = jax.tree_util.Partial(lambda x, s, condition=None: (x.mean(1, keepdims=True) - x,))
    many = sample.predict_chunks(field, chunks(), jax.random.key(1), **options).frames
    np.testing.assert_allclose(
        sample.predict_chunks(field, chunks()[:2], jax.random.key(1), **options).frames, many[:2], rtol=1e-5, atol=1e-6
    )
    assert float(jnp.abs(many[0] - many[1]).max()) > 0.1


def test_noise_on_the_observed_chunk():
    """Checks the noise of training and of sampling: its size, its own key for each example, and each chunk's own."""
    seen, noise = [], 0.3
    objective = lambda field, observed, future, keys, condition, tokens: seen.append(observed) or jnp.zeros(4)
    options = dict(objective=objective, count_tokens=lambda shape: 0, dropout=0.0, inversion=None)
    options |= dict(coupling=lambda observed, future, key: (observed, future))
    window = chunks(shape=(32, 16, 16, 3))
    for value in (noise, 0.0):
        flowframes.chunk_loss(None, Latents(window, None), None, keys(), None, noise=value, **options)
    added = np.asarray(seen[0] - window[:, :16])
    np.testing.assert_array_equal(seen[1], window[:, :16])
    assert abs(added.std() - noise) < 0.01 and abs(added.mean()) < 0.01
    assert abs(np.corrcoef(added.reshape(4, -1)) - np.eye(4)).max() < 0.05

    still = jax.tree_util.Partial(lambda x, s, condition=None: (jnp.zeros_like(x),))
    observed = window[:, :16]
    settings = dict(noise=noise, solver=sample.make_solver("euler", 1))
    made = sample.predict_chunks(still, observed, jax.random.key(1), chunks=2, **settings).frames
    steps = np.asarray([made[:, :16] - observed, made[:, 16:] - made[:, :16]])
    assert abs(steps.std() - noise) < 0.01
    assert abs(np.corrcoef(steps.reshape(8, -1)) - np.eye(8)).max() < 0.05
    few = sample.predict_chunks(still, observed[:2], jax.random.key(1), chunks=2, **settings).frames
    np.testing.assert_allclose(few, made[:2], atol=1e-6)
    with pytest.raises(ValueError, match="source='observed' with noise=0.3 needs random numbers: give a key"):
        sample.predict_chunks(still, observed, None, **settings)


def test_straightness():
    observed, target = chunks(seed=5), chunks(seed=6)
    np.testing.assert_allclose(straightness(to(target), observed, None), 0, atol=1e-6)
    # a turn by half a circle: velocity pi on the circle, chord 2 r, (pi^2 r^2 - 4 r^2) / 4 r^2
    turning = jax.tree_util.Partial(
        lambda x, s, condition=None: (jnp.pi * jnp.stack([-x[..., 1], x[..., 0]], axis=-1),)
    )
    circle = chunks(seed=7, shape=(2, 4, 4, 2))
    np.testing.assert_allclose(straightness(turning, circle, None, steps=4000), jnp.pi**2 / 4 - 1, rtol=5e-3)


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(steps=0), "steps must be a positive whole number, got 0"),
        (dict(chunks=0), "chunks must be a positive whole number, got 0"),
        (dict(observed=jnp.zeros((4, 4, 3))), r"a chunk must be \(b, f, h, w, c\)"),
        (dict(observed=jnp.zeros((1, 2, 4, 4, 5))), "built for 3 channels, got 5 in x"),
        (dict(observed=jnp.zeros((1, 2, 5, 4, 3))), "does not divide video"),
    ],
)
def test_mistakes(options, message):
    network = networks.build("dit", width=32, depth=1, heads=2, patch=(1, 2, 2), channels=3)
    with pytest.raises(ValueError, match=message):
        params = jax.tree.map(lambda a: jnp.zeros(a.shape), jax.eval_shape(network.init, jax.random.key(0)))
        sample.predict(as_field(network, params), **dict(dict(observed=chunks()), **options))


def test_five_steps_compile_once():
    sample.next_chunk.clear_cache()
    field = to(chunks())
    for seed in (1, 2):
        sample.predict(field, chunks(seed=seed), chunks=2)
    assert sample.next_chunk._cache_size() == 1
    for guidance in (1.5, 2.0, 3.5, 5.0, 7.5):
        sample.predict(field, chunks(), guidance=guidance)
    assert sample.next_chunk._cache_size() == 2
