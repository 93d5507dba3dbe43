"""Batches and windows, which depend on seed and step but not on the number of processes; start frames of samples."""

import time

import numpy as np
import pytest
from conftest import debug_config

from jvflow.data import dataset, pipeline
from jvflow.report import videos


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    return dataset.prepare(debug_config(folder).data, folder)


def take(data, count, **options):
    defaults = dict(windows=[pipeline.Window(2)], batch_size=4, seed=3, threads=0)
    iterator = pipeline.batches(data, **(defaults | options))
    return [next(iterator) for _ in range(count)]


def test_a_batch_is_a_function_of_seed_and_step(data):
    whole = take(data, 6)
    later = take(data, 2, step=4, threads=2)
    for a, b in zip(whole[4:], later):
        np.testing.assert_array_equal(a.video, b.video)
    assert not np.array_equal(whole[0].video, take(data, 1, seed=4)[0].video)


def test_every_clip_is_used_once_an_epoch_in_a_new_order(data):
    names = lambda batches: [tuple(np.round(v[0, 0, 0], 3)) for b in batches for v in b.video[:, 0:1]]
    epoch = take(data, 4, windows=[pipeline.Window(80)])  # 8 clips, whole clips: no random window
    first, second = names(epoch[:2]), names(epoch[2:])
    clips = pipeline.clips(data, "train")
    assert len(clips) == 8
    assert sorted(map(str, first)) == sorted(map(str, second))
    assert first != second


def test_windows_are_consecutive_frames_of_one_clip(data):
    clips = pipeline.clips(data, "train")
    for batch in take(data, 4):
        for window, start, fps in zip(batch.video, batch.start, batch.fps):
            first = int(round(float(start * fps)))
            assert any(np.array_equal(window, clip[first : first + 2]) for clip in clips)


def test_rows_do_not_depend_on_the_number_of_processes(data):
    alone = take(data, 3)
    parts = [take(data, 3, rows=rows) for rows in ([0, 1], [2, 3])]
    for step, batch in enumerate(alone):
        np.testing.assert_array_equal(batch.video, np.concatenate([p[step].video for p in parts]))


def test_a_small_data_set_is_decoded_once_and_a_large_one_is_not_kept(data, monkeypatch):
    reads, plain = [], pipeline.Source.__getitem__
    monkeypatch.setattr(pipeline.Source, "__getitem__", lambda source, i: reads.append(i) or plain(source, i))
    kept = take(data, 20)
    assert len(reads) <= 8 + 2  # 8 clips; the first one is read for its size
    reads.clear()
    monkeypatch.setattr(pipeline, "MEMORY_CACHE_BYTES", 1000)
    for a, b in zip(kept, take(data, 20)):
        np.testing.assert_array_equal(a.video, b.video)
    assert len(reads) >= 80


def test_a_built_data_set_is_reused_and_other_settings_build_another(tmp_path):
    config = debug_config(tmp_path)
    built = dataset.prepare(config.data, tmp_path)
    stamp = (built / "manifest.json").stat().st_mtime_ns
    assert dataset.prepare(config.data, tmp_path) == built
    assert (built / "manifest.json").stat().st_mtime_ns == stamp
    config.data.fps = 4.0
    assert dataset.prepare(config.data, tmp_path) != built
    config.data.update(path=str(built), fps=8.0)  # the path of a finished data set
    assert dataset.prepare(config.data, tmp_path) == built


def test_train_and_test_are_different_scenes(data):
    sources = [{pipeline.open_split(data, split)[i]["source"] for i in range(8)} for split in ("train", "test")]
    assert len(sources[0] | sources[1]) == 16


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(path=""), "config.data.path is empty"),
        (dict(path="procedural:comet"), "comets"),
        (dict(path="no/such/folder"), "no/such/folder"),
    ],
)
def test_wrong_paths(tmp_path, change, message):
    config = debug_config(tmp_path)
    config.data.update(change)
    with pytest.raises(ValueError, match=message):
        dataset.prepare(config.data, tmp_path)
    assert not list(tmp_path.rglob("manifest.json"))


def test_too_few_frames(data):
    with pytest.raises(ValueError, match="clips have 80 frames, training needs 81"):
        take(data, 1, windows=[pipeline.Window(81)])


def test_a_process_may_have_a_single_row(data):
    alone, one = take(data, 2), take(data, 2, rows=[2])
    for a, b in zip(alone, one):
        np.testing.assert_array_equal(a.video[2:3], b.video)


def test_samples_start_from_held_out_clips_or_from_a_file(data, tmp_path):
    config = debug_config(tmp_path).data
    held_out = pipeline.clips(data, "test", count=2, frames=3)
    np.testing.assert_array_equal(pipeline.start_frames(config, lambda: data, 2, 3), held_out)
    with pytest.raises(ValueError, match="99 streams need as many held-out clips, there are 8: use --count=8"):
        pipeline.start_frames(config, lambda: data, 99, 1)
    image = np.full((24, 40, 3), 90, np.uint8)
    videos.write_png(tmp_path / "a.png", image)
    given = pipeline.start_frames(config, lambda: data, 3, 1, tmp_path / "a.png")
    assert given.shape == (3, 1, *config.size, 3) and (given == 90).all()
    videos.write(tmp_path / "a.mp4", np.stack([image] * 4), config.fps)
    assert pipeline.start_frames(config, lambda: data, 1, 4, tmp_path / "a.mp4").shape[1] == 4
    with pytest.raises(ValueError, match="has 4 frames at 8.0 fps, a stream of this run starts from 5"):
        pipeline.start_frames(config, lambda: data, 1, 5, tmp_path / "a.mp4")


def test_wrong_windows():
    with pytest.raises(ValueError, match="at least 1 frame, .* got frames 0, every 1"):
        pipeline.Window(0)
    with pytest.raises(ValueError, match="two consecutive chunks of 4 frames, got frames 4, every 1"):
        pipeline.Window(4, chunk=4, inverted=True)
    with pytest.raises(ValueError, match="encoded chunks needs whole chunks of 4 frames, got frames 6, every 1"):
        pipeline.Window(6, chunk=4, encoded=1)


@pytest.mark.parametrize("batch_size, threads", [(1, 1), (1, 16), (4, 1), (4, 3), (64, 4)])
def test_at_most_two_batches_are_read_ahead(data, monkeypatch, batch_size, threads):
    """Counts the clips that are read, and the frames that rows keep in memory."""
    reads, cropped, plain, crop = [], [], pipeline.Source.__getitem__, pipeline._crop
    monkeypatch.setattr(pipeline.Source, "__getitem__", lambda source, i: reads.append(i) or plain(source, i))
    monkeypatch.setattr(pipeline, "_crop", lambda *args: cropped.append(crop(*args)) or cropped[-1])
    monkeypatch.setattr(pipeline, "MEMORY_CACHE_BYTES", 0)
    options = dict(windows=[pipeline.Window(2), pipeline.Window(3)], batch_size=batch_size, seed=3)
    iterator = pipeline.batches(data, threads=threads, **options)
    alone = pipeline.batches(data, threads=0, **options)
    reads.clear()
    for taken in (1, 2):
        batch = next(iterator)
        deadline = time.monotonic() + 20
        while len(reads) < (taken + 2) * batch_size and time.monotonic() < deadline:
            time.sleep(0.001)
        time.sleep(0.02)  # a reader that went further would read more
        assert len(reads) == (taken + 2) * batch_size
    iterator.close()
    assert all(row["video"].base is None for row in cropped)  # no row keeps its whole clip
    reads.clear()
    next(alone)
    expected = next(alone)
    assert len(reads) == 2 * batch_size
    np.testing.assert_array_equal(batch.video, expected.video)
