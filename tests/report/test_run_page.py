"""Tests of the reports of a training and of an evaluation, and of the parts of pages."""

import json

import numpy as np
import pytest

from jvflow.data import video
from jvflow.report import page, run_page, videos


@pytest.fixture
def workdir(tmp_path):
    """Returns a folder with the files of a training."""
    lines = [dict(step=step, loss=1 / step) for step in range(1, 1001)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (tmp_path / "validation.jsonl").write_text(json.dumps(dict(step=1000, loss=0.5, split="test")) + "\n")
    return tmp_path


def test_the_report_of_a_training_has_losses_settings_and_the_last_videos(workdir):
    run_page.training(workdir / "report.html", workdir, {"train": {"steps": 1000}, "seed": 7})
    text = (workdir / "report.html").read_text()
    assert "No videos" in text and "train.steps" in text and "0.5 at step 1000" in text
    film = np.zeros((8, 3, 16, 16, 3), np.uint8)
    for step in (5, 1000):
        videos.write_preview(workdir / "samples" / f"step_{step:08d}", film, 8.0)
    run_page.training(workdir / "report.html", workdir, {})
    text = (workdir / "report.html").read_text()
    assert "After step 1000" in text and text.count("<video ") == 4 and "://" not in text


def test_the_report_of_an_evaluation_explains_each_figure(tmp_path):
    record = dict(
        nfe_per_frame=8.25,
        truth={"psnr": {"8": 30.5}},
        distance=[(0, 1.0), (16, 2.0)],
        protocol=dict(videos=4, real=dict(path="<here>")),
        legend={"nfe_per_frame": "evaluations of the network", "truth.psnr.N": "in dB", "distance": "over time"},
    )
    run_page.evaluation(tmp_path / "metrics.html", record, "jvflow evaluate <x>", [])
    text = (tmp_path / "metrics.html").read_text()
    for shown in ("8.25", "evaluations of the network", "truth psnr 8", "in dB", "over time", "real.path"):
        assert shown in text
    assert "&lt;here&gt;" in text and "<here>" not in text and "<video" not in text
    assert text.count("<img ") == 1


def test_curves_are_thinned_to_means():
    points = [(step, float(step % 2)) for step in range(1, 901)]
    thin = run_page.thinned(points)
    assert len(thin) == 300 and thin[-1][0] == 900
    assert run_page.thinned(points[:5]) == points[:5]


def test_tables_name_their_columns_in_each_cell_for_narrow_screens():
    text = page.table("A table.", ["method", "distance"], [["a & b", 0.123456], ["c", None]])
    assert '<td data-head="distance" class="number">0.1235</td>' in text and "a &amp; b" in text and "–" in text


def test_a_preview_of_pairs_is_a_video_for_each_pair(tmp_path):
    numbered = np.arange(0, 160, 20, dtype=np.uint8)[:, None, None, None, None] * np.ones((8, 2, 16, 16, 3), np.uint8)
    files = videos.write_preview(tmp_path / "step_7", numbered, 8.0)
    assert [file.name for file in files] == [f"step_7_{i}.mp4" for i in range(4)]
    first = next(frame for _, frame in video.frames(files[1]))
    assert first.shape == (512, 256, 3) and abs(first[::256, 0, 0].astype(int) - [40, 60]).max() <= 2
    assert len(videos.write_preview(tmp_path / "three", numbered[:3], 8.0)) == 3
