"""Another data set than that of training, for an evaluation: a folder of videos, or a built data set."""

from pathlib import Path

from ml_collections import ConfigDict

from jvflow.data import dataset, pipeline, records
from jvflow.files import local_path

CUTTING = dict(captions="", test_fraction=0.2, min_frames=0, image_fps=0.0, slow="skip", splits="")
"""Entries that a run on a built data set or on procedural video lacks, with the values that configs have."""


def check(path, data: ConfigDict, frames: int | None) -> str:
    """Returns the local path of another data set.

    Args:
      path: the argument of the command.
      data: `config.data` of a run.
      frames: of the clips, or None.

    Raises:
      ValueError: if there is neither a folder nor a data set, or if a built data set has another size, rate or fit
        than the run, or clips of another length than `frames`.
    """
    if str(path).startswith(dataset.PROCEDURAL):
        raise ValueError(f"--real={path}: give a folder of videos, or a built data set")
    path = local_path(path, "--real")
    if not Path(path).is_dir():
        raise ValueError(f"--real={path} is not a folder: give a folder of videos, or a built data set")
    if not dataset.is_built(str(path)):
        return str(path)
    made = records.manifest(path)
    settings = made["settings"].get("of", made["settings"])  # latents keep the settings of their clips
    want = dict(size=list(data.size), fps=data.fps, fit=data.fit)
    have = dict(size=list(made["shape"][1:3]), fps=settings.get("fps", data.fps), fit=settings.get("fit", data.fit))
    if differing := [f"{name} {have[name]}, not {want[name]}" for name in want if have[name] != want[name]]:
        raise ValueError(
            f"the clips in --real={path} have {'; '.join(differing)} as the run has: give the folder of its videos, "
            "which is cut as the run's own, or build it so"
        )
    if frames is not None and frames != made["shape"][0]:
        raise ValueError(
            f"--real_frames={frames}, and the built data set --real={path} has clips of {made['shape'][0]} frames: "
            "leave it out, or give the folder of the videos"
        )
    return str(path)


def prepare(path: str, data: ConfigDict, workdir: Path, frames: int | None, need: int) -> Path:
    """Returns the folder of another data set; builds it in the cache of a run if it does not exist.

    Args:
      path: what `check` returns.
      data: `config.data` of the run; its size, rate, fit and splits serve the other videos too.
      workdir: of the run.
      frames: of the clips; None for as many as those of the run.
      need: the least number of frames that an evaluation needs.
    """
    data = data.copy_and_resolve_references()
    with data.unlocked():
        for name, value in CUTTING.items():
            data[name] = data.get(name, value)
        data.update(path=path, captions="", splits="", frames=frames or data.frames)
        data.stride = data.get("stride", data.frames)
        if frames:
            data.min_frames = 0  # as many as asked for, or an error
    return dataset.prepare(data, workdir, frames=need)


def has_captions(directory: Path, split: str) -> bool:
    """Returns whether any clip of a split has a caption."""
    return any(pipeline.captions(directory, split))
