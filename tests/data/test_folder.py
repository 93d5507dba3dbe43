"""A folder of videos as clips: their frames, their splits, and the report on dropped files and frames."""

import numpy as np
import pytest
from conftest import SHARED

from jvflow.data import folder, pipeline, records
from jvflow.report import videos

REAL = SHARED / "data" / "asl_gestures"
SHAPE = {"frames": 4, "fps": 10, "size": (16, 16)}


def write(path, count, first=0):
    """Writes a video at 10 fps whose frame k is grey with level 10 (first + k)."""
    levels = np.uint8(10 * (first + np.arange(count)))
    path.parent.mkdir(parents=True, exist_ok=True)
    videos.write(path, np.broadcast_to(levels[:, None, None, None], (count, 32, 48, 3)), 10)


def numbers(video):
    return [int(round(frame.mean() / 10)) for frame in video]


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """Writes two good videos, a short one, a corrupt one, a caption, and files that are no videos."""
    root = tmp_path_factory.mktemp("mixed")
    write(root / "b.mp4", 10)
    write(root / "a" / "deep.mp4", 8, first=10)
    (root / "a" / "deep.mp4").rename(root / "a" / "deep.MP4")
    write(root / "short.mp4", 3)
    (root / "corrupt.mp4").write_bytes(b"nothing" * 99)
    (root / "._b.mp4").write_bytes(b"left by another system")
    (root / "b.txt").write_text("ein grauer Würfel\n", "utf-8")
    (root / "notes.md").write_text("no video")
    return root


def test_clips_of_a_mixed_folder(mixed):
    entries = []
    clips = list(folder.clips(mixed, **SHAPE, report=entries.append))
    assert [(c.source, c.start, numbers(c.video)) for c in clips] == [
        ("a/deep.MP4", 0.0, [10, 11, 12, 13]),
        ("a/deep.MP4", 0.4, [14, 15, 16, 17]),
        ("b.mp4", 0.0, [0, 1, 2, 3]),
        ("b.mp4", 0.4, [4, 5, 6, 7]),
    ]
    assert [c.caption for c in clips] == ["", "", "ein grauer Würfel", "ein grauer Würfel"]
    assert all(c.video.shape == (4, 16, 16, 3) and c.fps == 10 for c in clips)
    keys = ("file", "frames", "clips", "dropped")
    assert [tuple(entry[key] for key in keys) for entry in entries] == [
        ("a/deep.MP4", 8, 2, 0),
        ("b.mp4", 10, 2, 2),
        ("corrupt.mp4", 0, 0, 0),
        ("short.mp4", 3, 0, 3),
    ]
    assert [entry["error"] is None for entry in entries] == [True, True, False, True]
    assert "corrupt.mp4 does not decode" in entries[2]["error"]
    assert entries[1]["bytes"] == (mixed / "b.mp4").stat().st_size


@pytest.mark.parametrize(
    "stride, starts, dropped",
    [(1, range(7), 0), (3, (0, 3, 6), 0), (5, (0, 5), 2), (7, (0,), 6)],
)
def test_stride(tmp_path, stride, starts, dropped):
    write(tmp_path / "a.mp4", 10)
    entries = []
    clips = list(folder.clips(tmp_path, **SHAPE, stride=stride, report=entries.append))
    assert [numbers(c.video) for c in clips] == [list(range(s, s + 4)) for s in starts]
    assert [c.start for c in clips] == pytest.approx([s / 10 for s in starts])
    assert entries[0]["dropped"] == dropped


def test_rate_and_fit(tmp_path):
    """Checks the rate, and that "crop" cuts the stripes at both sides away and "squeeze" keeps them."""
    source = np.zeros((8, 32, 64, 3), np.uint8) + np.uint8(10 * np.arange(8))[:, None, None, None]
    source[:, :, :8] = source[:, :, -8:] = 250
    videos.write(tmp_path / "a.mp4", source, 10)
    options = {"frames": 4, "fps": 5, "size": (16, 16)}
    (crop,) = folder.clips(tmp_path, **options)
    (squeeze,) = folder.clips(tmp_path, **options, fit="squeeze")
    assert numbers(crop.video) == numbers(squeeze.video[:, :, 4:-4]) == [0, 2, 4, 6]
    assert squeeze.video[:, :, 0].min() > 240 and crop.fps == 5


def test_a_caption_that_is_not_utf8_skips_its_file(tmp_path):
    write(tmp_path / "a.mp4", 4)
    (tmp_path / "a.txt").write_bytes("Würfel".encode("latin-1"))
    entries = []
    assert list(folder.clips(tmp_path, **SHAPE, report=entries.append)) == []
    assert "a.txt is not UTF-8" in entries[0]["error"]


def test_build(mixed, tmp_path):
    lines = []
    manifest = folder.build(mixed, tmp_path / "set", **SHAPE, stride=1, test_fraction=0.25, seed=3, log=lines.append)
    assert manifest == records.manifest(tmp_path / "set")
    assert sorted(manifest["splits"].values()) == [5, 7] and manifest["shape"] == [4, 16, 16, 3]
    settings = manifest["settings"]
    report = records.report(tmp_path / "set")
    assert report["folder"] == str(mixed) and settings["stride"] == 1 and settings["seed"] == 3
    kept = {entry["file"]: entry["clips"] for entry in report["files"]}
    assert kept == {"a/deep.MP4": 5, "b.mp4": 7, "corrupt.mp4": 0, "short.mp4": 0}
    assert [entry["split"] is None for entry in report["files"]] == [False, False, True, True]
    assert len(lines) == 8 and "corrupt.mp4: 0 clips" in lines[2] and "not decode" in lines[2]
    assert [path.name for path in tmp_path.iterdir()] == ["set"]

    expected = list(folder.clips(mixed, **SHAPE, stride=1))
    at = {(c.source, np.float32(c.start)): i for i, c in enumerate(expected)}
    drawn = {}
    for split in ("train", "test"):
        stored = list(pipeline.open_split(tmp_path / "set", split))
        drawn[split] = [at[record["source"], record["start"]] for record in stored]
        for record, i in zip(stored, drawn[split], strict=True):
            np.testing.assert_array_equal(record["video"], expected[i].video)
            assert record["caption"] == expected[i].caption
        assert drawn[split] == sorted(drawn[split])
    assert sorted(drawn["train"] + drawn["test"]) == list(range(12))


def test_errors(tmp_path):
    out = tmp_path / "out"
    with pytest.raises(ValueError, match="missing is not a folder"):
        folder.build(tmp_path / "missing", out, **SHAPE)
    inside = tmp_path / "in"
    inside.mkdir()
    with pytest.raises(
        ValueError, match=r"no video files \(mp4, webm, mkv, .*\) and no folders of images \(png, .*\) in .*in$"
    ):
        folder.build(inside, out, **SHAPE)
    (inside / "x.mp4").write_bytes(b"nothing" * 99)
    with pytest.raises(ValueError, match=r"none of the 1 videos in .* decodes: .*x\.mp4"):
        folder.build(inside, out, **SHAPE)
    write(inside / "a.mp4", 3)
    cure = r"4 frames at 10 fps, the longest video has 3 \(0\.30 s\): use fewer frames or a higher fps"
    with pytest.raises(ValueError, match=cure):
        folder.build(inside, out, **SHAPE)
    with pytest.raises(ValueError, match="frames and stride must be at least 1, not 4 and 0"):
        folder.build(inside, out, **SHAPE, stride=0)
    with pytest.raises(ValueError, match="mode must be 'crop' or 'squeeze', not 'pad'"):
        folder.build(inside, out, **SHAPE, fit="pad")
    with pytest.raises(ValueError, match=r"size must be \(height, width\)"):
        folder.build(inside, out, frames=2, fps=10, size=(16,))
    with pytest.raises(ValueError, match=r"^fps must be in \[0.01, 1000\] frames per second, not 0"):
        folder.build(inside, out, frames=2, fps=0, size=(16, 16))
    with pytest.raises(ValueError, match="test_fraction must be at least 0 and below 1, not 1"):
        folder.build(inside, out, **SHAPE, test_fraction=1)
    assert [path.name for path in tmp_path.iterdir()] == ["in"]
    folder.build(inside, out, frames=2, fps=10, size=(16, 16))
    with pytest.raises(ValueError, match="already holds a data set"):
        folder.build(inside, out, **SHAPE)


@pytest.mark.integration
def test_real_folder(tmp_path):
    if not REAL.exists():
        pytest.skip(f"{REAL} is not here")
    manifest = folder.build(REAL, tmp_path / "set", frames=16, fps=8, size=(32, 32))
    assert len(manifest["settings"]["sources"]) == 20
    assert sum(manifest["splits"].values()) == 14 and manifest["splits"]["test"] == 3
    assert pipeline.open_split(tmp_path / "set", "train")[0]["video"].std() > 20


def write_images(path, count, names="frame_{}.png"):
    path.mkdir(parents=True)
    for k in range(count):
        videos.write_png(path / names.format(k), np.full((32, 48, 3), 10 * k, np.uint8))


def test_folders_of_images(tmp_path):
    """Reads twelve images at 20 fps with 10 fps: every other image, in the order of their numbers."""
    write_images(tmp_path / "deep" / "walk", 12)
    write(tmp_path / "a.mp4", 4)
    videos.write_png(tmp_path / "poster.png", np.zeros((32, 48, 3), np.uint8))  # a single image is no video
    (tmp_path / "deep" / "walk" / ".hidden.png").write_bytes(b"")
    entries = []
    clips = list(folder.clips(tmp_path, **SHAPE, image_fps=20, report=entries.append))
    assert [(c.source, c.start, numbers(c.video)) for c in clips] == [
        ("a.mp4", 0.0, [0, 1, 2, 3]),
        ("deep/walk", 0.0, [0, 2, 4, 6]),
    ]
    assert [(e["file"], e["frames"], e["dropped"], e["error"]) for e in entries] == [
        ("a.mp4", 4, 0, None),
        ("deep/walk", 6, 2, None),
    ]
    assert entries[1]["bytes"] == sum(f.stat().st_size for f in (tmp_path / "deep" / "walk").glob("frame*"))


def test_the_folder_itself_may_be_of_images(tmp_path):
    write_images(tmp_path / "walk", 9, "{}.jpg.png")
    assert [numbers(c.video) for c in folder.clips(tmp_path / "walk", **SHAPE, image_fps=10)] == [
        [0, 1, 2, 3],
        [4, 5, 6, 7],
    ]


def test_images_without_a_rate_are_skipped_and_named(tmp_path):
    write_images(tmp_path / "in" / "walk", 8)
    with pytest.raises(
        ValueError, match=r"none of the 1 videos in .*walk is a folder of images, .* config.data.image_fps"
    ):
        folder.build(tmp_path / "in", tmp_path / "out", **SHAPE)
    write(tmp_path / "in" / "a.mp4", 4)
    folder.build(tmp_path / "in", tmp_path / "out", **SHAPE)
    assert [entry["error"] is None for entry in records.report(tmp_path / "out")["files"]] == [True, False]
    with pytest.raises(ValueError, match="^fps must be in .* not -1"):
        folder.build(tmp_path / "in", tmp_path / "other", **SHAPE, image_fps=-1)


def test_a_broken_image_leaves_out_its_clips(tmp_path):
    write_images(tmp_path / "walk", 8)
    (tmp_path / "walk" / "frame_6.png").write_bytes(b"nothing")
    entries = []
    (clip,) = folder.clips(tmp_path, **SHAPE, image_fps=10, report=entries.append)
    assert numbers(clip.video) == [0, 1, 2, 3] and "frame_6.png does not decode" in entries[0]["error"]
