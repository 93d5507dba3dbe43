"""The result tables of the papers, as printed; each paper has a JSON file here.

A value is comparable with a figure of a run only if data, features and protocol are the same. jvflow never mixes the
two: it shows published values in columns of their own.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from jvflow.files import read_json

FOLDER = Path(__file__).parent
NAMES = tuple(sorted(file.stem for file in FOLDER.glob("*.json")))
"""The papers that have a file."""


@dataclass(frozen=True)
class Table:
    """A table of a paper.

    Attributes:
      source: paper and number of the table.
      about: what was measured, and how.
      figures: figure -> its meaning and unit.
      rows: row of the table -> data set -> figure -> value.
    """

    source: str
    about: str
    figures: Mapping[str, str]
    rows: Mapping[str, Mapping[str, Mapping[str, float | int]]]

    @property
    def data_sets(self) -> tuple[str, ...]:
        """The data sets, in the order of the table."""
        return tuple(dict.fromkeys(name for row in self.rows.values() for name in row))


def read_tables(name: str) -> tuple[Table, ...]:
    """Returns the tables of a paper, one of `NAMES`; raises ValueError for another name."""
    if name not in NAMES:
        raise ValueError(f"no published tables of {name!r}: use one of {', '.join(NAMES)}")
    paper = read_json(FOLDER / f"{name}.json", "install jvflow again", keys=dict(paper=str, tables=list))
    return tuple(
        Table(f"{paper['paper']}, {table['table']}", table["about"], table["figures"], table["rows"])
        for table in paper["tables"]
    )
