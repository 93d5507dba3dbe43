"""Exports a trained run for other packages, or as a small folder.

    jvflow export --workdir=DIR --out=OUT
    jvflow export --workdir=DIR --out=OUT --lora
    jvflow export --workdir=DIR --out=OUT --packed

The first command writes the whole model in diffusers' format, with LoRA matrices merged into their layers. The second
writes only the LoRA matrices, under diffusers' names. The third writes the run itself as config.json and
model.safetensors, which every command of jvflow reads in place of a workdir. Prints the files that it writes.
"""

from absl import flags

WORKDIR = flags.DEFINE_string("workdir", None, "Required. The folder of a trained run.", required=True)
OUT = flags.DEFINE_string(
    "out",
    None,
    "Required. New folder for config.json and safetensors, or (--lora) for the file of LoRA matrices.",
    required=True,
)
LORA = flags.DEFINE_bool("lora", False, "Export only the LoRA matrices.")
PACKED = flags.DEFINE_bool("packed", False, "Export a packed run, without optimizer and metrics.")
CLIPS = flags.DEFINE_integer(
    "clips", None, "--packed of procedural data: keep so many clips of each split. Default: those of the training."
)
DTYPE = flags.DEFINE_enum("dtype", None, ["float32", "float16"], "--packed: of the parameters. Default: float32.")
LIKE = flags.DEFINE_list(
    "like",
    None,
    "Folders of public models with the architecture of the run; default: those that training started from.",
)
STEP = flags.DEFINE_integer("step", None, "Training step of the checkpoint; default: the latest.")
EMA = flags.DEFINE_bool("ema", None, "Use the moving average of the parameters; default: if the run has one.")


def main():
    from jvflow.training.export import export, pack

    options = dict(step=STEP.value, ema=EMA.value)
    if PACKED.value:
        if LORA.value or LIKE.value:
            raise ValueError("--packed exports the whole run for jvflow: leave out --lora and --like")
        files = pack(WORKDIR.value, OUT.value, clips=CLIPS.value, dtype=DTYPE.value or "float32", **options)
    elif CLIPS.value is not None or DTYPE.value is not None:
        name = "clips" if CLIPS.value is not None else "dtype"
        raise ValueError(f"--{name} is for a packed run: give --packed, or leave it out")
    else:
        files = export(WORKDIR.value, OUT.value, lora=LORA.value, like=LIKE.value or (), **options)
    for file in files:
        print(file)
