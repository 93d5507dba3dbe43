"""Compiles a config for machines that are not there: python -m launch.dryrun --config=configs/biflow/paper.py --topology=v5e:4x4 [--out=FILE.json]"""

import json
import os
import sys

from absl import flags
from ml_collections import config_flags

import launch

CONFIG = config_flags.DEFINE_config_file("config", None, "The experiment: FILE.py or FILE.py:MODE.", lock_config=True)
TOPOLOGY = flags.DEFINE_string("topology", None, "A TPU slice such as v5e:4x4, v5p:4x4x4 or v6e:8x8; or GPUs such as h100:8.")
OUT = flags.DEFINE_string("out", None, "Where the figures go, as JSON.")
SAMPLER = flags.DEFINE_boolean("sampler", True, "With the sampler.")
LARGEST = flags.DEFINE_boolean("largest", True, "With the largest batch that fits.")
flags.mark_flags_as_required(["config", "topology"])


def main():
    from jvflow import dryrun
    from jvflow.data.files import write_text

    found = dryrun.report(CONFIG.value, TOPOLOGY.value, sampler=SAMPLER.value, largest=LARGEST.value)
    print(dryrun.table(found))
    if OUT.value:
        write_text(OUT.value, json.dumps(found, indent=1) + "\n")


def simulate(argv: list[str]) -> None:
    """Nothing runs on a real device; GPUs are as many simulated ones, whose number JAX reads when it starts."""
    os.environ["JAX_PLATFORMS"] = "cpu"
    name = next((a.split("=", 1)[1] for a in argv if a.startswith("--topology=")), "")
    count = name.partition(":")[2]
    if count.isdigit() and not name.startswith("v"):
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={count}"


if __name__ == "__main__":
    simulate(sys.argv)
    launch.run(main)
