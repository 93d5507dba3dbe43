"""Every file of a folder: kept, skipped with a reason, or ignored by its suffix; links, and circles of links."""

import films
import numpy as np
import pytest

from jvflow.data import folder, listing, records, video
from jvflow.report import videos


def others(root):
    return {entry["file"]: (entry["status"], entry["reason"]) for entry in listing.list_folder(root).others}


def found(root):
    return [path.relative_to(root).as_posix() for path in listing.list_folder(root).videos]


@pytest.mark.parametrize("suffix", video.VIDEO_SUFFIXES)
def test_suffixes_of_videos(tmp_path, suffix):
    (tmp_path / f"a{suffix.upper()}").write_bytes(b"x")
    assert found(tmp_path) == [f"a{suffix.upper()}"] and not others(tmp_path)


def test_every_file_has_a_status(tmp_path):
    root = tmp_path / "in"
    films.write(root / "good.mp4", 8)
    films.write(root / "short.m4v", 2)
    (root / "broken.ts").write_bytes(b"nothing" * 99)
    (root / "notes.md").write_text("x")
    (root / "LICENSE").write_text("x")
    (root / ".hidden.mp4").write_text("x")
    (root / "lost.mp4").symlink_to("/nowhere/x.mp4")
    videos.write_png(root / "poster.png", np.zeros((8, 8, 3), np.uint8))
    for k in range(4):
        videos.write_png(root / "walk" / f"{k}.png", np.zeros((8, 8, 3), np.uint8))
    (root / "walk" / "index.html").write_text("x")
    assert others(root) == {
        ".hidden.mp4": ("ignored", "hidden"),
        "LICENSE": ("ignored", "no suffix"),
        "lost.mp4": ("skipped", "a link to nothing"),
        "notes.md": ("ignored", "suffix .md"),
        "poster.png": ("ignored", "an image next to videos"),
        "walk/index.html": ("ignored", "suffix .html"),
    }
    lines = []
    folder.build(root, tmp_path / "out", frames=4, fps=24, size=(8, 8), log=lines.append)
    report = records.report(tmp_path / "out")
    assert {entry["file"]: entry["status"] for entry in report["files"]} == {
        "broken.ts": "skipped",
        "good.mp4": "kept",
        "short.m4v": "skipped",
        "walk": "skipped",
    }
    reasons = {entry["file"]: entry["reason"] for entry in report["files"]}
    assert reasons["good.mp4"] is None and "does not decode" in reasons["broken.ts"]
    assert "no shot has the 4 frames of a clip at 24 fps; the video has 2" in reasons["short.m4v"]
    assert "config.data.image_fps" in reasons["walk"]
    assert {entry["file"] for entry in report["others"]} == set(others(root))
    assert "1 skipped (a link to nothing): lost.mp4" in lines and "1 ignored (suffix .md): notes.md" in lines


def test_links_are_followed(tmp_path):
    root, outside = tmp_path / "in", tmp_path / "outside"
    for path in (root / "a.mp4", outside / "deep" / "b.mp4", outside / "c.mp4"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    (root / "linked").symlink_to(outside)
    (root / "file.mp4").symlink_to(outside / "c.mp4")
    assert found(root) == ["a.mp4", "file.mp4", "linked/c.mp4", "linked/deep/b.mp4"]


def test_circles_end_and_no_folder_is_listed_twice(tmp_path):
    root = tmp_path / "in"
    (root / "b" / "deep").mkdir(parents=True)
    (root / "b" / "deep" / "x.mp4").write_bytes(b"x")
    (root / "b" / "deep" / "up").symlink_to(root)  # a circle
    (root / "b" / "self").symlink_to(".")  # another
    (root / "a_link").symlink_to("b")  # sorted before the folder itself
    (root / "nowhere").symlink_to("/nowhere")
    assert found(root) == ["b/deep/x.mp4"]
    assert others(root) == {
        "a_link": ("skipped", "a link to a folder that is listed as b"),
        "b/deep/up": ("skipped", "a link to a folder that is listed as ."),
        "b/self": ("skipped", "a link to a folder that is listed as b"),
        "nowhere": ("ignored", "no suffix"),
    }


def test_two_links_to_one_folder_outside_give_its_videos_once(tmp_path):
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "x.mp4").write_bytes(b"x")
    root = tmp_path / "in"
    root.mkdir()
    for name in "ab":
        (root / name).symlink_to(tmp_path / "outside")
    assert found(root) == ["a/x.mp4"] and "b" in others(root)


def test_hidden_folders_are_left_out(tmp_path):
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "a.mp4").write_bytes(b"x")
    with pytest.raises(ValueError, match="no video files"):
        listing.find_videos(tmp_path)
