"""Trains and compares Bi-flow's three methods on synthetic video.

    jvflow demo
    jvflow demo --out=DIR --config.seed=2

Trains FLOW, BI-FLOW and CONDIFF into out/demo/flow, out/demo/biflow and out/demo/condiff. Writes out/demo/report.html,
which shows their videos, and out/demo/metrics.json. Takes about 8 minutes on two CPU cores. Run the same command again
to continue after an interruption.
"""

import sys

from absl import flags
from ml_collections import config_flags

from jvflow.cli import DEMO_CONFIG, configs, find_config

CONFIG = config_flags.DEFINE_config_file(
    "config",
    find_config(DEMO_CONFIG),
    "The experiment; the demo sets config.objective for each method.",
    lock_config=True,
)
OUT = flags.DEFINE_string("out", "out/demo", "Folder for the runs, metrics.json and report.html.")
configs.define_show()


def main():
    from jvflow.commands import demo

    demo(CONFIG.value, OUT.value, command=" ".join(sys.argv))
    print(f"{OUT.value}/report.html")
