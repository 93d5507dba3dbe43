"""Videos, sheets and records of samples: the files of a writer, the layout of a sheet, the entries of a record."""

import json
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from jvflow.data import video
from jvflow.report import videos


def grey(levels, size=(32, 48)):
    """Returns a video whose frame k has the level levels[k] everywhere."""
    return np.stack([np.full((*size, 3), level, np.uint8) for level in levels])


@pytest.mark.parametrize("size", [(32, 48), (33, 47), (257, 300)])
def test_mp4_round_trip(tmp_path, size):
    colours = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0), (200, 100, 50)]
    source = np.stack([np.broadcast_to(np.uint8(c), (*size, 3)) for c in colours])
    source = source.copy()
    source[:, : size[0] // 2] //= 2
    videos.write(tmp_path / "a.mp4", source, 12.5)
    pairs = list(video.frames(tmp_path / "a.mp4"))
    assert [t for t, _ in pairs] == [k / 12.5 for k in range(len(colours))]
    assert video.native_fps(tmp_path / "a.mp4") == 12.5
    read = np.stack([frame for _, frame in pairs])
    scale = -(-256 // min(size))
    assert min(read.shape[1:3]) >= 256
    assert read.shape[1] - scale * size[0] in (0, 1) and read.shape[2] - scale * size[1] in (0, 1)
    centres = read[:, scale // 2 :: scale, scale // 2 :: scale][:, : size[0], : size[1]]
    error = np.abs(centres.astype(int) - source).mean(axis=(1, 2))
    assert error.max() < 5, error


def test_ntsc_rate_is_exact(tmp_path):
    videos.write(tmp_path / "a.mp4", grey([0, 20, 40]), 29.97002997)
    assert Fraction(video.native_fps(tmp_path / "a.mp4")).limit_denominator(2000) == Fraction(30000, 1001)


@pytest.mark.parametrize("appended", [0, 80])
def test_writer_leaves_nothing_after_an_exception(tmp_path, appended):
    """Covers 80 frames, more than the encoder buffers, so that a part of the file is written."""
    with pytest.raises(KeyError):
        with videos.Writer(tmp_path / "a.mp4", 10) as writer:
            for _ in range(appended):
                writer.append(grey([0])[0])
            assert len(list(tmp_path.iterdir())) == (appended > 0)
            raise KeyError
    assert list(tmp_path.iterdir()) == []


def test_writer_keeps_the_old_file_until_the_end(tmp_path):
    path = tmp_path / "a.mp4"
    videos.write(path, grey([0, 20]), 10)
    before = path.read_bytes()
    with videos.Writer(path, 10) as writer:
        for frame in grey([0, 20, 40]):
            writer.append(frame)
        assert path.read_bytes() == before
    assert len(list(video.frames(path))) == 3 and list(tmp_path.iterdir()) == [path]


def test_writer_errors(tmp_path):
    with pytest.raises(ValueError, match=r"one size, \(32, 48\); frame 1 is \(32, 32\)"):
        with videos.Writer(tmp_path / "a.mp4", 10) as writer:
            writer.append(grey([0])[0])
            writer.append(grey([0], (32, 32))[0])
    with pytest.raises(ValueError, match=r"one size, \(8, 8\); frame 0 is \(32, 48\)"):
        with videos.Writer(tmp_path / "a.mp4", 10, size=(8, 8)) as writer:
            writer.append(grey([0])[0])
    with pytest.raises(ValueError, match=r"append takes uint8 .*not float64 \(4, 4, 3\)"):
        with videos.Writer(tmp_path / "a.mp4", 10) as writer:
            writer.append(np.zeros((4, 4, 3)))
    with pytest.raises(ValueError, match="no frame was appended"):
        with videos.Writer(tmp_path / "a.mp4", 10):
            pass
    with pytest.raises(ValueError, match=r"name the file \*\.mp4, not .*a\.gif"):
        videos.Writer(tmp_path / "a.gif", 10)
    with pytest.raises(ValueError, match=r"use `with Writer\(\.\.\.\)"):
        videos.Writer(tmp_path / "a.mp4", 10).append(grey([0])[0])
    assert list(tmp_path.iterdir()) == []


def test_sheet_layout():
    rows = np.zeros((3, 17, 32, 40, 3), np.uint8)
    rows += np.arange(3, dtype=np.uint8)[:, None, None, None, None] * 50
    rows += np.arange(17, dtype=np.uint8)[:, None, None, None]
    page = videos.sheet(rows, columns=5)
    assert page.shape == (3 * 96 + 2 * 2, 5 * 120 + 4 * 2, 3) and page.dtype == np.uint8
    for row in range(3):
        for column, frame in enumerate([0, 4, 8, 12, 16]):
            cell = page[row * 98 : row * 98 + 96, column * 122 : column * 122 + 120]
            assert (cell == 50 * row + frame).all()
    assert (page[96:98] == 255).all() and (page[:, 120:122] == 255).all()
    assert videos.sheet(rows[:1, :2], scale=1).shape == (32, 40 * 2 + 2, 3)
    with pytest.raises(ValueError, match="columns and scale must be at least 1, not 0"):
        videos.sheet(rows, columns=0)
    with pytest.raises(ValueError, match=r"sheet takes uint8 \(n, f, h, w, 3\)"):
        videos.sheet(rows[0])


def test_captions_stand_above_their_rows_and_nothing_else_changes():
    rows = np.full((2, 3, 32, 40, 3), 90, np.uint8)
    plain, empty = videos.sheet(rows), videos.sheet(rows, captions=["", ""])
    np.testing.assert_array_equal(empty, plain)
    page = videos.sheet(rows, captions=["a red disc " * 40, "\u98a8 moves\nright"])
    line = (len(page) - len(plain)) // 2
    assert page.shape == (len(plain) + 2 * line, plain.shape[1], 3)  # a long caption is cut
    for row in range(2):
        text, frames = np.split(page[row * (98 + line) :][: 96 + line], [line])
        np.testing.assert_array_equal(frames, plain[row * 98 :][:96])
        assert text.min() < 50 and text.max() == 255
    with pytest.raises(ValueError, match="zip"):
        videos.sheet(rows, captions=["a"])


def test_png_round_trip(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    videos.write_png(tmp_path / "deep" / "a.png", image)
    np.testing.assert_array_equal(video.read_image(tmp_path / "deep" / "a.png"), image)
    (tmp_path / "b.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"b\.png does not decode"):
        video.read_image(tmp_path / "b.png")


def test_samples_and_their_record(tmp_path):
    clips = np.random.default_rng(0).integers(0, 256, (2, 4, 16, 24, 3), dtype=np.uint8)
    record = videos.write_samples(
        tmp_path / "out",
        clips,
        ["a", "b"],
        fps=8.0,
        nfe_per_frame=np.array([1.5, 2.5]),
        seconds_per_frame=0.25,
        seed=3,
        protocol=dict(step=7),
    )
    assert record == json.loads((tmp_path / "out" / "samples.json").read_text()) and record["protocol"] == {"step": 7}
    first = dict(
        file="sample_000.mp4", caption="a", nfe_per_frame=1.5, frames=4, fps=8.0, seconds_per_frame=0.25, seed=3
    )
    assert record["samples"][0] == first
    assert len(list(video.frames(tmp_path / "out" / "sample_001.mp4"))) == 4
    np.testing.assert_array_equal(
        video.read_image(tmp_path / "out" / "sheet.png"), videos.sheet(clips, captions=["a", "b"])
    )


# --- samples into a folder that holds older ones --------------------------------------------------


def write_samples(out, count, seed=0):
    clips = np.random.default_rng(seed).integers(0, 256, (count, 2, 16, 16, 3), dtype=np.uint8)
    costs = dict(nfe_per_frame=np.ones(count), seconds_per_frame=1.0)
    return videos.write_samples(out, clips, [""] * count, fps=8.0, seed=seed, protocol={}, **costs)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_fewer_samples_leave_no_older_ones(tmp_path):
    write_samples(tmp_path, 4)
    record = json.loads((tmp_path / "samples.json").read_text())
    record["samples"][3]["file"] = "stream.mp4"  # the name that another version may have given
    record["samples"] += [{"file": "../outside.mp4"}, {"file": "notes.txt"}, {}, 7]
    (tmp_path / "samples.json").write_text(json.dumps(record))
    ours, others = ("stream.mp4", "sample_1000.mp4"), ("sample_1.mp4", "my_sample_001.mp4", "notes.txt", "a.mp4")
    for name in (*ours, *others, "../outside.mp4"):
        (tmp_path / name).write_bytes(b"video")
    (tmp_path / "sample_005.mp4").mkdir()
    write_samples(tmp_path, 2, seed=1)
    left = ["sample_000.mp4", "sample_001.mp4", "sample_005.mp4", "samples.json", "sheet.png"]
    assert names(tmp_path) == sorted([*others, *left])
    assert (tmp_path / ".." / "outside.mp4").exists()


def test_a_damaged_record_of_older_samples_is_replaced(tmp_path):
    write_samples(tmp_path, 3)
    (tmp_path / "samples.json").write_bytes(bytes(100))
    assert write_samples(tmp_path, 1) == json.loads((tmp_path / "samples.json").read_text())
    assert names(tmp_path) == ["sample_000.mp4", "samples.json", "sheet.png"]


def test_videos_of_another_program_stay(tmp_path, caplog):
    """Checks that a folder without a record of samples loses no video, and that a warning names those that stay."""
    for number in (1, 7):
        (tmp_path / f"sample_{number:03d}.mp4").write_bytes(b"video")
    write_samples(tmp_path, 2)
    assert names(tmp_path) == ["sample_000.mp4", "sample_001.mp4", "sample_007.mp4", "samples.json", "sheet.png"]
    assert "also holds sample_007.mp4, which no samples.json lists" in caplog.text


@pytest.mark.parametrize("failing", ["write", "write_png", "write_text"])
def test_a_failure_keeps_the_older_samples_whole(tmp_path, monkeypatch, failing):
    write_samples(tmp_path, 3)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    calls, real = [], getattr(videos, failing)

    def fail(*args, **options):
        calls.append(args)
        if len(calls) == (2 if failing == "write" else 1):
            raise OSError("the disk is full")
        return real(*args, **options)

    monkeypatch.setattr(videos, failing, fail)
    with pytest.raises(OSError, match="full"):
        write_samples(tmp_path, 2, seed=1)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize("moves", range(4))
def test_a_command_that_is_killed_mixes_no_samples(tmp_path, monkeypatch, moves):
    """Stops while the new files take their places: no old file is left then, and the next command cleans up."""
    write_samples(tmp_path, 3)
    old = {path.read_bytes() for path in tmp_path.glob("*.*")}
    real, done = Path.replace, []

    def replace(self, target):
        if Path(target).parent == tmp_path:
            if len(done) == moves:
                raise KeyboardInterrupt
            done.append(target)
        return real(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", replace)
        patch.setattr(videos.shutil, "rmtree", lambda *args, **options: None)  # nothing cleans up after a kill
        with pytest.raises(KeyboardInterrupt):
            write_samples(tmp_path, 2, seed=1)
    assert not old & {path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    assert not (tmp_path / "samples.json").exists()
    write_samples(tmp_path, 1)
    assert names(tmp_path) == ["sample_000.mp4", "samples.json", "sheet.png"]
