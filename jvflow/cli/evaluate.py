"""Measures a trained run.

    jvflow evaluate --workdir=DIR --out=FILE.json [--protocol=videos=64]

Writes the whole record to FILE.json and prints its scalars.
"""

import json

from absl import flags

from jvflow.cli import parse_overrides

WORKDIR = flags.DEFINE_string("workdir", None, "The folder of a trained run.", required=True)
OUT = flags.DEFINE_string("out", None, "The JSON file to write.", required=True)
STEP = flags.DEFINE_integer("step", None, "Step of the checkpoint; by default the latest.")
EMA = flags.DEFINE_bool("ema", None, "Use the moving average of the parameters; by default where the run has one.")
PROTOCOL = flags.DEFINE_multi_string("protocol", [], "NAME=VALUE replaces an entry of config.evaluate; repeatable.")
SAMPLE = flags.DEFINE_multi_string("sample", [], "NAME=VALUE replaces an entry of config.sample; repeatable.")


def main():
    from jvflow.commands import evaluate
    from jvflow.files import write_text
    from jvflow.parallel import processes
    from jvflow.run import scalars

    record = evaluate(
        WORKDIR.value,
        step=STEP.value,
        ema=EMA.value,
        overrides=parse_overrides(PROTOCOL, "videos=64"),
        sampling=parse_overrides(SAMPLE, "epsilon=0.1"),
    )
    if not processes.is_primary():
        return
    write_text(OUT.value, json.dumps(record, indent=1) + "\n")
    print(json.dumps(scalars(record), indent=1))
