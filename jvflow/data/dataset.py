"""Builds the data set that `config.data` describes, on first use.

`config.data.path` is a folder of videos, a data set that was built before, or `procedural:KIND`. Data sets are built in
`config.data.cache` (`WORKDIR/data` when empty). Their names end in a key (`jvflow.data.dataset_key`) of everything that
determines their content: the key changes when a video changes, but not when it moves.
"""

import logging
import math
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path

import numpy as np

from jvflow.data import folder, procedural, records
from jvflow.data.dataset_key import FileHashes, dataset_key, differences
from jvflow.files import READ_ONLY, check_room, short_name
from jvflow.parallel import locks

LOG = logging.getLogger(__name__)
PROCEDURAL = "procedural:"
LATER = dict(slow="skip", splits="")
"""Entries that records of earlier versions do not have, with the values that change nothing."""
TEST_SEEDS = 1_000_000  # scene seeds of the test split start here


def prepare(data, workdir, frames: int = 1, key: str | None = None, built_first: bool = False) -> Path:
    """Returns the folder of the data set; builds it if it does not exist.

    Logs the warnings of its report, once in a process.

    Args:
      data: `config.data`.
      workdir: the run's folder.
      frames: how many frames each clip needs.
      key: the key of the data set that a run was trained on. If `config.data.path` is not there any more, the data set
        with this key takes its place, where it is built in the cache or in the workdir.
      built_first: use that data set without a look at `config.data.path`.

    Raises:
      ValueError: if the clips are shorter, if a built data set has another size, rate, fit or dtype than the config
        says, if the data have another key than `key`, if the disk is too small, or if it cannot be written.
    """
    if data.frames < frames:
        raise ValueError(f"config.data.frames is {data.frames}, this experiment needs {frames} frames of each clip")
    directory = _find_built(data, workdir, key, built_first)
    try:
        directory = directory or _build_once(data, workdir, key)
    except OSError as error:
        if not _is_of_cache(error, _cache(data, workdir)):
            raise
        raise ValueError(
            f"the data set of {data.path} has to be built in {_cache(data, workdir)}, which cannot be written "
            f"({error.strerror}): allow it, or copy the workdir to a disk that can be written"
        ) from error
    records.check_readable(directory)
    have = records.manifest(directory)["shape"][0]
    if have < frames:
        entry = "min_frames" if have < data.frames and not is_built(data.path) else "frames"
        raise ValueError(
            f"the clips in {directory} have {have} frames, this experiment needs {frames}: "
            f"build them with config.data.{entry}={frames} or more"
        )
    made = records.manifest(directory)["settings"]
    made = made.get("of", made)  # latents keep the settings of their clips
    if made.get("kind") == "folder" and made.get("version", 0) < folder.SPLIT_BY_VIDEO:
        _warn_once(directory, "clips of one video may be in both splits, so figures are flattered: build it again")
    for note in records.report(directory).get("notes", ()):
        _warn_once(directory, note)
    return directory


@cache
def _warn_once(directory: Path, note: str) -> None:
    LOG.warning("warning: %s: %s", directory, note)


def is_gone(path: str) -> bool:
    """Returns whether `config.data.path` names a place where nothing is: no folder, or an empty one (not mounted)."""
    return not path.startswith(PROCEDURAL) and not (Path(path).is_dir() and any(Path(path).iterdir()))


def _is_of_cache(error: OSError, cache: Path) -> bool:
    """Returns whether an error shows that the cache must not be written, and not that a video must not be read."""
    file, cache = Path(error.filename or cache).absolute(), cache.absolute()
    return error.errno in READ_ONLY and (file.is_relative_to(cache) or cache.is_relative_to(file))


def built(data, workdir, key: str | None) -> Path | None:
    """Returns the data set with this key, where it is built, else None; builds nothing. Arguments as for `prepare`."""
    if is_built(data.path):
        return Path(data.path)
    return next(_with_key(data, workdir, key), None) if key else None


def _find_built(data, workdir, key: str | None, built_first: bool) -> Path | None:
    """Returns the data set with this key, where it is wanted and built; else None. Logs that it replaces the path."""
    gone = bool(data.path) and is_gone(data.path)
    if not (key and (gone or built_first)):
        return None
    found = next(_with_key(data, workdir, key), None)
    if gone and found is None:
        raise ValueError(
            f"config.data.path={data.path} is not there, and no data set with key {key} is in {_cache(data, workdir)}: "
            f"give the command of training with --config.data.path=FOLDER of the same data, or move that data set to "
            f"{Path(workdir) / 'data'}"
        )
    if gone:
        LOG.info("config.data.path=%s is not there: the run goes on with its clips in %s", data.path, found)
    return found


def _with_key(data, workdir, key: str) -> Iterator[Path]:
    """Yields the data sets with this key in the cache and in the workdir; those that are named by it come first."""
    folders = dict.fromkeys((_cache(data, workdir), Path(workdir) / "data"))
    found = [file.parent for folder in folders for file in sorted(folder.glob(f"*/{records.MANIFEST}"))]
    for directory in (directory for directory in found if directory.name.endswith(key)):
        if records.manifest(directory).get("key") == key:
            yield directory
    for directory in found:
        with suppress(ValueError):  # damaged, and perhaps of another run
            if records.manifest(directory).get("key") == key:
                yield directory


def _build_once(data, workdir, key: str | None = None) -> Path:
    wanted = settings(data, workdir)
    directory = location(data, workdir, wanted)
    if key and dataset_key(wanted) != key:
        raise _other_data(data, workdir, key, wanted)
    if key:  # it may have been built from another path
        directory = next(_with_key(data, workdir, key), directory)
    if records.is_dataset(directory):
        return directory
    with locks.hold(locks.next_to(directory), directory, wait=True):
        if not records.is_dataset(directory):  # another process may have built it while this one waited
            _build(data, workdir, wanted, directory)
    return directory


def _build(data, workdir, wanted: dict, directory: Path) -> None:
    if data.path.startswith(PROCEDURAL):
        count = max_clips(data)
        need = count * data.frames * math.prod(data.size) * 3 - records.bytes_written(directory)
        check_room(directory, need, f"{count} clips")
        splits = {split: _render(wanted["kind"], split, wanted) for split in ("train", "test")}
        records.write(directory, splits, settings=wanted)
    else:
        hashes = _hashes(data, workdir)
        folder.build(data.path, directory, **_split_options(data), **_cut_options(data), hashes=hashes)


def _other_data(data, workdir, key: str, wanted: dict) -> ValueError:
    """Returns the error for a run that was trained on other data; it lists differences if those are still built."""
    built = next(_with_key(data, workdir, key), None)
    some = f" ({differences(records.manifest(built)['settings'], wanted)})" if built else ""
    return ValueError(
        f"{workdir} was trained on data with key {key}, but config.data now has key {dataset_key(wanted)}: files or "
        f"captions have changed{some}; restore them, or use another --workdir"
    )


def settings(data, workdir) -> dict:
    """Returns everything that determines the clips of the data set, whether it is built or not."""
    if not data.path:
        raise ValueError("config.data.path is empty: give a folder of videos, a built data set, or procedural:comets")
    if data.path.startswith(PROCEDURAL):
        kind = data.path.removeprefix(PROCEDURAL)
        if kind not in procedural.KINDS:  # before anything is written
            kinds = ", ".join(f"{PROCEDURAL}{known}" for known in procedural.KINDS)
            raise ValueError(f"config.data.path={data.path} is unknown: use one of {kinds}")
        return dict(
            kind=kind,
            clips=dict(data.clips),
            seed=data.seed,
            frames=data.frames,
            fps=data.fps,
            size=list(data.size),
        )
    if is_built(data.path):
        _check_built(data)
        return records.manifest(data.path)["settings"]
    _check_folder(data.path)
    return folder.settings(data.path, **_split_options(data), **_cut_options(data), hashes=_hashes(data, workdir))


def unread(data) -> tuple[str, ...]:
    """Returns the keys of `config.data` that its kind of data does not read."""
    cutting = ("stride", "min_frames", "test_fraction", "captions", *LATER)
    if data.path.startswith(PROCEDURAL):
        return cutting
    unused = [name for name, value in LATER.items() if data.get(name, value) == value]
    return ("clips", *(cutting if is_built(data.path) else unused))


def is_built(path: str) -> bool:
    """Returns whether `config.data.path` is a finished data set."""
    return not path.startswith(PROCEDURAL) and records.is_dataset(path)


def location(data, workdir, settings: dict) -> Path:
    """Returns the folder of the data set with these settings, whether it is built or not."""
    if is_built(data.path):
        return Path(data.path)
    ending = f"-{dataset_key(settings)}"
    name = short_name(Path(data.path.removeprefix(PROCEDURAL)).name, used=len(f".{ending}.partial"))
    return _cache(data, workdir) / f"{name}{ending}"


def max_clips(data) -> int:
    """Returns an upper bound on the number of clips, without building them; see `folder.max_clips`."""
    if data.path.startswith(PROCEDURAL):
        return data.clips.train + data.clips.test
    if is_built(data.path):
        return sum(records.manifest(data.path)["splits"].values())
    _check_folder(data.path)
    return folder.max_clips(data.path, split_by=data.get("splits", LATER["splits"]), **_cut_options(data))


def _check_folder(path: str) -> None:
    """Raises ValueError if a path of videos is no folder; the message names the commands that make one."""
    if Path(path).is_file():
        raise ValueError(f"config.data.path={path} is a file: give the folder that holds it")
    if not Path(path).is_dir():
        raise ValueError(
            f"config.data.path={path} is not a folder: give a folder of videos, or make latents there with "
            f"`jvflow encode --config=... --out={path}`"
        )


def _cut_options(data) -> dict:
    return dict(
        frames=data.frames,
        fps=data.fps,
        size=tuple(data.size),
        fit=data.fit,
        stride=data.stride,
        min_frames=data.min_frames,
        slow=data.get("slow", LATER["slow"]),
        image_fps=data.image_fps,
    )


def _split_options(data) -> dict:
    split_by = data.get("splits", LATER["splits"])
    return dict(captions=data.captions, split_by=split_by, test_fraction=data.test_fraction, seed=data.seed)


def _cache(data, workdir) -> Path:
    return Path(data.cache or Path(workdir) / "data")


def _hashes(data, workdir) -> FileHashes:
    return FileHashes(_cache(data, workdir) / "sha256.jsonl")


def _check_built(data) -> None:
    """Raises ValueError if the built data set has another size, rate, fit or dtype of latents than the config says."""
    built = records.manifest(data.path)["settings"]
    made = built.get("of", built)  # latents keep the settings of their clips
    have = dict(
        size=tuple(records.manifest(data.path)["shape"][1:3]),
        fps=made.get("fps", data.fps),
        fit=made.get("fit", data.fit),
    )
    if "of" in built:
        have["dtype"] = built.get("dtype", "float32")
    want = {name: tuple(data[name]) if name == "size" else data[name] for name in have}
    differing = [name for name in have if have[name] != want[name]]
    if differing:
        difference = "; ".join(f"{name} {have[name]}, and config.data.{name} is {want[name]}" for name in differing)
        cure = " ".join(f'--config.data.{name}="{have[name]}"' for name in differing)
        raise ValueError(f"the clips in {data.path} have {difference}: use {cure}, or build them again")


def _render(kind: str, split: str, settings: dict) -> records.LazyClips:
    first_seed = settings["seed"] * 2 * TEST_SEEDS + (TEST_SEEDS if split == "test" else 0)
    times = np.arange(settings["frames"]) / settings["fps"]

    def make(i: int) -> records.Clip:
        scene = procedural.scene(kind, first_seed + i)
        video = scene.render(times, tuple(settings["size"]))
        return records.Clip(video, settings["fps"], 0.0, scene.caption, f"{PROCEDURAL}{kind}:{first_seed + i}")

    return records.LazyClips(settings["clips"][split], make)
