"""Trains a model, or continues a run.

    jvflow train --config=configs/biflow/procedural.py --workdir=DIR
    jvflow train --config=FILE.py --config.data.path=FOLDER --workdir=DIR
    jvflow train --config=configs/biflow/procedural.py --show

The second command trains on your own videos (FILE.py: configs/biflow/video_folder.py), the third only lists the
config's keys. --config.KEY=VALUE replaces an entry of the config: --config.data.size=64 or '--config.data.size=(64,96)'
(height, width) is another resolution; --config.network=small, base, large or xlarge gives a DiT the width, depth and
heads of DiT-S, B, L or XL. The progress bar shows the remaining time. Run the same command again to continue a run that
was stopped, and with a larger --config.train.steps to extend one that has ended. DIR holds report.html (when the run
has ended), metrics.jsonl (one line for each step), validation.jsonl, checkpoints/, tensorboard/ (pip install
tensorboard, then tensorboard --logdir=DIR/tensorboard), and samples/, where --config.run.sample_every=500 writes
preview images and videos every 500 steps. To use a GPU or a TPU, install jvflow with its plugin: pip install -e
'.[cuda]' or '.[tpu]'.
"""

import logging

from absl import flags
from ml_collections import config_flags

from jvflow.cli import advise, configs

CONFIG = config_flags.DEFINE_config_file(
    "config",
    None,
    "Required. The experiment: FILE.py, or FILE.py:debug for a version that runs in seconds.",
    lock_config=True,
)
WORKDIR = flags.DEFINE_string(
    "workdir", None, "Required. Folder of the run; if it holds a run, the command resumes it."
)
configs.define_show("workdir")
flags.mark_flag_as_required("config")


def main():
    from jvflow.parallel import processes
    from jvflow.report import run_page
    from jvflow.training.loop import train

    run = train(CONFIG.value, WORKDIR.value)
    folder = run.path
    processes.on_primary(lambda: run_page.training(folder / "report.html", folder, run.read_config()))
    logging.getLogger("jvflow").info("open %s: it shows videos, curves and settings", folder / "report.html")
    advise("sample", workdir=folder, out=folder / "videos")
    advise("evaluate", workdir=folder, out=folder / "metrics.json")
