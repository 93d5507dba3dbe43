"""Names of videos and folders that file systems allow: colons, bytes that are not UTF-8, forms of Unicode."""

import json
import os
import shutil
from pathlib import Path
from unicodedata import normalize

import numpy as np
import pytest
from conftest import debug_config
from test_folder import SHAPE, numbers, write, write_images

from jvflow.data import captions, dataset, folder, images, listing, pipeline, records, video
from jvflow.data.dataset_key import FileHashes
from jvflow.parallel import locks
from jvflow.report import videos

LATIN = os.fsdecode(b"caf\xe9.mp4")
NAMES = ["12:45:01.mp4", LATIN, "-x.mp4", "~.mp4", "http:x.mp4", "pipe:0.mp4", "a%03d.mp4", "[a]*?.mp4", "q'\"$;&.mp4"]
NAMES += ["a\nb.mp4", " a b .mp4", "x" * 251 + ".mp4", "u\u0308.mp4", "file:a.mp4", "concat:a|b.mp4"]


@pytest.fixture(scope="module")
def odd(tmp_path_factory) -> Path:
    """Writes a video with 4 + k frames under the k-th of `NAMES`."""
    root = tmp_path_factory.mktemp("odd")
    for number, name in enumerate(NAMES):
        write(root / "plain.mp4", 4, first=number)
        (root / "plain.mp4").rename(root / name)
    return root


def test_every_video_is_read_and_named_in_utf8(odd, tmp_path, monkeypatch):
    monkeypatch.chdir(odd)
    manifest = folder.build(".", tmp_path / "set", **SHAPE)
    wanted = {r"caf\xe9.mp4" if name == LATIN else name for name in NAMES}
    assert set(manifest["settings"]["sources"]) == wanted
    report = json.loads((tmp_path / "set" / "report.json").read_text("utf-8"))
    assert {entry["file"] for entry in report["files"] if entry["status"] == "kept"} == wanted
    clips = [clip for split in manifest["splits"] for clip in pipeline.open_split(tmp_path / "set", split)]
    shown = {clip["source"]: numbers(clip["video"])[0] for clip in clips}
    assert shown == {r"caf\xe9.mp4" if name == LATIN else name: number for number, name in enumerate(NAMES)}


def test_a_broken_video_is_named_in_utf8(tmp_path):
    write(tmp_path / "in" / "a.mp4", 4)
    (tmp_path / "in" / LATIN).write_bytes(b"nothing" * 99)
    (tmp_path / "in" / os.fsdecode(b"\xff")).mkdir()
    (tmp_path / "in" / os.fsdecode(b"\xff/b.t\xfft")).write_text("no video")
    folder.build(tmp_path / "in", tmp_path / "set", **SHAPE)
    report = records.report(tmp_path / "set")
    assert (
        report["files"][1]["file"] == r"caf\xe9.mp4" and r"caf\xe9.mp4 does not decode" in report["files"][1]["error"]
    )
    assert report["others"] == [dict(file=r"\xff/b.t\xfft", status="ignored", reason=r"suffix .t\xfft")]


def test_a_name_that_reads_like_another_is_skipped(tmp_path):
    write(tmp_path / r"caf\xe9.mp4", 4)
    shutil.copy(tmp_path / r"caf\xe9.mp4", tmp_path / LATIN)
    listed = listing.list_folder(tmp_path)
    assert listed.videos == [tmp_path / r"caf\xe9.mp4"]
    reason = "not UTF-8, and its readable name is that of another file"
    assert listed.others == [dict(file=r"caf\xe9.mp4", status="skipped", reason=reason)]


def test_videos_are_written_below_a_folder_with_a_colon(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("2026-01-01T12:30/x.mp4", "http:/x.mp4", "-a%d[*?].mp4", os.fsdecode(b"\xe9.mp4")):
        videos.write(name, np.full((3, 32, 32, 3), 90, np.uint8), 10)
        assert len(list(video.frames(name))) == 3 and len(video.first_frames(name, 2, debug_config(None).data)) == 2


def table(tmp_path, *rows):
    (tmp_path / "metadata.csv").write_text("\n".join(["file_name,caption", *rows]), "utf-8")
    return tmp_path / "metadata.csv"


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_a_table_may_spell_a_name_in_another_form_of_unicode(tmp_path, form):
    other = "NFD" if form == "NFC" else "NFC"
    write(tmp_path / normalize(form, "für.mp4"), 4)
    write(tmp_path / normalize(form, "dé") / "b.mp4", 4)
    (tmp_path / normalize(other, "für.txt")).write_text("in a text file")
    settings = folder.settings(tmp_path, **SHAPE)
    assert settings["sources"][normalize(form, "für.mp4")]["caption"] == "in a text file"
    table(tmp_path, *[normalize(other, row) for row in ("für.mp4,one", "dé/b.mp4,two")])
    settings = folder.settings(tmp_path, **SHAPE)
    assert {name: source["caption"] for name, source in settings["sources"].items()} == {
        normalize(form, "für.mp4"): "one",
        normalize(form, "dé/b.mp4"): "two",
    }


def test_two_videos_whose_names_differ_only_in_the_form(tmp_path):
    names = [normalize(form, "ü.mp4") for form in ("NFC", "NFD")]
    file = table(tmp_path, *(f"{name},{number}" for number, name in enumerate(names)))
    rows = captions.read_table(file)
    assert captions.match(file, rows, names) == rows
    with pytest.raises(ValueError, match="names ü.mp4 in two rows, which spell it in two forms of Unicode: keep one"):
        captions.match(file, rows, names[:1])


def test_the_folder_of_a_data_set_has_a_name_that_fits(tmp_path):
    data = debug_config(None).data
    for name in ("x" * 255, "ü" * 127, "plain"):
        data.path = str(tmp_path / name)
        made = dataset.location(data, tmp_path, {}).name
        assert len(f".{made}.partial".encode()) <= 255 and made.startswith(name[:100])


def test_a_name_that_is_too_long_for_a_caption_has_none(tmp_path):
    write_images(tmp_path / ("x" * 255), 4)
    write(tmp_path / "a.mp4", 4)
    (tmp_path / "a.mp4").rename(tmp_path / ("y" * 252 + ".ts"))
    settings = folder.settings(tmp_path, **SHAPE, image_fps=10)
    assert [source["caption"] for source in settings["sources"].values()] == ["", ""]


def test_images_with_digits_of_other_scripts(tmp_path):
    write_images(tmp_path / "walk", 3, names="{}².png")
    assert [file.name for file in images.ImageFolder(tmp_path / "walk", 1).files()] == ["0².png", "1².png", "2².png"]


def test_two_processes_hash_a_file_once(tmp_path):
    (tmp_path / "a").write_text("a")
    first, second = (FileHashes(tmp_path / "known") for _ in range(2))
    assert first([tmp_path / "a"]) == second([tmp_path / "a"])
    assert len((tmp_path / "known").read_text().splitlines()) == 1
    assert {path.name for path in tmp_path.iterdir()} == {"a", "known"}


@pytest.mark.parametrize("error", [PermissionError(13, "denied"), OSError(30, "Read-only file system")])
def test_hashes_in_a_folder_where_nobody_may_write(tmp_path, monkeypatch, error):
    (tmp_path / "a").write_text("a")

    def refuse(*arguments, **options):
        raise error

    monkeypatch.setattr(locks, "hold", refuse)
    monkeypatch.setattr(Path, "open", lambda self, mode, **options: refuse() if mode == "a" else open(self, mode))
    assert FileHashes(tmp_path / "known")([tmp_path / "a"]) == FileHashes()([tmp_path / "a"])
    assert not (tmp_path / "known").exists()
