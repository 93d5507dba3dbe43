"""Checks the paths that a user gives, reads JSON, writes files whole or not at all, and checks the room on a disk."""

import errno
import glob
import json
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

READ_ONLY = (errno.EACCES, errno.EPERM, errno.EROFS)
"""Error numbers of the system where a file or folder must not be written."""
ADDRESS = re.compile(r"\s*([a-z][a-z0-9+.-]*://|(gs|s3|hdfs|https?|ftp|file):/)", re.IGNORECASE)
"""The begin of an address; `Path` makes one slash of its two."""
BUCKETS = ("/gs/", "/s3/", "/az/", "/hf/")
"""Paths that etils, which orbax and tfds use, takes for addresses."""
PACKED = "model.safetensors"
"""The parameters of a packed run (`jvflow.training.packed`)."""
SHIPPED, MODELS = "jvflow:", Path(__file__).parent / "models"
"""The begin of the name of a model that the package ships, and the folder with these models."""
LONGEST_NAME = 255
"""Bytes that file systems allow in the name of a file."""


def local_path(path: str | os.PathLike, name: str) -> str:
    """Returns a path that a user gives, with `~` and `~user` expanded. Every other path stays as it is.

    `name` is the flag or the entry of the config. A second call changes nothing.

    Raises:
      ValueError: for an empty path, an address such as gs://bucket/run, an unknown user, and a path that is not UTF-8,
        which the libraries that write data sets and checkpoints do not take.
    """
    path = os.fspath(path)
    given = f"{name}={in_one_line(path)}"
    if not path.strip():
        raise ValueError(f"{name} is empty: give a path")
    if ADDRESS.match(path):
        is_file = path.strip().lower().startswith("file:")
        cure = "leave out file://" if is_file else "mount the bucket (for example with gcsfuse), or copy it"
        raise ValueError(f"{given} is an address, and jvflow reads and writes local paths: {cure}")
    expanded = os.path.expanduser(path)
    if expanded.startswith("~"):
        raise ValueError(f"{given} begins with an unknown user: give the whole path, or ./{in_one_line(path)}")
    whole = os.path.abspath(expanded)
    if readable(whole) != whole:
        raise ValueError(f"{given} is not UTF-8 (its whole path is {in_one_line(whole)}): rename it")
    if whole.startswith(BUCKETS):
        raise ValueError(f"{given} is the path of a bucket for the libraries that write data sets: mount it elsewhere")
    is_home = os.path.normpath(expanded).startswith("~")  # ./~ is a name; `Path` would drop the dot
    return whole if is_home else expanded


def shipped_models() -> list[str]:
    """Returns the names of the models that the package ships."""
    return sorted(file.parent.name for file in MODELS.glob(f"*/{PACKED}"))


def user_cache() -> Path:
    """Returns jvflow's folder below XDG_CACHE_HOME, or below ~/.cache."""
    root = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(root) if os.path.isabs(root) else Path.home() / ".cache") / "jvflow"


def run_path(path: str | os.PathLike, name: str) -> str:
    """Returns the `local_path` of a run, or the folder of a model that the package ships, such as jvflow:maze.

    Raises ValueError for an unknown model, and for a character that orbax takes for a pattern: it would merge the files
    of other folders.
    """
    if os.fspath(path).startswith(SHIPPED):
        model = os.fspath(path).removeprefix(SHIPPED)
        if model not in shipped_models():
            known = ", ".join(SHIPPED + each for each in shipped_models()) or "none"
            raise ValueError(f"{name}={in_one_line(path)}: there is no such model; the package ships {known}")
        return str(MODELS / model)
    path = local_path(path, name)
    whole = os.path.abspath(path)
    if glob.has_magic(whole):
        raise ValueError(
            f"{name}={in_one_line(path)}: checkpoints cannot be written to {in_one_line(whole)}, because of * ? or [ "
            "in it: rename that folder, or give a symbolic link to it"
        )
    return path


def model_source(source: str | os.PathLike, name: str) -> str:
    """Returns where a public model comes from: an address on the Hugging Face hub as it is, or a `local_path`."""
    return source if isinstance(source, str) and source.startswith("hf://") else local_path(source, name)


def with_local_paths(config):
    """Returns a copy of an experiment's config in which every path is a `local_path`, and every model a source."""
    config = config.copy_and_resolve_references()
    checked = lambda path, name, check=local_path: (
        check(path, f"config.{name}") if isinstance(path, str) and path else path
    )
    for name in ("path", "cache", "captions"):
        if name in config.data:
            config.data[name] = checked(config.data[name], f"data.{name}")
    if isinstance(config.pretrained, str):
        sources = config.pretrained.split(",")
        config.pretrained = ",".join(checked(source, "pretrained", model_source) for source in sources)
    lora = config.tune.get("lora")
    if isinstance(lora, str) and lora:
        config.tune.lora = ",".join(checked(path, "tune.lora") for path in lora.split(","))
    for part in ("codec", "text"):
        paths = config.get(part, {}).get("checkpoint")
        if isinstance(paths, tuple):
            config[part].checkpoint = tuple(checked(path, f"{part}.checkpoint", model_source) for path in paths)
    return config


def readable(text: str | os.PathLike) -> str:
    """Returns a text or a path in UTF-8: writes each byte of a file name that is not UTF-8 as `\\xNN`."""
    return re.sub(r"[\ud800-\udfff]", lambda found: f"\\x{ord(found[0]) & 0xFF:02x}", os.fspath(text))


def in_one_line(text: str | os.PathLike) -> str:
    """Returns a `readable` text without line breaks and other control characters, for a message."""
    return re.sub(r"[\x00-\x1f\x7f]", lambda found: repr(found[0])[1:-1], readable(text))


def short_name(name: str, used: int) -> str:
    """Returns the begin of a file name, to which `used` bytes can be added."""
    return os.fsencode(name)[: LONGEST_NAME - used].decode("utf-8", "ignore")


def write_text(path: str | os.PathLike, text: str) -> None:
    """Writes a text file as UTF-8; if that fails, the file stays as it was."""
    path = Path(path)
    temporary = path.with_name(f"{path.name}.tmp")
    try:
        temporary.write_text(text, "utf-8")
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def read_json(path: str | os.PathLike, cure: str, *, keys: Mapping[str, type] | None = None, kind: type = dict) -> Any:
    """Returns the content of a JSON file.

    Args:
      path: the file.
      cure: the end of the error message, such as "restore it from a copy".
      keys: the entries that the file must have, with their types.
      kind: the type of the whole content.

    Raises:
      ValueError: if the file is missing, not UTF-8, not JSON, of another kind, or lacks an entry. The message names it.
    """
    try:
        content = json.loads(Path(path).read_text("utf-8-sig"))
    except FileNotFoundError:
        reason = "does not exist"
    except UnicodeDecodeError as error:
        reason = f"is damaged: it is not UTF-8 ({error.reason} at byte {error.start})"
    except (ValueError, RecursionError) as error:
        reason = f"is damaged: it is not JSON ({error})" if Path(path).stat().st_size else "is empty"
    else:
        reason = _unlike(content, kind, keys or {})
    if reason:
        raise ValueError(f"{path} {reason}: {cure}")
    return content


NAMES = {dict: "an object", list: "an array", str: "a string", int: "a whole number"}


def _unlike(content: Any, kind: type, keys: Mapping[str, type]) -> str:
    """Returns why a content is not of a kind, or lacks an entry; "" if it is as it should be."""
    if not isinstance(content, kind):
        return f"is damaged: it holds {NAMES.get(type(content), type(content).__name__)}, not {NAMES[kind]}"
    missing = [name for name in keys if name not in content]
    if missing:
        return f"is incomplete: it has no {', '.join(missing)}"
    wrong = [f"{name} is not {NAMES[kind]}" for name, kind in keys.items() if not isinstance(content[name], kind)]
    return f"is damaged: {', '.join(wrong)}" if wrong else ""


def read_json_lines(path: str | os.PathLike) -> list[tuple[str, Any]]:
    """Returns (line, content) of each line of a JSON lines file; the content of a damaged line is None.

    Leaves out blank lines, and the NUL bytes before a line that a file system may write after a loss of power.
    """
    lines = (line.strip() for line in Path(path).read_bytes().split(b"\n"))
    return [_read_line(line.strip(b"\0 \t")) for line in lines if line]


def _read_line(line: bytes) -> tuple[str, Any]:
    try:
        text = line.decode("utf-8")
        return text, json.loads(text)
    except (ValueError, RecursionError):
        return "", None


def mebibytes(count: int) -> str:
    """Formats a number of bytes."""
    return f"{count / 2**20:,.1f} MiB"


def check_room(
    directory: str | os.PathLike,
    need: int,
    what: str,
    cure: str = "use another disk, or fewer, shorter or smaller clips",
) -> None:
    """Raises ValueError if the disk of a folder has less than `need` bytes free; the folder need not exist yet.

    `what` is the subject of the message, in the plural.
    """
    directory = Path(directory).absolute()
    free = shutil.disk_usage(next(folder for folder in (directory, *directory.parents) if folder.exists())).free
    if need > free:
        raise ValueError(
            f"{what} take up to {mebibytes(need)}, and {mebibytes(free)} are free where {directory} goes: "
            f"make room, {cure}"
        )
