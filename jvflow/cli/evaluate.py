"""Computes the metrics of a trained run.

    jvflow evaluate --workdir=DIR --out=FILE.json
    jvflow evaluate --workdir=DIR --out=FILE.json --protocol=videos=64

Writes the metrics, their curves over time, the settings and a legend of all values to FILE.json, and all of it with a
few videos to FILE.html. Prints the metrics that are single numbers. --preset names a protocol of the paper; --protocol
overrides its entries, or those of `evaluate` in DIR/config.json, and --sample entries of `sample`. --fvd adds FVD of
the generated videos, for which pip install 'jvflow[metrics]' gets the network (docs/metrics.md). --real evaluates on
another data set than the run's own.
"""

import json
import logging
import shlex
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from absl import flags

from jvflow.cli import parse_overrides

LOG = logging.getLogger("jvflow")
WORKDIR = flags.DEFINE_string("workdir", None, "Required. The folder of a trained run.", required=True)
OUT = flags.DEFINE_string("out", None, "Required. The JSON file to write.", required=True)
STEP = flags.DEFINE_integer("step", None, "Training step of the checkpoint; default: the latest.")
EMA = flags.DEFINE_bool("ema", None, "Use the moving average of the parameters; default: if the run has one.")
PRESET = flags.DEFINE_string("preset", None, "A named protocol: small or paper (Bi-flow); default: config.evaluate.")
PROTOCOL = flags.DEFINE_multi_string("protocol", [], "NAME=VALUE sets config.evaluate.NAME")
SAMPLE = flags.DEFINE_multi_string("sample", [], "NAME=VALUE sets config.sample.NAME")
FVD = flags.DEFINE_string(
    "fvd", None, "Protocol of FVD, such as original or original,frames=9; default: config.evaluate.fvd."
)
REAL = flags.DEFINE_string("real", None, "Folder of videos, or built data set; default: the data of training.")
REAL_FRAMES = flags.DEFINE_integer("real_frames", None, "Frames of the clips of --real; default: those of training.")
DTYPE = flags.DEFINE_enum(
    "dtype", None, ["float32", "bfloat16"], "Compute the network in this dtype; default: that of training."
)


def main():
    from jvflow.commands import evaluate
    from jvflow.files import write_text
    from jvflow.parallel import processes
    from jvflow.report import run_page
    from jvflow.run import scalars

    with processes.one_writer(OUT.value, "--out", whole=True) as out, TemporaryDirectory() as folder:
        films = Path(folder) / "video"
        record = evaluate(
            WORKDIR.value,
            step=STEP.value,
            ema=EMA.value,
            overrides=parse_overrides(PROTOCOL, "videos=64"),
            sampling=parse_overrides(SAMPLE, "epsilon=0.1"),
            preset=PRESET.value,
            dtype=DTYPE.value,
            fvd=FVD.value,
            real=REAL.value,
            real_frames=REAL_FRAMES.value,
            films=films,
        )
        if not processes.is_primary():
            return
        write_text(out, json.dumps(record, indent=1) + "\n")
        page = out.with_suffix(".html")
        run_page.evaluation(page, record, shlex.join(sys.argv), sorted(Path(folder).glob("*.mp4")))
    print(json.dumps(scalars(record), indent=1))
    LOG.info("open %s: it shows all values with their meaning, curves and videos", page)
    LOG.info("next: jvflow report %s (next to published values)", shlex.quote(str(out)))
