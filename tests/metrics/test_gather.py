"""Scores do not depend on how clips are split: over processes, devices and batches. Threads stand for processes."""

import json
import os
import subprocess
import sys
import threading
from dataclasses import asdict
from functools import partial
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from conftest import ROOT
from feature_networks import SmallNetwork, write_video

from jvflow.metrics import extractor as extractors
from jvflow.metrics import gather
from jvflow.metrics import score as scores
from jvflow.metrics.clips import FolderClips
from jvflow.metrics.protocol import preset
from jvflow.metrics.sums import FeatureSums
from jvflow.parallel import mesh, processes


class Job:
    """Runs work in threads that stand for the processes of a job; their messages are those of processes."""

    def __init__(self, count: int, monkeypatch):
        self.count, self.barrier, self.local = count, threading.Barrier(count, timeout=60), threading.local()
        self.parts = [b""] * count
        of_jax = SimpleNamespace(process_count=lambda: count, process_index=lambda: self.local.index)
        here = dict(distributed_map=self.distributed_map, from_each=self.from_each)
        here["is_primary"] = lambda: self.local.index == 0
        monkeypatch.setattr(gather, "jax", of_jax)
        monkeypatch.setattr(gather, "processes", SimpleNamespace(**here))

    def distributed_map(self, count, make):
        assert count == self.count
        return list(self.from_each(make(self.local.index)))

    def from_each(self, item):
        self.parts[self.local.index] = processes._pack(item)
        self.barrier.wait()
        parts = list(self.parts)
        self.barrier.wait()
        yield from map(processes._unpack, parts)

    def __call__(self, work) -> list:
        """Returns what `work(index)` returns or raises, for each process."""
        results = [None] * self.count

        def run(index):
            self.local.index = index
            try:
                results[index] = work(index)
            except Exception as error:
                results[index] = error

        threads = [threading.Thread(target=run, args=(index,)) for index in range(self.count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)
        assert not any(thread.is_alive() for thread in threads), "a process still waits"
        return results


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Returns a folder of videos; the second one gives two clips before a damaged frame, and none after it."""
    root = tmp_path_factory.mktemp("videos")
    for number, frames in enumerate((18, 21, 18, 26, 17, 22)):
        write_video(root / f"v{number}", frames, seed=number)
    write_video(root / "short", 9)
    write_video(root / "a_wide", 16, size=(40, 96))
    write_video(root / "b_damaged", 24)
    (root / "b_damaged" / "020.png").write_bytes(b"no image")
    (root / "broken.mp4").write_bytes(b"no video")
    return root


def last(running) -> FeatureSums:
    *_, total = running
    return total


def check_equal(found: FeatureSums, expected: FeatureSums) -> None:
    """Checks counts and samples, and means and products to 1e-10 of their scale."""
    assert found.moments.count == expected.moments.count
    np.testing.assert_array_equal(found.places, expected.places)
    np.testing.assert_array_equal(found.groups, expected.groups)
    np.testing.assert_allclose(found.rows, expected.rows, rtol=1e-6)
    for name in ("mean", "products"):
        one, other = (getattr(each.moments, name) for each in (found, expected))
        np.testing.assert_allclose(one, other, rtol=1e-10, atol=1e-10 * np.abs(other).max())


def check_same_record(found: dict, expected: dict, rel: float) -> None:
    """Checks that two records have the same numbers, to `rel`, and otherwise the same entries."""
    numbers = lambda record: {key: record[key] for key in ("value", "kernel_distance")} | record["interval"]
    others = lambda record: {key: record[key] for key in ("counts", "inputs", "protocol", "warnings", "seeds")}
    assert expected["value"] > 0 and others(found) == others(expected)
    assert numbers(found).keys() == numbers(expected).keys()
    for name, value in numbers(expected).items():
        assert found.get(name, found["interval"].get(name)) == pytest.approx(value, rel=rel), name


@pytest.mark.parametrize("kept", [50, 10_000])
@pytest.mark.parametrize("parts", [1, 2, 4])
@pytest.mark.parametrize("batch", [1, 3, 8, 64])
def test_sums_are_the_same_for_every_split_and_order(parts, batch, kept):
    random = np.random.default_rng(parts * batch)
    rows = (40 + random.normal(size=(300, 12)) * np.logspace(-2, 2, 12)).astype(np.float32)
    places, groups = random.permutation(10**6)[:300], np.arange(300) // 3
    whole = FeatureSums.empty(12, kept).add(rows, places, groups)
    assert len(whole.rows) == min(kept, 300)
    total = FeatureSums.empty(12, kept)
    owner = random.integers(0, parts, 300)
    for part in random.permutation(parts):
        mine, own = random.permutation(np.flatnonzero(owner == part)), FeatureSums.empty(12, kept)
        for begin in range(0, len(mine), batch):
            chosen = mine[begin : begin + batch]
            own = own.add(rows[chosen], places[chosen], groups[chosen])
        total = own.merge(total)
    check_equal(total, whole)
    exact = np.cov(rows.astype(np.float64), rowvar=False)
    np.testing.assert_allclose(total.moments.covariance(), exact, rtol=1e-10, atol=1e-10 * exact.max())


SETS = [
    *((dict(window="all", window_stride=4), count, False) for count in (0, 1, 2, 3, 7, 100)),
    (dict(window="first"), 5, False),
    (dict(window="random"), 0, False),
    (dict(window="random"), 19, True),
]


@pytest.mark.parametrize("changes, count, redraw", SETS)
def test_processes_together_read_the_clips_of_one_process(folder, monkeypatch, changes, count, redraw):
    protocol = preset("original", dict(changes, size=32))
    clips = lambda: FolderClips(folder, protocol, count, redraw=redraw)
    alone, expected = clips(), []
    total = last(SmallNetwork(protocol).sums(expected.append(each[:2]) or each for each in alone))
    assert alone.report.clips == len(set(expected)) == (min(count, 21) if count and count < 100 else alone.report.clips)
    for number, batch in ((2, 1), (4, 3)):
        job, shared = Job(number, monkeypatch), [clips() for _ in range(number)]
        network = partial(SmallNetwork, protocol, batch=batch)
        found = job(lambda index, network=network, shared=shared: last(gather.sums(network(), shared[index])))
        for sums, mine in zip(found, shared):
            check_equal(sums, total)
            assert asdict(mine.report) == asdict(alone.report)


def test_a_problem_after_the_last_clip_of_the_set_is_not_reported(folder):
    protocol = preset("original", dict(window="all", window_stride=4, size=32))
    for count, broken in ((1, set()), (2, set()), (3, {"b_damaged"})):
        clips = FolderClips(folder, protocol, count)
        list(clips)
        assert set(clips.report.broken) == broken and clips.report.clips == count


def test_every_process_has_the_record_of_one(folder, monkeypatch):
    monkeypatch.setattr(scores, "Extractor", SmallNetwork)
    protocol = preset("original", dict(window="all", window_stride=2, size=32, generated_count=11))
    alone = scores.score_folders(folder, folder, protocol)
    first, *others = Job(3, monkeypatch)(lambda _: scores.score_folders(folder, folder, protocol))
    assert all(each == first for each in others)
    check_same_record(asdict(first), asdict(alone), rel=1e-9)


@pytest.mark.parametrize("count", [0, 5])
def test_an_error_of_one_process_is_that_of_all(folder, monkeypatch, count):
    protocol = preset("original", dict(window="all", size=32))

    class Failing(SmallNetwork):
        fails = "no memory"

        def __call__(self, clips):
            if gather.processes.is_primary():
                return super().__call__(clips)
            if self.fails:
                raise RuntimeError(self.fails)
            return super().__call__(clips) * np.nan

    run = lambda: Job(2, monkeypatch)(
        lambda _: last(gather.sums(Failing(protocol), FolderClips(folder, protocol, count)))
    )
    primary, other = run()
    assert type(primary) is ValueError and type(other) is RuntimeError and str(primary) == str(other) == "no memory"
    Failing.fails = ""
    assert all(type(error) is ValueError and "features are not finite" in str(error) for error in run())


def test_mistakes_end_every_process_with_one_message(folder, monkeypatch, tmp_path):
    monkeypatch.setattr(scores, "Extractor", SmallNetwork)
    protocol = preset("original", dict(frames=64, size=32))
    errors = Job(3, monkeypatch)(lambda _: scores.score_folders(folder, folder, protocol))
    assert len({str(error) for error in errors}) == 1 and "gives 0 clips of 64 frames" in str(errors[0])

    def missing(*_):
        raise ValueError("I3D's parameters are missing" if gather.processes.is_primary() else "other")

    monkeypatch.setattr(scores, "Extractor", missing)
    errors = Job(3, monkeypatch)(lambda _: scores.score_folders(folder, folder, protocol))
    assert [str(error) for error in errors] == ["I3D's parameters are missing"] * 3

    write_video(tmp_path / "other", 18)
    network = lambda index: SmallNetwork(preset("original", dict(size=32)), file=index)
    read = lambda where, extractor: last(gather.sums(extractor, FolderClips(where, extractor.protocol, 0)))
    errors = Job(2, monkeypatch)(lambda index: read((folder, tmp_path)[index], network(0)))
    assert all("see different files" in str(error) for error in errors)
    absent = lambda index: scores.score_folders(folder, (folder, tmp_path / "absent")[index], protocol)
    assert ["absent is not a folder" in str(error) for error in Job(2, monkeypatch)(absent)] == [True, True]

    def other_weights(index):
        extractor = network(0)
        extractor.network.sha256 = str(index)
        return read(folder, extractor)

    assert all("read different weights" in str(error) for error in Job(2, monkeypatch)(other_weights))


class MeanNetwork:
    """Stands in for a loaded network: a convolution-free map from clips to 400 features."""

    name, sha256, source = "mean", "0", "none"
    params = dict(weight=np.random.default_rng(0).normal(size=(3 * 32, 400)).astype(np.float32))

    def apply(self, params, method, clips):
        return jax.numpy.tanh(clips.mean((1, 2)).reshape(len(clips), -1)) @ params["weight"]


@pytest.mark.parametrize("devices", [1, 2, 4])
def test_features_are_the_same_for_every_batch_and_number_of_devices(folder, monkeypatch, devices):
    if devices > jax.local_device_count():
        pytest.skip(f"needs {devices} devices")
    monkeypatch.setattr(extractors.weights_of, "load", lambda *_, **__: MeanNetwork())
    protocol = preset("original", dict(window="all", window_stride=1, size=32))
    clips = list(FolderClips(folder, protocol, 0))
    run = lambda batch: last(extractors.Extractor(protocol, batch=batch).sums(clips))
    expected = run(8)
    monkeypatch.setattr(extractors, "local_mesh", lambda: mesh.make_mesh(devices=jax.devices()[:devices]))
    for batch in (1, 3, 8, 64):
        found = run(batch)
        np.testing.assert_array_equal(found.places, expected.places)
        np.testing.assert_allclose(found.rows, expected.rows, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(found.moments.mean, expected.moments.mean, rtol=1e-4, atol=1e-5)


WORK = """
import json, sys
from dataclasses import asdict
from pathlib import Path
import jax
sys.path.insert(0, sys.argv[2])
from jvflow.parallel import processes
processes.start()
from test_gather import MeanNetwork, extractors, preset, scores
extractors.weights_of.load = lambda *_, **__: MeanNetwork()
changes = dict(window="all", window_stride=1, size=32, real_count=19)
score = scores.score_folders(sys.argv[1], sys.argv[1], preset("original", changes), batch=3)
Path(sys.argv[3], f"{jax.process_index()}.json").write_text(json.dumps(asdict(score)))
processes.barrier("the end")
"""


@pytest.mark.integration
def test_two_processes_with_eight_devices_give_the_record_of_one_with_one(folder, tmp_path):
    records = []
    for count, devices in ((1, 1), (2, 8)):
        flags = f"--xla_force_host_platform_device_count={devices}"
        environment = dict(os.environ, XLA_FLAGS=flags, PYTHONPATH=f"{ROOT}:{ROOT / 'tests'}")
        out = tmp_path / str(count)
        out.mkdir()
        python = [sys.executable, "-c", WORK, str(folder), str(ROOT / "tests" / "metrics"), str(out)]
        command = [str(ROOT / "launch" / "local.sh"), str(count), *python] if count > 1 else python
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
        assert done.returncode == 0, done.stderr
        found = [json.loads(file.read_text()) for file in sorted(out.iterdir())]
        assert len(found) == count and all(each == found[0] for each in found)
        assert found[0]["versions"]["processes"] == count and found[0]["versions"]["devices"] == count * devices
        records.append(found[0])
    check_same_record(records[1], records[0], rel=1e-4)
