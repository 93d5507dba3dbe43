"""Captions from tables and from text files, and the errors for wrong ones."""

import json

import numpy as np
import pytest

from jvflow.data import captions, folder, pipeline, records
from jvflow.report.videos import write

SHAPE = dict(frames=4, fps=10, size=(16, 16))


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Writes two videos, one of them in a subfolder, and a text file next to each."""
    root = tmp_path_factory.mktemp("videos")
    for name in ("a.mp4", "deep/b c.mp4"):
        (root / name).parent.mkdir(exist_ok=True)
        write(root / name, np.zeros((4, 32, 32, 3), np.uint8), 10)
        (root / name).with_suffix(".txt").write_text(f"next to {name}\n", "utf-8")
    return root


def of(videos, table):
    return {clip.source: clip.caption for clip in folder.clips(videos, **SHAPE, captions=str(table))}


CSV = 'file_name,seconds,caption\r\na.mp4,4,"a Würfel, red"\r\ndeep/b c.mp4,4, two\r\n'
JSONL = '{"file_name": "a.mp4", "text": "a Würfel, red"}\n\n{"text": "two", "file_name": "./deep/b c.mp4"}\n'


@pytest.mark.parametrize("name, text", [("t.csv", CSV), ("t.CSV", "\ufeff" + CSV), ("t.jsonl", JSONL)])
def test_a_table(videos, tmp_path, name, text):
    (tmp_path / name).write_bytes(text.encode())
    assert of(videos, tmp_path / name) == {"a.mp4": "a Würfel, red", "deep/b c.mp4": "two"}


def test_a_table_overrides_the_text_files_of_its_rows_alone(videos, tmp_path):
    (tmp_path / "t.csv").write_text("file_name,caption\na.mp4,\n")
    assert of(videos, tmp_path / "t.csv") == {"a.mp4": "", "deep/b c.mp4": "next to deep/b c.mp4"}


def test_a_table_in_the_folder_is_found(tmp_path):
    write(tmp_path / "a.mp4", np.zeros((4, 32, 32, 3), np.uint8), 10)
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "a.mp4", "caption": "grey"}')
    assert of(tmp_path, "") == {"a.mp4": "grey"}
    (tmp_path / "metadata.csv").write_text("file_name,caption\na.mp4,gray")
    with pytest.raises(ValueError, match="two tables of captions.*name one with config.data.captions"):
        of(tmp_path, "")
    assert of(tmp_path, tmp_path / "metadata.csv") == {"a.mp4": "gray"}


@pytest.mark.parametrize(
    "name, content, message",
    [
        (
            "t.csv",
            b"name,caption\na.mp4,x\n",
            r"t.csv, line 2: needs the columns 'file_name' and 'caption' \(or 'text', or 'split'\), has 'name'",
        ),
        ("t.csv", b"file_name,caption\na.mp4\n", "line 2: needs the columns .*, has 'file_name'"),
        (
            "t.csv",
            b"file_name,caption\na.mp4,red, round\n",
            "line 2: has 1 fields more than the header: .* double quotes",
        ),
        ("t.csv", b'file_name,caption\na.mp4,"red\n', "line 2: unexpected end of data"),
        ("t.csv", b"", "t.csv has no row"),
        ("t.csv", "file_name,caption\na.mp4,Würfel\n".encode("latin-1"), "t.csv is not UTF-8: .*; save it as UTF-8"),
        ("t.csv", b"file_name,caption\na.mp4,x\nb.mp4,y\na.mp4,z\n", "t.csv names a.mp4 in line 2 and in line 4"),
        (
            "t.csv",
            b"file_name,caption\nx/a.mp4,x\n",
            "names videos that are not in .* .1 of 1.: x/a.mp4; file_name is the path below",
        ),
        ("t.jsonl", b'{"file_name": "a.mp4", "caption": "x"}\n{"file_name": \n', "t.jsonl, line 2: is not JSON"),
        ("t.jsonl", b'["a.mp4", "x"]\n', "line 1: must be an object such as"),
        (
            "t.jsonl",
            b'{"file_name": "a.mp4", "caption": 7}\n',
            "line 1: 'file_name', 'caption' and 'split' must be text, 'caption' is 7",
        ),
        ("t.tsv", b"file_name\tcaption\na.mp4\tx\n", "t.tsv is neither csv nor jsonl"),
    ],
)
def test_wrong_tables(videos, tmp_path, name, content, message):
    """Checks that the error comes before anything is decoded or written."""
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        folder.build(videos, tmp_path / "set", captions=str(tmp_path / name), **SHAPE)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_missing_table(videos):
    with pytest.raises(ValueError, match="captions nowhere.csv is not a file"):
        of(videos, "nowhere.csv")


def test_a_build_logs_missing_videos_and_starts_again_with_other_captions(videos, tmp_path):
    table, lines = tmp_path / "t.jsonl", []
    row = lambda name, text: json.dumps(dict(file_name=name, caption=text)) + "\n"
    table.write_text(row("a.mp4", "first") + row("gone.mp4", "lost"))
    build = lambda: folder.build(videos, tmp_path / "set", captions=str(table), log=lines.append, **SHAPE)
    real, records.Build.write = records.Build.write, lambda *args, **options: 1 / 0  # stops after all is decoded
    try:
        with pytest.raises(ZeroDivisionError):
            build()
    finally:
        records.Build.write = real
    assert lines[0].endswith(f"names videos that are not in {videos} (1 of 2): gone.mp4")
    table.write_text(row("a.mp4", "second"))
    build()
    splits = records.manifest(tmp_path / "set")["splits"]
    stored = [record for split in splits for record in pipeline.open_split(tmp_path / "set", split)]
    assert {record["source"]: record["caption"] for record in stored} == {
        "a.mp4": "second",
        "deep/b c.mp4": "next to deep/b c.mp4",
    }


def test_a_text_file_next_to_a_folder_of_images(tmp_path):
    images = tmp_path / "v1.2"
    images.mkdir()
    (tmp_path / "v1.2.txt").write_text("frames")
    assert captions.read_text_file(images) == "frames"


@pytest.mark.parametrize(
    "given, sentence",
    [
        (["A DISC, red!"], ""),
        ([""], ""),
        (["a disc", "a dog and a cat"], "no caption of training has 'dog', 'and', 'cat' of 'a dog and a cat'"),
        (["blue squares"], "of 'blue squares': the nearest one is 'a blue square'"),
    ],
)
def test_words_that_no_caption_of_training_has_are_named_with_the_nearest_caption(given, sentence):
    known = ["a red disc", "a blue square", ""]
    found = captions.unlike(given, known)
    assert sentence in found and bool(found) == bool(sentence)


def test_training_without_captions_is_named():
    assert captions.unlike(["a dog"], ["", ""]).endswith("'a', 'dog' of 'a dog': they are empty")
    assert captions.unlike(["a dog"], []).endswith("they are empty")
