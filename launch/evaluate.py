"""Evaluates a trained run: python -m launch.evaluate --workdir=DIR --out=FILE.json [--protocol=videos=64]"""

import json
from absl import flags

import launch

from jvflow.data.files import write_text

WORKDIR = flags.DEFINE_string("workdir", None, "The folder of a trained run.")
OUT = flags.DEFINE_string("out", None, "The JSON file to write.")
STEP = flags.DEFINE_integer("step", None, "Which checkpoint; the latest by default.")
EMA = flags.DEFINE_bool("ema", None, "The moving average of the parameters; by default where there is one.")
PROTOCOL = flags.DEFINE_multi_string("protocol", [], "NAME=VALUE: replaces an entry of config.evaluate; may be repeated.")
SAMPLE = flags.DEFINE_multi_string("sample", [], "NAME=VALUE: replaces an entry of config.sample; may be repeated.")
flags.mark_flags_as_required(["workdir", "out"])


def main():
    from jvflow.parallel import processes
    from jvflow.biflow.evaluate import evaluate, numbers

    record = evaluate(
        WORKDIR.value, step=STEP.value, ema=EMA.value,
        overrides=launch.entries(PROTOCOL, "videos=64"), sampling=launch.entries(SAMPLE, "epsilon=0.1"),
    )
    if not processes.is_primary():
        return
    write_text(OUT.value, json.dumps(record, indent=1) + "\n")
    print(json.dumps(numbers(record), indent=1))


if __name__ == "__main__":
    launch.run(main)
