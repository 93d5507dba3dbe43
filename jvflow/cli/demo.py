"""Trains, streams and compares FLOW, BI-FLOW and CONDIFF on procedural video.

    jvflow demo --out=out/demo

Writes out/demo/report.html and out/demo/metrics.json. Takes about 8 minutes on a laptop.
"""

import sys

from absl import flags
from ml_collections import config_flags

from jvflow.cli import DEMO_CONFIG, find_config

CONFIG = config_flags.DEFINE_config_file(
    "config",
    find_config(DEMO_CONFIG),
    "The experiment; its objective is replaced.",
    lock_config=True,
)
OUT = flags.DEFINE_string("out", "out/demo", "Where the runs, metrics.json and report.html go.")


def main():
    from jvflow.commands import demo

    demo(CONFIG.value, OUT.value, command=" ".join(sys.argv))
    print(f"{OUT.value}/report.html")
