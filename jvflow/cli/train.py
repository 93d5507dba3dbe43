"""Trains a config, or continues a run.

    jvflow train --config=configs/biflow/procedural.py --workdir=DIR

The same command continues a run that was stopped. --config.KEY=VALUE replaces an entry of the config.
"""

from absl import flags
from ml_collections import config_flags

CONFIG = config_flags.DEFINE_config_file("config", None, "The experiment: FILE.py or FILE.py:MODE.", lock_config=True)
WORKDIR = flags.DEFINE_string("workdir", None, "The folder of the run; an existing run continues.", required=True)
flags.mark_flag_as_required("config")


def main():
    from jvflow.training.loop import train

    train(CONFIG.value, WORKDIR.value)
