"""HiPPO-LegS: closed forms, three derivations of one projection, and the divergence of the paper's rule."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.polynomial import legendre

from jvflow.data import procedural
from jvflow.vlfm import hippo
from jvflow.vlfm.hippo.legs import check_order, step

pytestmark = pytest.mark.slow

ORDERS = (1, 2, 3, 8, 16, 32, 64)


def walk(frames, shape=(3,), seed=0):
    u = np.cumsum(np.random.default_rng(seed).normal(size=(frames, *shape)), 0)
    return u / np.abs(u).max()


def sines(frames, seed=0, count=12):
    """Returns sums of sines with up to two cycles per clip, (frames, count)."""
    rng, t = np.random.default_rng(seed), np.arange(1, frames + 1)[:, None] / frames
    return sum(
        rng.normal(size=count) * np.sin(2 * np.pi * rng.uniform(0, 2, count) * t + rng.uniform(0, 7, count))
        for _ in range(4)
    )


def held(u, order, linear=True):
    """Returns the exact projection of the frames, which are linear in time between frames or constant up to each."""
    x, w = legendre.leggauss(order + 2)
    z, frames, H = (x + 1) / 2, len(u), 0
    for k in range(frames):
        phi = legendre.legvander(2 * (k + z) / frames - 1, order - 1) * np.sqrt(2 * np.arange(order) + 1)
        before = u[max(k - 1, 0)] if linear else u[k]
        H = H + np.einsum("y,yn,yd->nd", w / 2 / frames, phi, (1 - z)[:, None] * before + z[:, None] * u[k])
    return H


def relative(a, b):
    return float(np.sqrt(np.mean((a - b) ** 2) / np.mean(b**2)))


# --- the equation ---------------------------------------------------------------------------------


def test_transitions_equal_the_public_code(shared):
    golden = np.load(shared / "golden" / "hippo_transitions.npz")
    for name in golden:
        if name.startswith("hippo_legs_A"):
            A, B = hippo.transitions(int(name.split("_")[-1]))
            np.testing.assert_allclose(A, -golden[name], atol=1e-12)  # the public code stores -A
            np.testing.assert_allclose(B, golden[name.replace("_A_", "_B_")], atol=1e-12)


def test_the_coefficients_of_a_parabola_solve_the_equation():
    """Checks t c' = -A c + B f for f(x) = x^2: its coefficients on [0, t] are t^2 times the coefficients on [0, 1]."""
    A, B = hippo.transitions(6)
    x, w = legendre.leggauss(8)
    y = (x + 1) / 2
    c = np.einsum("y,yn->n", w / 2 * y**2, legendre.legvander(x, 5) * np.sqrt(2 * np.arange(6) + 1))
    np.testing.assert_allclose(2 * c, -A @ c + B, atol=1e-13)


@pytest.mark.parametrize("rule, linear", [("first_order_hold", True), ("zero_order_hold", False)])
@pytest.mark.parametrize("frames", [2, 24, 64])
def test_holds_are_exact(rule, linear, frames):
    """Checks the kernel in float64 to rounding, and the scan in float32 within 2e-6, for orders up to 64."""
    u = walk(frames)
    for order in ORDERS:
        exact = held(u, order, linear)
        np.testing.assert_allclose(hippo.kernel(frames, order, rule).T @ u, exact, atol=1e-12)
        np.testing.assert_allclose(hippo.project(jnp.asarray(u, jnp.float32), order, rule), exact, atol=2e-6)


def test_a_step_is_the_exponential_of_the_equation():
    """Compares E_k = exp(A log((k - 1) / k)) with scipy's matrix exponential."""
    from scipy.linalg import expm

    for k, order in ((2, 8), (7, 16), (200, 12)):
        E, p, q = step("first_order_hold", k, order, np)
        A, B = hippo.transitions(order)
        np.testing.assert_allclose(E, expm(A * np.log((k - 1) / k)), atol=1e-9)
        np.testing.assert_allclose(p + q, np.eye(order)[0] - E[:, 0], atol=1e-12)  # a constant stays constant


# --- three derivations ----------------------------------------------------------------------------


@pytest.mark.parametrize("rule", hippo.RECURRENCES)
def test_scan_updates_kernel_and_weights_agree(rule):
    frames, order = 24, 12
    u = walk(frames, (2, 3))
    K = hippo.kernel(frames, order, rule)
    H = np.einsum("nij,ns->sij", u, K)
    scanned = hippo.project(jnp.asarray(u, jnp.float32), order, rule)
    state, jitted = hippo.init(order, (2, 3), rule), hippo.init(order, (2, 3), rule)
    step = jax.jit(hippo.update)
    for frame in u.astype(np.float32):
        state, jitted = hippo.update(state, frame), step(jitted, frame)
    for other in (scanned, state.coefficients, jitted.coefficients):
        np.testing.assert_allclose(other, H, atol=2e-6 * max(1, abs(H).max()))
    times = np.linspace(0, 1, 7)
    w, dw = hippo.weights(times, frames, order, rule)
    np.testing.assert_allclose(np.tensordot(w, u, 1), hippo.reconstruct(H, times), atol=1e-12)
    moved = [hippo.weights(np.clip(times, h, 1 - h) + d, frames, order, rule)[0] for h in (1e-5,) for d in (h, -h)]
    slopes = hippo.weights(np.clip(times, 1e-5, 1 - 1e-5), frames, order, rule)[1]
    np.testing.assert_allclose(slopes, (moved[0] - moved[1]) / 2e-5, atol=1e-4 * abs(dw).max())
    under_jit = jax.jit(lambda t: hippo.weights(t, frames, order, rule))(jnp.asarray(times, jnp.float32))
    np.testing.assert_allclose(under_jit[0], w, atol=1e-4 * abs(w).max())
    np.testing.assert_allclose(under_jit[1], dw, atol=1e-4 * abs(dw).max())


def test_the_recurrence_is_a_scan_of_one_program():
    project = jax.jit(lambda u: hippo.project(u, 8))
    text = project.lower(jnp.zeros((32, 4))).as_text()
    assert text.count("stablehlo.while") == 1
    few, many = (len(project.lower(jnp.zeros((n, 4))).as_text().splitlines()) for n in (8, 64))
    assert few == many


def test_any_trailing_shape_and_double_precision():
    with jax.enable_x64(True):
        u = jnp.asarray(walk(9, (2, 1, 4)))
        H = hippo.project(u, 5)
        assert H.shape == (5, 2, 1, 4) and H.dtype == jnp.float64
        np.testing.assert_allclose(H, np.einsum("n...,ns->s...", u, hippo.kernel(9, 5)), atol=1e-14)


# --- properties of the rules ----------------------------------------------------------------------


def test_repeating_each_frame_leaves_the_coefficients_of_the_zero_order_hold():
    """Checks lemma 5.4, which is exact for the zero-order hold and for no other rule."""
    u = walk(16)
    again = np.repeat(u, 3, 0)
    change = lambda rule: np.abs(hippo.kernel(48, 10, rule).T @ again - hippo.kernel(16, 10, rule).T @ u).max()
    assert change("zero_order_hold") < 1e-13
    for rule in ("first_order_hold", "bilinear", "forward_euler"):
        assert change(rule) > 1e-3, rule


def test_forward_euler_is_the_recurrence_of_the_paper_and_diverges():
    frames, order = 24, 8
    A, B = hippo.transitions(order)
    u, H = walk(frames), np.zeros((3, order))
    for k in range(1, frames + 1):  # Definition D.3 as it is printed
        H = H @ (np.eye(order) - A / k).T + np.outer(u[k - 1], B) / k
    np.testing.assert_allclose(hippo.kernel(frames, order, "forward_euler").T @ u, H.T, atol=1e-12)
    with pytest.raises(
        ValueError, match=r"forward_euler diverges at order 32 with 24 frames.*1\.3e\+21.*first_order_hold"
    ):
        hippo.kernel(24, 32, "forward_euler")
    with pytest.raises(ValueError, match="diverges"):
        hippo.project(jnp.asarray(walk(24)), 32, "forward_euler")
    t = np.arange(1, 25) / 24
    error = relative(
        hippo.reconstruct(hippo.kernel(24, 32, "forward_euler", allow_divergence=True).T @ sines(24), t), sines(24)
    )
    assert error > 1e20
    with pytest.raises(ValueError, match="least_squares diverges at order 24 with 25 frames"):
        hippo.kernel(25, 24, "least_squares")


def test_errors_at_the_frames():
    """Ranks the rules on sums of sines: least squares, first-order hold, bilinear, zero-order hold, forward Euler."""
    t = np.arange(1, 25) / 24
    error = {
        rule: relative(hippo.reconstruct(hippo.kernel(24, 16, rule).T @ sines(24), t), sines(24))
        for rule in hippo.RULES
    }
    assert error["least_squares"] < 1e-5 < error["first_order_hold"] < 0.03
    assert 0.03 < error["bilinear"] < error["zero_order_hold"] < error["forward_euler"]
    assert np.abs(hippo.kernel(64, 64)).max() < 1


def test_the_printed_basis_does_not_belong_to_these_transitions():
    t, u = np.arange(1, 25) / 24, sines(24)
    H = hippo.kernel(24, 12).T @ u
    assert relative(hippo.reconstruct(H, t), u) < 0.05 < 0.5 < relative(hippo.reconstruct(H, t, basis="paper"), u)
    g = hippo.reconstruct(np.eye(3), np.array([0.25]), basis="paper")[0]
    np.testing.assert_allclose(g, [np.sqrt(0.5), np.sqrt(1.5) * 0.25, np.sqrt(2.5) * (1.5 * 0.0625 - 0.5)], atol=1e-12)


# --- the order ------------------------------------------------------------------------------------


def test_the_leave_one_out_error_of_least_squares_is_exact():
    u, orders = walk(20, (2,)) + 0.1, (2, 4, 7)
    at = np.arange(1, 21) / 20
    phi = legendre.legvander(2 * at - 1, 19) * np.sqrt(2 * np.arange(20) + 1)
    for order, score in zip(orders, hippo.cross_validation(u, orders, "least_squares")):
        left = [
            phi[k, :order] @ np.linalg.lstsq(np.delete(phi[:, :order], k, 0), np.delete(u, k, 0), rcond=None)[0] - u[k]
            for k in range(20)
        ]
        np.testing.assert_allclose(score, np.mean(np.square(left)), rtol=1e-3)


def test_half_of_the_frames_predict_the_other_half():
    u, order = walk(11, (2,)), 9
    errors = []
    for first, count in ((0, 6), (1, 5)):
        known = u[first::2]
        H = hippo.kernel(count, round(9 * count / 11)).T @ known
        between = hippo.reconstruct(H, (np.arange(1, count) + 0.5) / count)
        errors.append(between - u[first + 1 :: 2][: count - 1])
    np.testing.assert_allclose(
        hippo.cross_validation(u, (order,))[0], np.mean(np.square(np.concatenate(errors))), rtol=1e-4
    )


def test_generalised_cross_validation_is_its_formula():
    u, order = walk(20, (2,)), 6
    S = hippo.weights(np.arange(1, 21) / 20, 20, order)[0]
    expected = np.mean((u - S @ u) ** 2) / (1 - np.trace(S) / 20) ** 2
    np.testing.assert_allclose(hippo.cross_validation(u, (order,), generalised=True)[0], expected, rtol=1e-4)
    S = hippo.weights(np.arange(1, 21) / 20, 20, order, "bilinear")[0]
    expected = np.mean((u - S @ u) ** 2) / (1 - np.trace(S) / 20) ** 2
    np.testing.assert_allclose(hippo.cross_validation(u, (order,), "bilinear")[0], expected, rtol=1e-4)


def test_noise_takes_few_coefficients_and_motion_takes_many():
    t = np.arange(1, 25)[:, None] / 24
    noise = np.random.default_rng(0).normal(size=(24, 40))
    cubic = t @ np.ones((1, 40)) + (t - 0.4) ** 3 * 8 * noise[:1]
    wave = np.sin(2 * np.pi * (6 * t + noise[:1]))
    assert hippo.select_order(noise) <= 8
    assert hippo.select_order(cubic + 0.02 * noise, "least_squares") == 4
    assert hippo.select_order(cubic + noise) <= 13
    assert hippo.select_order(cubic, orders=(1, 2, 3, 31)) == 31  # of the orders within tolerance, nearest to 1.3 N
    assert hippo.select_order(wave) >= 20
    batch = jnp.asarray(np.stack([noise, wave]), jnp.float32)
    assert hippo.select_orders(batch).tolist() == [hippo.select_order(clip) for clip in batch]
    assert hippo.select_orders(batch, maximum=3).tolist() == [
        hippo.select_order(clip, orders=(1, 2, 3)) for clip in batch
    ]


@pytest.mark.parametrize("kind", ["comets", "bouncing", "maze"])
def test_the_selected_order_is_near_the_best_between_frames(kind):
    """Checks that it is within half a decibel of the best order on held-out frames."""
    clip = procedural.scene(kind, 3).render(np.arange(41) / 16.0, (24, 24)).reshape(41, -1) / 127.5 - 1
    known, between = clip[::2], clip[1::2]
    at = (np.arange(1, 21) + 0.5) / 21
    error = lambda order: np.mean((hippo.weights(at, 21, order)[0] @ known - between) ** 2)
    chosen = error(hippo.select_order(known))
    assert 10 * np.log10(chosen / min(error(order) for order in range(1, 65))) < 0.5


def test_clips_of_a_batch_keep_orders_of_their_own():
    times, keep = np.array([0.2, 0.9]), np.array([3, 7])
    w, dw = hippo.weights(times, 24, 10, orders=keep)
    for i, order in enumerate(keep):
        one = hippo.weights(times[i : i + 1], 24, int(order))
        np.testing.assert_allclose((w[i], dw[i]), (one[0][0], one[1][0]), atol=1e-12)
    with pytest.raises(ValueError, match="least_squares cannot take orders="):
        hippo.weights(times, 24, 10, "least_squares", orders=keep)


# --- mistakes -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: hippo.transitions(0), "integer of 1 or more, got 0"),
        (lambda: check_order(2.5), "integer of 1 or more, got 2.5"),
        (lambda: hippo.kernel(1, 4), "at least 2 frames, got 1"),
        (lambda: hippo.project(jnp.zeros((1, 3)), 4), "at least 2 frames, got 1"),
        (lambda: hippo.kernel(8, 4, "euler"), "unknown rule 'euler': use one of first_order_hold"),
        (lambda: hippo.project(jnp.zeros((8, 3)), 4, "least_squares"), "has no recurrence: use kernel"),
        (
            lambda: hippo.project(jnp.zeros((8, 3)).at[5, 1].set(jnp.nan), 4),
            r"frames \[5\] hold values that are not finite",
        ),
        (lambda: hippo.select_order(np.full((8, 2), np.inf)), "not finite"),
        (lambda: hippo.select_order(np.zeros((2, 2))), "at least 3 frames, got 2"),
        (lambda: hippo.select_order(np.zeros((8, 2)), "least_squares", (8,)), "below 8 frames"),
        (lambda: hippo.reconstruct(np.ones((3, 2)), np.array([0.5, 1.2])), r"span \[0.5, 1.2\].*extrapolate=True"),
        (lambda: hippo.weights(np.array([-0.1]), 8, 4), "extrapolate=True"),
        (lambda: hippo.weights(np.array([np.nan]), 8, 4), "fractions of the clip"),
        (lambda: hippo.reconstruct(np.ones((3, 2)), np.array([0.5]), basis="legt"), "unknown basis 'legt'"),
        (lambda: hippo.update(hippo.init(3, (2,)), jnp.zeros(3)), r"shape \(2,\), got \(3,\)"),
        (lambda: hippo.update(hippo.init(3, (2,)), jnp.array([1.0, np.nan])), "not finite"),
        (lambda: hippo.init(3, (2,), "least_squares"), "unknown rule"),
    ],
)
def test_mistakes(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_times_beyond_the_clip_when_asked_for():
    t = np.array([1.25])
    line = np.arange(1, 9.0)[:, None]
    H = hippo.kernel(8, 2, "least_squares").T @ line
    np.testing.assert_allclose(hippo.reconstruct(H, t, extrapolate=True), [[10.0]], atol=1e-9)
    np.testing.assert_allclose(hippo.weights(t, 8, 2, "least_squares", extrapolate=True)[0] @ line, [[10.0]], atol=1e-9)


def test_the_default_order_is_a_little_above_the_number_of_frames():
    assert [hippo.default_order(n) for n in (1, 2, 6, 25, 48, 200)] == [1, 3, 8, 32, 62, 64]
