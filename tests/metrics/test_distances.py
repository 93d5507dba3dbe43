"""Distances, sums, resize rules and protocols, compared with published values and other people's code."""

import json
from dataclasses import asdict, replace

import numpy as np
import pytest
import scipy.linalg
from safetensors.numpy import load_file

from jvflow.metrics import distances, resize
from jvflow.metrics.protocol import PRESETS, Protocol, check_equal, preset
from jvflow.metrics.sums import FeatureSums, moments_of

random = np.random.default_rng(0)


def sums(rows, groups=None):
    count = len(rows)
    groups = np.arange(count) if groups is None else groups
    return FeatureSums.empty(rows.shape[1]).add(rows, np.arange(count), groups)


@pytest.fixture(scope="module")
def golden_fvd():
    from conftest import SHARED

    if not SHARED.exists():
        pytest.skip("needs the folder shared/ next to the checkout")
    return load_file(SHARED / "golden" / "golden_fvd.safetensors")


def test_fvd_of_published_features(golden_fvd):
    """The value that others published is 10.138085."""
    noise = [sums(golden_fvd[f"noise_rs{n}.logits"]) for n in (1, 2)]
    assert distances.frechet(*noise) == pytest.approx(10.138085, rel=1e-5)
    assert distances.frechet(*noise, ddof=0) == pytest.approx(float(golden_fvd["fvd.noise_ddof0"][0]), rel=1e-6)
    assert distances.frechet(*noise, precision="float32") == pytest.approx(10.138085, rel=1e-3)


KINDS = ("blur1", "blur2", "blur4", "frozen", "noise25", "purenoise", "real", "reversed", "shuffled")


@pytest.mark.parametrize("kind", KINDS)
def test_fvd_of_corrupted_videos(golden_fvd, kind):
    clip = golden_fvd["asl.clip"]
    a, b = golden_fvd["asl.real.logits"][clip < 10], golden_fvd[f"asl.{kind}.logits"][clip >= 10]
    want = float(golden_fvd[f"fvd.asl_A_real_vs_B_{kind}"][0])
    assert distances.frechet(sums(a), sums(b)) == pytest.approx(want, rel=1e-6)


def test_both_forms_of_the_frechet_distance_agree_with_scipy(golden_fvd):
    r = np.random.default_rng(0)
    x = r.normal(size=(600, 400)).astype(np.float32)
    y = (r.normal(size=(500, 400)) * 1.5 + 0.2).astype(np.float32)
    want = float(golden_fvd["fvd.fullrank_seed0"][0])
    assert distances.frechet_of_rows(x, y) == pytest.approx(want, rel=1e-6)
    x, y = x[:, :50].astype(np.float64), y[:, :50].astype(np.float64)
    c1, c2 = (np.cov(rows, rowvar=False) for rows in (x, y))
    root = scipy.linalg.sqrtm(c1 @ c2).real
    scipys = np.square(x.mean(0) - y.mean(0)).sum() + np.trace(c1 + c2 - 2 * root)
    assert distances.frechet_of_rows(x, y) == pytest.approx(scipys, rel=1e-9)
    assert distances.frechet(sums(x.astype(np.float32)), sums(y.astype(np.float32))) == pytest.approx(scipys, rel=1e-6)


@pytest.mark.parametrize("counts", [(2, 2), (3, 50), (50, 3)])
def test_few_samples_give_the_exact_distance(counts):
    x, y = (random.normal(size=(count, 12)) + number for number, count in enumerate(counts))
    c1, c2 = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    cross = np.linalg.eigvals(c1 @ c2)
    root = np.sqrt(np.maximum(cross.real, 0))[cross.real > 1e-9 * cross.real.max()].sum()
    want = np.square(x.mean(0) - y.mean(0)).sum() + np.trace(c1) + np.trace(c2) - 2 * root
    assert distances.frechet_of_rows(x, y) == pytest.approx(want, rel=1e-6)


def test_one_clip_is_an_error():
    with pytest.raises(ValueError, match="at least 2 clips in each set, got 1 and 5"):
        distances.frechet(sums(random.normal(size=(1, 3))), sums(random.normal(size=(5, 3))))


def test_sums_do_not_depend_on_the_split():
    rows = random.normal(size=(640, 20)) * random.uniform(0.01, 100, 20) + 1e3
    places = random.permutation(640)
    whole = FeatureSums.empty(20, kept=100).add(rows, places, places)
    want = np.cov(rows, rowvar=False)
    for size in (1, 7, 64):
        parts = [FeatureSums.empty(20, kept=100) for _ in range(4)]  # as four processes
        for number, begin in enumerate(range(0, 640, size)):
            part = slice(begin, begin + size)
            parts[number % 4] = parts[number % 4].add(rows[part], places[part], places[part])
        merged = parts[0].merge(parts[1]).merge(parts[2].merge(parts[3]))
        np.testing.assert_allclose(merged.moments.mean, rows.mean(0), rtol=1e-10)
        np.testing.assert_allclose(merged.moments.covariance(), want, rtol=1e-10, atol=1e-10 * want.max())
        np.testing.assert_array_equal(merged.rows, whole.rows)
        np.testing.assert_array_equal(merged.places, whole.places)
    assert moments_of(rows).covariance(0)[0, 0] == pytest.approx(rows[:, 0].var())


def test_features_that_are_not_finite_are_an_error():
    with pytest.raises(ValueError, match="NaN"):
        sums(np.full((2, 3), np.nan))


def test_a_mean_over_videos():
    values = random.uniform(size=50)
    found = distances.mean_of_videos(values.tolist())
    error = values.std() / 50**0.5
    assert found["value"] == pytest.approx(values.mean())
    assert found["interval"]["standard_error"] == pytest.approx(error, rel=0.2)
    assert found["interval"]["high"] - found["value"] == pytest.approx(1.96 * error, rel=0.3)
    assert found["value"] - found["interval"]["low"] == pytest.approx(1.96 * error, rel=0.3)
    two = distances.mean_of_videos([0.7, 1.0])["interval"]
    assert (two["low"], two["high"]) == pytest.approx((0.7, 1.0))
    with pytest.raises(ValueError, match="at least one video"):
        distances.mean_of_videos([])


def test_the_kernel_distance_is_unbiased_and_equals_its_definition():
    x, y = random.normal(size=(9, 4)), random.normal(size=(7, 4)) + 0.5
    k = lambda a, b: (a @ b.T / 4 + 1) ** 3
    off = lambda m: (m.sum() - np.trace(m)) / (len(m) * (len(m) - 1))
    assert distances.kernel_distance(x, y) == pytest.approx(off(k(x, x)) + off(k(y, y)) - 2 * k(x, y).mean())
    null = [distances.kernel_distance(*random.normal(size=(2, 20, 4))) for _ in range(300)]
    assert abs(np.mean(null)) < 4 * np.std(null) / 300**0.5


def test_the_interval_holds_the_value_and_draws_whole_videos():
    rows, groups = random.normal(size=(60, 5)).repeat(4, 0), np.arange(60).repeat(4)
    first, second = sums(rows, groups), sums(rows[::-1] + 0.3, groups)
    value = distances.frechet(first, second)
    found = distances.bootstrap(value, first, second, distances.frechet_of_rows, draws=100)
    assert found["low"] < value < found["high"] and found["videos"] == [60, 60] and found["shift"] > 0
    alone = distances.bootstrap(value, sums(rows), sums(rows[::-1] + 0.3), distances.frechet_of_rows, draws=100)
    assert found["standard_error"] > 1.5 * alone["standard_error"]  # copies of a video are no further samples
    again = distances.bootstrap(value, first, second, distances.frechet_of_rows, draws=100)
    assert again == found


def test_the_extrapolation_removes_most_of_the_bias():
    first, second = (sums(random.normal(size=(400, 10))) for _ in range(2))
    found = distances.extrapolate(first, second, distances.frechet_of_rows)
    assert abs(found["value"]) < 0.5 * distances.frechet(first, second)
    assert distances.extrapolate(sums(random.normal(size=(30, 3))), second, distances.frechet_of_rows) is None


@pytest.mark.parametrize("rule", ["tf1", "halfpixel", "antialias"])
@pytest.mark.parametrize("size", [(17, 23), (56, 40)])
def test_resize_rules(shared, rule, size):
    golden = load_file(shared / "golden" / "golden_resize.safetensors")
    found = resize.resize(golden["input_u8"], *size, dict(halfpixel="half_pixel").get(rule, rule))
    np.testing.assert_allclose(found, golden[f"{rule}_{size[0]}x{size[1]}"], atol=1e-3)


def test_short_side_and_crop(shared):
    golden = load_file(shared / "golden" / "golden_resize.safetensors")
    found = resize.fit(golden["protocol_input_u8"][0], 224, "short_side", "half_pixel")
    np.testing.assert_allclose(found[:, ::8, ::8], golden["protocol_crop_224_every8"][0], atol=1e-3)


def test_protocols_compare_only_if_they_agree():
    check_equal(preset("original"), replace(preset("original"), name="other"))
    with pytest.raises(ValueError) as error:
        check_equal(PRESETS["original"], asdict(PRESETS["cd_fvd"]))
    for entry in (
        "batchnorm_epsilon 0.001 and 1e-05",
        "ddof 1 and 0",
        "filter 'tf1' and 'half_pixel'",
        "via 0 and 256",
    ):
        assert entry in str(error.value)
    assert preset("original", dict(frames=16)) == preset("original")
    assert preset("original", dict(frames=32)).name == "original (changed)"
    json.dumps(asdict(preset("fid")))


@pytest.mark.parametrize(
    "name, changes, words",
    [
        ("orignal", {}, "unknown protocol"),
        ("original", dict(frame=3), "no entry 'frame'"),
        ("original", dict(metric="fid"), "no entry 'metric'"),
        ("original", dict(frames=8), "9 or more"),
        ("original", dict(frames=16.5), "whole number"),
        ("original", dict(filter="bicubic"), "half_pixel"),
        ("original", dict(ddof=2), "0, 1"),
        ("fid", dict(frames=16), "single frames"),
        ("fid", dict(layer="1024"), "768"),
        ("original", dict(batchnorm_epsilon="x"), "1e-3"),
        ("original", dict(batchnorm_epsilon=2.0), "between 0 and 1"),
        ("original", dict(via=True), "whole number"),
        ("original", dict(redraw=3), "True or False"),
        ("cd_fvd", dict(window="first"), "set redraw=False too"),
    ],
)
def test_wrong_entries_of_a_protocol_are_errors(name, changes, words):
    with pytest.raises(ValueError, match=words):
        preset(name, changes)


def test_every_preset_is_a_protocol():
    assert all(isinstance(each, Protocol) and name == each.name for name, each in PRESETS.items())
