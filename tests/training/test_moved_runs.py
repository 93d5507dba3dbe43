"""Runs that move: their videos, cache, workdir or models are elsewhere, gone, or must not be written."""

import errno
import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from conftest import load_config

from jvflow import commands
from jvflow.data import folder, records
from jvflow.data.dataset_key import FileHashes
from jvflow.load import load, run_dataset
from jvflow.parallel.checksums import tree_checksum
from jvflow.report import videos
from jvflow.training.loop import train

pytestmark = pytest.mark.slow


def write_videos(place, count=2):
    """Writes videos of 14 frames, each with a moving texture of its own."""
    for seed in range(count):
        picture = np.random.default_rng(seed).integers(0, 255, (4, 6, 3))
        picture = np.kron(picture, np.ones((8, 8, 1))).astype(np.uint8)
        videos.write(place / f"{seed}.mp4", np.stack([np.roll(picture, k, axis=1) for k in range(14)]), 12)


def config_of(videos, **data):
    config = load_config("biflow/video_folder.py", "debug")
    config.data.update(dict(path=str(videos), size=(16, 16)) | data)
    config.train.steps = 2
    config.run.update(progress=False, tensorboard=False, validate_every=0, sample_every=0)
    return config


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    root = tmp_path_factory.mktemp("trained")
    write_videos(root / "videos")
    train(config_of(root / "videos"), root / "run")
    return root


@pytest.fixture
def moved(trained, tmp_path):
    """Copies a run with its clips to a new place, without its videos: config.json still names those."""
    config = config_of(tmp_path / "videos")
    shutil.copytree(trained / "run", tmp_path / "run")
    file = tmp_path / "run" / "config.json"
    file.write_text(file.read_text().replace(str(trained / "videos"), str(tmp_path / "videos")))
    return tmp_path, config


def files(place):
    return {path: path.read_bytes() if path.is_file() else None for path in place.rglob("*")}


def clips_of(root):
    (found,) = (root / "run" / "data").glob("videos-*")
    return found


@pytest.mark.parametrize("left", ["nothing", "an empty folder"])
def test_a_run_goes_on_with_its_own_clips(moved, caplog, left):
    """Resumes, loads and opens the data after the videos are gone, or their disk is not mounted."""
    root, config = moved
    if left == "an empty folder":
        (root / "videos").mkdir()
    caplog.set_level("INFO")
    train(config, root / "run")
    line = f"config.data.path={root / 'videos'} is not there: the run goes on with its clips in {clips_of(root)}"
    assert caplog.messages.count(line) == 1
    before = files(root)
    assert run_dataset(load(root / "run")) == clips_of(root)
    assert caplog.messages.count(line) == 2 and files(root) == before


def test_the_same_videos_at_a_new_place_are_accepted(moved):
    root, config = moved
    write_videos(root / "elsewhere")
    config.data.path = str(root / "elsewhere")
    train(config, root / "run")
    assert [path.name for path in (root / "run" / "data").glob("*-*")] == [clips_of(root).name]  # not built again
    assert load(root / "run").config.data.path == str(root / "elsewhere")
    (line,) = (root / "run" / "config_history.jsonl").read_text().splitlines()
    assert json.loads(line)["changed"] == {"data.path": [str(root / "videos"), str(root / "elsewhere")]}


def test_other_videos_are_refused_with_both_keys(moved):
    root, config = moved
    write_videos(root / "elsewhere", count=3)
    config.data.path = str(root / "elsewhere")
    before, key = files(root / "run"), records.manifest(clips_of(root))["key"]
    message = rf"was trained on data with key {key}, but config.data now has key (?!{key}).{{12}}: files or captions "
    with pytest.raises(ValueError, match=message + r"have changed \(differences, there / here: sources.2.mp4"):
        train(config, root / "run")
    changed = {path for path, content in files(root / "run").items() if before.get(path) != content}
    assert {path.name for path in changed} <= {"sha256.jsonl"}  # nothing was built
    config.data.path = str(root / "typing error")
    with pytest.raises(ValueError, match="typing error is not there: give a folder of the same videos"):
        train(config, root / "run")


def test_videos_that_changed_do_not_change_what_a_run_is_evaluated_on(moved):
    root, config = moved
    write_videos(root / "videos", count=3)
    assert run_dataset(load(root / "run")) == clips_of(root)
    shutil.rmtree(clips_of(root))
    with pytest.raises(ValueError, match="was trained on data with key .* but config.data now has key"):
        run_dataset(load(root / "run"))


def test_a_cache_may_move(moved):
    root, config = moved
    name = clips_of(root).name
    (root / "run" / "data").rename(root / "cache")
    with pytest.raises(
        ValueError, match=r"videos is not there, and no data set with key .{12} is in .*run/data: give "
    ):
        run_dataset(load(root / "run"))
    config.data.cache = str(root / "cache")
    train(config, root / "run")
    assert run_dataset(load(root / "run")) == root / "cache" / name
    (root / "run").rename(root / "other")
    assert run_dataset(load(root / "other")) == root / "cache" / name


def test_a_built_data_set_may_move(moved):
    """Continues on the clips themselves as `config.data.path`, then from another place, then by their key."""
    root, config = moved
    clips_of(root).rename(root / "built")
    config.data.path = str(root / "built")
    train(config, root / "run")
    assert run_dataset(load(root / "run")) == root / "built"
    (root / "built").rename(root / "away")
    with pytest.raises(ValueError, match="built is not there, and no data set with key"):
        train(config, root / "run")
    config.data.path = str(root / "away")
    train(config, root / "run")
    shutil.move(root / "away", root / "run" / "data" / "any name")
    assert run_dataset(load(root / "run")) == root / "run" / "data" / "any name"


def test_a_folder_that_must_not_be_written_is_read(moved, monkeypatch):
    """Samples and evaluates nothing into the workdir; a data set that would have to be built there is an error."""
    root, _ = moved
    before = files(root)
    record = commands.sample(root / "run", root / "out", count=1, length=2)
    assert len(record["samples"]) == 1
    assert {path: content for path, content in files(root).items() if "out" not in path.parts} == before
    write_videos(root / "videos")
    shutil.rmtree(clips_of(root))

    def refuse(file):
        def build(*args, **options):
            raise OSError(errno.EACCES, "Permission denied", str(file))

        monkeypatch.setattr(folder, "build", build)

    refuse(root / "videos" / "0.mp4")  # a video that must not be read is another mistake
    with pytest.raises(PermissionError, match="0.mp4"):
        run_dataset(load(root / "run"))
    refuse(root / "run" / "data" / ".videos.partial")
    message = r"the data set of .*videos has to be built in .*run/data, which cannot be written \(Permission denied\)"
    with pytest.raises(ValueError, match=message):
        run_dataset(load(root / "run"))


@pytest.mark.parametrize("error, kept", [(errno.EROFS, True), (errno.EACCES, True), (errno.ENOSPC, False)])
def test_hashes_that_cannot_be_written_are_no_error(tmp_path, monkeypatch, error, kept):
    real, video = Path.open, tmp_path / "a.mp4"
    video.write_bytes(b"video")

    def opened(self, mode="r", **options):
        if mode == "a":
            raise OSError(error, "refused")
        return real(self, mode, **options)

    monkeypatch.setattr(Path, "open", opened)
    hashes = FileHashes(tmp_path / "sha256.jsonl")
    if kept:
        assert hashes([video]) == hashes([video]) == FileHashes()([video])
    else:
        with pytest.raises(OSError, match="refused"):
            hashes([video])


def test_parameters_are_those_on_disk_with_64_bits(trained):
    run = load(trained / "run")
    with jax.enable_x64(True):
        wide = load(trained / "run")
    assert tree_checksum(wide.params) == tree_checksum(run.params) == wide.protocol["parameters"]
