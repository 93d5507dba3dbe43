r"""Trains VLFM on one real clip at a time, 25 frames in latents at 128 x 128, and replays it at several frame rates.

    python -m benchmarks.overfit --data=FOLDER --checkpoint=ENCODER.safetensors,DECODER.safetensors
    python -m benchmarks.overfit --data=... --checkpoint=... --variants=paper,plain,vlfm,direct \
                                 --config.train.steps=1000 --name=table1

A clip is 49 frames of a video, from frame 40 on: one frame of two is for training, and the others are predicted. Trains
`configs/vlfm/overfit.py` in one or more variants, replays the clip at 8, 12, 16, 24 and 48 frames per second, and
writes `out/benchmarks/NAME_CLIP.json`, with the figures of each variant before and after training. The second
command runs the VLFM paper's table 1. Continues an interrupted run.

    vlfm     the config as it is
    quiet    the config with the paper's noise of 0.01 at the frames
    plain    `prediction="scaled_velocity"`: the network does not output the mean, and the read-out subtracts the noise
    paper    the sin^2 schedule, uniform t, no scales, Grams; the state itself is the read-out. Our hold, basis and ramp
             stay: `configs/vlfm/as_printed.py` is the paper to the letter, and `benchmarks.deviations` measures each
    direct   the paper's ablation: the network regresses the latent
"""

import time
from pathlib import Path

from absl import flags
from ml_collections import config_flags

from benchmarks import clips
from benchmarks.record import write
from jvflow import cli

CONFIG = config_flags.DEFINE_config_file(
    "config", cli.find_config("configs/vlfm/overfit.py"), "The experiment.", lock_config=True
)
DATA = flags.DEFINE_string("data", None, "A folder of videos.")
CHECKPOINT = flags.DEFINE_list("checkpoint", None, "Encoder and decoder of TAEF2, as safetensors.")
CLIPS = flags.DEFINE_list("clips", ["04_coffee", "bigbuckbunny"], "Names of videos in the folder.")
VARIANTS = flags.DEFINE_list("variants", ["vlfm"], "Variants to run: vlfm, quiet, plain, paper, direct.")
NAME = flags.DEFINE_string("name", "overfit", "First part of the names of the result files.")
OUT = flags.DEFINE_string("out", "out/overfit_study", "Folder for the runs.")
FIRST = flags.DEFINE_integer("first", 40, "Frames to skip at the start of each video.")
RATES = (8, 12, 16, 24, 48)
CHANGES = dict(
    vlfm={},
    quiet=dict(path=dict(sigma_min=0.01)),
    plain=dict(prediction="scaled_velocity", sample=dict(readout="noise")),
    paper=dict(
        prediction="velocity",
        sample=dict(readout="none"),
        times=dict(start=0.0),
        optimizer=dict(name="grams", eps=1e-6),
        path=dict(sigma="paper", alpha=10.0, sigma_min=0.01, velocity_scale=0.0),
    ),
    direct=dict(objective="direct"),
)
flags.mark_flags_as_required(["data", "checkpoint"])


def main():
    for clip in CLIPS.value:
        options = dict(first=FIRST.value, checkpoint=CHECKPOINT.value)
        base, results = clips.real(CONFIG.value, DATA.value, clip, Path(OUT.value) / "data", **options), {}
        for variant in VARIANTS.value:
            config = base.copy_and_resolve_references()
            config.update(CHANGES[variant])
            results[variant] = _measure(config, Path(OUT.value) / NAME.value / clip / variant)
            after = results[variant]["after"]
            psnr = {part: round(after[part]["generated"]["against_codec"], 2) for part in ("frames", "between")}
            print(clip, variant, psnr, flush=True)
        write(f"{NAME.value}_{clip}", dict(variants=results, clip=dict(name=clip, first=FIRST.value)))


def _measure(config, out: Path) -> dict:
    """Trains and replays a variant; returns its figures before and after training, and the seconds of training."""
    from jvflow.commands import evaluate_run, sample
    from jvflow.load import load, load_untrained, run_dataset
    from jvflow.training.loop import train

    clock = time.perf_counter()
    train(config, out)
    seconds = time.perf_counter() - clock
    for fps in RATES:
        sample(out, out / f"replay_{fps}", count=1, fps=fps)
    run = load(out)
    data = run_dataset(run)
    before, after = evaluate_run(load_untrained(out), data), evaluate_run(run, data)
    return dict(before=before, after=after, seconds_of_training_in_this_run=seconds)


if __name__ == "__main__":
    cli.run(main)
