"""Videos of a trained run.

    python -m launch.sample --workdir=DIR --out=DIR --frames=256 [--sample=curve=backward]        streams of Bi-flow
    python -m launch.sample --workdir=DIR --out=DIR --caption="..." [--fps=48] [--sample=guidance=2.0]     clips of VLFM
    python -m launch.sample --workdir=DIR --out=DIR --first_frame=VIDEO [--frames=32] [--observed=16]      chunks of FlowFrames
"""

from absl import flags

import launch

WORKDIR = flags.DEFINE_string("workdir", None, "The folder of a trained run.")
OUT = flags.DEFINE_string("out", None, "Where mp4 files, sheet.png and samples.json go.")
FRAMES = flags.DEFINE_integer("frames", None, "Length of each video: by default 64 frames of a stream or a chunk after the observed one, the given ones included, or a whole clip.")
OBSERVED = flags.DEFINE_integer("observed", None, "Frames of the observed chunk, and of each that follows; by default the longest of training.")
COUNT = flags.DEFINE_integer("count", 4, "How many videos.")
SEED = flags.DEFINE_integer("seed", 0, "Seed of all noise.")
STEP = flags.DEFINE_integer("step", None, "Which checkpoint; the latest by default.")
EMA = flags.DEFINE_bool("ema", None, "The moving average of the parameters; by default where there is one.")
FIRST_FRAME = flags.DEFINE_string("first_frame", None, "An image, a video or a folder of images to start from; held-out clips by default.")
SAMPLE = flags.DEFINE_multi_string("sample", [], "NAME=VALUE: replaces an entry of config.sample; may be repeated.")
CAPTION = flags.DEFINE_multi_string("caption", [], "What a clip shows; may be repeated. By default the captions of training clips.")
FPS = flags.DEFINE_float("fps", None, "Frames per second that a clip is read at; by default the rate it was trained at.")
EXTRAPOLATE = flags.DEFINE_bool("extrapolate", False, "Lets clips be longer than those of training.")
flags.mark_flags_as_required(["workdir", "out"])


def main():
    from jvflow.parallel import processes
    from jvflow.biflow.sample import sample

    record = sample(
        WORKDIR.value, OUT.value, count=COUNT.value, length=FRAMES.value, seed=SEED.value, step=STEP.value,
        ema=EMA.value, first_frame=FIRST_FRAME.value, sampling=launch.entries(SAMPLE, "curve=backward"), captions=CAPTION.value,
        fps=FPS.value, extrapolate=EXTRAPOLATE.value, observed=OBSERVED.value,
    )
    if not processes.is_primary():
        return
    first = record["samples"][0]
    print(f"{OUT.value}: {len(record['samples'])} x {first['frames']} frames, "
          f"NFE {first['nfe_per_frame']:.1f} and {first['seconds_per_frame']:.3f} s per frame")


if __name__ == "__main__":
    launch.run(main)
