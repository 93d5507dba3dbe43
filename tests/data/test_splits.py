"""Splits of a folder: no video, and no copy of one, is in two of them; layouts and tables are honoured."""

import shutil

import numpy as np
import pytest
from conftest import SHARED

from jvflow.data import copies, cuts, folder, pipeline, records, splits, video
from jvflow.report import videos

SHAPE = {"frames": 4, "fps": 10, "size": (16, 16)}
QUIET = {"log": lambda line: None}


def write(path, count, seed=0):
    """Writes a video at 10 fps: a texture of its own that moves."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    picture = np.kron(rng.integers(0, 255, (4, 6, 3)), np.ones((12, 16, 1))).astype(np.uint8)
    videos.write(path, np.stack([np.roll(picture, 2 * k, axis=1) for k in range(count)]), 10)


def build(inside, out, **options):
    """Builds a data set and returns {split: videos} from its report, which must agree with the clips on disk."""
    folder.build(inside, out, **SHAPE | options, **QUIET)
    report = {}
    for entry in records.report(out)["files"]:
        report.setdefault(entry["split"], set()).add(entry["file"])
    on_disk = {split: {clip["source"] for clip in pipeline.open_split(out, split)} for split in report if split}
    assert on_disk == {split: files for split, files in report.items() if split}
    return report


@pytest.mark.integration
def test_two_splits_never_share_a_video(tmp_path):
    """Builds ten videos of ten clips, and checks the fraction and the seed, and that clips of a video stay together."""
    for number in range(10):
        write(tmp_path / "in" / f"{number % 3}" / f"{number}.mp4", 40, seed=number)
    drawn = build(tmp_path / "in", tmp_path / "out", test_fraction=0.3)
    assert len(drawn["test"]) == 3 and not drawn["train"] & drawn["test"]
    manifest = records.manifest(tmp_path / "out")
    assert manifest["splits"] == {"train": 70, "test": 30}
    assert manifest["videos"] == {split: dict.fromkeys(sorted(drawn[split]), 10) for split in ("train", "test")}
    draw = lambda seed: splits.draw(
        [[name] for name in drawn["train"] | drawn["test"]], {}, test_fraction=0.3, seed=seed
    )
    assert {name for name, split in draw(0).items() if split == "test"} == drawn["test"]
    assert len({tuple(sorted(draw(seed).items())) for seed in range(5)}) > 1


@pytest.mark.parametrize(
    "videos, fraction, held_out", [(1, 0.9, 0), (2, 0.01, 1), (2, 0.99, 1), (10, 0.2, 2), (5, 0, 0)]
)
def test_the_number_of_held_out_videos(videos, fraction, held_out):
    drawn = splits.draw([[f"{i}.mp4"] for i in range(videos)], {}, test_fraction=fraction, seed=0)
    assert sorted(drawn.values()).count("test") == held_out


def test_a_layout_is_honoured(tmp_path):
    for number, name in enumerate(("train/a", "train/deep/b", "test/c", "validation/d")):
        write(tmp_path / "in" / f"{name}.mp4", 4, seed=number)
    given = build(tmp_path / "in", tmp_path / "out", test_fraction=0.9)
    assert given == {"train": {"train/a.mp4", "train/deep/b.mp4"}, "test": {"test/c.mp4"}, "val": {"validation/d.mp4"}}
    write(tmp_path / "in" / "stray.mp4", 4, seed=9)
    with pytest.raises(
        ValueError, match="1 videos are outside of the folders test, train, validation: stray.mp4: move"
    ):
        build(tmp_path / "in", tmp_path / "other")


def test_a_class_that_is_called_train_is_no_layout():
    names = ["train/a.mp4", "plane/b.mp4", "plane/c.mp4"]
    assert splits.given(names, {}) == {}
    assert splits.given(["test/a.mp4", "b.mp4"], {}) == {"test/a.mp4": "test"}
    with pytest.raises(ValueError, match="no video is in the split 'train', all are in test, val"):
        splits.given(["test/a.mp4", "val/b.mp4"], {})


def test_a_column_of_the_table_is_honoured(tmp_path):
    for number, name in enumerate("abc"):
        write(tmp_path / "in" / f"{name}.mp4", 4, seed=number)
    table = tmp_path / "in" / "metadata.csv"
    table.write_text("file_name,split\na.mp4,Test\nb.mp4,\n")
    first = build(tmp_path / "in", tmp_path / "out")
    assert first == {"test": {"a.mp4"}, "train": {"b.mp4", "c.mp4"}}
    table.write_text("file_name,split\na.mp4,\nb.mp4,test\n")
    assert build(tmp_path / "in", tmp_path / "other")["test"] == {"b.mp4"}
    shutil.copy(tmp_path / "in" / "b.mp4", tmp_path / "in" / "copy.mp4")
    assert build(tmp_path / "in", tmp_path / "copied")["test"] == {"b.mp4", "copy.mp4"}
    keys = [records.manifest(tmp_path / name)["key"] for name in ("out", "other")]
    assert keys[0] != keys[1]
    table.write_text("file_name,split\na.mp4,tset\n")
    with pytest.raises(ValueError, match="line 2: 'split' is 'tset': write train, test, val, validation, or nothing"):
        build(tmp_path / "in", tmp_path / "third")


def test_contradictions_are_one_error(tmp_path):
    write(tmp_path / "in" / "train" / "a.mp4", 4)
    write(tmp_path / "in" / "test" / "b.mp4", 4, seed=1)
    table = tmp_path / "in" / "metadata.csv"
    table.write_text("file_name,split\ntrain/a.mp4,test\n")
    with pytest.raises(ValueError, match=r"contradict each other, folder / column: train/a.mp4 \(train / test\)"):
        build(tmp_path / "in", tmp_path / "out")
    table.unlink()
    shutil.copy(tmp_path / "in" / "train" / "a.mp4", tmp_path / "in" / "test" / "same.mp4")
    with pytest.raises(ValueError, match=r"equal files .* test/same.mp4 \(test\), train/a.mp4 \(train\): keep one"):
        build(tmp_path / "in", tmp_path / "out")


def test_copies_count_as_one_video(tmp_path):
    """Checks a renamed copy, and one that was compressed again at another size and rate."""
    source = tmp_path / "in" / "a.mp4"
    write(source, 20)
    write(tmp_path / "in" / "b.mp4", 20, seed=1)
    shutil.copy(source, tmp_path / "in" / "renamed.mp4")
    frames = [frame for _, frame in video.frames(source, fps=8)]
    videos.write(tmp_path / "in" / "small.mp4", video.resize(np.stack(frames), (24, 48), "squeeze"), 8)
    drawn = build(tmp_path / "in", tmp_path / "out", fps=8, test_fraction=0.5)
    assert sorted(map(sorted, drawn.values())) == [["a.mp4", "renamed.mp4", "small.mp4"], ["b.mp4"]]
    report = records.report(tmp_path / "out")
    assert [entry["copy_of"] for entry in report["files"]] == [None, None, "a.mp4", "a.mp4"]
    assert "2 videos are copies and share the split of another one: renamed.mp4 = a.mp4" in report["notes"][0]


def test_flat_videos_are_copies_only_if_their_bytes_are_equal(tmp_path):
    for level in (10, 11):
        videos.write(tmp_path / f"{level}.mp4", np.full((8, 32, 32, 3), level, np.uint8), 10)
    signatures = [cuts.scan(tmp_path / f"{level}.mp4").signature for level in (10, 11)]
    assert signatures == [None, None]
    assert copies.group(["a", "b", "c"], ["x", "y", "x"], [None] * 3) == [["a", "c"], ["b"]]


def test_a_video_with_a_damaged_begin_has_the_signature_of_the_rest():
    frames = np.random.default_rng(0).integers(0, 256, (12, 16, 32, 3), np.uint8)
    whole, late = copies.Recorder(), copies.Recorder()
    for k, frame in enumerate(frames):
        whole.add(k / 24, frame)
        late.add(0.3 + k / 24, frame)
    assert copies.alike(whole.finish(), late.finish())


@pytest.mark.integration
def test_no_two_real_videos_are_taken_for_copies():
    real = sorted((SHARED / "data" / "asl_gestures").glob("*"))
    if not real:
        pytest.skip("needs the folder shared/ next to the checkout")
    signatures = [cuts.scan(path).signature for path in real]
    assert len(copies.group([path.name for path in real], range(len(real)), signatures)) == 20


# --- short videos -----------------------------------------------------------------------------------


def test_clips_become_shorter_where_videos_are_short(tmp_path):
    """Checks that every video of a second gives a clip, and that the report names what was lost and changed."""
    for name, count in dict(a=40, b=15, c=10, d=7).items():
        write(tmp_path / "in" / f"{name}.mp4", count, seed=count)
    options = dict(SHAPE, frames=20) | QUIET
    folder.build(tmp_path / "in", tmp_path / "kept", **options)
    assert records.manifest(tmp_path / "kept")["shape"][0] == 20
    (lost, _) = records.report(tmp_path / "kept")["notes"]
    assert lost.startswith("3 of 4 videos are shorter than 2 s (20 frames at 10 fps)")
    assert "give no clip: b.mp4, c.mp4, d.mp4: --config.data.frames=7 --config.data.stride=7 takes all" in lost
    manifest = folder.build(tmp_path / "in", tmp_path / "short", **options, min_frames=4)
    assert manifest["shape"][0] == 10 and sum(manifest["splits"].values()) == 4 + 1 + 1
    changed, lost = records.report(tmp_path / "short")["notes"]
    assert changed.startswith("clips have 10 frames (1 s at 10 fps), not config.data.frames=20: 3 of 4 videos are")
    assert lost.startswith("1 of 4 videos are shorter than 1 s") and "d.mp4" in lost
    assert manifest["key"] != records.manifest(tmp_path / "kept")["key"]


def test_clips_fit_the_shots_of_a_video(tmp_path):
    """Checks a video of two shots of one second: a clip does not cross the cut, so it has a second at most."""
    write(tmp_path / "a.mp4", 10)
    write(tmp_path / "b.mp4", 10, seed=1)
    shots = [np.stack([frame for _, frame in video.frames(tmp_path / f"{name}.mp4")]) for name in "ab"]
    (tmp_path / "in").mkdir()
    videos.write(tmp_path / "in" / "two.mp4", np.concatenate(shots), 10)
    manifest = folder.build(tmp_path / "in", tmp_path / "out", **dict(SHAPE, frames=16), **QUIET, min_frames=4)
    assert manifest["shape"][0] in (9, 10) and manifest["splits"] == {"train": 2}


def test_a_single_video_is_in_train_with_a_warning(tmp_path, caplog):
    write(tmp_path / "in" / "a.mp4", 8)
    assert build(tmp_path / "in", tmp_path / "out") == {"train": {"a.mp4"}}
    (note,) = records.report(tmp_path / "out")["notes"]
    assert note.startswith("no clip is held out, because one video gives clips")
    assert pipeline.held_out(tmp_path / "out") == pipeline.held_out(tmp_path / "out", "val") == "train"
    assert [record.message for record in caplog.records if "has no held-out clips" in record.message][1:] == []


def test_held_out_clips_are_those_of_the_split_that_there_is(tmp_path):
    for number, name in enumerate(("train/a", "val/b", "test/c")):
        write(tmp_path / "in" / f"{name}.mp4", 4, seed=number)
    build(tmp_path / "in", tmp_path / "all")
    assert (pipeline.held_out(tmp_path / "all"), pipeline.held_out(tmp_path / "all", "val")) == ("test", "val")
    shutil.rmtree(tmp_path / "in" / "test")
    build(tmp_path / "in", tmp_path / "some")
    assert pipeline.held_out(tmp_path / "some") == "val"
