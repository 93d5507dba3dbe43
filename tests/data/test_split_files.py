"""Split files: lists and tables of published data sets, the names in them, and names that fit no video or several."""

import json
import shutil

import pytest
from conftest import debug_config
from test_splits import QUIET, SHAPE, write

from jvflow.data import dataset, folder, records, split_files

UCF = ["Archery/v_Archery_g01_c01.avi", "Archery/v_Archery_g02_c01.avi", "Biking/v_Biking_g01_c01.avi"]


def select(root, names, files, **contents):
    """Returns the selection of a folder of empty videos; `contents` are the split files in it."""
    shutil.rmtree(root / "in", ignore_errors=True)
    for name in names:
        (root / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "in" / name).touch()
    for name, text in contents.items():
        (root / "in" / name.replace("__", ".")).write_text(text, "utf-8")
    found = sorted(root / "in" / name for name in names)
    return split_files.select(root / "in", found, files)


@pytest.mark.parametrize(
    "train, test",
    [
        (f"{UCF[0]} 1\n{UCF[2]} 2\n", f"{UCF[1]}\n"),  # UCF101: names with a class, names alone
        (f"./{UCF[0]}\r\n\r\n{UCF[2]}\r\n", f"/data/UCF-101/{UCF[1]} 120 1"),  # other folders; frames and class
        ("Archery/v_Archery_g01_c01\nBiking/v_Biking_g01_c01", "v_Archery_g02_c01 0"),  # no suffix, no folder
        ("Archery/v_Archery_g01_c01.mp4\nBiking\\v_Biking_g01_c01.mp4 3", "v_Archery_g02_c01.webm Archery"),
    ],
)
def test_lists(tmp_path, train, test):
    found = select(tmp_path, UCF, "train=train.txt,test=test.txt", train__txt=train, test__txt=test)
    assert found.given == {UCF[0]: "train", UCF[1]: "test", UCF[2]: "train"}
    assert len(found.videos) == 3 and not found.left_out and not found.notes


KINETICS = ["archery/-0aBc_000010_000020.mp4", "biking/zZ_9_000000_000010.mp4", "biking/plain.mp4"]


@pytest.mark.parametrize(
    "name, text",
    [
        (
            "a.csv",
            "label,youtube_id,time_start,time_end,split\narchery,-0aBc,10,20,train\n"
            'biking,zZ_9,0,10,validate\n"a, b",plain,0,10,test\n',
        ),
        ("a.tsv", "Path\tSubset\n-0aBc_000010_000020\ttraining\nzZ_9_000000_000010\tval\nbiking/plain.mp4\tTest\n"),
        (
            "a.jsonl",
            '{"id": "-0aBc_000010_000020", "split": "train"}\n{"id": "zZ_9_000000_000010", "split": "valid"}\n\n'
            '{"id": "plain", "split": "test"}\n',
        ),
        (
            "a.json",
            json.dumps([dict(video=name, split=split) for name, split in zip(KINETICS, ("train", "val", "test"))]),
        ),
    ],
)
def test_tables_with_a_column_of_splits(tmp_path, name, text):
    found = select(tmp_path, KINETICS, name, **{name.replace(".", "__"): text})
    assert [found.given[video] for video in KINETICS] == ["train", "val", "test"] and not found.notes


def test_one_table_for_each_split(tmp_path):
    """Checks Something-Something's lists of numbers, a csv list without a header, and a column that is overruled."""
    names = ["1.webm", "2.webm", "3.webm", "4 a.webm"]
    found = select(
        tmp_path,
        names,
        "train=a.json, validation = b.csv,test=c.csv",
        a__json='[{"id": 1, "label": "x"}]',
        b__csv="2.webm 7\n4 a.webm 7\n",
        c__csv="id,split\n3,val\n",
    )
    assert found.given == {"1.webm": "train", "2.webm": "val", "3.webm": "test", "4 a.webm": "val"}


def test_hmdb51_numbers_its_videos(tmp_path):
    names = ["wave/a (1).avi", "wave/b.avi", "wave/c.avi", "run/d.avi"]
    lists = dict(wave_test_split1__txt="a (1).avi 1 \nb.avi 2 \nc.avi 0 \n", run_test_split1__txt="d.avi 1 \n")
    found = select(tmp_path, names, "*_test_split1.txt", **lists)
    assert found.given == {"run/d.avi": "train", "wave/a (1).avi": "train", "wave/b.avi": "test"}
    assert found.left_out == ["wave/c.avi"]
    with pytest.raises(ValueError, match="numbers its videos, 1 for train and 2 for test: write it without 'test='"):
        select(tmp_path, names, "test=wave_test_split1.txt", **lists)


def test_videos_that_no_file_names(tmp_path):
    """Checks that they are left out if "train" is listed, because they may belong to a split that was not given."""
    found = select(tmp_path, UCF, "train=a.txt,test=b.txt", a__txt=UCF[0], b__txt=f"{UCF[1]}\nlost.avi\n{UCF[1]}\n")
    assert [path.name for path in found.videos] == ["v_Archery_g01_c01.avi", "v_Archery_g02_c01.avi"]
    assert found.left_out == [UCF[2]]
    assert found.notes == [
        "1 rows of config.data.splits name a video again",
        "1 of 4 names in config.data.splits fit no video: lost.avi",
        f"1 videos are in no file of config.data.splits, so they are left out: {UCF[2]}",
    ]
    found = select(tmp_path, UCF, "test=b.txt", b__txt=UCF[1])
    assert len(found.videos) == 3 and found.given == {UCF[1]: "test"} and not found.left_out
    assert found.notes[0].startswith("2 videos are in no file of config.data.splits, so they are in the split 'train'")


@pytest.mark.parametrize(
    "names, files, contents, message",
    [
        (
            UCF,
            "train=a.txt,test=b.txt",
            dict(a__txt=UCF[0], b__txt=UCF[0]),
            "is in two splits: train (.*a.txt, line 1)",
        ),
        (
            UCF,
            "train=a.txt",
            dict(a__txt="x.avi\ny.avi"),
            "a.txt names no video of .*; its names: 'x.avi', 'y.avi'; the",
        ),
        (UCF, "train=a.txt", dict(a__txt="\n"), "a.txt names no video of .*; its names: none; the videos: Archery"),
        (UCF, "train=no.txt", {}, "'train=no.txt' is no file, neither here nor in .*in: write train=FILE,test=FILE"),
        (UCF, "dev2=a.txt", dict(a__txt=UCF[0]), "'dev2=a.txt' is no file"),
        (UCF, "train=", {}, "config.data.splits is empty: give a path"),
        (UCF, "a.txt", dict(a__txt=UCF[0]), "a.txt has no column 'split': write train="),
        (UCF, "a.csv", dict(a__csv=f"file\n{UCF[0]}\n"), "a.csv has no column 'split': write train="),
        (UCF, "a.csv", dict(a__csv=f"file,split\n{UCF[0]},tset\n"), "line 2: 'split' is 'tset': write one of train, "),
        (
            UCF,
            "train=a.csv",
            dict(a__csv=f"file,split\n{UCF[0]},train\n{UCF[1]},test\n"),
            "has videos of train and test in its column: write it without 'train='",
        ),
        (UCF, "a.json", dict(a__json='{"train": []}'), "a.json must hold a list of objects or of names"),
        (UCF, "a.json", dict(a__json="[{"), "a.json is not json: "),
        (UCF, "a.jsonl", dict(a__jsonl='{"video": "x"'), "a.jsonl is not jsonl: "),
        (UCF, "a.json", dict(a__json='[{"clip_id": 1, "split": "train"}]'), "entry 1: needs one of the columns file_n"),
        (UCF, "a.csv", dict(a__csv='file,split\n"x'), "a.csv, line 2: unexpected end of data"),
        (UCF[:1], "test=a.txt", dict(a__txt=UCF[0]), "leaves no video of .* for the split 'train'"),
        (
            ["a/x.avi", "b/x.avi"],
            "train=a.txt",
            dict(a__txt="x.avi"),
            "line 1: 'x.avi' fits several videos, a/x.avi, b/x",
        ),
        (["x.avi", "x.mp4"], "train=a.txt", dict(a__txt="x 1"), "line 1: 'x' fits several videos, x.avi, x.mp4: write"),
        (["x.avi", "x 1.avi"], "train=a.txt", dict(a__txt="x 1"), "line 1: 'x' fits several videos, x.avi, x 1.avi"),
        (["h.avi"], "h_test_split1.txt", dict(h_test_split1__txt="h.avi 3"), "'h.avi 3' does not end in 0, 1 or 2"),
    ],
)
def test_errors(tmp_path, names, files, contents, message):
    with pytest.raises(ValueError, match=message):
        select(tmp_path, names, files, **contents)


def test_files_that_are_not_utf8(tmp_path):
    (tmp_path / "a.txt").write_bytes("Würfel.mp4".encode("latin-1"))
    with pytest.raises(ValueError, match="a.txt is not UTF-8"):
        select(tmp_path, UCF, f"train={tmp_path}/a.txt")


def test_commas_in_names_of_files(tmp_path):
    found = select(tmp_path, UCF, "train=a,b.txt,test=c.txt", **{"a,b__txt": UCF[0], "c__txt": UCF[1]})
    assert found.given == {UCF[0]: "train", UCF[1]: "test"}


def test_a_data_set_by_split_files(tmp_path):
    """Checks that files replace folders and table, that copies share a split, and that only splits change the key."""
    for number, name in enumerate(("train/a", "train/b", "test/c", "train/d")):
        write(tmp_path / "in" / f"{name}.mp4", 8, seed=number)
    shutil.copy(tmp_path / "in" / "test" / "c.mp4", tmp_path / "in" / "copy.mp4")
    (tmp_path / "in" / "metadata.csv").write_text("file_name,text,split\ntrain/b.mp4,a walk,train\n")
    (tmp_path / "test.txt").write_text("b.mp4 1\nc.mp4 1\n")
    options = SHAPE | QUIET
    manifest = folder.build(tmp_path / "in", tmp_path / "a", split_by=f"test={tmp_path}/test.txt", **options)
    assert manifest["videos"] == {
        "test": {"copy.mp4": 2, "test/c.mp4": 2, "train/b.mp4": 2},
        "train": {"train/a.mp4": 2, "train/d.mp4": 2},
    }
    notes = records.report(tmp_path / "a")["notes"]
    replaced = "config.data.splits replaces the splits of folders or table for 1 videos: train/b.mp4 (train / test)"
    assert replaced in notes
    (tmp_path / "train.csv").write_text("path,label\na.mp4,1\n")
    both = f"train={tmp_path}/train.csv,test={tmp_path}/test.txt"
    config = debug_config(tmp_path)
    config.data.update(path=str(tmp_path / "in"), splits=both, frames=4, fps=10.0, stride=4)
    data = dataset.prepare(config.data, tmp_path / "run")
    assert list(records.manifest(data)["settings"]["sources"]) == ["test/c.mp4", "train/a.mp4", "train/b.mp4"]
    left_out = [entry for entry in records.report(data)["others"] if "config.data.splits" in entry["reason"]]
    assert [(entry["file"], entry["status"]) for entry in left_out] == [
        ("copy.mp4", "skipped"),
        ("train/d.mp4", "skipped"),
    ]
    (tmp_path / "test.txt").rename(tmp_path / "other.txt")
    (tmp_path / "other.txt").write_text("c 7\nb 7\n")
    config.data.splits = both.replace("test.txt", "other.txt")
    assert dataset.prepare(config.data, tmp_path / "run") == data
    config.data.splits = f"train={tmp_path}/other.txt"
    assert dataset.location(config.data, tmp_path / "run", dataset.settings(config.data, tmp_path / "run")) != data


def test_equal_files_in_two_split_files_are_an_error(tmp_path):
    write(tmp_path / "in" / "a.mp4", 8)
    shutil.copy(tmp_path / "in" / "a.mp4", tmp_path / "in" / "b.mp4")
    (tmp_path / "in" / "splits.csv").write_text("file,split\na.mp4,train\nb.mp4,test\n")
    with pytest.raises(ValueError, match=r"equal files are in different splits: a.mp4 \(train\), b.mp4 \(test\)"):
        folder.build(tmp_path / "in", tmp_path / "out", split_by="splits.csv", **SHAPE, **QUIET)
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob(".*"))


def test_a_run_records_split_files_only_if_there_are_some(tmp_path):
    """Checks that runs of folders, which began before there were split files, continue."""
    config = debug_config(tmp_path)
    config.data.path = str(tmp_path)
    assert {"splits", "slow"} <= set(dataset.unread(config.data))
    config.data.update(splits="train=a.txt", slow="error")
    assert not {"splits", "slow"} & set(dataset.unread(config.data))
    config.data.path = "procedural:comets"
    assert {"splits", "slow"} <= set(dataset.unread(config.data))
