"""VLFM on one real clip at a time: 25 frames in latents at 128 x 128, replayed at the frames and half-way between them.

    python -m benchmarks.overfit --data=FOLDER --weights=ENCODER.safetensors,DECODER.safetensors
    python -m benchmarks.overfit --data=... --weights=... --variants=paper,vlfm,direct --config.train.steps=1000 --name=table1

Of each clip 49 frames from frame 40 on, every second one is known. Trains `configs/vlfm/overfit.py` in one variant or more,
replays the clip at 8, 12, 16, 24 and 48 frames per second, and writes `benchmarks/results/NAME_CLIP.json`, with what each
variant gives before its training too: the second line is the VLFM paper's table 1. What was stopped continues.

    vlfm     the config as it is
    quiet    the config with the paper's noise of 0.01 at the frames
    plain    the same flow without the mean as an output: `prediction="scaled_velocity"`, read without its noise
    paper    as printed: the sin^2 schedule, uniform t, no scales, Grams, and the state itself as the read-out
    direct   the paper's ablation: the network regresses the latent
"""

import time
from itertools import islice
from pathlib import Path

from absl import flags
from ml_collections import config_flags

from benchmarks.record import write
from jvflow import cli

CONFIG = config_flags.DEFINE_config_file(
    "config", cli.find_config("configs/vlfm/overfit.py"), "The experiment.", lock_config=True
)
DATA = flags.DEFINE_string("data", None, "A folder of videos.")
WEIGHTS = flags.DEFINE_list("weights", None, "Encoder and decoder of TAEF2, as safetensors.")
CLIPS = flags.DEFINE_list("clips", ["04_coffee", "bigbuckbunny"], "Names of videos in the folder.")
VARIANTS = flags.DEFINE_list("variants", ["vlfm"], "Of vlfm, quiet, plain, paper and direct.")
NAME = flags.DEFINE_string("name", "overfit", "What the results are called.")
OUT = flags.DEFINE_string("out", "out/overfit_study", "Where the runs go.")
FIRST = flags.DEFINE_integer("first", 40, "Frames of each video that are passed over.")
RATES = (8, 12, 16, 24, 48)
CHANGES = dict(
    vlfm={},
    quiet=dict(path=dict(minimum=0.01)),
    plain=dict(prediction="scaled_velocity", sample=dict(readout="noise")),
    paper=dict(
        prediction="velocity",
        sample=dict(readout="none"),
        times=dict(start=0.0),
        optimizer=dict(name="grams", eps=1e-6),
        path=dict(sigma="paper", alpha=10.0, minimum=0.01, motion=0.0),
    ),
    direct=dict(objective="direct"),
)
flags.mark_flags_as_required(["data", "weights"])


def main():
    for clip in CLIPS.value:
        data, of_clip = Path(OUT.value) / "data", {}
        base = _config(clip, data)
        for variant in VARIANTS.value:
            config = base.copy_and_resolve_references()
            config.update(CHANGES[variant])
            of_clip[variant] = _measured(config, Path(OUT.value) / NAME.value / clip / variant)
            after = of_clip[variant]["after"]
            print(
                clip,
                variant,
                {part: round(after[part]["generated"]["against_codec"], 2) for part in ("frames", "between")},
                flush=True,
            )
        write(f"{NAME.value}_{clip}", dict(variants=of_clip, clip=dict(name=clip, first=FIRST.value)))


def _measured(config, out: Path) -> dict:
    """What a variant gives before and after its training, and how long that took."""
    from jvflow.biflow.sample import load, sample
    from jvflow.run import untrained
    from jvflow.training.loop import train
    from jvflow.vlfm import sample as clips

    clock = time.perf_counter()
    train(config, out)
    seconds = time.perf_counter() - clock
    for fps in RATES:
        sample(out, out / f"replay_{fps}", count=1, fps=fps)
    return dict(
        before=clips.evaluate(untrained(out)), after=clips.evaluate(load(out)), seconds_of_training_in_this_run=seconds
    )


def _config(name: str, out: Path):
    """The experiment on the frames of one video, which are written as images at its own rate and encoded."""
    from jvflow.data import latents, video
    from jvflow.report import videos

    config = CONFIG.value.copy_and_resolve_references()
    (path,) = Path(DATA.value).glob(f"{name}.*")
    frames, folder = config.data.frames, out / f"{name}_frames"
    if not (folder / name / f"{frames - 1:03d}.png").exists():  # a data set is known by the times of its files
        for number, (_, frame) in enumerate(islice(video.frames(path), FIRST.value, FIRST.value + frames)):
            videos.write_png(folder / name / f"{number:03d}.png", frame)
    config.data.update(path=str(folder), fps=video.native_fps(path), image_fps=video.native_fps(path))
    config.codec = dict(name="tiny", weights=tuple(WEIGHTS.value), scale=config.codec.scale)
    latents.prepare(config, out / f"{name}_latents")
    config.data.path = str(out / f"{name}_latents")
    return config


if __name__ == "__main__":
    cli.run(main)
