"""VLFM: the latent path, the closed form of its field, and clips at any times."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jvflow.flow.field import Condition
from jvflow.flow.solver import SolveError, Solver
from jvflow.vlfm import generate, hippo, regress, sample_frames
from jvflow.vlfm import method as vlfm
from jvflow.vlfm.exact import exact_field
from jvflow.vlfm.latent_path import LatentEnds, SigmaSchedule, latent

pytestmark = pytest.mark.slow

FRAMES, RATE, SHAPE = 12, 8.0, (2, 3, 4)
ACCURATE = Solver(method="dopri5", rtol=1e-6, atol=1e-6)
SCHEDULES = {
    "exponential": SigmaSchedule(RATE),
    "paper": SigmaSchedule(RATE, kind="paper", alpha=10.0),
}


def clips(count=1, seed=0):
    rng, t = np.random.default_rng(seed), np.arange(1, FRAMES + 1)[:, None, None, None] / FRAMES
    phase, rate = rng.uniform(0, 7, (2, count, 1, *SHAPE))
    return jnp.asarray(np.sin(2 * np.pi * rate / 7 * t[None] + phase), jnp.float32)


def path(kind="exponential", **options):
    return latent(FRAMES, 8, SCHEDULES[kind], **options)


# --- the path -------------------------------------------------------------------------------------


def test_schedules_are_their_formulas():
    t, s0 = np.array([0.0, 0.05, 0.125, 0.19, 1.0]), 0.01
    np.testing.assert_allclose(SCHEDULES["exponential"](jnp.asarray(t)), 0.99 * np.exp(-7 * 8 * t) + s0, rtol=1e-5)
    np.testing.assert_allclose(
        SCHEDULES["paper"](jnp.asarray(t)), 0.99 * (np.sin(np.pi * 8 * t) ** 2 + np.exp(-10 * t)) + s0, rtol=1e-4
    )
    for sigma in SCHEDULES.values():
        assert float(sigma(jnp.float32(0))) == 1.0
    assert float(SCHEDULES["exponential"](jnp.float32(1 / RATE))) < 1.1 * s0
    assert float(SCHEDULES["paper"](jnp.float32(1.5 / RATE))) > 0.9  # between two frames the path is noise


@pytest.mark.parametrize("kind", SCHEDULES)
@pytest.mark.parametrize("ramp", [True, False])
def test_the_velocity_is_the_numerical_derivative(kind, ramp):
    with jax.enable_x64(True):
        frames = jnp.asarray(np.asarray(clips(3)), jnp.float64)[:, :, None]
        noise = jax.random.normal(jax.random.key(0), (3, 1, *SHAPE), jnp.float64)
        t, h = jnp.array([0.04, 0.31, 1.4]), 1e-6
        at = lambda t: path(kind, ramp=ramp)(LatentEnds(frames, noise), (t,))
        numerical = (at(t + h)[0] - at(t - h)[0]) / (2 * h)
        np.testing.assert_allclose(at(t)[1][0], numerical, rtol=1e-5, atol=1e-6)


def test_the_mean_is_the_polynomial_after_a_ramp_from_nothing():
    clip, position = clips()[0], path().position
    H = hippo.kernel(FRAMES, 8).T @ np.asarray(clip).reshape(FRAMES, -1)
    assert position.seconds == FRAMES / RATE
    for t in (1 / RATE, 0.7, 1.5):
        expected = hippo.reconstruct(H, np.array([t / 1.5]))[0].reshape(SHAPE)
        np.testing.assert_allclose(position.mean(clip, jnp.float32(t)), expected, atol=1e-5)
    np.testing.assert_array_equal(position.mean(clip, jnp.float32(0)), 0)
    bare = path(ramp=False).position.mean(clip, jnp.float32(0))
    np.testing.assert_allclose(bare, hippo.reconstruct(H, np.zeros(1))[0].reshape(SHAPE), atol=1e-5)
    assert float(abs(bare).max()) > 0.3  # the paper asserts that it is 0


# --- Theorem 4.1 ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kind, tolerance, error, ramp",
    [
        ("exponential", 1e-4, 1e-2, True),
        ("exponential", 1e-9, 1e-6, False),
        ("paper", 1e-9, 1e-5, True),
        pytest.param("exponential", 1e-4, 1e-2, False, marks=pytest.mark.integration),
        pytest.param("exponential", 1e-9, 1e-6, True, marks=pytest.mark.integration),
        pytest.param("paper", 1e-9, 1e-5, False, marks=pytest.mark.integration),
    ],
)
def test_integrating_the_exact_field_follows_the_path(kind, tolerance, error, ramp):
    """Checks that the solve from z + mu(0) gives sigma(t) z + mu(t) at every output time, to the tolerance. (With the
    paper's schedule sigma grows a hundredfold between frames, and the error of the solve grows with it.)"""
    with jax.enable_x64(True):
        clip, p = jnp.asarray(np.asarray(clips()), jnp.float64), path(kind, ramp=ramp)
        z = jax.random.normal(jax.random.key(1), (4, 1, *SHAPE), jnp.float64)
        frames = jnp.broadcast_to(clip[:, :, None], (4, FRAMES, 1, *SHAPE))
        start = z + jax.vmap(lambda f: p.position.mean(f, jnp.float64(0)))(frames)
        times = np.arange(1, 2 * FRAMES + 1) / (2 * RATE)  # twice the frame rate
        solver = Solver(method="dopri5", rtol=tolerance, atol=tolerance)
        out = generate(
            exact_field(p, clip), jax.random.key(0), times, (4, *SHAPE), start=start, solver=solver, readout="none"
        )
        path_itself = np.stack([p(LatentEnds(frames, z), (jnp.full(4, t),))[0][:, 0] for t in times], 1)
    np.testing.assert_allclose(out, path_itself, atol=error)


def test_without_its_noise_a_read_out_is_the_mean():
    clip, p = clips(), path()
    times = np.array([0.05, 1 / RATE, 0.6, 1.5])
    mean = np.stack([p.position.mean(clip[0], jnp.float32(t)) for t in times])[None]
    for readout in ("noise", "mean"):
        out = generate(
            exact_field(p, clip),
            jax.random.key(5),
            times,
            (2, *SHAPE),
            sigma=p.position.sigma,
            solver=ACCURATE,
            readout=readout,
        )
        np.testing.assert_allclose(out, np.broadcast_to(mean, out.shape), atol=5e-4)
    state = generate(exact_field(p, clip), jax.random.key(5), times, (2, *SHAPE), solver=ACCURATE, readout="none")
    assert float(abs(state - mean).max()) > 0.05


def test_a_start_without_the_mean_leaves_it_out():
    """Checks on a path without a ramp that the read-out from x(0) = z is off by sigma(t) mu(0)."""
    clip, p = clips(), path(ramp=False)
    times = np.array([0.03, 0.08])
    out = generate(exact_field(p, clip), jax.random.key(5), times, (1, *SHAPE), sigma=p.position.sigma, solver=ACCURATE)
    for m, t in enumerate(times):
        off = p.position.sigma(jnp.float32(t)) * p.position.mean(clip[0], jnp.float32(0))
        np.testing.assert_allclose(out[0, m], p.position.mean(clip[0], jnp.float32(t)) - off, atol=2e-4)


def test_the_field_of_several_clips_is_their_weighted_mean():
    """Checks that it is the field of one clip near that clip, and the average of the fields far from all clips."""
    p, several = path(), clips(3)
    t = jnp.array([0.5])
    near = p.position.mean(several[1], t[0])[None, None] + 0.01
    for x, expected in ((near, exact_field(p, several[1:2])),):
        np.testing.assert_allclose(exact_field(p, several)(x, (t,))[0], expected(x, (t,))[0], atol=1e-3)
    t, sigma = jnp.array([0.02]), float(p.position.sigma(jnp.float32(0.02)))
    mu = np.stack([p.position.mean(c, t[0]) for c in several])
    x = jnp.asarray(mu.mean(0) + 0.3 * (mu[0] - mu[2]))
    distance = np.sum((np.asarray(x) - mu) ** 2, (1, 2, 3))
    likely = np.exp(-(distance - distance.min()) / (2 * sigma**2))
    likely /= likely.sum()
    assert 0.02 < likely.min() and likely.max() < 0.95  # all clips have weight here
    np.testing.assert_allclose(
        exact_field(p, several)(x[None, None], (t,))[1][0, 0], np.tensordot(likely, mu, 1), atol=1e-4
    )
    start = jnp.zeros((1, 1, *SHAPE)), (jnp.array([0.0]),)
    average = np.mean([exact_field(p, several[i : i + 1])(*start)[0] for i in range(3)], 0)
    np.testing.assert_allclose(exact_field(p, several)(*start)[0], average, atol=1e-4)
    out = generate(exact_field(p, several), jax.random.key(2), [1.5], (64, *SHAPE), solver=ACCURATE, readout="mean")
    ends = np.stack([p.position.mean(c, jnp.float32(1.5)) for c in several])
    distance = np.abs(np.asarray(out)[:, None, 0] - ends[None]).max((2, 3, 4))
    assert distance.min(1).max() < 0.01 and set(distance.argmin(1)) == {
        0,
        1,
        2,
    }  # every sample is a clip, and each clip occurs


# --- the objective --------------------------------------------------------------------------------


def losses(field, count=64, frames=None, **options):
    frames = jnp.repeat(clips(), count, 0) if frames is None else frames
    keys = jax.random.split(jax.random.key(3), len(frames))
    return jax.jit(lambda frames, keys: vlfm.loss(field, frames, keys, path=path(), **options))(frames, keys)


def test_the_exact_field_is_the_minimum():
    """Checks that its loss is 0 for one clip, and that for several clips any change of the field raises the loss."""
    p = path()
    assert losses(exact_field(p, clips())).shape == (64,)
    assert float(losses(exact_field(p, clips()), velocity_scale=5.0, mean_weight=1.0).max()) < 1e-4
    several = clips(2)
    exact = exact_field(p, several)
    moved = lambda scale, shift: lambda x, s, c: tuple(scale * out + shift for out in exact(x, s, c))
    batch = jnp.repeat(several, 256, 0)
    at = lambda field: float(losses(field, velocity_scale=5.0, frames=batch).mean())
    best = at(exact)
    assert best > 1e-4
    for scale, shift in ((1.05, 0.0), (0.95, 0.0), (1.0, 0.5), (1.0, -0.5)):
        assert at(moved(scale, shift)) > best


def test_errors_are_in_units_of_the_velocity():
    nothing = lambda x, s, c: (jnp.zeros_like(x),)
    plain, scaled = losses(nothing), losses(nothing, velocity_scale=5.0)
    assert float(plain.max() / plain.min()) > 100 and float(scaled.max()) < 12


def test_times_are_drawn_over_the_clip_or_near_its_start():
    keys = jax.random.split(jax.random.key(0), 2000)
    for density, early in (
        (vlfm.ClipTimeDensity(), 1 / FRAMES),
        (vlfm.ClipTimeDensity(0.5, frames=2.0), 0.25 + 0.5 / FRAMES),
    ):
        t = np.asarray(density(keys, path()))
        keys = jax.random.split(jax.random.key(1), 2000)
        assert 0 <= t.min() and 0.99 * FRAMES / RATE < t.max() <= FRAMES / RATE
        assert abs(np.mean(t < 1 / RATE) - early) < 0.03


def test_a_mean_makes_a_field():
    """Checks that (7) turns the true mean and slope into the exact field; `velocity_scale` is only a unit."""
    p, clip = path(), clips()

    def network(x, s, condition):
        rate = lambda t: jax.jvp(lambda t: p.position.mean(clip[0], t), (t,), (jnp.ones_like(t),))
        mean, slope = jax.vmap(rate)(s[0])
        return mean[:, None], slope[:, None] / 4.0

    x, s = jax.random.normal(jax.random.key(0), (3, 1, *SHAPE)), (jnp.array([0.05, 0.3, 1.2]),)
    ours, exact = vlfm.mean_to_velocity(network, p, 4.0)(x, s), exact_field(p, clip)(x, s)
    for a, b in zip(ours, exact):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


def test_the_ablation_regresses_the_latent():
    p, clip = path(), jnp.repeat(clips(), 8, 0)
    right = lambda x, s, c: (jax.vmap(lambda t: p.position.mean(clip[0], t))(s[0])[:, None],)
    loss = lambda field: vlfm.direct_loss(field, clip, jax.random.split(jax.random.key(0), 8), path=p)
    assert float(loss(right).max()) < 1e-10
    assert float(loss(lambda x, s, c: (jnp.zeros_like(x),)).min()) > 0.01


def test_a_network_of_unit_size_makes_a_field():
    """Checks (6): inputs and outputs of the network have about unit size, and the field is c(t) times the output."""
    p, sigma, slope = path(), SCHEDULES["exponential"], 5.0
    seen = []

    def network(x, s, condition):
        seen.append(x)
        return (jnp.ones_like(x),)

    t = jnp.array([0.0, 0.01, 0.5])
    x = sigma(t)[:, None, None, None, None] * jax.random.normal(jax.random.key(0), (3, 1, *SHAPE))
    (velocity,) = vlfm.scale_velocity(network, p, slope)(x, (t,))
    change = -7.0 * RATE * 0.99 * np.exp(-7.0 * RATE * np.asarray(t))  # the derivative of (2) in latent_path
    np.testing.assert_allclose(velocity[:, 0, 0, 0, 0], np.sqrt(change**2 + slope**2), rtol=1e-5)
    np.testing.assert_allclose(
        seen[0], x / np.sqrt(1 + np.asarray(sigma(t)) ** 2)[:, None, None, None, None], rtol=1e-5
    )


def test_value_and_slope_read_the_frames_once():
    """Checks that one product with the frames gives both, because memory bandwidth limits mu."""
    p, clip = path(), LatentEnds(clips(2)[:, :, None], jnp.zeros((2, 1, *SHAPE)))
    lines = str(jax.make_jaxpr(lambda clip, t: p(clip, (t,)))(clip, jnp.array([0.3, 0.8]))).splitlines()
    size = ",".join(map(str, SHAPE))
    products = [line.split("=")[0].strip().partition(":")[2] for line in lines if "dot_general" in line]
    assert [shape for shape in products if size in shape] == [f"f32[2,2,1,{size}]"]


def test_the_mean_can_be_differentiated_in_its_frames_and_in_time():
    p, frames, t = path(), clips()[0], jnp.float32(0.7)
    w = hippo.weights(np.array([0.7 * RATE / FRAMES]), FRAMES, 8)[0][0]
    gradient = jax.grad(lambda frames: p.position.mean(frames, t).sum())(frames)
    np.testing.assert_allclose(gradient, np.broadcast_to(w[:, None, None, None], frames.shape), atol=1e-5)
    both = lambda frames, t: p.position.mean(frames, t).sum()
    _, slope = jax.jvp(both, (frames, t), (jnp.ones_like(frames), jnp.float32(2.0)))
    _, of_frames = jax.jvp(lambda f: both(f, t), (frames,), (jnp.ones_like(frames),))
    _, of_time = jax.jvp(lambda t: both(frames, t), (t,), (jnp.float32(2.0),))
    np.testing.assert_allclose(slope, of_frames + of_time, rtol=1e-4)


# --- sampling -------------------------------------------------------------------------------------


def test_the_cost_of_a_clip_counts_its_solve_and_its_read_outs():
    p, times = path(), np.arange(1, 13) / 8.0
    sampled = lambda **options: sample_frames(
        exact_field(p, clips()), jax.random.key(0), times, (2, *SHAPE), sigma=p.position.sigma, **options
    )
    steps = sampled(solver=dict(method="euler", steps=20))
    assert steps.nfe.tolist() == [20, 20]
    assert sampled(solver=dict(method="euler", steps=20), readout="mean").nfe.tolist() == [32, 32]
    network = lambda x, s, c: (x + s[0][:, None, None, None, None],)
    made = regress(network, jax.random.key(0), times, (2, *SHAPE))
    assert made.nfe.tolist() == [12, 12]
    np.testing.assert_allclose(
        made.frames - made.frames[:, :1],
        np.broadcast_to((times - times[0])[None, :, None, None, None], made.frames.shape),
        atol=1e-5,
    )


def test_one_solve_at_any_frame_rate():
    """Checks that latents at a time do not depend on the other times, and that rows do not depend on the batch."""
    p, several = path(), clips(3)
    run = lambda times, b=2: np.asarray(
        generate(
            exact_field(p, several),
            jax.random.key(0),
            times,
            (b, *SHAPE),
            sigma=p.position.sigma,
            solver=dict(method="heun", steps=400),
        )
    )
    slow, fast = np.arange(1, 13) / 8.0, np.arange(1, 25) / 16.0
    np.testing.assert_allclose(run(slow), run(fast)[:, 1::2], atol=1e-5)
    np.testing.assert_allclose(run(slow, 4)[:2], run(slow), atol=1e-5)


def test_a_failed_solve_names_the_row_and_the_time():
    """Uses three rows: row 0 is solved, row 1 needs more steps than the solver may take, row 2 is not finite."""
    rates = jnp.array([1.0, 1e5, 0.0])

    def pulled(x, s, c):
        fast = -rates[:, None, None, None, None] * x
        return (fast.at[2].set(jnp.where(s[0][2] > 0.25, jnp.nan, 0.0)),)

    solver = Solver(rtol=1e-3, atol=1e-3, max_steps=50)
    times = [1e-5, 0.5, 1.0]
    sampled = lambda solver: generate(pulled, jax.random.key(0), times, (3, *SHAPE), readout="none", solver=solver)
    with pytest.raises(SolveError, match=r"failed for 2 of 3 samples.* row 1 at t = 1e-05 after 50 steps") as failed:
        sampled(solver)
    assert "row 0" not in str(failed.value)
    fixed = Solver(method="euler", steps=4)
    with pytest.raises(SolveError, match=r"failed for 1 of 3 samples.* not finite in rows \[2\]"):
        sampled(fixed)


def test_guidance_goes_beyond_the_condition():
    pulled = lambda x, s, c: (jnp.broadcast_to(c.text.mean((1, 2))[:, None, None, None, None], x.shape),)
    text = Condition(text=jnp.ones((2, 3, 4)), text_mask=jnp.ones((2, 3), bool))
    at = lambda weight: generate(
        pulled,
        jax.random.key(0),
        [1.0],
        (2, *SHAPE),
        text,
        guidance=weight,
        readout="none",
        solver=dict(method="heun", steps=2),
    )
    np.testing.assert_allclose(at(3.0) - at(1.0), 2.0, atol=1e-5)


@pytest.mark.parametrize(
    "call, message",
    [
        (
            lambda f: generate(f, jax.random.key(0), [0.5, 0.2], (1, *SHAPE), readout="none"),
            "in increasing order",
        ),
        (lambda f: generate(f, jax.random.key(0), [-0.5], (1, *SHAPE), readout="none"), "seconds of at least 0"),
        (lambda f: generate(f, jax.random.key(0), [0.5], (1, *SHAPE)), "needs sigma"),
        (
            lambda f: generate(
                f, jax.random.key(0), [0.5], (1, *SHAPE), sigma=SCHEDULES["paper"], start=jnp.zeros((1, 1, *SHAPE))
            ),
            "needs z, and only x\\(0\\) is given",
        ),
        (lambda f: generate(f, jax.random.key(0), [0.5], (1, *SHAPE), readout="mu"), "unknown readout 'mu'"),
        (
            lambda f: losses(lambda x, s, c: f(x, s, c)[:1], mean_weight=1.0),
            "has 1 output: use `mean_to_velocity`",
        ),
        (lambda f: losses(f, frames=clips()[:, :5]), "clips of 12 frames, got 5"),
        (lambda f: SigmaSchedule(0.0), "frame_rate 0.0"),
        (lambda f: SigmaSchedule(8.0, kind="cosine"), "unknown schedule 'cosine'"),
        (lambda f: latent(12, 24, SigmaSchedule(8.0), "forward_euler"), "diverges at order 24"),
    ],
)
def test_mistakes(call, message):
    with pytest.raises(ValueError, match=message):
        call(exact_field(path(), clips()))
