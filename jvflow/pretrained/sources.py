"""Opens what a person gives as a model: the folder of a model, a file, a part of a file, or a folder on the hub.

    FOLDER                             config.json and the files of the model (`jvflow.pretrained.folder`)
    FILE                               safetensors, or a file that PyTorch saved (`jvflow.pretrained.single`)
    FILE/PREFIX                        the tensors of a file whose names begin with PREFIX.
    hf://ORG/NAME/FOLDER@REVISION      downloads the folder first (`jvflow.pretrained.hub`)

Whatever else a person may give (the folder of a pipeline, the cache of the hub, a name on the hub, a link of Git LFS)
raises ValueError, which says what to give in its place.
"""

import re
from collections.abc import Mapping
from pathlib import Path

from jvflow.pretrained import hub, single
from jvflow.pretrained.files import CONFIG, Files
from jvflow.pretrained.folder import INDEX, PICKLES, SAFETENSORS, SHARD, choose_files, inside, is_marked, read_index
from jvflow.pretrained.kinds import KINDS, kind_of
from jvflow.pretrained.readers import read_json

PIPELINE = "model_index.json"


def open_source(source: str | Path, kind: str | None = None) -> tuple[str, dict, Files]:
    """Returns kind, config and tensors of a model; reads no tensor yet.

    Args:
      source: see the top of the file.
      kind: the kind to read, if the source can hold several; a folder of another kind is returned as it is.

    Raises:
      ValueError: if there is no such model, with what to give in its place.
    """
    path = hub.fetch(source, kind and KINDS[kind].file)
    if path.is_dir():
        return _open_folder(path, kind)
    name, file, tensors = _open_file(path)
    return _find_model(name, tensors, kind, _config_next_to(file, kind))


def open_tensors(source: str | Path) -> Files:
    """Returns the tensors of a FILE or FILE/PREFIX, whatever model they are; raises ValueError if there is none."""
    return _open_file(hub.fetch(source))[2]


def is_model(source: str | Path) -> bool:
    """Returns whether a source is a public model, and not the folder of a run, nor missing."""
    if hub.is_address(source):
        return True
    path = Path(source)
    if path.is_dir() and (path / CONFIG).is_file():
        config = read_json(path / CONFIG)
        return bool({"_class_name", "architectures", "model_type"} & config.keys())
    return split_file(path)[0] is not None or (path.is_dir() and bool(_weights(path)))


def is_found(source: str | Path) -> bool:
    """Returns whether the folder or the file of a source exists; takes an address on the hub as it is."""
    return hub.is_address(source) or Path(source).is_dir() or split_file(Path(source))[0] is not None


def split_models(source: str | Path, kind: str) -> list[str | Path]:
    """Returns a source for each model of a kind, if one file holds several; otherwise only the source itself."""
    path = hub.fetch(source, KINDS[kind].file)
    if path.is_dir() and not (path / CONFIG).is_file():
        files = _weights(path, kind)
    else:
        files = [path] if path.is_file() else []
    if len(files) != 1:
        return [source]
    parts = single.find_parts(open_tensors(files[0]), kind)
    return [f"{files[0]}/{part.prefix[:-1]}" for part in parts] if len(parts) > 1 else [source]


def split_file(path: Path) -> tuple[Path | None, str]:
    """Returns the file of a path FILE or FILE/PREFIX, and the prefix with a dot at its end; (None, "") without one."""
    if path.is_file():
        return path, ""
    for parent in path.parents:
        if parent.is_file():
            return parent, ".".join(path.relative_to(parent).parts) + "."
    return None, ""


def model_files(source: str | Path, *, with_config: bool = True) -> list[tuple[Path, str]]:
    """Returns the files that determine a model or a tokenizer, each with the prefix of its tensors that are read.

    `with_config` says whether a config.json next to a single file is read too.
    """
    path = hub.fetch(source)
    if not path.is_dir():
        file, prefix = split_file(path)
        if file is None:
            raise ValueError(explain_missing(path))
        config = file.parent / CONFIG
        return [(file, prefix)] + ([(config, "")] if with_config and config.is_file() else [])
    files = [file for file in path.rglob("*") if file.is_file()]
    kept = [file for file in files if file.suffix in (".safetensors", ".json", ".txt", ".model")]
    if not any(file.suffix in SAFETENSORS for file in kept):
        kept += [file for file in files if file.suffix in PICKLES]
    return [(file, "") for file in sorted(kept)]


# --- files ----------------------------------------------------------------------------------------


def _open_file(path: Path) -> tuple[str, Path, Files]:
    """Returns the name of a source for messages, its file, and the tensors."""
    file, prefix = split_file(path)
    if file is None:
        raise ValueError(explain_missing(path))
    index = INDEX.search(file.name)
    if file.suffix == ".json" and not index:
        raise ValueError(f"{file} is no model: give its folder, or the file of its tensors")
    if SHARD.search(file.name) and not index:
        raise ValueError(f"{file} is one of several files of a model: give the folder, or the index of the files")
    files = [inside(file.parent, name) for name in read_index(file)] if index else [file]
    tensors = single.without_wrappers(Files(files))
    if prefix:
        given, tensors = tensors, single.below(tensors, prefix)
        if not tensors:
            raise ValueError(f"{file} has no tensors under {prefix[:-1]}: it has {', '.join(_tops(given))}")
    return f"{file}{'/' + prefix[:-1] if prefix else ''}", file, tensors


def _config_next_to(file: Path, kind: str | None) -> tuple[str, dict] | None:
    """Returns kind and config of the config.json next to a file, if it describes the wanted kind."""
    if not (file.parent / CONFIG).is_file():
        return None
    config = read_json(file.parent / CONFIG)
    found = find_config_kind(config)
    return (found, _translate(config)) if found and kind in (None, found) else None


def _find_model(name: str, tensors: Files, kind: str | None, given: tuple[str, dict] | None) -> tuple[str, dict, Files]:
    """Returns the model in the tensors of a file; `given` is kind and config of a config.json next to it."""
    kind = kind or (given[0] if given else None)
    parts = single.find_parts(tensors, kind)
    if given and not parts:
        return *given, tensors  # an unusual naming: the kind itself checks the names
    if not parts:
        held = sorted({part.origin.kind for part in single.find_parts(tensors)})
        what = f"it holds {', '.join(held)}" if held else f"its tensors are {', '.join(_tops(tensors, 4))}, ..."
        raise ValueError(f"{name} holds no {kind or 'model that is known'}: {what}")
    kinds = sorted({part.origin.kind for part in parts})
    if len(kinds) > 1:
        raise ValueError(f"{name} holds {', '.join(kinds)}: choose one by kind={kinds[0]!r}")
    if len(parts) > 1:
        raise ValueError(_ask(name, kinds[0], parts))
    read = single.read_part(tensors, parts[0])
    if given and "config" not in tensors.metadata:
        return *given, read
    try:
        return kinds[0], single.config_of(read, parts[0]), read
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


def _ask(name: str, kind: str, parts: list[single.Part]) -> str:
    """Returns the error message for several models of one kind."""
    choices = " or ".join(f"{name}/{part.prefix[:-1]}" for part in parts)
    return f"{name} holds {len(parts)} models of the kind {kind}: give {choices}"


def _tops(tensors: Mapping, count: int = 8) -> list[str]:
    """Returns the first names or prefixes of tensors."""
    return sorted({name.split(".")[0] for name in tensors})[:count]


# --- folders --------------------------------------------------------------------------------------


def _open_folder(folder: Path, kind: str | None) -> tuple[str, dict, Files]:
    if not (folder / CONFIG).is_file():
        files = _weights(folder, kind)
        if not files:
            raise ValueError(explain_folder(folder))
        return _find_model(str(folder), single.without_wrappers(Files(files)), kind, None)
    config = read_json(inside(folder, CONFIG))
    name = class_of(config)
    found = single.CONFIGS[name][0] if name in single.CONFIGS else kind_of(config, folder / CONFIG)
    try:
        config = _translate(config)
    except ValueError as error:
        raise ValueError(f"{folder / CONFIG}: {error}") from error
    files = choose_files(folder, KINDS[found].file)
    if kind not in (None, found) and (others := [path.name for path in _other_files(folder, files)]):
        raise ValueError(
            f"{folder} holds a {found}, not a {kind}: give another folder, or another file in it, {', '.join(others)}"
        )
    if not files:
        raise ValueError(f"{folder} holds {CONFIG} and no file of tensors: download the safetensors of the model")
    tensors = single.without_wrappers(Files(files))
    parts = [part for part in single.find_parts(tensors, found) if part.origin.rename or part.prefix]
    if len(parts) > 1:
        raise ValueError(_ask(str(files[0] if len(files) == 1 else folder), found, parts))
    return found, config, single.read_part(tensors, parts[0]) if parts else tensors


def _weights(folder: Path, kind: str | None = None) -> list[Path]:
    """Returns the files of tensors in a folder without config.json; [] for a pipeline or the cache of the hub."""
    if _is_cache(folder) or (folder / PIPELINE).is_file():
        return []
    return choose_files(folder, KINDS[kind].file if kind else "model.safetensors")


def _other_files(folder: Path, chosen: list[Path]) -> list[Path]:
    """Returns the files of tensors in a folder that are not of its own model, and may hold another one."""
    paths = (path for path in sorted(folder.iterdir()) if path.suffix in SAFETENSORS + PICKLES and path not in chosen)
    return [path for path in paths if not is_marked(path.name) and not SHARD.search(path.name)][:8]


def class_of(config: Mapping) -> str | None:
    """Returns the name of the class in a config.json, or None.

    Files that other libraries derive from the authors' configs may lack the name; their keys then tell the class.
    """
    architectures = config.get("architectures")
    first = architectures[0] if isinstance(architectures, list) and architectures else None
    name = config.get("_class_name") or first
    if name is None:
        name = next((name for name, keys in single.SIGNS.items() if keys <= config.keys()), None)
    return name if isinstance(name, str) else None


def find_config_kind(config: Mapping) -> str | None:
    """Returns the kind that a config.json describes, in the words of the libraries or of the authors, or None."""
    name = class_of(config)
    if name in single.CONFIGS:
        return single.CONFIGS[name][0]
    try:
        return kind_of(config, CONFIG)
    except ValueError:
        return None


def _translate(config: dict) -> dict:
    """Returns a config.json in the words of the libraries."""
    name = class_of(config)
    return single.CONFIGS[name][1](config) if name in single.CONFIGS else config


# --- what to give in place ------------------------------------------------------------------------


def explain(source: str | Path) -> str:
    """Returns an error message for a source that is no model."""
    path = Path(source)
    return explain_folder(path) if path.is_dir() else explain_missing(path)


def explain_folder(folder: Path) -> str:
    """Returns an error message for a folder that holds no model."""
    if (folder / PIPELINE).is_file():
        models = {path.parent: find_config_kind(read_json(path)) for path in sorted(folder.glob(f"*/{CONFIG}"))}
        known = [f"{model} ({found})" for model, found in models.items() if found]
        return f"{folder} is a whole pipeline: give one of its models, " + (
            ", ".join(known) or "none of which is known"
        )
    if _is_cache(folder):
        return f"{folder} is the cache of the hub: give {_snapshot(folder)}, or the folder of a model in it"
    inner = [path.parent.name for path in sorted(folder.glob(f"*/{CONFIG}"))[:6]]
    choices = (
        f", such as {', '.join(str(folder / name) for name in inner)}" if inner else ", such as transformer or vae"
    )
    return f"{folder} holds no {CONFIG} and no file of tensors: give the folder of one model{choices}"


def _is_cache(folder: Path) -> bool:
    return folder.name.startswith("models--") and (folder / "snapshots").is_dir()


def _snapshot(folder: Path) -> Path:
    """Returns the snapshot of the main branch in a cache of the hub, or else any snapshot."""
    main = folder / "refs" / "main"
    commit = main.read_text().strip() if main.is_file() else ""
    found = sorted(path.name for path in (folder / "snapshots").iterdir())
    return folder / "snapshots" / (commit if commit in found else found[0] if found else "COMMIT")


def explain_missing(path: Path) -> str:
    """Returns an error message for a path that does not exist."""
    if re.fullmatch(r"[\w.-]+(/[\w.-]+)+", str(path)) and not path.parent.exists():
        return (
            f"there is no folder {path}; if it is a model on the hub, download it, or write hf://{path} "
            "(needs pip install 'jvflow[hub]')"
        )
    if path.parent.is_dir():
        near = sorted(entry.name for entry in path.parent.iterdir())[:8]
        return f"there is no file or folder {path}; {path.parent} holds {', '.join(near) or 'nothing'}"
    return f"there is no file or folder {path}"
