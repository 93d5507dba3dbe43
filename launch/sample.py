"""Streams a trained run: python -m launch.sample --workdir=DIR --out=DIR --frames=256 [--sample=curve=backward]"""

from absl import flags

import launch

WORKDIR = flags.DEFINE_string("workdir", None, "The folder of a trained run.")
OUT = flags.DEFINE_string("out", None, "Where mp4 files, sheet.png and samples.json go.")
FRAMES = flags.DEFINE_integer("frames", 64, "Length of each stream, the given frame included.")
COUNT = flags.DEFINE_integer("count", 4, "How many streams.")
SEED = flags.DEFINE_integer("seed", 0, "Seed of all noise.")
STEP = flags.DEFINE_integer("step", None, "Which checkpoint; the latest by default.")
EMA = flags.DEFINE_bool("ema", None, "The moving average of the parameters; by default where there is one.")
FIRST_FRAME = flags.DEFINE_string("first_frame", None, "An image, a video or a folder of images to start from; held-out clips by default.")
SAMPLE = flags.DEFINE_multi_string("sample", [], "NAME=VALUE: replaces an entry of config.sample; may be repeated.")
flags.mark_flags_as_required(["workdir", "out"])


def main():
    from jvflow.sample import sample

    record = sample(
        WORKDIR.value, OUT.value, count=COUNT.value, length=FRAMES.value, seed=SEED.value, step=STEP.value,
        ema=EMA.value, first_frame=FIRST_FRAME.value, sampling=launch.entries(SAMPLE, "curve=backward"),
    )
    first = record["samples"][0]
    print(f"{OUT.value}: {len(record['samples'])} x {first['frames']} frames, "
          f"NFE {first['nfe_per_frame']:.1f} and {first['seconds_per_frame']:.3f} s per frame")


if __name__ == "__main__":
    launch.run(main)
