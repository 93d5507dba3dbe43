"""Scores against a data set that training built: its splits, its windows, and what does not fit."""

import numpy as np
import pytest
from feature_networks import SmallNetwork, write_video
from test_gather import Job

from jvflow.cli import score as command
from jvflow.data import records
from jvflow.metrics import gather
from jvflow.metrics import score as scores
from jvflow.metrics.clips import FolderClips
from jvflow.metrics.dataset_clips import DatasetClips, open_clips
from jvflow.metrics.protocol import preset

SMALL = preset("original", dict(frames=9, size=32, window="all", window_stride=9))


def clips_of(seed, count, frames=20):
    random = np.random.default_rng(seed)
    return [
        records.Clip(random.integers(0, 256, (frames, 24, 32, 3), dtype=np.uint8), 8, 0.0, "", f"video{n // 3}.mp4")
        for n in range(count)
    ]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "clips"
    splits = dict(train=clips_of(0, 9), test=clips_of(1, 6), val=clips_of(2, 4))
    records.write(folder, splits, settings=dict(fps=8))
    return folder


@pytest.mark.parametrize("split, seed, count", [("", 1, 6), (":train", 0, 9), (":test", 1, 6), (":val", 2, 4)])
def test_clips_of_a_split(data, split, seed, count):
    clips = open_clips(f"{data}{split}", SMALL, 0)
    found, want = list(clips), clips_of(seed, count)
    assert len(found) == 2 * count and clips.report.videos == count
    for number, (place, _, clip) in enumerate(found):
        np.testing.assert_array_equal(clip, want[number // 2].video[9 * (number % 2) :][:9])
        assert place == ((number // 2) << 40) + 9 * (number % 2)
    groups = [group for _, group, _ in found]
    assert [groups.index(group) // 6 for group in groups] == [n // 6 for n in range(2 * count)]  # 3 clips of a source
    assert clips.report.split == (split[1:] or "test") and len(clips.report.key) >= 8


def test_clips_without_source_are_videos_of_their_own(tmp_path):
    clips = [records.Clip(clip.video, 8, 0.0) for clip in clips_of(0, 3)]
    records.write(tmp_path / "clips", dict(train=clips), settings={})
    read = open_clips(tmp_path / "clips", SMALL, 0)  # without held-out clips, those of training
    assert [group for _, group, _ in read] == [0, 0, 1, 1, 2, 2] and read.report.split == "train"


def test_random_windows_and_counts(data):
    protocol = preset("original", dict(frames=9, window="random"))
    starts = lambda seed, **options: [
        place & 0xFFFFFF
        for place, *_ in open_clips(data, preset("original", dict(frames=9, window="random", seed=seed)), 0)
    ]
    assert starts(0) == starts(0) != starts(1) and all(0 <= start <= 11 for start in starts(0))
    assert len(list(open_clips(data, protocol, 4))) == 4
    assert len({place for place, *_ in open_clips(data, protocol, 20, redraw=True)}) == 20


def test_a_score_against_a_data_set(data, tmp_path, monkeypatch):
    monkeypatch.setattr(scores, "Extractor", SmallNetwork)
    for number in range(4):
        write_video(tmp_path / f"v{number}", 20, seed=number)
    found = scores.score_folders(tmp_path, f"{data}:train", SMALL, controls=False)
    assert found.counts["real"] == dict(clips=18, videos=3) and found.inputs["real"]["split"] == "train"
    assert found.inputs["real"]["key"] == records.manifest(data)["key"] and found.inputs["generated"]["split"] == ""
    assert found.inputs["real"]["fps"] == 8 and found.inputs["generated"]["fps"] is None
    assert f"split train of the data set {data}" in command.report(found)
    turned = scores.score_folders(data, tmp_path, SMALL)
    assert turned.inputs["generated"]["split"] == "test"


def test_processes_share_a_data_set(data, monkeypatch):
    protocol = preset("original", dict(frames=9, size=32, window="all", window_stride=9, real_count=11))
    one = list(gather.sums(SmallNetwork(protocol), open_clips(data, protocol, 11)))[-1]
    job = Job(3, monkeypatch)
    work = lambda _: list(gather.sums(SmallNetwork(protocol), open_clips(data, protocol, 11)))[-1]
    for found in job(work):
        for name in ("rows", "places", "groups"):
            np.testing.assert_array_equal(getattr(found, name), getattr(one, name))


def test_mistakes(data, tmp_path):
    write_video(tmp_path / "videos" / "v", 20)
    write_video(tmp_path / "odd:name" / "v", 20)
    long, short = preset("original", dict(frames=32)), preset("original", dict(frames=10, frame_step=3))
    for source, protocol, options, words in (
        (f"{data}:tset", SMALL, {}, r"no split 'tset'; available: .*test"),
        (f"{data}:", SMALL, {}, "no split ''"),
        (f"{tmp_path / 'videos'}:train", SMALL, {}, "only data sets have splits: leave out :train"),
        (f"{tmp_path / 'absent'}:train", SMALL, {}, "is not a folder"),
        (data, long, {}, "have 20 frames and a clip of the protocol needs 32"),
        (data, short, {}, "needs 28"),
        (data, SMALL, dict(fps=16.0), "have 8 frames per second, not 16: leave out --fps"),
    ):
        with pytest.raises(ValueError, match=words):
            open_clips(source, protocol, 0, **options)
    assert isinstance(open_clips(data, SMALL, 0, fps=8.0), DatasetClips)
    assert type(open_clips(tmp_path / "odd:name", SMALL, 0)) is FolderClips
