"""Tests of the published tables: they are well-formed, and hold what the papers print."""

import json
import math

import pytest

from jvflow.metrics.published import FOLDER, NAMES, read_tables

PAPERS = {"biflow": "biflow.md", "flowframes": "flowframes.md", "vlfm": "vlfm.md"}


def test_every_paper_has_tables():
    assert set(NAMES) == set(PAPERS)
    with pytest.raises(ValueError, match="no published tables of 'other': use one of biflow, flowframes, vlfm"):
        read_tables("other")


@pytest.mark.parametrize("name", NAMES)
def test_tables_are_complete(name):
    """Checks that every row has every data set, and every data set every figure, once."""

    def once(pairs):
        assert len({key for key, _ in pairs}) == len(pairs), pairs
        return dict(pairs)

    content = json.loads((FOLDER / f"{name}.json").read_text(), object_pairs_hook=once)
    assert content.keys() == {"paper", "tables"}
    for table in content["tables"]:
        assert table.keys() == {"table", "about", "figures", "rows"}
    tables = read_tables(name)
    assert len({table.source for table in tables}) == len(tables)
    for table in tables:
        assert table.about and all(table.figures.values()) and table.rows
        for row in table.rows.values():
            assert tuple(row) == table.data_sets
            for values in row.values():
                assert values.keys() == table.figures.keys()
                assert all(type(value) in (int, float) and math.isfinite(value) for value in values.values())


@pytest.mark.parametrize("name", NAMES)
def test_the_papers_print_these_values(name, shared):
    """Checks each value, digit by digit, in the line of its row."""
    lines = (shared / "papers" / PAPERS[name]).read_text().replace("Bi-flow\t", "BI-FLOW\t").splitlines()
    for table in json.loads((FOLDER / f"{name}.json").read_text(), parse_float=str, parse_int=str)["tables"]:
        for row, data in table["rows"].items():
            printed = [value for values in data.values() for value in values.values()]
            assert any(all(value in line for value in printed) for line in lines), (table["table"], row, printed)
