"""Samples videos from a trained run.

    jvflow sample --workdir=DIR --out=OUT --frames=256              Bi-flow
    jvflow sample --workdir=DIR --out=OUT --caption="..." --fps=48  VLFM
    jvflow sample --workdir=DIR --out=OUT --first_frame=VIDEO       FlowFrames

Writes OUT/sample_000.mp4 and so on, OUT/sheet.png with some frames of each video, and OUT/samples.json, which has the
NFE of each video: the number of network evaluations per frame. Flags marked with a method are for it only.
--sample=NAME=VALUE changes how a run is sampled: --sample=curve=backward streams back in time (Bi-flow),
--sample=guidance=2.0 follows captions more closely (VLFM, FlowFrames).
"""

from absl import flags

from jvflow.cli import parse_overrides

WORKDIR = flags.DEFINE_string("workdir", None, "Required. The folder of a trained run.", required=True)
OUT = flags.DEFINE_string("out", None, "Required. Folder for the mp4 files, sheet.png and samples.json.", required=True)
FRAMES = flags.DEFINE_integer(
    "frames",
    None,
    "Length of each video, with the frames that it starts from. Default: 64 (Bi-flow), the length of a training clip "
    "(VLFM), two chunks (FlowFrames).",
)
OBSERVED = flags.DEFINE_integer(
    "observed",
    None,
    "FlowFrames: frames of a chunk, observed or predicted; default: the longest chunk in training.",
)
COUNT = flags.DEFINE_integer(
    "count",
    None,
    "Number of videos; default: 4, or fewer if there are fewer held-out clips to start from. With --caption: number of "
    "videos of each caption; default: 1.",
)
SEED = flags.DEFINE_integer("seed", 0, "Random seed of the noise.")
STEP = flags.DEFINE_integer("step", None, "Training step of the checkpoint; default: the latest.")
EMA = flags.DEFINE_bool("ema", None, "Use the moving average of the parameters; default: if the run has one.")
FIRST_FRAME = flags.DEFINE_string(
    "first_frame", None, "Bi-flow, FlowFrames: image, video or folder of images to start from; default: held-out clips."
)
SAMPLE = flags.DEFINE_multi_string("sample", [], "NAME=VALUE sets config.sample.NAME")
DTYPE = flags.DEFINE_enum(
    "dtype", None, ["float32", "bfloat16"], "Compute the network in this dtype; default: that of training."
)
CAPTION = flags.DEFINE_multi_string(
    "caption", [], "VLFM, FlowFrames: caption of a video; default: captions of the data"
)
FPS = flags.DEFINE_float(
    "fps", None, "VLFM: frames per second of the videos; default: the rate of the training videos."
)
EXTRAPOLATE = flags.DEFINE_bool(
    "extrapolate", False, "VLFM: allow videos longer than the training clips; they quickly become meaningless."
)


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
        dtype=DTYPE.value,
        captions=CAPTION.value,
        fps=FPS.value,
        extrapolate=EXTRAPOLATE.value,
        observed=OBSERVED.value,
    )
    if not processes.is_primary():
        return
    first = record["samples"][0]
    print(
        f"{OUT.value}: {len(record['samples'])} videos of {first['frames']} frames, "
        f"NFE {first['nfe_per_frame']:.1f} and {first['seconds_per_frame']:.3f} s per frame"
    )
    print(f"open {OUT.value}/sheet.png, or {OUT.value}/{first['file']} and the other videos")
