"""Makes a model of the package from a trained run: packs it, measures it, writes its card, and draws a sheet.

    python -m benchmarks.shipped maze out/maze
    python -m benchmarks.shipped maze out/maze --record
    python -m benchmarks.shipped maze --record             measures the shipped parameters again

The run is that of the config in `MODELS`. Writes out/benchmarks/models/NAME and out/benchmarks/models/NAME.png, or with
--record jvflow/models/NAME and docs/models/NAME.png. --fvd="" leaves out FVD, which takes minutes.
"""

import json
import shutil
import tempfile
from pathlib import Path

import jax
from absl import app, flags

from benchmarks import record
from jvflow import commands, defaults, models
from jvflow.files import read_json_lines, write_text
from jvflow.load import load, run_dataset
from jvflow.parallel.mesh import local_mesh
from jvflow.report import videos
from jvflow.run import Run
from jvflow.training import packed
from jvflow.training.export import pack

FVD_PROTOCOL = flags.DEFINE_string("fvd", "original", "Protocol of FVD, or nothing for none.")
ROOT = Path(__file__).parents[1]
CLIPS = 16
"""Clips of each split that a packed model keeps."""
FRAMES, ROWS, COLUMNS, SCALE = 48, 4, 4, 4
"""Frames of a stream, rows and columns of the sheet, and its magnification: 64 pixels become 256."""
STREAM = {
    "distance to real video, first windows": "distance_first_window",
    "distance to real video, last windows": "distance_last_window",
    "distance of real video": "controls.real_vs_real",
    "distance of frozen video": "controls.frozen",
    "distance of noise": "controls.noise",
    "motion, last windows (real: 1)": "motion_last_window",
}
FVD = {
    "FVD": "fvd.value",
    "FVD, interval, low": "fvd.interval.low",
    "FVD, interval, high": "fvd.interval.high",
    "FVD of real video (halves)": "fvd.controls.real_half",
    "FVD of frozen video": "fvd.controls.frozen",
    "FVD of noise": "fvd.controls.noise",
}
NFE = {"evaluations of the network per frame": "nfe_per_frame"}
CLIPS_OF_CAPTIONS = {
    "motion (real: 1)": "motion",
    "generated clips nearest to a real clip of their caption": "text.nearest_guidance_1",
    "of": "text.clips",
}
CHUNKS = {
    "distance to real video": "frames_4.nfe_5.distance",
    "distance of other real video": "frames_4.controls.other_real.distance",
    "distance of the last frame repeated": "frames_4.controls.repeat_last.distance",
    "PSNR to the true future in dB": "frames_4.nfe_5.psnr",
    "PSNR of the last frame repeated in dB": "frames_4.controls.repeat_last.psnr",
    "motion (real: 1)": "frames_4.nfe_5.motion",
} | {label: f"frames_4.nfe_5.{path}" for label, path in FVD.items()}
SETTINGS = ("videos", "clips", "split", "frames", "window", "stride", "pooled", "features", "dimensions")
SETTINGS += ("real_clips", "epsilon", "starts", "chunks", "noise")
MODELS = {
    "maze": dict(
        config="configs/biflow/maze.py",
        cost="89 minutes on one CPU core",
        title="Bi-flow: a walk through a maze",
        text="From one frame, BI-FLOW streams a first-person walk. It adds a little noise to the last frame, and one "
        "solve removes the noise together with older errors and moves the frame on. The network learned from 1,200 "
        "walks through other mazes; it invents what lies around the next corner. Backwards, the same velocity field "
        "is integrated in the other direction.",
        metrics=STREAM | FVD | NFE,
        real=("test", 2.6),
        shows=(
            dict(title="Generated forwards", options=dict(length=48)),
            dict(
                title="Generated with more noise (eps 0.4)",
                sampling=dict(epsilon=0.4),
                options=dict(length=32, count=2),
            ),
            dict(
                title="Generated with less noise (eps 0.1)",
                sampling=dict(epsilon=0.1),
                options=dict(length=32, count=2),
            ),
            dict(
                title="Generated backwards in time", sampling=dict(curve="backward"), options=dict(length=32, count=2)
            ),
        ),
    ),
    "bouncing": dict(
        config="configs/biflow/bouncing.py",
        cost="45 minutes on one CPU core",
        title="Bi-flow: shapes that collide",
        text="One frame does not show where the shapes go, two frames do: this network knows the last two frames. It "
        "learned from 1,024 clips of two seconds. The shapes bounce off the edges and off one another; each stream "
        "starts with two real frames.",
        metrics=STREAM | FVD | NFE,
        real=("test", 2.0),
        shows=(
            dict(title="Generated", options=dict(length=48, count=2)),
            dict(
                title="Generated with more noise (eps 0.6)",
                sampling=dict(epsilon=0.6),
                options=dict(length=32, count=2),
            ),
        ),
    ),
    "shapes": dict(
        config="configs/flowframes/shapes.py",
        cost="42 minutes on one CPU core",
        title="FlowFrames: the next frames in five evaluations",
        text="From four frames, FlowFrames predicts the next four in five evaluations of the network, and goes on from "
        "its own prediction. The flow starts at the observed frames, with a little noise that hides older errors.",
        metrics=CHUNKS,
        frames=32,
        real=("test", 1.5),
        shows=(
            dict(title="Predicted from the first four frames, chunk after chunk", options=dict(length=32)),
            dict(
                title="Predicted in ten evaluations a chunk",
                sampling=dict(steps=10),
                options=dict(length=32, count=2),
            ),
        ),
    ),
    "captions": dict(
        config="configs/vlfm/captions.py",
        cost="65 minutes on one CPU core",
        title="VLFM: clips from captions, at any frame rate",
        text="VLFM makes a clip from noise and a caption. A clip is one function of time, a polynomial (HiPPO-LegS): "
        "it is read at any frame rate. The network learned from 256 clips of two seconds at 24 frames per second. A "
        "caption says where the square begins; the model chooses the rest, such as where the stripes are.",
        metrics=FVD | CLIPS_OF_CAPTIONS | NFE,
        real=("train", 2.0),
        shows=(
            dict(title="Generated from the captions of the real clips"),
            dict(title="The same clips at 48 frames per second", options=dict(fps=48.0, count=2)),
        ),
    ),
}


def main(arguments: list[str]) -> None:
    name, *workdir = arguments[1:]
    tracked = record.RECORD.value
    folder = ROOT / "jvflow" / "models" / name if tracked else record.OUT / "models" / name
    picture = ROOT / "docs" / "models" / f"{name}.png" if tracked else record.OUT / "models" / f"{name}.png"
    with tempfile.TemporaryDirectory() as temporary:
        made = origin(name, Path(*workdir)) if workdir else dict(models.card(name).made)
        pack(workdir[0] if workdir else models.path(name), f"{temporary}/packed", clips=CLIPS, dtype="float16")
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(f"{temporary}/packed", folder)
        figures = commands.evaluate(with_all_clips(name, folder, Path(temporary) / name), fvd=FVD_PROTOCOL.value)
    write_text(folder / models.CARD, json.dumps(card(name, made, figures), indent=1, ensure_ascii=False) + "\n")
    draw(load(folder), picture, MODELS[name].get("frames", FRAMES))


def with_all_clips(name: str, shipped: Path, folder: Path) -> Path:
    """Writes a packed run again into `folder`, with all clips that its config file names; returns the folder."""
    run, file = load(shipped), ROOT / MODELS[name]["config"]
    run.config.data.clips = defaults.derive(str(file), file.name, "").data.clips
    packed.write(folder, run.config, jax.device_get(run.params), step=run.step, ema=True, key=None)
    return folder


def draw(run: Run, picture: Path, frames: int) -> None:
    """Writes a sheet of generated videos of `frames` frames, or of pairs of a real and a generated one."""
    run.config.run.sample_frames = frames
    if "chunk" in run.config:
        run.config.evaluate.chunks = frames // max(run.config.chunk.frames) - 1
    with jax.set_mesh(local_mesh()):
        shown = run.experiment.method.preview(run, run_dataset(run))
    sheet = videos.sheet(shown.videos[:ROWS], columns=COLUMNS, scale=SCALE, captions=shown.captions[:ROWS])
    videos.write_png(picture, sheet)


def origin(name: str, workdir: Path) -> dict:
    """Returns how the run of a workdir was made."""
    model, config = MODELS[name], load(workdir).config
    steps = [line for _, line in read_json_lines(workdir / "metrics.jsonl") if isinstance(line, dict)]
    command = f"jvflow train --config={model['config']} --workdir=out/{name}"
    data = f"{config.data.path}, {config.data.clips.train} clips of {config.data.frames} frames"
    made = dict(data=data, config=model["config"], command=command, seed=config.seed, steps=steps[-1]["step"])
    return made | dict(cost=model["cost"], batch_size=config.train.batch_size)


def card(name: str, made: dict, figures: dict) -> dict:
    """Returns the content of card.json."""
    model = MODELS[name]
    protocol = {key: figures["protocol"][key] for key in SETTINGS if key in figures["protocol"]}
    found = {label: _entry(figures, path) for label, path in model["metrics"].items()}
    metrics = {label: value for label, value in found.items() if value is not None}
    text = {key: model[key] for key in ("title", "text", "real", "shows")}
    return text | dict(made=made, metrics=metrics, protocol=protocol, licence="Apache-2.0")


def _entry(figures: dict, path: str):
    for key in path.split("."):
        figures = figures.get(key) if isinstance(figures, dict) else None
    return figures


if __name__ == "__main__":
    app.run(main)
