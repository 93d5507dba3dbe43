"""Trains a model, or continues a run.

    jvflow train --config=configs/biflow/procedural.py --workdir=DIR
    tensorboard --logdir=DIR/tensorboard

The progress bar shows the remaining time. Run the same command again to continue a run that was stopped, and with a
larger --config.train.steps to extend one that has ended.
--config.KEY=VALUE replaces an entry of the config: for example --config.data.path=FOLDER for your own videos, or
'--config.data.size=(64,64)' for another resolution. DIR holds metrics.jsonl (one line for each step), validation.jsonl,
checkpoints/, tensorboard/ (pip install tensorboard), and samples/, where --config.run.sample_every=500 writes preview
images every 500 steps. To use a GPU or a TPU, install jvflow with its plugin: pip install -e '.[cuda]' or '.[tpu]'.
"""

from absl import flags
from ml_collections import config_flags

CONFIG = config_flags.DEFINE_config_file(
    "config",
    None,
    "Required. The experiment: FILE.py, or FILE.py:debug for a version that runs in seconds.",
    lock_config=True,
)
WORKDIR = flags.DEFINE_string(
    "workdir", None, "Folder of the run; if it holds a run, the command resumes it.", required=True
)
flags.mark_flag_as_required("config")


def main():
    from jvflow.training.loop import train

    train(CONFIG.value, WORKDIR.value)
