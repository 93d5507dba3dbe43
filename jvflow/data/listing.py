"""Lists the videos of a folder, and gives a reason for every other file in it."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from jvflow.data import images, video
from jvflow.files import readable

KEPT, SKIPPED, IGNORED = "kept", "skipped", "ignored"
"""Status of a file: a video with clips; a video or link without any; a file whose suffix or name is not a video's."""


@dataclass(frozen=True)
class Listing:
    """The content of a folder, sorted.

    Attributes:
      videos: files, and folders of images.
      others: for each file that is neither a video nor an image of one: file, status, reason.
    """

    videos: list[Path]
    others: list[dict]


def list_folder(folder: str | os.PathLike) -> Listing:
    """Lists a folder recursively, links to folders included.

    A folder that directly holds images, and no video file, is one video. Hidden files and folders are left out, and so
    is a link to a folder that is listed already, since it would end in a circle or double its videos.

    Raises:
      ValueError: if `folder` is not a folder.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder: give a folder of videos, or of folders of images")
    videos, others = [], []
    for path, reason in _walk(folder):
        if reason:
            others.append(dict(file=name_of(folder, path), status=SKIPPED, reason=reason))
            continue
        files = sorted(child for child in path.iterdir() if not child.is_dir())
        found = [file for file in files if _is_video(file)]
        coded = [file for file in found if file.suffix.lower() != video.TENSOR_SUFFIX]
        is_video = not coded and bool(images.images_in(path))
        found = [] if is_video else coded or found  # a tensor next to videos or images may be anything
        videos += [path] if is_video else found
        for file in files:
            status, reason = _why_left_out(file, is_video, bool(coded))
            if status != KEPT:
                others.append(dict(file=name_of(folder, file), status=status, reason=reason))
    named = {}
    for path in sorted(videos, key=lambda path: path.relative_to(folder).as_posix()):
        if named.setdefault(name_of(folder, path), path) is not path:
            reason = "not UTF-8, and its readable name is that of another file"
            others.append(dict(file=name_of(folder, path), status=SKIPPED, reason=reason))
    return Listing(list(named.values()), sorted(others, key=lambda entry: entry["file"]))


def name_of(folder: Path, path: Path) -> str:
    """Returns the name of a video or file: its path below the folder, `readable`."""
    return readable(path.relative_to(folder).as_posix())


def find_videos(folder: str | os.PathLike) -> list[Path]:
    """Returns the videos of `list_folder`; raises ValueError if there are none."""
    listing = list_folder(folder)
    if not listing.videos:
        kinds = (video.VIDEO_SUFFIXES, images.IMAGE_SUFFIXES)
        files, pictures = (", ".join(suffix[1:] for suffix in suffixes) for suffixes in kinds)
        raise ValueError(f"no video files ({files}) and no folders of images ({pictures}) in {folder}")
    return listing.videos


def summary(others: list[dict]) -> list[str]:
    """Returns a line for each reason, with the number of files and the first names."""
    reasons = {}
    for entry in others:
        reasons.setdefault((entry["status"], entry["reason"]), []).append(entry["file"])
    return [
        f"{len(names)} {status} ({reason}): {', '.join(names[:3])}{', ...' * (len(names) > 3)}"
        for (status, reason), names in sorted(reasons.items())
    ]


def _walk(folder: Path) -> Iterator[tuple[Path, str]]:
    """Yields the folders, and the links to folders that are not followed, with the reason.

    Real folders come first, so that a video gets the name without a link if there is one.
    """
    waiting, links, seen = [folder], [], {}
    while waiting or links:
        path = waiting.pop(0) if waiting else links.pop(0)
        real = path.resolve()
        if real in seen:
            yield path, f"a link to a folder that is listed as {name_of(folder, seen[real])}"
            continue
        try:
            inside = sorted(child for child in path.iterdir() if child.is_dir() and not child.name.startswith("."))
        except OSError as error:
            yield path, f"a folder that cannot be read: {error.strerror}"
            continue
        seen[real] = path
        waiting += [child for child in inside if not child.is_symlink()]
        links += [child for child in inside if child.is_symlink()]
        yield path, ""


def _is_video(file: Path) -> bool:
    return file.suffix.lower() in video.VIDEO_SUFFIXES and file.is_file() and not file.name.startswith(".")


def _why_left_out(file: Path, in_video: bool, with_videos: bool) -> tuple[str, str]:
    """Returns (status, reason) of a file; `in_video`: images are frames, `with_videos`: other files are videos."""
    suffix = file.suffix.lower()
    image = suffix in images.IMAGE_SUFFIXES
    if file.name.startswith("."):
        return IGNORED, "hidden"
    tensor = suffix == video.TENSOR_SUFFIX and (in_video or with_videos)
    if tensor or not image and suffix not in video.VIDEO_SUFFIXES:
        return IGNORED, f"suffix {readable(suffix)}" if suffix else "no suffix"
    if not file.is_file():
        return SKIPPED, "a link to nothing" if file.is_symlink() else "not a regular file"
    if image and not in_video:
        return IGNORED, "an image next to videos"
    return KEPT, ""
