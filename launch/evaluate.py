"""Evaluates a trained run: python -m launch.evaluate --workdir=DIR --out=FILE.json [--protocol=videos=64]"""

import json
from absl import flags

import launch

from jvflow.workdir import write_text

WORKDIR = flags.DEFINE_string("workdir", None, "The folder of a trained run.")
OUT = flags.DEFINE_string("out", None, "The JSON file to write.")
STEP = flags.DEFINE_integer("step", None, "Which checkpoint; the latest by default.")
EMA = flags.DEFINE_bool("ema", None, "The moving average of the parameters; by default where there is one.")
PROTOCOL = flags.DEFINE_multi_string("protocol", [], "An entry of config.evaluate to replace, NAME=VALUE; may be repeated.")
flags.mark_flags_as_required(["workdir", "out"])


def main():
    from jvflow.evaluate import evaluate

    overrides = dict(_entry(text) for text in PROTOCOL.value)
    record = evaluate(WORKDIR.value, step=STEP.value, ema=EMA.value, overrides=overrides)
    write_text(OUT.value, json.dumps(record, indent=1) + "\n")
    print(json.dumps({k: v for k, v in record.items() if isinstance(v, float)}, indent=1))


def _entry(text):
    name, equals, value = text.partition("=")
    if not equals:
        raise ValueError(f"--protocol={text}: write NAME=VALUE, for example --protocol=videos=64")
    return name, value if name == "features" else int(value)


if __name__ == "__main__":
    launch.run(main)
