"""Legends: entries explain values by the end of their path, and reports do not show them."""

import json

import pytest

from jvflow import commands
from jvflow.metrics.legend import explain
from jvflow.run import explained, scalars

LEGEND = {
    "value": "any value",
    "fvd.value": "the value of FVD",
    "psnr.N": "of frame N",
    "nfe_N": "with N evaluations",
    "other": "not in the record",
    "guidance_N": "at guidance N",
}


@pytest.mark.parametrize(
    "path, entry",
    [
        ("value", "value"),
        ("kernel/value", "value"),
        ("nfe_5/fvd/value", "fvd.value"),  # the longest entry that fits
        ("truth/psnr/16", "psnr.N"),
        ("nfe_5", "nfe_N"),
        ("guidance_1.5", "guidance_N"),
        ("nfe_x", None),
        ("nfe_5/distance", None),
        ("values", None),
        ("psnr", None),
    ],
)
def test_an_entry_explains_the_paths_that_end_with_it(path, entry):
    assert explain(path.split("/"), LEGEND) == entry


def test_a_record_gets_the_entries_that_it_needs():
    record = {"value": 1.0, "nfe_5": {"psnr": {8: 2.0}}, "protocol": {"other": 3}}
    found = explained(record, LEGEND)
    assert list(found["legend"]) == ["value", "psnr.N", "nfe_N"]
    assert scalars(found) == scalars(record) and "legend" not in record


def test_a_report_is_the_same_with_and_without_a_legend(tmp_path):
    record = dict(distance_mean=0.5, protocol=dict(objective="flow", distance="a"))
    files = {}
    for name, content in dict(old=record, new=record | dict(legend=dict(distance_mean="the mean distance"))).items():
        files[name] = tmp_path / name / "metrics.json"
        files[name].parent.mkdir()
        files[name].write_text(json.dumps(content))
    old, new = (commands.report([file]).replace(str(file), "FILE") for file in files.values())
    assert old == new and "distance_mean" in new and "the mean distance" not in new
