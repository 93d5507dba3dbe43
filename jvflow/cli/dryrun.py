"""Compiles a config for accelerators that this machine lacks.

    jvflow dryrun --config=configs/biflow/paper.py --topology=v5e:4x4
    jvflow dryrun --config=configs/biflow/paper.py --topology=h100:8

Prints the memory per device and lower bounds on the times of computation and communication, for the train step and the
sampler.
"""

import json
import os
from contextlib import nullcontext

from absl import flags
from ml_collections import config_flags

from jvflow.cli import configs

CONFIG = config_flags.DEFINE_config_file(
    "config", None, "Required. The experiment: FILE.py or FILE.py:debug.", lock_config=True
)
TOPOLOGY = flags.DEFINE_string(
    "topology", None, "Required. A TPU slice such as v5e:4x4, v5p:4x4x4 or v6e:8x8; or GPUs such as h100:8."
)
OUT = flags.DEFINE_string("out", None, "JSON file for these numbers.")
SAMPLER = flags.DEFINE_boolean("sampler", True, "Also compile the sampler.")
LARGEST = flags.DEFINE_boolean("largest", True, "Also find the largest batch size that fits (compiles more).")
configs.define_show("topology")
flags.mark_flag_as_required("config")


def main():
    from jvflow.files import write_text
    from jvflow.parallel import processes
    from jvflow.training import dryrun

    with processes.one_writer(OUT.value, "--out", whole=True) if OUT.value else nullcontext() as out:
        record = dryrun.report(CONFIG.value, TOPOLOGY.value, sampler=SAMPLER.value, largest=LARGEST.value)
        print(dryrun.table(record))
        if out:
            write_text(out, json.dumps(record, indent=1) + "\n")


def simulate_devices() -> None:
    """Sets JAX's environment: CPU only, with one simulated device for each GPU. Call it before the import of JAX."""
    os.environ["JAX_PLATFORMS"] = "cpu"
    name, _, count = TOPOLOGY.value.partition(":")
    if count.isdigit() and int(count) and not name.startswith("v"):
        given = os.environ.get("XLA_FLAGS", "")
        os.environ["XLA_FLAGS"] = f"{given} --xla_force_host_platform_device_count={count}"
