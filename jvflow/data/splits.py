"""Decides in which split each video is: `train`, `val` or `test`. All clips of a video are in one split.

Split files (`jvflow.data.split_files`), a layout or a table give splits; split files replace the others. In a layout,
the videos lie in folders `train`, `test`, `val` or `validation` directly below the folder of the videos. In a table,
the column `split` has one of these names.

Where none holds a video out, a hash draws: the videos are ranked by sha256 of "seed/name", and the first
`test_fraction` of them are in `test`. Copies (`jvflow.data.copies`) count as one video.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence

NAMES = dict(train="train", test="test", val="val", validation="val")
"""From the names in layouts and tables to the names of splits."""


def given(names: Sequence[str], column: Mapping[str, str | None]) -> dict[str, str]:
    """Returns the splits that the layout or the table gives, {video: split}; others are drawn, or in "train".

    Args:
      names: paths of the videos below their folder.
      column: the entries of the table's column `split`.

    Raises:
      ValueError: if table and layout contradict each other, or a video lies outside of a layout with `train`.
    """
    layout = _layout(names)
    named = {name: column[name] for name in names if column.get(name)}
    differing = [name for name in named if layout.get(name, named[name]) != named[name]]
    if differing:
        differing = [f"{name} ({layout[name]} / {named[name]})" for name in differing]
        raise ValueError(
            f"the folders and the column 'split' contradict each other, folder / column: {some(differing)}: "
            "move these videos, or correct the column"
        )
    splits = layout | named
    outside = [name for name in names if name not in splits]
    if outside and layout and "train" in layout.values():
        raise ValueError(
            f"{len(outside)} videos are outside of the folders {', '.join(sorted(set(map(_first, layout))))}: "
            f"{some(outside)}: move them there, remove them, or name their splits in the column 'split' of metadata.csv"
        )
    if not outside and "train" not in splits.values():
        raise ValueError(f"no video is in the split 'train', all are in {', '.join(sorted(set(splits.values())))}")
    return splits


def overruled(names: Sequence[str], column: Mapping[str, str | None], chosen: Mapping[str, str]) -> list[str]:
    """Returns a sentence on the videos for which layout or table give another split than split files, if any."""
    before = _layout(names) | {name: split for name, split in column.items() if split}
    differing = [
        f"{name} ({before[name]} / {chosen[name]})" for name in chosen if before.get(name) not in (None, chosen[name])
    ]
    return [
        f"config.data.splits replaces the splits of folders or table for {len(differing)} videos: {some(differing)}"
    ] * bool(differing)


def _first(name: str) -> str:
    return name.partition("/")[0]


def _layout(names: Sequence[str]) -> dict[str, str]:
    """Returns the splits that the folders give; {} if they are folders of classes, one of which is called train."""
    found = {name: NAMES[_first(name).lower()] for name in names if _first(name).lower() in NAMES}
    return found if len(found) == len(names) or set(found.values()) - {"train"} else {}


def check_copies(groups: Iterable[Sequence[str]], splits: Mapping[str, str]) -> None:
    """Raises ValueError if equal files are given different splits; a group holds the names of equal files."""
    for group in groups:
        found = {name: splits[name] for name in group if name in splits}
        if len(set(found.values())) > 1:
            raise ValueError(
                f"equal files are in different splits: {some([f'{name} ({split})' for name, split in found.items()])}: "
                "keep one of them, or give them one split"
            )


def spread(groups: Iterable[Sequence[str]], splits: Mapping[str, str]) -> dict[str, str]:
    """Returns the given splits, with the split of a copy for the copies that have none."""
    whole = dict(splits)
    for group in groups:
        found = [splits[name] for name in group if name in splits]
        whole |= {name: found[0] for name in group if found and name not in splits}
    return whole


def draw(
    groups: Iterable[Sequence[str]], splits: Mapping[str, str], *, test_fraction: float | int, seed: int
) -> dict[str, str]:
    """Returns the split of every video, the same on every machine.

    If `splits` hold a video out, all others are in "train". Otherwise holds out `test_fraction` of the groups, rounded:
    at least one (none if `test_fraction` is 0), and never all.

    Args:
      groups: the names of the videos that have clips; copies of one video are in one group.
      splits: the splits that are given, see `given` and `spread`.
      test_fraction: in [0, 1).
      seed: determines the draw.
    """
    groups = [sorted(group) for group in groups]
    drawn = {name: splits.get(name, "train") for group in groups for name in group}
    free = [group for group in groups if not any(name in splits for name in group)]
    if set(splits.values()) <= {"train"} and test_fraction:
        rank = lambda group: hashlib.sha256(f"{seed}/{group[0]}".encode()).digest()
        count = min(max(1, round(test_fraction * len(groups))), len(groups) - 1)
        drawn |= {name: "test" for group in sorted(free, key=rank)[:count] for name in group}
    return drawn


def assign(
    entries: Sequence[dict],
    groups: Iterable[Sequence[str]],
    splits: Mapping[str, str],
    *,
    test_fraction: float | int,
    seed: int,
) -> dict[str, str]:
    """Returns the split of each video that has clips.

    Adds `split` (None without clips) and `copy_of` (None, or the first of its copies) to the report's entries.

    Args:
      entries: the report of each video.
      groups, splits, test_fraction, seed: as for `draw`.

    Raises:
      ValueError: if no video in `train` has clips.
    """
    clips = {entry["file"] for entry in entries if entry["clips"]}
    groups = [[name for name in group if name in clips] for group in groups]
    groups = [sorted(group) for group in groups if group]
    chosen = draw(groups, splits, test_fraction=test_fraction, seed=seed)
    first = {name: group[0] for group in groups for name in group}
    for entry in entries:
        name = entry["file"]
        entry |= dict(split=chosen.get(name), copy_of=first[name] if first.get(name, name) != name else None)
    if "train" not in chosen.values():
        raise ValueError(
            f"no video in the split 'train' gives a clip; clips are in {', '.join(sorted(set(chosen.values())))}: "
            "use fewer frames, or move videos to 'train'"
        )
    return chosen


def listed(entries: Sequence[dict]) -> dict[str, dict[str, int]]:
    """Returns the number of clips of each video, {split: {video: clips}}, from the entries of `assign`."""
    found: dict[str, dict[str, int]] = {}
    for entry in entries:
        if entry["split"]:
            found.setdefault(entry["split"], {})[entry["file"]] = entry["clips"]
    return found


def notes(entries: Sequence[dict]) -> list[str]:
    """Returns sentences on copies, and on a data set without held-out clips, from the entries of `assign`."""
    chosen = {entry["file"]: entry["split"] for entry in entries}
    pairs = [(entry["file"], entry["copy_of"]) for entry in entries if entry["copy_of"]]
    copied = [f"{name} = {first}" for name, first in pairs]
    made = [f"{len(copied)} videos are copies and share the split of another one: {some(copied)}"] if copied else []
    apart = [
        f"{name} ({chosen[name]}) = {first} ({chosen[first]})" for name, first in pairs if chosen[name] != chosen[first]
    ]
    if apart:
        made = [
            f"{len(apart)} videos look like copies of a video in another split, as given: {some(apart)}: figures of "
            "held-out clips are flattered if they are copies"
        ]
    if all(entry["split"] in (None, "train") for entry in entries):
        videos = len({entry["copy_of"] or entry["file"] for entry in entries if entry["clips"]})
        made.append(
            f"no clip is held out, because {'one video gives' if videos == 1 else f'{videos} videos give'} clips and "
            "all are in the split 'train': validation, samples and evaluations use clips of training"
        )
    return made


def some(names: Sequence[str], most: int = 5) -> str:
    """Returns the first names as one text, and how many more there are."""
    return ", ".join([*names[:most], *[f"and {len(names) - most} more"] * (len(names) > most)])
