"""Chooses the files of a model in its folder as the public libraries do, so that no other file is read by accident.

    1. the kind's own file, such as diffusion_pytorch_model.safetensors, or its shards
    2. else its only variant, such as diffusion_pytorch_model.fp16.safetensors
    3. else the only other file, or the only other set of shards

Names that say backup, ema, optimizer and the like are never chosen. If more than one set is left, ValueError names the
sets, and a person gives one file in place of the folder. safetensors go before files that PyTorch saved.
"""

import re
from collections.abc import Iterable
from pathlib import Path

from jvflow.pretrained.readers import AGAIN, read_json

SAFETENSORS, PICKLES = (".safetensors",), (".bin", ".pt", ".pth", ".ckpt")
UNREAD = (".gguf", ".msgpack", ".h5", ".onnx", ".tflite", ".pkl", ".npz")
"""Suffixes of other formats of models, which are not read."""
PRECISIONS = ("fp32", "fp16", "bf16", "float32", "float16", "bfloat16")
MARKS = set(
    "old bak backup copy ema optimizer optim scheduler scaler training random states lora adapter discriminator".split()
)
"""Words in the names of files that are not the model, or not its present parameters."""
SHARD = re.compile(r"-(\d{5})-of-(\d{5})")
INDEX = re.compile(r"\.index(\.[^.]+)?\.json$")


def choose_files(folder: Path, file: str) -> list[Path]:
    """Returns the files of the model in a folder, or [] if it holds none.

    Args:
      folder: a folder of one model.
      file: the name that the model's kind gives to its file.

    Raises:
      ValueError: if several sets of files are left, a shard is missing, or a file is outside of the folder.
    """
    names = sorted(path.name for path in folder.iterdir() if path.is_file())
    chosen = choose_names(names, file, str(folder))
    if chosen and INDEX.search(chosen[0]):
        chosen = read_index(inside(folder, chosen[0]))
        missing = [name for name in chosen if not (folder / name).is_file()]
        if missing:
            raise ValueError(f"{folder / missing[0]} does not exist, and the index of the model names it: {AGAIN}")
    if not chosen:
        strange = [name for name in names if name.endswith(UNREAD)]
        if strange:
            raise ValueError(f"{folder} holds no safetensors but {', '.join(strange[:3])}, which is not read: {GET}")
    return [inside(folder, name) for name in chosen]


GET = "download the safetensors of the model"


def choose_names(names: Iterable[str], file: str, folder: str) -> list[str]:
    """Returns the names of the model's files among the names in a folder: files, or only the index of its shards."""
    names = list(names)
    stem = file.rpartition(".")[0]
    for suffixes in (SAFETENSORS, PICKLES):
        stems = {stem} | ({"pytorch_model"} if suffixes is PICKLES else set())
        sets = find_sets(names, suffixes)
        label = _choose_set(sets, stems, folder)
        if label:
            return _members(sets[label], label, folder, index_first=stem != "model")
    return []


def find_sets(names: Iterable[str], suffixes: tuple[str, ...]) -> dict[str, list[str]]:
    """Returns sets of files that belong together, by their common name without the numbers of shards."""
    sets = {}
    for name in names:
        index = INDEX.search(name)
        whole = name[: index.start()] if index else name
        if not whole.endswith(suffixes):
            continue
        if index and index[1]:  # NAME.safetensors.index.fp16.json
            base, _, suffix = whole.rpartition(".")
            whole = f"{base}{index[1]}.{suffix}"
        sets.setdefault(SHARD.sub("", whole), []).append(name)
    return sets


def is_marked(name: str) -> bool:
    """Returns whether the name of a file says that it is no model, or not the one to use."""
    return bool(MARKS & set(re.split(r"[^a-z]+", name.lower())))


def _choose_set(sets: dict[str, list[str]], stems: set[str], folder: str) -> str | None:
    """Returns the label of the set to read, or None if there is none."""
    own = [label for label in sets if label.rpartition(".")[0] in stems]
    variants, others = [], []
    for label in sets:
        stem = next((stem for stem in stems if label.startswith(f"{stem}.") and label not in own), None)
        if not is_marked(label) and label not in own:
            (others if stem is None else variants).append(label)
    exact = [label for label in variants if label.split(".")[-2] in PRECISIONS]
    for found in (own, exact or variants, others):
        if len(found) > 1:
            raise ValueError(
                f"{folder} holds {', '.join(sets[label][0] for label in found)}, and none has the usual name: "
                "give the path of the file in place of the folder"
            )
        if found:
            return found[0]
    if sets:
        marked = ", ".join(members[0] for members in sets.values())
        raise ValueError(
            f"{folder} holds only {marked}, which by its name is not the model to use: give the path of the file if it "
            f"is, or {GET}"
        )
    return None


def _members(names: list[str], label: str, folder: str, *, index_first: bool) -> list[str]:
    """Returns the files of a set, or its index. diffusers looks for the index first, transformers for the file."""
    index = [name for name in names if INDEX.search(name)]
    if label in names and not (index and index_first):
        return [label]
    if index:
        return index[:1]
    numbers = [SHARD.search(name) for name in names]
    total = int(numbers[0][2])
    absent = sorted(set(range(1, total + 1)) - {int(number[1]) for number in numbers if int(number[2]) == total})
    if absent or len(names) > total:
        raise ValueError(
            f"{folder} holds {len(names)} files {label} of {total}"
            + (f", number {absent[0]} is missing: {AGAIN}" if absent else ", of two downloads: keep one of them")
        )
    return names


def read_index(path: Path) -> list[str]:
    """Returns the names of the shards in an index; raises ValueError for a name that is not one of a file."""
    entries = read_json(path).get("weight_map")
    names = set(entries.values()) if isinstance(entries, dict) and _are_strings(entries.values()) else None
    if not names:
        raise ValueError(f"{path} has no weight_map from tensors to files: {AGAIN}")
    for name in names:
        if "/" in name or "\\" in name or "\0" in name or not name.endswith(SAFETENSORS + PICKLES):
            raise ValueError(f"{path} names {name!r}, and shards are files in the same folder: {AGAIN}")
    return sorted(names)


def _are_strings(values: Iterable) -> bool:
    return all(isinstance(value, str) for value in values)


def inside(folder: Path, name: str) -> Path:
    """Returns the path of a file in a folder; raises ValueError if it is a link to a file outside.

    The hub's own cache links to files in a folder named blobs, which is allowed.
    """
    path, real = folder / name, (folder / name).resolve()
    blob = real.parent.name == "blobs" and real.parent.parent.name.startswith("models--")
    if not blob and not real.is_relative_to(folder.resolve()):
        raise ValueError(
            f"{path} is a link to {real}, outside of its folder: copy the file there, or give the file in place of the "
            "folder"
        )
    return path
