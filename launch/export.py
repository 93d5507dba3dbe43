"""A trained run in the layout of the public hubs, which other packages load.

    python -m launch.export --workdir=DIR --out=DIR            the whole model, matrices of low rank added to what they are beside
    python -m launch.export --workdir=DIR --out=DIR --lora     these matrices alone, as diffusers names them
"""

from absl import flags

import launch

WORKDIR = flags.DEFINE_string("workdir", None, "The folder of a trained run.")
OUT = flags.DEFINE_string("out", None, "The folder to write: config.json and safetensors, or pytorch_lora_weights.safetensors.")
LORA = flags.DEFINE_bool("lora", False, "Matrices of low rank alone.")
LIKE = flags.DEFINE_list("like", None, "Folders of public models whose config.json is that of the run; by default those that training started from.")
STEP = flags.DEFINE_integer("step", None, "Which checkpoint; the latest by default.")
EMA = flags.DEFINE_bool("ema", None, "The moving average of the parameters; by default where there is one.")
flags.mark_flags_as_required(["workdir", "out"])


def main():
    from jvflow.export import export

    for file in export(WORKDIR.value, OUT.value, lora=LORA.value, like=LIKE.value or (), step=STEP.value, ema=EMA.value):
        print(file)


if __name__ == "__main__":
    launch.run(main)
