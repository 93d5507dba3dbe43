"""Trains BI-FLOW on a folder of real video, in pixels and in latents of TAESD, with one and two known frames.

    python -m benchmarks.folder --data=FOLDER --checkpoint=ENCODER.safetensors,DECODER.safetensors --out=out/folder

Trains `configs/biflow/video_folder.py` for 12,000 steps at 64 x 64 pixels, and at 128 x 128 in latents
(`--codecs=taesd`, which needs `--checkpoint`), and streams 256 frames. For each codec, writes a `report.html` with the
videos of all runs, and `out/benchmarks/folder_CODEC.json` (folder_CODEC_known_2.json if only `--known=2` runs).
Continues an interrupted run. A run takes about half an hour on one CPU core.
"""

import sys
from pathlib import Path

from absl import flags
from ml_collections import config_flags

from benchmarks import subject
from benchmarks.record import write
from jvflow import cli

CONFIG = config_flags.DEFINE_config_file(
    "config", cli.find_config("configs/biflow/video_folder.py"), "The experiment.", lock_config=True
)
DATA = flags.DEFINE_string("data", None, "A folder of videos.")
CHECKPOINT = flags.DEFINE_list("checkpoint", [], "Encoder and decoder of the TAESD family, as safetensors.")
OUT = flags.DEFINE_string("out", "out/folder_study", "Folder for the runs.")
CODECS = flags.DEFINE_list("codecs", ["pixels"], "Codecs to run: pixels, taesd.")
KNOWN = flags.DEFINE_list("known", ["1", "2"], "Numbers of known frames, one run for each.")
SAMPLE = flags.DEFINE_multi_string("sample", [], "NAME=VALUE sets config.sample.NAME after training")
flags.mark_flag_as_required("data")


def main():
    from jvflow.biflow.demo import side_by_side
    from jvflow.commands import load_with_data
    from jvflow.training.loop import train

    command = " ".join(["python -m benchmarks.folder", *sys.argv[1:]])
    for kind in CODECS.value:
        out = Path(OUT.value) / kind
        base = dict(pixels=_in_pixels, taesd=_in_latents)[kind](CONFIG.value.copy_and_resolve_references(), out)
        base.train.steps = 12000
        base.evaluate.frames = 256
        configs = {f"known_{n}": subject.knowing(base, int(n), noise=0.6) for n in KNOWN.value}
        titles = {f"known_{n}": f"BI-FLOW, {n} known" for n in KNOWN.value}
        record = side_by_side(
            configs,
            out,
            titles=titles,
            heading=f"Real video, {kind}",
            command=command,
            train=train,
            load=load_with_data,
            sampling=cli.parse_overrides(SAMPLE, "epsilon=0.8"),
        )
        known = "" if KNOWN.value == KNOWN.default else f"_known_{'_'.join(KNOWN.value)}"
        write(f"folder_{kind}{known}", record)


def _in_pixels(config, out):
    config.data.path = DATA.value
    config.data.size = (64, 64)
    config.network.update(patch=(1, 8, 8), width=192)  # as many tokens as in the config
    return config


def _in_latents(config, out):
    from jvflow.data import latents

    config.data.path = DATA.value
    config.data.size = (128, 128)
    config.codec = dict(name="tiny", checkpoint=tuple(CHECKPOINT.value), scale=0.85)  # gives TAEF2's latents unit size
    config.network.update(patch=(1, 2, 2), width=192)
    config.network.scales.biflow = (0.5, 1.0)  # latents change more from frame to frame than pixels
    config.loss_weights.biflow = (3.0, 1.0)
    latents.prepare(config, out / "latents")
    config.data.path = str(out / "latents")
    return config


if __name__ == "__main__":
    cli.run(main)
