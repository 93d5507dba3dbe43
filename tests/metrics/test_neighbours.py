"""Precision and recall: compared with a direct computation, and cases whose value is known."""

import numpy as np
import pytest

from jvflow.metrics import neighbours
from jvflow.metrics.neighbours import precision_recall

random = np.random.default_rng(0)


def direct(generated, real, k):
    """Returns precision and recall by all distances at once."""
    apart = lambda a, b: np.sqrt(np.square(np.float64(a)[:, None] - np.float64(b)[None]).sum(-1))
    radius = lambda rows: np.sort(apart(rows, rows) + np.diag([np.inf] * len(rows)), axis=1)[:, k - 1]
    inside = lambda rows, others: (apart(rows, others) <= radius(others)[None]).any(1).mean()
    return inside(generated, real), inside(real, generated)


@pytest.mark.parametrize("block", [1, 7, 512])
@pytest.mark.parametrize("k", [1, 3])
def test_blocks_give_the_direct_result(monkeypatch, block, k):
    monkeypatch.setattr(neighbours, "BLOCK", block)
    generated = random.normal(size=(40, 3)).astype(np.float32) + np.float32(0.7)
    real = random.normal(size=(30, 3)).astype(np.float32)
    found = precision_recall(generated, real, k)
    assert (found["precision"], found["recall"]) == pytest.approx(direct(generated, real, k))
    assert 0 < found["precision"] < 1 and 0 < found["recall"] < 1 and found["rows"] == [40, 30]


def test_known_values():
    real = random.normal(size=(50, 4))
    values = lambda generated: tuple(precision_recall(generated, real)[name] for name in ("precision", "recall"))
    assert values(real) == (1, 1)
    assert values(real + 100) == (0, 0)
    assert values(np.repeat(real[:1], 50, axis=0)) == (1, 1 / 50)  # one good video, repeated: no variety
    precision, recall = values(np.concatenate([real, real + 100]))
    assert (precision, recall) == (0.5, 1)


def test_neighbours_on_a_line():
    real, generated = np.array([[0.0], [1], [2], [3], [10]]), np.array([[3.5], [6.0], [17.0], [30.0], [30.0]])
    # the third neighbours of the real rows are at 3, 2, 2, 3 and 9
    assert precision_recall(generated, real)["precision"] == 3 / 5
    assert neighbours._radii(real, 3).tolist() == [3, 2, 2, 3, 9]


def test_too_few_rows():
    rows = random.normal(size=(4, 2))
    assert precision_recall(rows, rows[:3]) is None and precision_recall(rows[:3], rows) is None
    assert precision_recall(rows, rows) is not None
