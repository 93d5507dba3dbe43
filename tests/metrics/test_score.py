"""Scores of folders: which clips are read, what is reported, and the record. A small network replaces I3D."""

import json
import subprocess
import sys

import jax
import numpy as np
import pytest
from feature_networks import SmallNetwork, write_video
from PIL import Image

from jvflow.cli import score as command
from jvflow.metrics import extractor as extractors
from jvflow.metrics import score as scores
from jvflow.metrics.clips import FolderClips
from jvflow.metrics.perceptual import temporal_flickering
from jvflow.metrics.protocol import preset
from jvflow.metrics.sums import FeatureSums


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("videos")
    for number in range(4):
        write_video(root / "real" / f"v{number}", 20, seed=number)
        write_video(root / "fake" / f"v{number}", 34, seed=number + 10)
    write_video(root / "fake" / "short", 9)
    write_video(root / "fake" / "wide", 16, size=(40, 96))
    write_video(root / "fake" / "damaged", 30)
    (root / "fake" / "damaged" / "020.png").write_bytes(b"no image")
    (root / "fake" / "broken.mp4").write_bytes(b"no video")
    (root / "fake" / "two\nlines.mp4").write_bytes(b"no video")
    (root / "fake" / "notes.txt").write_text("notes")
    return root


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(scores, "Extractor", SmallNetwork)


def test_broken_short_damaged_and_odd_videos_are_reported(folders):
    clips = FolderClips(folders / "fake", preset("original", dict(window="all")), 0)
    found = [(video, clip.shape) for _, video, clip in clips]
    report = clips.report
    assert len(found) == report.clips == 4 * 2 + 1 + 1 and report.videos == 6
    assert set(report.broken) == {"broken.mp4", "damaged", "two\nlines.mp4"} and "020.png" in report.broken["damaged"]
    assert report.short == {"short": "9 frames, a clip needs 16"}
    assert report.odd == {"wide": "96 x 40"} and report.sizes == {"48 x 40": 5, "96 x 40": 1}
    assert report.ignored == ["1 ignored (suffix .txt): notes.txt"]


def test_a_video_in_pieces_says_so(tmp_path):
    write_video(tmp_path / "pieces", 20)
    Image.new("RGB", (48, 32)).save(tmp_path / "pieces" / "010.png")
    write_video(tmp_path / "still", 1)
    clips = FolderClips(tmp_path, preset("original"), 0)
    assert not list(clips)
    assert clips.report.short == {
        "pieces": "20 frames, a clip needs 16 in a row, without a change of size or a gap in time",
        "still": "1 frame, a clip needs 16",
    }


def test_no_window_crosses_a_damaged_frame(folders):
    clips = FolderClips(folders / "fake", preset("original", dict(window="all", window_stride=1, frames=9)), 0)
    number = next(i for i, path in enumerate(clips.videos) if path.name == "damaged")
    places = [place & 0xFFFFFF for place, video, _ in clips if video == number]
    assert places == [*range(12), 21]


def test_windows(folders):
    starts = lambda changes, count=0, **options: [
        place & 0xFFFFFF for place, *_ in FolderClips(folders / "real", preset("original", changes), count, **options)
    ]
    assert starts({}) == [0] * 4
    assert starts(dict(window="all", window_stride=4)) == [0, 4] * 4
    assert starts(dict(frames=10, frame_step=2)) == [0] * 4
    assert starts({}, count=2) == [0, 0]
    random = starts(dict(window="random"))
    assert random == starts(dict(window="random")) != starts(dict(window="random", seed=1))
    assert all(0 <= start <= 4 for start in random)
    redrawn = FolderClips(folders / "real", preset("original", dict(window="random")), 11, redraw=True)
    places = [place for place, *_ in redrawn]
    assert len(places) == len(set(places)) == 11 and redrawn.report.videos == 4


def test_random_starts_are_uniform(folders):
    starts = []
    for seed in range(50):
        clips = FolderClips(folders / "real", preset("original", dict(window="random", frames=16, seed=seed)), 4)
        starts += [place & 0xFFFFFF for place, *_ in clips]
    counts = np.bincount(starts, minlength=5)
    assert len(counts) == 5 and counts.min() > 20


def test_a_record_holds_everything(folders, small):
    protocol = preset("original", dict(window="all", size=32))
    found = scores.score_folders(folders / "fake", folders / "real", protocol, batch=3)
    again = scores.score_folders(folders / "fake", folders / "real", protocol, batch=8)
    assert found.value == pytest.approx(again.value, rel=1e-10)
    assert found.interval["low"] < found.value < found.interval["high"]
    record = json.loads(json.dumps(found.as_json()))
    assert record["protocol"]["window"] == "all" and record["protocol"]["name"] == "original (changed)"
    assert record["counts"] == dict(generated=dict(clips=10, videos=6), real=dict(clips=4, videos=4))
    assert not record["reliable"] and "do not determine a covariance" in " ".join(record["warnings"])
    assert {"jvflow", "jax", "device"} <= record["versions"].keys() and record["revision"]
    # frames of write_video differ by 5 modulo 256
    real = np.concatenate([clip for *_, clip in FolderClips(folders / "real", preset("original"), 0)]).astype(float)
    change = np.abs(np.diff(real.reshape(4, 16, -1), axis=1)).mean() / 255
    assert record["flickering"]["real"] == pytest.approx(1 - change) and record["flickering"]["generated"] < 1
    assert record["precision_recall"]["k"] == 3 and record["precision_recall"]["rows"] == [10, 4]
    text = command.report(found)
    assert f"precision {record['precision_recall']['precision']:.4f}" in text
    assert f"generated {record['flickering']['generated']:.4f}" in text
    assert "broken: broken.mp4" in text and "short: short" in text and "size wide (96 x 40)" in text
    assert r"broken: two\nlines.mp4" in text


def test_folders_without_clips_are_errors(folders, small, tmp_path):
    with pytest.raises(ValueError, match=r"gives 0 clips of 64 frames.*4 videos are too short"):
        scores.score_folders(folders / "fake", folders / "real", preset("original", dict(frames=64)))
    with pytest.raises(ValueError, match="no video files"):
        scores.score_folders(tmp_path, folders / "real", preset("original"))
    with pytest.raises(ValueError, match="is not a folder"):
        scores.score_folders(tmp_path / "absent", folders / "real", preset("original"))


def test_fvd_of_arrays(small):
    random = np.random.default_rng(0)
    real, fake = (random.integers(0, 255, (6, 9, 32, 32, 3), dtype=np.uint8) for _ in range(2))
    found = scores.fvd(real, fake)
    assert found.value == pytest.approx(scores.fvd(iter(real), list(fake), preset("original")).value)
    assert found.protocol["frames"] == 9
    assert found.flickering["real"] == pytest.approx(np.mean([temporal_flickering(clip) for clip in real]))
    for bad, words in (
        ((real / 255, fake), "give uint8"),
        ((real[:, :, 0], fake), "give uint8"),
        (([real[0], real[1][:8]], fake), "cut them to one length"),
        ((real[:1], fake), "at least 2 clips"),
        ((real, fake, "fid"), "is of fid"),
    ):
        with pytest.raises(ValueError, match=words):
            scores.fvd(*bad)


def test_frames_have_no_flickering(folders, small):
    small_fid = preset("fid", dict(size=32))
    found = scores.score_folders(folders / "fake", folders / "real", small_fid)
    assert found.flickering == {} and "flickering" not in command.report(found)


def test_memory_does_not_grow_with_the_number_of_clips():
    total, random = FeatureSums.empty(8, kept=100), np.random.default_rng(0)
    for begin in range(0, 100_000, 1000):
        places = np.arange(begin, begin + 1000)
        total = total.add(random.normal(size=(1000, 8)), places, places)
    assert total.moments.count == 100_000 and total.rows.shape == (100, 8) and total.moments.products.shape == (8, 8)


def test_one_program_serves_all_batches_on_all_devices(monkeypatch):
    class Network:
        """Stands in for I3D: the mean of each clip."""

        params = dict(weight=np.ones(3, np.float32))

        def apply(self, params, method, clips):
            return clips.mean((1, 2, 3)) * params["weight"][None]

    monkeypatch.setattr(extractors.weights_of, "load", lambda *_, **__: Network())
    extractor = extractors.Extractor(preset("original", dict(size=32)), batch=5)
    assert extractor.batch % jax.local_device_count() == 0
    clips = np.random.default_rng(0).normal(size=(extractor.batch, 9, 32, 32, 3)).astype(np.float32)
    whole = extractor(clips)
    np.testing.assert_allclose(whole, clips.mean((1, 2, 3)), atol=1e-6)
    for count in (1, 3):
        np.testing.assert_array_equal(extractor(clips[:count]), whole[:count])
    assert extractor._apply._cache_size() == 1


@pytest.mark.parametrize(
    "flags, words",
    [
        (["--generated=absent"], "not a folder"),
        pytest.param(["--protocol=fvdd"], "unknown protocol", marks=pytest.mark.integration),
        pytest.param(
            ["--protocol=pairs", "--controls"], "leave it out with --protocol=pairs", marks=pytest.mark.integration
        ),
    ],
)
def test_mistakes_end_the_command_with_one_line(folders, flags, words):
    code = "import sys; from jvflow.cli.main import main; main()"
    given = [f"--generated={folders / 'fake'}", f"--real={folders / 'real'}", *flags]
    done = subprocess.run([sys.executable, "-c", code, "score", *given], capture_output=True, text=True)
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert done.returncode == 1 and len(lines) == 1 and words in lines[0] and "Traceback" not in done.stderr
