"""VLFM to the letter: `configs/vlfm/as_printed.py` equals an independent NumPy of the definitions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import load_config
from numpy.polynomial import legendre

from benchmarks import cost
from benchmarks import printed as items
from jvflow.assembly import Latents
from jvflow.experiment import assemble
from jvflow.vlfm import hippo
from jvflow.vlfm.latent_path import ClipTimeDensity, draw


def printed(u, order, seconds, alpha=10.0, s0=0.01):
    """Returns psi and its derivative of (z, t): Definitions D.1 to D.6 for u (N, d), written out in NumPy."""
    N, d = u.shape
    n = np.arange(order)
    A = np.zeros((order, order))
    for i in n:
        for j in n:
            A[i, j] = np.sqrt((2 * i + 1) * (2 * j + 1)) if i > j else i + 1 if i == j else 0
    B = np.sqrt(2 * n + 1)[:, None]
    H = np.zeros((d, order))
    for tau in range(1, N + 1):
        H = H @ (np.eye(order) - A / tau).T + u[tau - 1][:, None] @ B.T / tau  # D.3
    unit = np.diag(np.sqrt((2 * n + 1) / 2))
    g = lambda t: legendre.legval(t, unit)  # D.4
    dg = lambda t: legendre.legval(t, legendre.legder(unit))
    rate = N / seconds
    sigma = lambda t: (1 - s0) * (np.sin(np.pi * rate * t) ** 2 + np.exp(-alpha * t)) + s0  # D.6
    dsigma = lambda t: (1 - s0) * (np.pi * rate * np.sin(2 * np.pi * rate * t) - alpha * np.exp(-alpha * t))
    return H, lambda z, t: (sigma(t) * z + H @ g(t), dsigma(t) * z + H @ dg(t))


def experiment(**path):
    config = load_config("vlfm/as_printed.py", "debug")
    config.path.update(path)
    return assemble(config)


@pytest.mark.parametrize("order", [4, 16, 40])
def test_path_and_objective_are_the_printed_ones(order):
    """Checks orders below and above the 25 frames: above, forward Euler diverges, and this is allowed."""
    made = experiment(order=order)
    path = made.sampler.path
    with jax.enable_x64(True):
        frames = jax.random.normal(jax.random.key(0), (2, 25, 2, 2, 3), jnp.float64)
        keys = lambda: jax.random.split(jax.random.key(1), 2)
        t, ends = draw(frames, keys(), ClipTimeDensity(), path)
        field = jax.tree_util.Partial(lambda x, s, condition=None: (jnp.sin(x),))
        x, (velocity,) = path(ends, (t,))
        found, _ = made.loss(field, Latents(frames), None, keys(), jax.random.key(2))
    for row in range(2):
        u = np.asarray(frames[row]).reshape(25, -1)
        H, psi = printed(u, order, path.position.seconds)
        kernel = hippo.kernel(25, order, "forward_euler", allow_divergence=True)
        np.testing.assert_allclose(u.T @ kernel, H, rtol=1e-9, atol=1e-9 * np.abs(H).max())
        at, slope = psi(np.asarray(ends.noise[row]).reshape(-1), float(t[row]))
        np.testing.assert_allclose(np.asarray(x[row]).reshape(-1), at, rtol=1e-7, atol=1e-9 * np.abs(at).max())
        np.testing.assert_allclose(np.asarray(velocity[row]).reshape(-1), slope, atol=1e-7 * np.abs(slope).max())
        np.testing.assert_allclose(found[row], np.mean((np.sin(at) - slope) ** 2), rtol=1e-6)


def test_times_are_uniform_and_the_state_is_read():
    made = experiment()
    keys = jax.random.split(jax.random.key(0), 4000)
    t = np.asarray(ClipTimeDensity(**load_config("vlfm/as_printed.py").times)(keys, made.sampler.path))
    T = made.sampler.path.position.seconds
    np.testing.assert_allclose(np.quantile(t / T, [0.02, 0.25, 0.5, 0.75]), [0.02, 0.25, 0.5, 0.75], atol=0.03)
    assert made.sampler.options["readout"] == "none" and load_config("vlfm/as_printed.py").optimizer.name == "grams"
    assert T == pytest.approx(25 / 12)


def test_the_basis_in_seconds_is_that_of_the_fraction_for_a_clip_of_one_second():
    t = np.linspace(0.1, 1, 5)
    w, dw = hippo.weights(t, 6, 4, basis="paper")
    step = 1e-6
    ahead, behind = (hippo.weights(t + h, 6, 4, basis="paper", extrapolate=True)[0] for h in (step, -step))
    np.testing.assert_allclose(dw, (ahead - behind) / (2 * step), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(w, hippo.reconstruct(hippo.kernel(6, 4).T, t, basis="paper"), atol=1e-12)
    with pytest.raises(ValueError, match="unknown basis 'other'"):
        hippo.weights(t, 6, 4, basis="other")


@pytest.mark.parametrize(
    "entry",
    [dict(rule="first_order_hold"), dict(basis="legs"), dict(ramp=True), dict(sigma="exponential"), dict(order=8)],
)
def test_each_deviation_of_the_path_is_one_entry(entry):
    """Checks that one entry alone changes the path, and that it is in the experiment's position."""
    one, two = (made.sampler.path.position for made in (experiment(), experiment(**entry)))
    frames, at = jax.random.normal(jax.random.key(0), (25, 1)), jnp.float32(0.03)
    values = [np.append(p.mean(frames, at), p.sigma(at)) for p in (one, two)]
    assert np.abs(values[0] - values[1]).max() > 1e-4


def test_divergence_must_be_allowed():
    with pytest.raises(ValueError, match="forward_euler diverges at order 40 with 25 frames"):
        experiment(order=40, allow_divergence=False)


def test_no_scale_means_the_plain_objective():
    """Checks that config.path.velocity_scale=0 leaves the errors unscaled; it once divided them by sigma'^2."""
    made = experiment()
    assert made.loss.args[0].keywords["velocity_scale"] is None


def test_a_run_of_an_earlier_version_loads():
    config = load_config("vlfm/overfit.py", "debug")
    with config.path.unlocked():
        del config.path.basis, config.path.allow_divergence
    assert assemble(config).sampler.path.position.basis == "legs"


def test_the_cost_benchmark_compiles_each_sampler_once():
    """Checks that calls with new parameters neither trace nor compile, and that other shapes are refused."""
    traced = []

    def generate(field, condition):
        traced.append(1)
        return field(condition, (jnp.zeros(1),))[0]

    scale = lambda factor, x, s, condition=None: (factor * x,)
    fields = [jax.tree_util.Partial(scale, jnp.float32(factor)) for factor in (1, 2, 3)]
    sampler = cost.compile_sampler(generate, fields[0], jnp.ones(3))
    assert [float(sampler(field, jnp.ones(3))[0]) for field in fields] == [1, 2, 3] and len(traced) == 1
    with pytest.raises(TypeError):
        sampler(fields[0], jnp.ones(4))


def test_printed_items_make_the_printed_config():
    """Checks that overfit.py with all items of `benchmarks.printed` is as_printed.py."""
    config = items.as_printed(load_config("vlfm/overfit.py"), items.ITEMS, 16)
    assert config.to_dict() == load_config("vlfm/as_printed.py").to_dict()
