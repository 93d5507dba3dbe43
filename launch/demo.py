"""FLOW, BI-FLOW and CONDIFF side by side: python -m launch.demo --out=out/demo (what `make demo` runs)"""

import sys

from absl import flags
from ml_collections import config_flags

import launch

CONFIG = config_flags.DEFINE_config_file(
    "config", launch.found("configs/biflow/procedural.py"), "The experiment; its objective is replaced.", lock_config=True
)
OUT = flags.DEFINE_string("out", "out/demo", "Where the runs, metrics.json and report.html go.")


def main():
    from jvflow.demo import demo

    command = " ".join(["python -m launch.demo", *sys.argv[1:]])
    demo(CONFIG.value, OUT.value, command=command)
    print(f"{OUT.value}/report.html")


if __name__ == "__main__":
    launch.run(main)
