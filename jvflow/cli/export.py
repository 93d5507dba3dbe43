"""Writes a trained run in the layout of the public hubs, which other packages load.

    jvflow export --workdir=DIR --out=DIR            the whole model, with LoRA matrices added to the layers they adapt
    jvflow export --workdir=DIR --out=DIR --lora     the LoRA matrices only, as diffusers names them

Prints the files that it writes.
"""

from absl import flags

WORKDIR = flags.DEFINE_string("workdir", None, "The folder of a trained run.", required=True)
OUT = flags.DEFINE_string(
    "out", None, "The folder to write: config.json and safetensors, or pytorch_lora_weights.safetensors.", required=True
)
LORA = flags.DEFINE_bool("lora", False, "Write the LoRA matrices only.")
LIKE = flags.DEFINE_list(
    "like",
    None,
    "Folders of public models whose config.json fits the run; by default those that training started from.",
)
STEP = flags.DEFINE_integer("step", None, "Step of the checkpoint; by default the latest.")
EMA = flags.DEFINE_bool("ema", None, "Use the moving average of the parameters; by default where the run has one.")


def main():
    from jvflow.export import export

    files = export(WORKDIR.value, OUT.value, lora=LORA.value, like=LIKE.value or (), step=STEP.value, ema=EMA.value)
    for file in files:
        print(file)
