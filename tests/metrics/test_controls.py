"""Controls of a distance: the altered clips, the halves, the excess over real video, and the power in the record."""

import json

import numpy as np
import pytest
from feature_networks import SmallNetwork, write_video
from safetensors.numpy import load_file
from scipy import ndimage

from jvflow.cli import score as command
from jvflow.metrics import controls, distances
from jvflow.metrics import score as scores
from jvflow.metrics.clips import FolderClips
from jvflow.metrics.extractor import prepare
from jvflow.metrics.protocol import preset
from jvflow.metrics.sums import FeatureSums

PROTOCOL = preset("original", dict(window="all", size=32, frames=9, window_stride=9))


def sums(rows, clips_of_a_video=1):
    places = np.arange(len(rows))
    return FeatureSums.empty(rows.shape[1]).add(rows, places, places // clips_of_a_video)


def test_altered_clips():
    clips = np.random.default_rng(0).uniform(-1, 1, (2, 5, 32, 32, 3)).astype(np.float32)
    sides = [64, 8]
    frozen, turned, blurred = (controls.altered(clips, name, sides) for name in ("frozen", "reversed", "blurred"))
    assert all(np.array_equal(frame, clips[:, 0]) for frame in np.moveaxis(frozen, 1, 0))
    np.testing.assert_array_equal(turned[:, 0], clips[:, -1])
    for number, sigma in enumerate((2.0, 8.0)):  # a pixel of the small video is 4 pixels of the input
        want = np.stack([ndimage.gaussian_filter(frame, (sigma, sigma, 0)) for frame in clips[number]])
        np.testing.assert_allclose(blurred[number], want, atol=1e-6)
    with pytest.raises(ValueError, match="unknown control"):
        controls.altered(clips, "shuffled", sides)
    assert controls.controls_of(preset("fid")) == ("blurred",)


def test_halves_divide_videos():
    rows = np.random.default_rng(0).normal(size=(30, 3)).astype(np.float32)
    first, second = controls.halves(sums(rows, 3), seed=0)
    assert len(np.unique(first.groups)) == len(np.unique(second.groups)) == 5
    assert not set(first.groups) & set(second.groups) and len(first.rows) == len(second.rows) == 15
    np.testing.assert_array_equal(np.sort(np.concatenate([first.places, second.places])), np.arange(30))
    np.testing.assert_array_equal(second.rows, rows[second.places])
    assert not np.array_equal(controls.halves(sums(rows, 3), seed=1)[0].places, first.places)
    with pytest.raises(ValueError, match="4 or more real videos, got 3"):
        controls.halves(sums(rows, 10), seed=0)


def measured(shift_of_blurred, videos=16):
    random = np.random.default_rng(1)
    first, second = (sums(random.normal(size=(2 * videos, 4)), 2) for _ in range(2))
    shifts = dict(frozen=3.0, blurred=shift_of_blurred, reversed=0.0)
    changed = {name: sums(second.rows + np.float32(shift), 2) for name, shift in shifts.items()}
    return first, second, changed, controls.measure(first, second, changed, PROTOCOL, seed=0)


def test_the_excess_over_real_video():
    first, second, changed, found = measured(3.0)
    real = distances.frechet_of_rows(first.rows, second.rows)
    assert found["real"]["value"] == pytest.approx(real) and found["power"] and found["videos"] == [16, 16]
    for name, each in found["controls"].items():
        value = distances.frechet_of_rows(first.rows, changed[name].rows)
        assert each["value"] == pytest.approx(value) and each["excess"]["value"] == pytest.approx(value - real)
        own = distances.bootstrap(value, first, changed[name], distances.frechet_of_rows, seed=0)
        assert [each["interval"][bound] for bound in ("low", "high")] == pytest.approx([own["low"], own["high"]])
    # the samples are shared: equal features have no excess in any of them
    assert found["controls"]["reversed"]["excess"]["interval"]["high"] == pytest.approx(0, abs=1e-9)
    assert controls.warnings(found, "original") == []


@pytest.mark.parametrize("shift", [0.0, 0.05])
def test_a_distance_without_power(shift):
    *_, found = measured(shift)
    assert not found["power"] and found["out_of_order"] == ["blurred"]
    (line,) = controls.warnings(found, "original")
    assert "without power" in line and "16 and 16 real videos" in line and "blurred video" in line


@pytest.mark.integration
@pytest.mark.parametrize("windows, blur, power", [(4, "blur1", True), (1, "blur1", False), (1, "blur2", True)])
def test_power_on_real_videos(shared, windows, blur, power):
    """Ten against ten videos of people who sign, with the features of I3D."""
    golden = load_file(shared / "golden" / "golden_fvd.safetensors")
    clip = golden["asl.clip"]
    kept = np.arange(len(clip)) % 4 < windows

    def part(kind, rows):
        rows = np.flatnonzero(rows & kept)
        return FeatureSums.empty(400).add(golden[f"asl.{kind}.logits"][rows], rows, clip[rows])

    kinds = dict(frozen="frozen", blurred=blur, reversed="reversed")
    changed = {name: part(kind, clip >= 10) for name, kind in kinds.items()}
    found = controls.measure(part("real", clip < 10), part("real", clip >= 10), changed, preset("short_side"), seed=0)
    assert found["power"] == power and found["videos"] == [10, 10]
    if windows == 4:
        real, frozen = (golden[f"fvd.asl_A_real_vs_B_{kind}"][0] for kind in ("real", "frozen"))
        assert found["controls"]["frozen"]["excess"]["value"] == pytest.approx(float(frozen - real), rel=1e-4)


class Counting(SmallNetwork):
    """Counts the clips that pass the network."""

    clips = 0

    def __call__(self, clips):
        Counting.clips += len(clips)
        return super().__call__(clips)


@pytest.fixture
def folder(tmp_path):
    for number in range(6):
        write_video(tmp_path / f"v{number}", 20, seed=number)
    return tmp_path


def test_the_features_of_controls(folder):
    network = SmallNetwork(PROTOCOL)
    items = list(FolderClips(folder, PROTOCOL, 0))
    wanted = [item for item in items if item[1] in (1, 4)]
    prepared = np.stack([prepare(clip, PROTOCOL) for *_, clip in wanted])
    given = FeatureSums.empty(12).add(
        network(prepared), *(np.array(column) for column in zip(*[i[:2] for i in wanted]))
    )
    found = controls.features(network, iter(items), given)
    for name, each in found.items():
        want = network(controls.altered(prepared, name, [40] * len(wanted)))
        np.testing.assert_allclose(each.rows, want, atol=1e-6)
        np.testing.assert_array_equal(each.places, given.places)
        np.testing.assert_array_equal(each.groups, given.groups)
    with pytest.raises(ValueError, match="changed while they were read"):
        controls.features(network, items[:-3], given)


def test_controls_in_a_record(folder, monkeypatch):
    monkeypatch.setattr(scores, "Extractor", Counting)
    Counting.clips = 0
    found = scores.score_folders(folder, folder, PROTOCOL, controls=True)
    # twelve clips of each folder, and three versions of the six clips of one half
    assert Counting.clips == 12 + 12 + 3 * 6
    record = json.loads(json.dumps(found.as_json(), allow_nan=False))
    assert record["power"] == record["controls"]["power"] and record["controls"]["clips"] == [6, 6]
    assert record["controls"]["controls"].keys() == {"frozen", "blurred", "reversed"}
    text = command.report(found)
    assert "controls, 3 against 3 real videos" in text and "frozen" in text
    assert ("without power" in text) == (not found.power)
    plain = scores.score_folders(folder, folder, PROTOCOL)
    assert plain.power is None and plain.controls is None and plain.value == found.value


def test_controls_need_videos(folder, monkeypatch):
    monkeypatch.setattr(scores, "Extractor", lambda *_: pytest.fail("loads the network"))
    few = folder / "few"
    for number in range(3):
        write_video(few / f"v{number}", 20)
    with pytest.raises(ValueError, match="4 or more real videos, got 3: use more videos, or leave out --controls"):
        scores.score_folders(folder, few, PROTOCOL, controls=True)
