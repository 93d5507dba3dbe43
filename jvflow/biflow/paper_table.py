"""The results of the Bi-flow paper, which reports show next to the results of a run."""

from jvflow.report.html import PaperTable

PAPER_TABLE = PaperTable(
    caption="The paper: FVD / steps per frame (Liu and Ritschel, Generative Video Bi-flow, Table 1).",
    data_sets=("SKY", "BIKING", "RIDING", "CARLA", "MAZES", "MINERL"),
    rows={
        "FLOW": ((2144, 7.84), (14010, 10.38), (9154, 7.43), (4913, 7.78), (5051, 10.02), (3259, 10.20)),
        "BI-FLOW": ((526, 14.57), (3753, 25.63), (1552, 13.73), (345, 23.51), (605, 29.62), (834, 25.73)),
        "CONDIFF": ((1271, 46.18), (11465, 33.15), (4668, 37.73), (947, 53.77), (424, 45.31), (1149, 41.61)),
    },
)
"""Averages over time with adaptive Heun; BI-FLOW at the best eps of each data set."""
