"""Writes videos from a trained run.

    jvflow sample --workdir=DIR --out=DIR --frames=256 [--sample=curve=backward]               streams of Bi-flow
    jvflow sample --workdir=DIR --out=DIR --caption="..." [--fps=48] [--sample=guidance=2.0]   clips of VLFM
    jvflow sample --workdir=DIR --out=DIR --first_frame=VIDEO [--frames=32] [--observed=16]    chunks of FlowFrames

Each flag applies to the methods that it names; without one it applies to all.
"""

from absl import flags

from jvflow.cli import parse_overrides

WORKDIR = flags.DEFINE_string("workdir", None, "The folder of a trained run.", required=True)
OUT = flags.DEFINE_string("out", None, "Where the mp4 files, sheet.png and samples.json go.", required=True)
FRAMES = flags.DEFINE_integer(
    "frames",
    None,
    "Length of each video with its given frames. By default 64 frames of a stream, the observed and the next chunk, or "
    "a whole VLFM clip.",
)
OBSERVED = flags.DEFINE_integer(
    "observed",
    None,
    "FlowFrames: frames of the observed chunk, and of each predicted one; by default the longest chunk of training.",
)
COUNT = flags.DEFINE_integer("count", 4, "Number of videos.")
SEED = flags.DEFINE_integer("seed", 0, "Seed of all noise.")
STEP = flags.DEFINE_integer("step", None, "Step of the checkpoint; by default the latest.")
EMA = flags.DEFINE_bool("ema", None, "Use the moving average of the parameters; by default where the run has one.")
FIRST_FRAME = flags.DEFINE_string(
    "first_frame", None, "An image, a video or a folder of images to start from; by default held-out clips."
)
SAMPLE = flags.DEFINE_multi_string("sample", [], "NAME=VALUE replaces an entry of config.sample; repeatable.")
CAPTION = flags.DEFINE_multi_string(
    "caption", [], "What the video shows; repeatable. By default the captions of training clips."
)
FPS = flags.DEFINE_float("fps", None, "VLFM: frames per second of the clips; by default the rate of training.")
EXTRAPOLATE = flags.DEFINE_bool("extrapolate", False, "VLFM: allow clips longer than those of training.")


def main():
    from jvflow.commands import sample
    from jvflow.parallel import processes

    record = sample(
        WORKDIR.value,
        OUT.value,
        count=COUNT.value,
        length=FRAMES.value,
        seed=SEED.value,
        step=STEP.value,
        ema=EMA.value,
        first_frame=FIRST_FRAME.value,
        sampling=parse_overrides(SAMPLE, "curve=backward"),
        captions=CAPTION.value,
        fps=FPS.value,
        extrapolate=EXTRAPOLATE.value,
        observed=OBSERVED.value,
    )
    if not processes.is_primary():
        return
    first = record["samples"][0]
    print(
        f"{OUT.value}: {len(record['samples'])} x {first['frames']} frames, "
        f"NFE {first['nfe_per_frame']:.1f} and {first['seconds_per_frame']:.3f} s per frame"
    )
