"""Trains a config, or continues a run: python -m launch.train --config=configs/biflow/procedural.py --workdir=DIR"""

from absl import flags
from ml_collections import config_flags

import launch

CONFIG = config_flags.DEFINE_config_file("config", None, "The experiment: FILE.py or FILE.py:MODE.", lock_config=True)
WORKDIR = flags.DEFINE_string("workdir", None, "The folder of the run; an existing run continues.")
flags.mark_flags_as_required(["config", "workdir"])


def main():
    from jvflow.training.loop import train

    train(CONFIG.value, WORKDIR.value)


if __name__ == "__main__":
    launch.run(main)
