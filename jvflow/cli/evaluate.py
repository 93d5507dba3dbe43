"""Computes the metrics of a trained run.

    jvflow evaluate --workdir=DIR --out=FILE.json [--preset=paper] [--protocol=videos=64]

Writes the metrics, their curves over time and the settings to FILE.json. Prints the metrics that are single numbers.
--preset names a protocol of the paper; --protocol overrides its entries, or those of `evaluate` in DIR/config.json, and
--sample entries of `sample`.
"""

import json

from absl import flags

from jvflow.cli import parse_overrides

WORKDIR = flags.DEFINE_string("workdir", None, "The folder of a trained run.", required=True)
OUT = flags.DEFINE_string("out", None, "The JSON file to write.", required=True)
STEP = flags.DEFINE_integer("step", None, "Training step of the checkpoint; default: the latest.")
EMA = flags.DEFINE_bool("ema", None, "Use the moving average of the parameters; default: if the run has one.")
PRESET = flags.DEFINE_string("preset", None, "A named protocol: small or paper (Bi-flow); default: config.evaluate.")
PROTOCOL = flags.DEFINE_multi_string("protocol", [], "NAME=VALUE sets config.evaluate.NAME")
SAMPLE = flags.DEFINE_multi_string("sample", [], "NAME=VALUE sets config.sample.NAME")
DTYPE = flags.DEFINE_enum(
    "dtype", None, ["float32", "bfloat16"], "Compute the network in this dtype; default: that of training."
)


def main():
    from jvflow.commands import evaluate
    from jvflow.files import write_text
    from jvflow.parallel import processes
    from jvflow.run import scalars

    with processes.one_writer(OUT.value, "--out", whole=True) as out:
        record = evaluate(
            WORKDIR.value,
            step=STEP.value,
            ema=EMA.value,
            overrides=parse_overrides(PROTOCOL, "videos=64"),
            sampling=parse_overrides(SAMPLE, "epsilon=0.1"),
            preset=PRESET.value,
            dtype=DTYPE.value,
        )
        if not processes.is_primary():
            return
        write_text(out, json.dumps(record, indent=1) + "\n")
    print(json.dumps(scalars(record), indent=1))
