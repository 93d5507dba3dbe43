"""The results of the Bi-flow paper, which reports show next to the results of a run."""

from jvflow.biflow.comparison_page import PaperTable
from jvflow.metrics.published import read_tables

TABLE = read_tables("biflow")[0]
PAPER_TABLE = PaperTable(
    caption=f"The paper: FVD / steps per frame ({TABLE.source}).",
    data_sets=TABLE.data_sets,
    rows={
        name: tuple((row[data]["fvd"], row[data]["steps"]) for data in TABLE.data_sets)
        for name, row in TABLE.rows.items()
    },
)
"""Averages over time with adaptive Heun; BI-FLOW at the best eps of each data set."""
