"""The table of the paper's results."""

import numpy as np

from jvflow.biflow.paper_table import PAPER_TABLE

STEPS = {  # as the paper's text rounds them
    "BI-FLOW": (14.6, 25.6, 13.7, 23.5, 29.6, 25.7),
    "CONDIFF": (46.2, 33.2, 37.7, 53.8, 45.3, 41.6),
    "FLOW": (7.8, 10.4, 7.4, 7.8, 10, 10.2),
}


def test_the_table_agrees_with_rounded_steps():
    assert PAPER_TABLE.rows.keys() == STEPS.keys()
    for name, row in PAPER_TABLE.rows.items():
        assert len(row) == len(PAPER_TABLE.data_sets)
        np.testing.assert_allclose([steps for _, steps in row], STEPS[name], atol=0.051)
