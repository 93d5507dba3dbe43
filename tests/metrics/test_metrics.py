"""Metrics, compared with closed forms and second derivations, and the damage that features must detect."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
import scipy.ndimage

from jvflow import metrics

SHAPE = (2, 3, 16, 14, 3)


def pixels(seed, shape=SHAPE):
    return np.random.default_rng(seed).uniform(-1, 1, shape).astype(np.float32)


# Errors between videos


def test_psnr_known_values():
    x = jnp.zeros(SHAPE)
    y = x + jnp.array([0.2, 0.02]).reshape(2, 1, 1, 1, 1) * jnp.ones(SHAPE)
    np.testing.assert_allclose(metrics.psnr(x, y), [20, 40], rtol=1e-5)
    np.testing.assert_allclose(metrics.psnr(x, y, peak=1.0), [20 - 6.0206, 40 - 6.0206], rtol=1e-5)
    assert np.all(np.isposinf(metrics.psnr(x, x)))


def test_psnr_side_is_the_printed_formula():
    x, y = pixels(0, (2, 3, 12, 12, 3)), pixels(1, (2, 3, 12, 12, 3))
    error = ((x - y) ** 2).mean((1, 2, 3, 4))
    np.testing.assert_allclose(metrics.psnr_side(x, y), 10 * np.log10(12**2 / error), rtol=1e-5)
    with pytest.raises(ValueError, match="16 x 14"):
        metrics.psnr_side(pixels(0), pixels(1))


def ssim_by_loops(x, y, peak):
    """Computes SSIM (Wang et al., 2004) pixel by pixel, for one image with one channel and values in [0, peak]."""
    offset = np.arange(11) - 5
    weight = np.exp(-(offset[:, None] ** 2 + offset[None] ** 2) / (2 * 1.5**2))
    weight /= weight.sum()
    c1, c2, total = (0.01 * peak) ** 2, (0.03 * peak) ** 2, []
    for i in range(x.shape[0] - 10):
        for j in range(x.shape[1] - 10):
            a, b = x[i : i + 11, j : j + 11], y[i : i + 11, j : j + 11]
            ma, mb = (weight * a).sum(), (weight * b).sum()
            va, vb = (weight * (a - ma) ** 2).sum(), (weight * (b - mb) ** 2).sum()
            cov = (weight * (a - ma) * (b - mb)).sum()
            total.append((2 * ma * mb + c1) * (2 * cov + c2) / ((ma**2 + mb**2 + c1) * (va + vb + c2)))
    return np.mean(total)


def test_ssim_agrees_with_loops():
    x = pixels(0)
    y = np.clip(x + 0.3 * pixels(1), -1, 1)
    unit = lambda a: (a.astype(np.float64) + 1) / 2
    one = lambda b, f, c: ssim_by_loops(unit(x)[b, f, ..., c], unit(y)[b, f, ..., c], 1.0)
    expected = [np.mean([one(b, f, c) for f in range(3) for c in range(3)]) for b in range(2)]
    np.testing.assert_allclose(metrics.ssim(x, y), expected, rtol=1e-4)
    np.testing.assert_allclose(jax.jit(metrics.ssim)(x, y), expected, rtol=1e-4)
    np.testing.assert_allclose(metrics.ssim(x, x), 1, rtol=1e-6)


def test_ssim_does_not_depend_on_how_the_pixels_are_stored():
    x, y = pixels(0), pixels(0) * 0.5
    stored = metrics.ssim(127.5 * (x + 1), 127.5 * (y + 1), peak=255)
    np.testing.assert_allclose(metrics.ssim(x, y), stored, rtol=1e-4)


def test_the_range_of_pixels():
    levels = metrics.to_unit_range(np.arange(256, dtype=np.uint8))
    assert levels.dtype == np.float32 and (levels[0], levels[255]) == (-1, 1)
    np.testing.assert_allclose(levels, np.linspace(-1, 1, 256), atol=1e-6)


def test_image_errors_name_the_cure():
    with pytest.raises(ValueError, match="uint8.*peak=255"):
        metrics.psnr(np.zeros(SHAPE, np.uint8), np.zeros(SHAPE, np.uint8))
    with pytest.raises(ValueError, match="share one shape"):
        metrics.ssim(pixels(0), pixels(0)[..., :1])
    with pytest.raises(ValueError, match="at least 11 x 11"):
        metrics.ssim(pixels(0)[:, :, :10], pixels(0)[:, :, :10])


# Frechet distance


def test_frechet_of_diagonal_gaussians():
    m1, m2 = np.array([0.0, 1.0, 2.0]), np.array([1.0, 1.0, 0.0])
    s1, s2 = np.array([1.0, 2.0, 3.0]), np.array([2.0, 0.5, 3.0])
    d = metrics.frechet_distance(m1, np.diag(s1**2), m2, np.diag(s2**2))
    assert d == pytest.approx(np.sum((m1 - m2) ** 2 + (s1 - s2) ** 2), rel=1e-12)


def test_frechet_agrees_with_sqrtm():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 6, 9))
    c1, c2, m1, m2 = a @ a.T, b @ b.T, rng.normal(size=6), rng.normal(size=6)
    expected = np.sum((m1 - m2) ** 2) + np.trace(c1 + c2 - 2 * scipy.linalg.sqrtm(c1 @ c2).real)
    assert metrics.frechet_distance(m1, c1, m2, c2) == pytest.approx(expected, rel=1e-9)
    assert metrics.frechet_distance(m2, c2, m1, c1) == pytest.approx(expected, rel=1e-9)


def test_frechet_of_covariances_without_full_rank():
    rng = np.random.default_rng(0)
    few, zero = rng.normal(size=(3, 20)), np.zeros(20)
    c = np.cov(few, rowvar=False)
    assert 0 <= metrics.frechet_distance(zero, c, zero, c) < 1e-6
    assert metrics.frechet_distance(zero, c, zero, 4 * c) == pytest.approx(np.trace(c), rel=1e-6)
    assert metrics.frechet_distance(zero, c, zero, 0 * c) == pytest.approx(np.trace(c), rel=1e-6)
    assert metrics.distance(few, few) < 1e-6


def test_distance_uses_unbiased_moments():
    assert metrics.distance(np.array([[0.0], [2.0]]), np.array([[1.0], [5.0]])) == pytest.approx(4 + 2)
    with pytest.raises(ValueError, match="n >= 2"):
        metrics.distance(np.zeros((1, 4)), np.zeros((5, 4)))
    with pytest.raises(ValueError, match="one feature map"):
        metrics.distance(np.eye(4), np.eye(3))
    with pytest.raises(ValueError, match="finite"):
        metrics.distance(np.full((3, 4), np.nan), np.eye(4))


# Windows


def test_windows_hold_the_right_frames():
    video = np.arange(2 * 11).reshape(2, 11, 1, 1, 1) * np.ones((1, 1, 2, 3, 1))
    cut = metrics.windows(video, length=4, stride=3)
    assert cut.shape == (2, 3, 4, 2, 3, 1)
    assert cut[1, :, :, 0, 0, 0].tolist() == [[11, 12, 13, 14], [14, 15, 16, 17], [17, 18, 19, 20]]
    np.testing.assert_array_equal(metrics.windows(jnp.asarray(video), length=4, stride=3), cut)
    assert metrics.windows(np.zeros((1, 512, 1, 1, 1))).shape[1] == 31
    np.testing.assert_array_equal(metrics.flatten_windows(cut), np.concatenate(list(cut)))
    with pytest.raises(ValueError, match="needs 32 frames, the video has 11"):
        metrics.windows(video)


def test_motion_ratio_of_known_videos():
    video = np.zeros((2, 3, 4, 4, 3), np.uint8)
    video[:, 1] = 200  # the changes are 200 and -200: neither may wrap around
    half = video // 2
    assert metrics.motion_ratio(half, video) == 0.5 and metrics.motion_ratio(video, half) == 2.0
    assert metrics.motion_ratio(video[:1, :1].repeat(3, 1), video) == 0.0
    assert metrics.motion_ratio(video, np.repeat(video[:, :1], 3, axis=1)) is None  # real video that stands still


def test_motion_of_a_known_video():
    steps = np.array([0, 1, 1, 1, 3, 3, 3, 3]) * 0.25
    video = np.cumsum(steps).reshape(1, 8, 1, 1, 1) * np.ones((1, 1, 2, 2, 3))
    np.testing.assert_allclose(metrics.motion(video, length=4, stride=4), [[0.25, 0.75]])
    inside = np.abs(np.diff(metrics.windows(video, 3, 2), axis=2)).mean((2, 3, 4, 5))
    np.testing.assert_allclose(metrics.motion(video, length=3, stride=2), inside)
    with pytest.raises(ValueError, match="uint8"):
        metrics.motion(np.zeros((1, 8, 2, 2, 3), np.uint8), length=4)
    with pytest.raises(ValueError, match="needs 4 frames, the video has 3"):
        metrics.motion(video[:, :3], length=4)


# Features


def blobs(seed, count, length=8, size=16):
    """Returns windows of one soft coloured blob that crosses the frame at constant speed."""
    rng = np.random.default_rng(seed)
    place = (
        rng.uniform(size / 4, 3 * size / 4, (count, 1, 2))
        + rng.normal(0, 0.7, (count, 1, 2)) * np.arange(length)[:, None]
    )
    y, x = np.mgrid[:size, :size]
    square = (y - place[..., 0, None, None]) ** 2 + (x - place[..., 1, None, None]) ** 2
    colour = rng.uniform(0.5, 1, (count, 1, 1, 1, 3))
    return (2 * np.exp(-square / 4)[..., None] * colour - 1).astype(np.float32)


@pytest.fixture(scope="module")
def fitted():
    return metrics.fit_window_pca(blobs(0, 200), dimensions=15, grid=4)


def frozen(x):
    return np.repeat(x[:, :1], x.shape[1], axis=1)


def noisy(x):
    return np.clip(x + 0.2 * np.random.default_rng(9).normal(size=x.shape), -1, 1).astype(np.float32)


def blurred(x):
    for axis in (2, 3, 2, 3):
        x = (np.roll(x, 1, axis) + x + np.roll(x, -1, axis)) / 3
    return x


def flickering(x):
    return np.clip(x + 0.2 * (-1) ** np.arange(x.shape[1]).reshape(-1, 1, 1, 1), -1, 1).astype(np.float32)


@pytest.mark.parametrize("damage", [frozen, noisy, blurred, flickering])
def test_features_see_damage(fitted, damage):
    real, other = blobs(1, 200), blobs(2, 200)
    floor = metrics.distance(fitted(real), fitted(other))
    assert metrics.distance(fitted(real), fitted(damage(other))) > 5 * floor


def test_features_have_mean_variance_one_on_what_they_were_fitted_on(fitted):
    features = fitted(blobs(0, 200))
    assert features.dtype == np.float64 and features.shape == (200, 15)
    np.testing.assert_allclose(features.mean(0), 0, atol=1e-5)
    assert features.var(0).mean() == pytest.approx(1, rel=1e-5)
    assert features.var(0).max() > 2 * features.var(0).min()  # not whitened


def test_features_do_not_depend_on_the_batch(fitted):
    x = blobs(3, 37)
    parts = np.concatenate([fitted(x[i : i + 5]) for i in range(0, 37, 5)])
    np.testing.assert_allclose(fitted(x), parts, atol=1e-4)
    np.testing.assert_allclose(fitted(x[::-1]), parts[::-1], atol=1e-4)
    np.testing.assert_allclose(fitted(jnp.asarray(x)), parts, atol=1e-4)


def test_fit_depends_on_the_real_windows_alone(fitted):
    fitted(noisy(blobs(4, 20)))
    again = metrics.fit_window_pca(blobs(0, 200), dimensions=15, grid=4)
    np.testing.assert_array_equal(again.basis, fitted.basis)
    assert again.scale == fitted.scale


@pytest.mark.parametrize("n", [14, 120])  # fewer and more windows than a group has values: 96, 32 and 16
def test_features_agree_with_their_equations(n):
    """Computes equations (1) to (3) and a plain SVD of each group; here the grid does not divide the frame."""
    x = blobs(5, n, length=2, size=6)
    fit = metrics.fit_window_pca(x, dimensions=6, grid=4)
    cells = np.array([[2, 1, 0, 0, 0, 0], [0, 1, 2, 0, 0, 0], [0, 0, 0, 2, 1, 0], [0, 0, 0, 0, 1, 2]]) / 3
    detail = np.abs(x - scipy.ndimage.uniform_filter(x, (0, 0, 3, 3, 0), mode="nearest")).mean(-1, keepdims=True)
    change = np.abs(np.diff(x, axis=1)).mean(-1, keepdims=True)
    scores = []
    for group in (x, detail, change):
        raw = np.einsum("yh,nfhwc,xw->nfyxc", cells, group, cells).reshape(n, -1)
        raw /= np.sqrt(raw.var(0).sum())
        scores.append((raw - raw.mean(0)) @ np.linalg.svd(raw, full_matrices=False)[2][:2].T)
    scores = np.concatenate(scores, axis=1)
    np.testing.assert_allclose(np.abs(fit(x)), np.abs(scores) / np.sqrt(scores.var(0).mean()), atol=2e-3)


def test_a_change_of_level_is_inside_the_subspace(fitted):
    """Checks that the span of the directions contains the means of groups (2) and (3), 0 in flat or frozen video."""
    energy = slice(8 * 4 * 4 * 3, None)
    mean, directions = fitted.mean[energy], fitted.basis[energy, 5:]
    directions = directions / np.linalg.norm(directions, axis=0)
    assert np.linalg.norm(mean @ directions) > 0.98 * np.linalg.norm(mean)


def test_feature_errors_name_the_cure(fitted):
    with pytest.raises(ValueError, match="at least 17 real windows, got 16"):
        metrics.fit_window_pca(blobs(0, 16), dimensions=15, grid=4)
    with pytest.raises(ValueError, match="fit again"):
        fitted(blobs(0, 4, length=6))
    with pytest.raises(ValueError, match="smaller grid"):
        metrics.fit_window_pca(blobs(0, 60, size=6))
    with pytest.raises(ValueError, match="change of the real windows"):
        metrics.fit_window_pca(frozen(blobs(0, 60)), grid=4)
    with pytest.raises(ValueError, match="uint8"):
        fitted(np.zeros((4, 8, 16, 16, 3), np.uint8))
    with pytest.raises(ValueError, match="'fvd': use one of window_pca"):
        metrics.feature_map("fvd")
    assert metrics.feature_map("window_pca") is metrics.fit_window_pca
