"""Keys of data sets: equal content has an equal key in any place, other content has another key and is refused.

Also tests the report of a build, the check of free disk space, and frame rates.
"""

import errno
import hashlib
import os
import shutil
from collections import namedtuple

import films
import jax.numpy as jnp
import numpy as np
import pytest
import tensorflow_datasets as tfds
from conftest import debug_config
from test_folder import write, write_images

from jvflow import codecs
from jvflow.data import dataset, folder, latents, pipeline, records
from jvflow.data.dataset_key import FileHashes, dataset_key


@pytest.fixture
def videos(tmp_path):
    """Writes two videos, one of them with a caption, and a folder of images."""
    write(tmp_path / "videos" / "a.mp4", 9)
    write(tmp_path / "videos" / "deep" / "b.mp4", 8, first=10)
    (tmp_path / "videos" / "a.txt").write_text("grey")
    write_images(tmp_path / "videos" / "walk", 8)
    return tmp_path / "videos"


def config_of(videos, **data):
    config = debug_config(None)
    config.data.update(
        dict(dict(path=str(videos), frames=4, fps=10.0, size=(16, 16), stride=4, image_fps=10.0), **data)
    )
    config.data.cache = ""
    return config


def key_of(config, place):
    clips = dataset.settings(config.data, place)
    codec, text = latents.model_fingerprint(**config.codec), latents.text_fingerprint(config)
    return dataset_key(latents.latent_settings(clips, codec, text, dtype=config.data.dtype))


def flip(path):
    """Changes one byte."""
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    "change",
    [
        dict(size=(16, 18)),
        dict(fps=5.0),
        dict(fit="squeeze"),
        dict(frames=3),
        dict(stride=2),
        dict(min_frames=2),
        dict(seed=1),
        dict(test_fraction=0.5),
        dict(image_fps=20.0),
        dict(dtype="float16"),
    ],
    ids=str,
)
def test_another_setting_is_another_key(videos, tmp_path, change):
    assert (
        key_of(config_of(videos), tmp_path)
        == key_of(config_of(videos), tmp_path)
        != key_of(config_of(videos, **change), tmp_path)
    )


@pytest.mark.parametrize(
    "change",
    [
        lambda videos: flip(videos / "deep" / "b.mp4"),
        lambda videos: flip(videos / "walk" / "frame_3.png"),
        lambda videos: (videos / "walk" / "frame_3.png").rename(videos / "walk" / "frame_30.png"),
        lambda videos: (videos / "a.txt").write_text("gray"),
        lambda videos: (videos / "deep" / "b.txt").write_text("new"),
        lambda videos: (videos / "metadata.csv").write_text("file_name,caption\na.mp4,red\n"),
        lambda videos: (videos / "a.mp4").rename(videos / "c.mp4"),
        lambda videos: (videos / "a.mp4").unlink(),
        lambda videos: write(videos / "c.mp4", 4),
    ],
    ids=[
        "a byte of a video",
        "a byte of an image",
        "the order of images",
        "a caption",
        "a new caption",
        "a table",
        "a name",
        "one less",
        "one more",
    ],
)
def test_other_content_is_another_key(videos, tmp_path, change):
    before = key_of(config_of(videos), tmp_path)
    change(videos)
    assert key_of(config_of(videos), tmp_path) != before


def test_the_same_content_is_the_same_key(videos, tmp_path):
    """Checks that the key ignores time stamps, the place, other files next to the videos, pieces and threads."""
    before = key_of(config_of(videos), tmp_path)
    os.utime(videos / "a.mp4", (0, 0))
    (videos / "notes.md").write_text("no video")
    assert key_of(config_of(videos, threads=7), tmp_path) == before
    moved = videos.rename(tmp_path / "moved")
    assert key_of(config_of(moved), tmp_path / "other") == before
    pieces = config_of(moved)
    pieces.codec = dict(pieces.codec.to_dict(), piece=4)
    assert key_of(pieces, tmp_path) == before


def test_the_model_is_in_the_key(videos, tmp_path):
    (tmp_path / "weights").write_bytes(b"weights")
    clips = dataset.settings(config_of(videos).data, tmp_path)
    of = lambda **options: dataset_key(
        latents.latent_settings(clips, latents.model_fingerprint("tiny", checkpoint=(tmp_path / "weights",), **options))
    )
    before = of()
    assert before == of(piece=2) != of(scale=0.5)
    (tmp_path / "weights").write_bytes(b"Weights")
    assert before != of()


def test_a_file_is_read_once(tmp_path, monkeypatch):
    read, real = [], hashlib.file_digest
    monkeypatch.setattr(
        hashlib, "file_digest", lambda file, name: read.append(os.path.basename(file.name)) or real(file, name)
    )
    files, known = [tmp_path / name for name in "ab"], tmp_path / "known" / "sha256.jsonl"
    for file in files:
        file.write_text(file.name)
    first = [FileHashes(known)([file]) for file in files]
    assert first == [hashlib.sha256(name.encode()).hexdigest() for name in "ab"] and read == ["a", "b"]
    known.write_text(known.read_text() + f'["{tmp_path / "a"}", [1')  # an interrupted write leaves half a line
    assert [FileHashes(known)([file]) for file in files] == first and read == ["a", "b"]
    files[0].write_text("c")
    assert FileHashes(known)(files[:1]) == hashlib.sha256(b"c").hexdigest() and read == ["a", "b", "a"]


# --- finished data sets ---------------------------------------------------------------------------


def stamps(directory):
    return {str(path): path.stat().st_mtime_ns for path in directory.rglob("*") if path.name == records.MANIFEST}


def test_a_finished_cache_is_used_where_the_content_is_the_same_and_refused_where_it_is_not(videos, tmp_path):
    config, out = config_of(videos), tmp_path / "set"
    made = latents.prepare(config, out)
    assert made["key"] == dataset_key(made["settings"]) == key_of(config, tmp_path)
    before = stamps(tmp_path)
    os.utime(videos / "a.mp4", (0, 0))
    moved = config_of(videos.rename(tmp_path / "moved"))
    assert latents.prepare(moved, out) == made and stamps(tmp_path) == before
    moved.data.update(fps=5.0, fit="squeeze")
    with pytest.raises(
        ValueError,
        match=rf"set holds another data set \(key {made['key']}\) .* there / here: "
        r"of.fit: crop / squeeze; of.fps: 10.0 / 5.0: take the settings",
    ):
        latents.prepare(moved, out)
    moved = config_of(tmp_path / "moved")
    flip(tmp_path / "moved" / "a.mp4")
    (tmp_path / "moved" / "deep" / "b.txt").write_text("new")
    with pytest.raises(
        ValueError,
        match=r"there / here: of.sources.a.mp4.sha256: \w+ / \w+; of.sources.deep/b.mp4.caption:  / new: take",
    ):
        latents.prepare(moved, out)
    assert stamps(tmp_path) == before


def test_clips_are_cut_again_where_the_content_is_another(videos, tmp_path):
    config = config_of(videos)
    first = dataset.prepare(config.data, tmp_path)
    os.utime(videos / "a.mp4", (0, 0))
    assert dataset.prepare(config.data, tmp_path) == first
    write(videos / "a.mp4", 9, first=3)
    assert dataset.prepare(config.data, tmp_path) != first


def test_clips_of_another_fit_are_not_trained_on(videos, tmp_path):
    latents.prepare(config_of(videos), tmp_path / "set")
    config = config_of(tmp_path / "set", fit="squeeze")
    with pytest.raises(
        ValueError,
        match='have fit crop, and config.data.fit is squeeze: use --config.data.fit="crop", or build them again',
    ):
        dataset.prepare(config.data, tmp_path)


def test_the_report(videos, tmp_path):
    (videos / "broken.mp4").write_bytes(b"nothing")
    manifest = latents.prepare(config_of(videos, test_fraction=0.3), tmp_path / "set")
    report = records.report(tmp_path / "set")
    clips = [clip for split in manifest["splits"] for clip in pipeline.open_split(tmp_path / "set", split)]
    mean = np.stack([clip["latent_mean"] for clip in clips]).astype(np.float64)
    of = report["latents"]["latent_mean"]
    assert of["shape"] == [4, 16, 16, 3] and list(report["latents"]) == ["latent_mean"]
    np.testing.assert_allclose([of["mean"], of["std"]], [mean.mean(), mean.std()], rtol=1e-9)
    assert [(file["file"], file["clips"], file["dropped"], bool(file["error"])) for file in report["files"]] == [
        ("a.mp4", 2, 1, False),
        ("broken.mp4", 0, 0, True),
        ("deep/b.mp4", 2, 0, False),
        ("walk", 2, 0, False),
    ]
    listed = {}
    for split in manifest["splits"]:
        for clip in pipeline.open_split(tmp_path / "set", split):
            of_split = listed.setdefault(split, {})
            of_split[clip["source"]] = of_split.get(clip["source"], 0) + 1
    assert manifest["videos"] == listed and sum(map(len, listed.values())) == 3
    files = list((tmp_path / "set").rglob("clips-*"))  # latents, and the video in a folder of its own
    assert report["bytes"] == sum(file.stat().st_size for file in files) and report["folder"] == str(videos)


@pytest.mark.parametrize("dtype", latents.DTYPES)
def test_types_on_disk(tmp_path, dtype):
    """Checks that latents are rounded to the type on disk and read as float32, without the codec."""
    config = debug_config(tmp_path)
    config.data.update(frames=4, clips=dict(train=4, test=1), dtype=dtype)
    latents.prepare(config, tmp_path / "set")
    assert tfds.builder_from_directory(tmp_path / "set").info.features["latent_mean"].np_dtype == latents.DTYPES[dtype]
    plain = pipeline.open_split(
        dataset.location(config.data, tmp_path, dataset.settings(config.data, tmp_path)), "train"
    )
    codec = codecs.build(**config.codec)
    for clip, was in zip(pipeline.open_split(tmp_path / "set", "train"), plain, strict=True):
        mean = np.asarray(codec.encode(None, jnp.asarray(was["video"])[None]).mean[0])
        assert clip["latent_mean"].dtype == np.float32
        np.testing.assert_array_equal(clip["latent_mean"], mean.astype(latents.DTYPES[dtype]).astype(np.float32))
    config.data.path = str(tmp_path / "set")
    batch = next(
        pipeline.batches(
            dataset.prepare(config.data, tmp_path),
            windows=[pipeline.Window(2)],
            batch_size=2,
            seed=0,
            threads=0,
            latents=True,
        )
    )
    assert batch.latent_mean.dtype == np.float32


def test_types_that_do_not_fit(tmp_path):
    config = debug_config(tmp_path)
    config.data.update(frames=4, clips=dict(train=4, test=1), dtype="float64")
    with pytest.raises(
        ValueError, match="config.data.dtype is 'float64': latents are stored as one of float32, float16, bfloat16"
    ):
        latents.prepare(config, tmp_path / "set")
    assert not list(tmp_path.iterdir())
    with pytest.raises(
        ValueError,
        match="text_embedding of a.mp4 holds values up to 1e[+]05, more than float16 can hold: "
        "use --config.data.dtype=bfloat16",
    ):
        latents._rounded("text_embedding", np.array([1e5, 0], np.float32), np.float16, "a.mp4")


# --- room and rates -------------------------------------------------------------------------------


def test_too_little_disk_raises_before_anything_is_written(videos, tmp_path, monkeypatch):
    """Checks the space for clips alone and with latents; a built data set needs space only for the latter."""
    config, free = config_of(videos), 40_000
    monkeypatch.setattr(shutil, "disk_usage", lambda path: namedtuple("usage", "free")(free))
    clip, latent = 4 * 16 * 16 * 3, 4 * 16 * 16 * 3 * 4
    there = set(tmp_path.rglob("*"))
    for make in (
        lambda: dataset.prepare(config.data, tmp_path / "run"),
        lambda: latents.prepare(config, tmp_path / "set"),
    ):
        free = 2 * 6 * clip - 1
        with pytest.raises(
            ValueError,
            match=r"6 clips .* take up to 0.\d MiB, and 0.0 MiB are free where .*: make room, use another disk",
        ):
            make()
        assert {path for path in set(tmp_path.rglob("*")) - there if path.suffix != ".jsonl"} <= {
            tmp_path / "run",
            tmp_path / "run" / "data",
        }
    free = 6 * (2 * clip + latent) - 1
    with pytest.raises(
        ValueError,
        match=r"6 clips with their latents \(0.1 MiB\), and the clips without latents \(0.0 MiB\), take up to 0.1 MiB",
    ):
        latents.prepare(config, tmp_path / "set")
    free += 1
    latents.prepare(config, tmp_path / "set")
    config.data.path, free = str(next((tmp_path / "set-clips" / "data").glob("videos-*"))), 6 * (clip + latent) - 1
    with pytest.raises(ValueError, match=r"6 clips with their latents \(0.1 MiB\) take up to"):
        latents.prepare(config, tmp_path / "again")
    assert not list(tmp_path.glob("again*")) and not list(tmp_path.glob(".again*"))


def test_a_disk_that_fills_up_raises_os_error_and_the_build_continues(tmp_path, monkeypatch):
    real, room = records.ArrayRecordWriter, 3

    class Full(real):
        def write(self, content):
            nonlocal room
            room -= 1
            if room < 0:
                raise RuntimeError("write() failed: No space left on device; writing x")
            super().write(content)

    clips = [dict(value=np.full(9, i, np.float32)) for i in range(6)]
    build = lambda name: records.write(
        tmp_path / name,
        dict(train=clips),
        settings={},
        shard_bytes=1,
        measure=lambda clip: dict(sum=clip["value"].sum()),
        report=dict,
    )
    build("whole")
    monkeypatch.setattr(records, "ArrayRecordWriter", Full)
    with pytest.raises(OSError, match="No space left on device") as error:
        build("a")
    assert error.value.errno == errno.ENOSPC and not records.is_dataset(tmp_path / "a")
    room = 3  # enough for the missing shards, and not for all of them
    build("a")
    contents = lambda name: {path.name: path.read_bytes() for path in (tmp_path / name).iterdir()}
    assert contents("a") == contents("whole") and records.report(tmp_path / "a")["sum"] == 9 * 15


def test_videos_slower_than_clips_are_left_out_and_named(videos, tmp_path, caplog):
    """Checks the report, the warning, and that clips have the same key whether slow videos are skipped or refused."""
    films.write(videos / "fast.mp4", 12, rate=24)
    config = config_of(videos, fps=12.0)
    built = dataset.prepare(config.data, tmp_path / "run")
    report = records.report(built)
    reasons = {entry["file"]: (entry["status"], entry["reason"]) for entry in report["files"]}
    assert reasons == {
        "a.mp4": ("skipped", "10 fps, slower than config.data.fps 12"),
        "deep/b.mp4": ("skipped", "10 fps, slower than config.data.fps 12"),
        "fast.mp4": ("kept", None),
        "walk": ("skipped", "10 fps (config.data.image_fps), slower than config.data.fps 12"),
    }
    left_out = (
        "left out: 3 of 4 videos are slower than config.data.fps=12, so clips would repeat frames: a.mp4 (10 fps), "
        "deep/b.mp4 (10 fps), walk (10 fps by config.data.image_fps): --config.data.fps=10 takes all of them"
    )
    assert report["notes"][0] == left_out and f"warning: {built}: {left_out}" in caplog.messages
    assert {clip.source for clip in folder.clips(videos, frames=4, fps=12.0, size=(8, 8))} == {"fast.mp4"}
    config.data.slow = "error"
    with pytest.raises(ValueError, match="3 of 4 videos .* takes all of them, --config.data.slow=skip leaves them out"):
        folder.max_clips(videos, frames=4, fps=12.0, size=(16, 16), image_fps=10.0, slow="error")
    assert dataset.settings(config.data, tmp_path) == records.manifest(built)["settings"]
    config.data.slow = "ignore"
    with pytest.raises(ValueError, match="config.data.slow must be 'skip' or 'error', not 'ignore'"):
        dataset.settings(config.data, tmp_path)


def test_a_short_slow_video_is_no_error_and_shortens_no_clip(tmp_path):
    """Checks a video of 0.6 s at 10 fps next to one of 2 s at 24 fps, in both modes, and a rate that is 1 % lower."""
    films.write(tmp_path / "fast.mp4", 48, rate=24)
    write(tmp_path / "short.mp4", 6)
    options = dict(frames=16, fps=24.0, size=(8, 8), min_frames=2)
    for slow in ("skip", "error"):
        assert folder.max_clips(tmp_path, **options, slow=slow) >= 3
    assert folder.max_clips(tmp_path, **options | dict(fps=24.2), slow="error") >= 3


def test_an_error_names_the_rate_where_all_videos_are_slow(videos, tmp_path):
    """Checks the error before anything is written; slightly lower rates (23.976 for 24) are accepted."""
    (videos / "broken.mp4").write_bytes(b"nothing")
    refused = (
        r"videos: 3 of 4 videos are slower than config.data.fps=12, .*: a.mp4 \(10 fps\), deep/b.mp4 \(10 fps\), "
        r"walk \(10 fps by config.data.image_fps\): --config.data.fps=10 takes all of them$"
    )
    for make in (
        lambda config: dataset.prepare(config.data, tmp_path / "run"),
        lambda config: latents.prepare(config, tmp_path / "set"),
    ):
        with pytest.raises(ValueError, match=refused):
            make(config_of(videos, fps=12.0))
    assert not list(tmp_path.glob("set*")) and not list(tmp_path.glob("**/.*"))
    assert folder.max_clips(videos, frames=4, fps=10.01, size=(16, 16), image_fps=10.0) == 6
