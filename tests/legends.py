"""Checks that the legend of a record explains its values."""

from jvflow.metrics.legend import explain
from jvflow.run import paths, scalars


def unexplained(record: dict) -> list[str]:
    """Returns the numbers of a record that no entry of its legend explains, and the entries that are no sentence."""
    legend = record["legend"]
    assert "legend" not in scalars(record)
    numbers = [path for path in paths(scalars(record)) if not isinstance(value_at(record, path), dict)]
    assert numbers
    wrong = [entry for entry, sentence in legend.items() if len(sentence.split()) < 4 or sentence.endswith(".")]
    return [".".join(path) for path in numbers if explain(path, legend) is None] + wrong


def value_at(record: dict, path):
    for key in path:
        record = {str(name): value for name, value in record.items()}[key]
    return record
