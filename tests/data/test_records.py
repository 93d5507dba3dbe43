"""Clips on disk: bit-exact, in order, complete or absent, and without TensorFlow."""

import copy
import json
import os
import subprocess
import sys

import grain
import numpy as np
import pytest
from conftest import ROOT

from jvflow.data import pipeline, records
from jvflow.data.dataset_key import dataset_key
from jvflow.data.records import Clip

pytestmark = pytest.mark.slow


def clip(seed, shape=(4, 6, 8, 3)):
    video = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    caption = f"Übung {seed} 日本 🎬" if seed % 2 else ""
    return Clip(video, 8.3, seed / 7, caption, f"ü/{seed}.mp4")


def clips(start, stop):
    return (clip(seed) for seed in range(start, stop))


def check(record, seed):
    expected = clip(seed)
    np.testing.assert_array_equal(record["video"], expected.video)
    assert record["video"].dtype == np.uint8
    assert record["fps"] == np.float32(8.3) and record["fps"].dtype == np.float32
    assert record["start"] == np.float32(seed / 7) and record["start"].dtype == np.float32
    assert record["caption"] == expected.caption and type(record["caption"]) is str
    assert record["source"] == expected.source and type(record["source"]) is str


def contents(directory):
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def test_round_trip_over_several_shards(tmp_path, monkeypatch):
    monkeypatch.setattr(records, "SHARD_BYTES", 5 * 4 * 6 * 8 * 3)
    directory = tmp_path / "deep" / "set"
    assert not records.is_dataset(directory)
    settings = {"kind": "test", "name": "ü", "size": [6, 8]}
    splits = {"train": clips(0, 23), "test": clips(50, 53), "none": []}
    records.write(directory, splits, settings=settings)
    assert records.is_dataset(directory)
    assert len(list(directory.glob("clips-train.array_record-*-of-00005"))) == 5
    assert records.manifest(directory) == {
        "key": dataset_key(settings),
        "settings": settings,
        "splits": {"train": 23, "test": 3},
        "shape": [4, 6, 8, 3],
    }
    train, test = pipeline.open_split(directory, "train"), pipeline.open_split(directory, "test")
    assert len(train) == 23 and len(test) == 3
    for seed in np.random.default_rng(0).permutation(23):
        check(train[seed], seed)
    for i, record in enumerate(test):
        check(record, 50 + i)
    with pytest.raises(IndexError):
        train[23]
    assert [path.name for path in directory.parent.iterdir()] == ["set"]


@pytest.mark.integration
def test_same_clips_give_the_same_bytes_in_every_process(tmp_path):
    script = (
        "import sys, numpy as np\n"
        "from jvflow.data.records import Clip, write\n"
        "clips = [Clip(np.full((2, 4, 4, 3), i, np.uint8), 8.0, i, 'ü' * 200, 'b') for i in range(9)]\n"
        "write(sys.argv[1], {'train': clips}, settings={})\n"
    )
    for seed in ("1", "2", "3"):  # Python's hash seed changes the order of the map in a tf.train.Example
        subprocess.run(
            [sys.executable, "-c", script, str(tmp_path / seed)],
            cwd=ROOT,
            check=True,
            env=os.environ | {"PYTHONHASHSEED": seed},
        )
    assert contents(tmp_path / "1") == contents(tmp_path / "2") == contents(tmp_path / "3")
    assert pipeline.open_split(tmp_path / "1", "train")[8]["caption"] == "ü" * 200


def test_moves_with_its_folder(tmp_path):
    records.write(tmp_path / "a", {"train": clips(0, 2)}, settings={})
    (tmp_path / "a").rename(tmp_path / "b")
    check(pipeline.open_split(tmp_path / "b", "train")[1], 1)


def test_writing_streams(tmp_path):
    """Checks that writing holds only a few clips in memory at once."""
    alive, most = set(), 0

    class Counted(np.ndarray):
        def __array_finalize__(self, base):
            self.token = None

        def __del__(self):
            alive.discard(self.token)

    def watched():
        nonlocal most
        for seed in range(20):
            one = clip(seed)
            array = one.video.view(Counted)
            array.token = seed
            alive.add(seed)
            most = max(most, len(alive))
            yield Clip(array, one.fps, one.start, one.caption, one.source)
            del one, array

    records.write(tmp_path / "a", {"train": watched()}, settings={})
    assert most <= 4
    check(pipeline.open_split(tmp_path / "a", "train")[19], 19)


def test_grain_reads_at_random_with_threads_and_in_workers(tmp_path):
    records.write(tmp_path / "a", {"train": clips(0, 12)}, settings={})
    source = copy.copy(pipeline.open_split(tmp_path / "a", "train"))  # by __reduce__, as worker processes do
    data = grain.MapDataset.source(source).map(lambda record: record["source"])
    assert [data[i] for i in (7, 3, 11)] == ["ü/7.mp4", "ü/3.mp4", "ü/11.mp4"]
    options = grain.ReadOptions(num_threads=4, prefetch_buffer_size=8)
    names = list(data.shuffle(seed=0).to_iter_dataset(options))
    assert sorted(names) == sorted(f"ü/{i}.mp4" for i in range(12)) and names != sorted(names)


def test_an_interrupted_build_continues_after_its_last_shard(tmp_path, monkeypatch):
    monkeypatch.setattr(records, "SHARD_BYTES", 3 * 4 * 6 * 8 * 3)
    made, stop = [], None

    def make(i):
        made.append(i)
        if i == stop:
            raise KeyboardInterrupt
        return clip(i)

    build = lambda name: records.write(
        tmp_path / name, {"train": records.LazyClips(8, make), "test": clips(8, 10)}, settings={"a": 1}
    )
    build("whole")
    for index in (1, 7):
        stop = index
        with pytest.raises(KeyboardInterrupt):
            build("a")
        assert not (tmp_path / "a").exists()
    stop = None
    made.clear()
    build("a")
    assert made == [0, 6, 7]  # the first clip determines the columns
    assert contents(tmp_path / "a") == contents(tmp_path / "whole")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "whole"]


def test_other_settings_do_not_continue(tmp_path):
    def interrupted():
        yield from clips(0, 3)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        records.write(tmp_path / "a", {"train": clips(0, 3), "test": interrupted()}, settings={"seed": 0})
    records.write(tmp_path / "a", {"train": clips(3, 5), "test": clips(5, 6)}, settings={"seed": 1})
    check(pipeline.open_split(tmp_path / "a", "train")[0], 3)


def test_columns_of_any_kind(tmp_path):
    rows = [
        {"latent_mean": np.full((2, 3, 3, 5), i, np.float32), "level": 0.5 * i, "caption": f"ü{i}"} for i in range(3)
    ]
    records.write(tmp_path / "a", {"train": rows}, settings={})
    source = pipeline.open_split(tmp_path / "a", "train")
    assert records.manifest(tmp_path / "a")["shape"] == [2, 3, 3, 5]
    for row, expected in zip(source, rows, strict=True):
        np.testing.assert_array_equal(row["latent_mean"], expected["latent_mean"])
        assert row["latent_mean"].dtype == np.float32
        assert row["level"] == expected["level"] and row["caption"] == expected["caption"]


def test_leftovers_of_a_killed_build_are_removed(tmp_path):
    script = (
        "import os, numpy as np\n"
        "from jvflow.data.records import Clip, write\n"
        "def clips():\n"
        "    yield Clip(np.zeros((2, 4, 4, 3), np.uint8), 8.0, 0.0)\n"
        "def killed():\n"
        "    yield from clips()\n"
        "    os._exit(9)\n"
        "splits = {'train': clips(), 'other': killed()}\n"
        f"write({str(tmp_path / 'a')!r}, splits, settings={{}})\n"
    )
    assert subprocess.run([sys.executable, "-c", script], cwd=ROOT).returncode == 9
    assert {path.name for path in tmp_path.iterdir()} == {".a.partial", ".a.lock"}
    assert not records.is_dataset(tmp_path / "a")
    records.write(tmp_path / "a", {"train": clips(0, 2)}, settings={"other": 1})
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert len(list((tmp_path / "a").iterdir())) == 5


def test_errors(tmp_path):
    write = lambda **splits: records.write(tmp_path / "a", splits, settings={})
    with pytest.raises(ValueError, match="split 'train' is empty"):
        write(train=[], test=[clip(0)])
    with pytest.raises(ValueError, match="needs a split 'train'; got: test"):
        write(test=[clip(0)])
    shapes = r"\(4, 6, 8, 3\) uint8.*clip 1 of split 'test' \(ü/5.mp4\) is \(5, 6, 8, 3\) uint8"
    with pytest.raises(ValueError, match=shapes):
        write(train=[clip(0)], test=[clip(1), clip(5, (5, 6, 8, 3))])
    with pytest.raises(ValueError, match="clip 0 of split 'train' .* is .* float32"):
        write(train=[Clip(np.zeros((4, 6, 8, 3), np.float32), 8.0, 0.0)])
    with pytest.raises(ValueError, match=r"shape \(frames, height, width, 3\), not \(4, 6, 8\)"):
        write(train=[clip(0, (4, 6, 8))])
    with pytest.raises(ValueError, match="split 'a/b' must consist of letters"):
        write(train=[clip(0)], **{"a/b": []})
    with pytest.raises(ValueError, match="settings must be valid JSON"):
        records.write(tmp_path / "a", {"train": [clip(0)]}, settings={"x": np.zeros(1)})
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ValueError, match="is not a data set: it has no dataset_info.json"):
        pipeline.open_split(tmp_path / "a", "train")
    write(train=[clip(0)], test=[clip(1)])
    with pytest.raises(ValueError, match="has no split 'valid'; available: train, test"):
        pipeline.open_split(tmp_path / "a", "valid")
    with pytest.raises(ValueError, match="already holds a data set: remove it"):
        write(train=[clip(0)])
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "thesis.txt").write_text("precious")
    with pytest.raises(ValueError, match="is not an empty folder"):
        records.write(tmp_path / "b", {"train": [clip(0)]}, settings={})


def test_tensorflow_is_not_imported_and_nothing_is_printed(tmp_path):
    script = (
        "import sys, json, socket, numpy as np\n"
        "def refuse(*a, **k): raise OSError('network')\n"
        "asked = []\n"
        "socket.socket.connect = lambda *a: asked.append(a) or refuse()\n"
        "socket.getaddrinfo = lambda *a, **k: asked.append(a) or refuse()\n"
        "from jvflow.data import folder, pipeline, records, video\n"
        "clip = records.Clip(np.zeros((2, 4, 4, 3), np.uint8), 8.0, 0.0)\n"
        f"records.write({str(tmp_path / 'a')!r}, {{'train': [clip] * 3}}, settings={{}})\n"
        f"pipeline.open_split({str(tmp_path / 'a')!r}, 'train')[2]\n"
        "found = any(name.partition('.')[0] == 'tensorflow' for name in sys.modules)\n"
        "print(json.dumps([found, len(asked)]))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [False, 0] and done.stderr == ""
