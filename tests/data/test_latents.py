"""Latents on disk: they equal the codec's latents, are refused for another codec, and train as the video does."""

import json
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest
from conftest import ROOT, SHARED, config_flag, debug_config

from jvflow import codecs
from jvflow.data import dataset, latents, pipeline, records
from jvflow.load import load
from jvflow.pretrained import LazyParams
from jvflow.training.loop import train


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """Returns a config of eight small clips and the real tiny autoencoder."""
    folder = SHARED / "data" / "weights"
    if not folder.exists():
        pytest.skip("needs the folder shared/ next to the checkout")
    config = debug_config(tmp_path_factory.mktemp("pixels"), steps=2)
    config.data.update(size=(16, 16), frames=4, clips=dict(train=6, test=2))
    config.codec.update(
        name="tiny",
        checkpoint=tuple(str(folder / f"taef2_{half}.safetensors") for half in ("encoder", "decoder")),
        scale=0.8,
    )
    config.network.patch = (1, 1, 1)
    return config


@pytest.fixture(scope="module")
def encoded(config, tmp_path_factory):
    out = tmp_path_factory.mktemp("latents") / "set"
    codec = codecs.build(**config.codec)
    latents.encode(codec, latents.model_fingerprint(**config.codec), dataset.prepare(config.data, out.parent), out)
    return out


def test_clips_keep_everything_and_gain_latents(config, encoded):
    codec = codecs.build(**config.codec)
    before = pipeline.open_split(dataset.prepare(config.data, encoded.parent), "test")
    for clip, was in zip(pipeline.open_split(encoded, "test"), before, strict=True):
        for name in was:
            np.testing.assert_array_equal(clip[name], was[name])
        expected = codec.encode(codec.params, was["video"][None]).mean[0]
        np.testing.assert_allclose(clip["latent_mean"], expected, atol=1e-5)
        assert "latent_std" not in clip and clip["latent_mean"].dtype == np.float32
    assert latents.has_latents(encoded) and records.manifest(encoded)["splits"] == {"train": 6, "test": 2}


def test_training_does_not_read_the_video(encoded, tmp_path):
    assert "video" not in pipeline.open_split(encoded, "test", video=False)[0]
    shutil.copytree(encoded, tmp_path / "set")
    for file in (tmp_path / "set" / records.VIDEO).glob("*.array_record*"):
        file.write_bytes(b"not a record")
    options = dict(windows=[pipeline.Window(2)], batch_size=2, seed=0, threads=0, latents=True)
    whole, damaged = (next(pipeline.batches(folder, **options)) for folder in (encoded, tmp_path / "set"))
    jax.tree.map(np.testing.assert_array_equal, whole, damaged)
    with pytest.raises(Exception, match="ArrayRecord file should be"):
        pipeline.open_split(tmp_path / "set", "test")[0]


def test_the_video_is_that_of_the_clips_and_takes_no_second_place(config, encoded):
    clips = dataset.prepare(config.data, encoded.parent)
    files = sorted(file.name for file in clips.glob("*.array_record*"))
    assert files and all((clips / file).samefile(encoded / records.VIDEO / file) for file in files)
    assert records.manifest(encoded)["shape"] == records.manifest(clips)["shape"] == [4, 16, 16, 3]
    assert records.video_folder(encoded) == encoded / records.VIDEO and records.video_folder(clips) == clips


def test_latents_of_an_earlier_version_hold_the_video_themselves(encoded, tmp_path):
    made = records.manifest(encoded)
    clips = {split: list(pipeline.open_split(encoded, split)) for split in made["splits"]}
    records.write(tmp_path / "set", clips, settings=made["settings"])
    options = dict(windows=[pipeline.Window(2)], batch_size=2, seed=0, threads=0, latents=True)
    jax.tree.map(
        np.testing.assert_array_equal,
        *(next(pipeline.batches(folder, **options)) for folder in (encoded, tmp_path / "set")),
    )
    assert records.manifest(tmp_path / "set")["shape"] == made["shape"]
    assert pipeline.clips(tmp_path / "set", "test").shape == (2, 4, 16, 16, 3)


def test_video_of_other_clips_is_an_error(encoded, tmp_path):
    shutil.copytree(encoded, tmp_path / "set")
    shutil.rmtree(tmp_path / "set" / records.VIDEO)
    one = {"train": [pipeline.open_split(encoded, "train")[0]]}
    records.write(tmp_path / "set" / records.VIDEO, one, settings={})
    with pytest.raises(
        ValueError, match="clips has 1 clips in its split 'train', and the latents are of 6: restore it"
    ):
        pipeline.open_split(tmp_path / "set", "train")


@pytest.mark.integration
def test_no_encoder_stays_in_memory_during_training(config, encoded, tmp_path, monkeypatch):
    """Checks that training on latents loads the codec only for sheets and frees it; training on video keeps it."""
    asked, get = [], LazyParams.get
    monkeypatch.setattr(LazyParams, "get", lambda lazy: asked.append(lazy) or get(lazy))
    config = config.copy_and_resolve_references()
    config.data.path = str(encoded)
    train(config, tmp_path / "latents")
    assert not asked
    config.run.update(sample_every=2, sample_frames=2)
    train(config, tmp_path / "sheets")
    assert asked and all(lazy.params is None for lazy in asked)
    asked.clear()
    config.data.path = "procedural:comets"
    config.run.sample_every = 0
    train(config, tmp_path / "video")
    assert len(asked) == 1


@pytest.mark.integration
def test_training_on_latents_is_training_on_the_video(config, encoded, tmp_path):
    train(config, tmp_path / "video")
    config = config.copy_and_resolve_references()
    config.data.path = str(encoded)
    train(config, tmp_path / "latents")
    runs = [load(tmp_path / name) for name in ("video", "latents")]
    for a, b in zip(*(jax.tree.leaves(run.params) for run in runs), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
    built = lambda run: dataset.prepare(run.config.data, run.workdir)
    starts = [pipeline.start_frames(run.config.data, lambda run=run: built(run), 2, 1) for run in runs]
    np.testing.assert_array_equal(*starts)  # both runs start streams from video frames
    batch = next(pipeline.batches(encoded, windows=[pipeline.Window(2)], batch_size=2, seed=0, threads=0, latents=True))
    assert batch.video is None and batch.latent_mean.shape[:3] == (2, 2, 2)


def test_encoding_again_does_nothing_and_another_codec_is_refused(config, encoded, tmp_path):
    codec, codec_id = codecs.build(**config.codec), latents.model_fingerprint(**config.codec)
    source = dataset.prepare(config.data, encoded.parent)
    assert latents.encode(codec, codec_id, source, encoded) == records.manifest(encoded)
    other = config.copy_and_resolve_references()
    other.codec.scale = 0.5
    with pytest.raises(
        ValueError, match=r"set holds another data set .* there / here: codec.scale: 0.8 / 0.5: take the settings"
    ):
        latents.encode(codec, latents.model_fingerprint(**other.codec), source, encoded)
    other.data.path = str(encoded)
    with pytest.raises(
        ValueError,
        match=r"were made with .*'scale': 0.8.* config.codec is .*'scale': 0.5.*: "
        "use that codec, or encode into another folder",
    ):
        train(other, tmp_path / "run")
    config = config.copy_and_resolve_references()
    config.data.seed = 1
    with pytest.raises(
        ValueError, match="there / here: of.seed: 0 / 1: take the settings and files that it was made with, remove it"
    ):
        latents.encode(codec, codec_id, dataset.prepare(config.data, encoded.parent), encoded)


def test_a_built_data_set_has_to_be_of_the_size_and_rate_of_the_config(config, encoded, tmp_path):
    changes = {
        r'have size \(16, 16\), and config.data.size is \(32, 32\): use --config.data.size="\(16, 16\)"': dict(
            size=(32, 32)
        ),
        "have fps 8.0, and config.data.fps is 4.0": dict(fps=4.0),
        "have dtype float32, and config.data.dtype is float16": dict(dtype="float16"),
    }
    for message, change in changes.items():
        wrong = config.copy_and_resolve_references()
        wrong.data.update(change, path=str(encoded))
        with pytest.raises(ValueError, match=message):
            dataset.prepare(wrong.data, tmp_path)


@pytest.mark.integration
def test_the_command(tmp_path):
    command = [
        sys.executable,
        "-m",
        "launch.encode",
        config_flag("biflow/procedural.py", "debug"),
        f"--out={tmp_path / 'set'}",
        "--config.data.frames=4",
    ]
    for _ in range(2):
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert "latents of 8 clips in train, 8 clips in test" in done.stdout
    clip = pipeline.open_split(tmp_path / "set", "train")[0]
    np.testing.assert_allclose(clip["latent_mean"], clip["video"] / 127.5 - 1, atol=1e-6)


def test_values_that_are_not_finite_are_neither_written_nor_read(tmp_path):
    codec_id, values = dict(name="some"), np.linspace(0, 1, 6, dtype=np.float32).reshape(2, 3)
    records.write(tmp_path / "of", dict(train=[dict(source="a.mp4", latent_mean=values)]), settings={})

    def write(folder, embedding):
        clip = dict(source="a.mp4", latent_mean=values, text_embedding=embedding, text_mask=np.ones(2, bool))
        clips = dict(train=records.LazyClips(1, lambda i: dict(clip)))
        settings = dict(kind="latents", codec=codec_id, text=codec_id)
        latents.write_latents(folder, clips, settings, tmp_path / "of")
        return folder

    with pytest.raises(
        ValueError, match="text_embedding of a.mp4 holds values that are not finite: the text encoder is"
    ):
        write(tmp_path / "broken", np.where(values > 0.5, np.nan, values))
    assert not records.is_dataset(tmp_path / "broken")
    whole = write(tmp_path / "whole", values)
    latents.check_latents(whole, codec_id)
    assert latents.has_embeddings(whole, codec_id) and not latents.has_embeddings(whole, None)
    file = whole / records.REPORT  # an older data set: its statistics show the fault
    report = json.loads(file.read_text())
    report["latents"]["text_embedding"]["mean"] = float("nan")
    file.write_text(json.dumps(report))
    message = "text_embedding in .*whole hold values that are not finite: remove the data set and encode it again"
    with pytest.raises(ValueError, match=message):
        latents.has_embeddings(whole, codec_id)
    with pytest.raises(ValueError, match=message):
        latents.check_latents(whole, codec_id)
