"""Tests of `jvflow report`: which records compare, and that published values stay in their own columns."""

import json

import pytest

from jvflow import commands
from jvflow.report import side_by_side

PROTOCOL = dict(objective="biflow", step=2, parameters="a", videos=4, frames=96, controller="diffrax", fixed_steps=None)


def write(folder, name, figures=None, **changes):
    (folder / name).mkdir()
    protocol = {key: value for key, value in (PROTOCOL | changes).items() if value != "left out"}
    record = dict(figures or dict(nfe_per_frame=8.25, controls=dict(frozen=73.7)), protocol=protocol)
    (folder / name / "metrics.json").write_text(json.dumps(record))
    return folder / name


def cells(text, name):
    """Returns the cells of the row of a table that begins with `name`."""
    return [[c.strip() for c in line.split("|")[2:-1]] for line in text.splitlines() if line.startswith(f"| {name} |")]


def test_runs_and_published_values_have_their_own_columns(tmp_path):
    flow = write(tmp_path, "flow", dict(nfe_per_frame=8, fvd=3.0), objective="flow", parameters="b")
    biflow = write(tmp_path, "biflow", epsilon=0.2)
    text = commands.report([flow, biflow / "metrics.json"])
    papers = ["published: FLOW", "published: BI-FLOW", "published: CONDIFF"]
    assert cells(text, "") == [[str(flow), str(biflow / "metrics.json"), *papers]]
    assert cells(text, "objective") == [["flow", "biflow", "", "", ""]]
    assert cells(text, "nfe_per_frame") == [["8", "8.25", "", "", ""]]
    assert cells(text, "fvd") == [["3", "", "", "", ""]]
    assert cells(text, "controls.frozen") == [["", "73.7", "", "", ""]]
    assert cells(text, "SKY, steps [1]") == [["", "", "7.84", "14.57", "46.18"]]
    assert cells(text, "SKY, fvd [2]") == [["", "", "2109", "491", "994"]]
    assert "[2] Chen Liu and Tobias Ritschel, Generative Video Bi-flow, Table 2: " in text
    assert "videos 4" in text and "frames 96" in text
    assert "published: " not in commands.report([flow], published="none")
    assert "published: FLOW MATCHING" in commands.report([flow], published="vlfm")
    assert "published: " not in commands.report([write(tmp_path, "other", objective="unheard")])


def test_records_of_other_protocols_are_refused_with_every_difference(tmp_path):
    first = write(tmp_path, "first")
    second = write(tmp_path, "second", videos=8, frames="left out", controller="torchode", step=9)
    with pytest.raises(ValueError) as error:
        commands.report([first, second])
    lines = str(error.value).splitlines()
    assert lines[0] == f"{first} and {second} were evaluated under different protocols:"
    assert lines[1:4] == ["  controller: 'diffrax' and 'torchode'", "  frames: 96 and 'absent'", "  videos: 4 and 8"]


def test_a_fixed_number_of_steps_has_no_controller():
    torchode = PROTOCOL | dict(controller="torchode")
    assert side_by_side.differences(torchode, PROTOCOL | dict(fixed_steps=20)) == [
        "controller: 'torchode' and 'absent'"
    ]
    assert side_by_side.differences(PROTOCOL | dict(fixed_steps=10), PROTOCOL | dict(fixed_steps=20)) == []


def test_mistakes_are_one_sentence(tmp_path):
    run = write(tmp_path, "run")
    (tmp_path / "list.json").write_text("[1]")
    (tmp_path / "figures.json").write_text("{}")
    for runs, message in (
        ([], "give the metrics of one or more runs"),
        ([run, run], "is given twice"),
        ([tmp_path / "absent"], "absent does not exist: give the file of `jvflow evaluate --out=FILE`"),
        ([tmp_path], "metrics.json does not exist"),
        ([tmp_path / "list.json"], "list.json .*: give the file of `jvflow evaluate"),
        ([tmp_path / "figures.json"], "protocol.*: give the file of `jvflow evaluate"),
    ):
        with pytest.raises(ValueError, match=message):
            commands.report(runs)
    with pytest.raises(ValueError, match="no published tables of 'bi-flow': use one of biflow"):
        commands.report([run], published="bi-flow")
