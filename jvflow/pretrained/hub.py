"""Downloads models from the Hugging Face hub, for addresses hf://ORG/NAME/FOLDER@REVISION and nothing else.

Only safetensors and JSON are downloaded, and a tokenizer's spiece.model and merges.txt: never a pickle, never code.
The files go to the hub's own cache, and all come from one commit. Without a network the cache is used.
"""

import os
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import NamedTuple

from jvflow.pretrained.folder import INDEX, SAFETENSORS, choose_names, read_index
from jvflow.pretrained.kinds import KINDS, KNOWN
from jvflow.pretrained.readers import read_json

SCHEME = "hf://"
FORM = "hf://ORG/NAME, hf://ORG/NAME/FOLDER or hf://ORG/NAME/FOLDER@REVISION"
TOKENIZER = ("spiece.model", "merges.txt")


class Address(NamedTuple):
    """A folder or a safetensors file on the hub; `path` is "" for the root."""

    repository: str
    path: str
    revision: str | None

    def __str__(self) -> str:
        inside = f"/{self.path}" if self.path else ""
        return f"{SCHEME}{self.repository}{inside}" + (f"@{self.revision}" if self.revision else "")


def is_address(source: str | Path) -> bool:
    """Returns whether a source is an address on the hub."""
    return str(source).startswith("hf:/")


def parse(source: str | Path) -> Address:
    """Returns the parts of an address; raises ValueError if it has another form."""
    source = str(source)  # a Path has one slash in place of two
    match = re.fullmatch(r"hf:/{1,2}([\w.-]+/[\w.-]+)((?:/[\w.+-]+)*)/?(?:@([\w./+-]+))?", source)
    if not match or {".", ".."} & set(re.split(r"[/@]", source)):
        raise ValueError(f"{source} is no address on the hub: write {FORM}")
    return Address(match[1], match[2].strip("/"), match[3])


def join(source: str | Path, *names: str) -> str | Path:
    """Returns the source of a folder below a folder, on this machine or on the hub."""
    if not is_address(source):
        return Path(source, *names)
    address = parse(source)
    return str(address._replace(path="/".join(filter(None, (address.path, *names)))))


def fetch(source: str | Path, file: str | None = None) -> Path:
    """Returns the local path of a source; downloads the files of the model, if it is an address on the hub.

    Args:
      source: a path, or an address.
      file: the name that the model's kind gives to its file; None to take the kind from its config.json.

    Raises:
      ValueError: if the package huggingface_hub is missing, or the hub has no such model in safetensors.
    """
    return _fetch(parse(source), file) if is_address(source) else Path(source)


@cache  # so that a program reads one state of the hub
def _fetch(address: Address, file: str | None) -> Path:
    try:
        from huggingface_hub import HfApi
        from huggingface_hub.errors import HfHubHTTPError
    except ImportError as error:
        raise ValueError(f"{address} needs the package huggingface_hub: pip install 'jvflow[hub]'") from error
    api = HfApi(endpoint=os.environ.get("HF_ENDPOINT"))
    try:
        info = api.model_info(address.repository, revision=address.revision)
    except HfHubHTTPError as error:
        raise ValueError(f"{address} cannot be downloaded: {_first_line(error)}") from error
    except Exception as error:  # without a network, the package raises the errors of one of several HTTP clients
        return _cached(address, error)
    names = [entry.rfilename for entry in info.siblings or ()]

    def get(name: str) -> Path:
        try:
            return Path(api.hf_hub_download(address.repository, name, revision=info.sha))
        except Exception as error:
            raise ValueError(f"{address} cannot be downloaded, at {name}: {_first_line(error)}") from error

    return _download(address, names, file, get)


def _cached(address: Address, reason: Exception) -> Path:
    """Returns a folder or file that was downloaded before; raises ValueError if there is none."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        folder = snapshot_download(address.repository, revision=address.revision, local_files_only=True)
    except LocalEntryNotFoundError:
        folder = None
    if folder is None or not Path(folder, address.path).exists():
        raise ValueError(f"{address} is not in the cache, and the hub cannot be reached: {reason}") from reason
    return Path(folder, address.path)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _download(address: Address, names: list[str], file: str | None, get: Callable[[str], Path]) -> Path:
    """Downloads the files of a model by `get`, and returns its folder or file; `names` are all files on the hub."""
    if address.path.endswith(SAFETENSORS):
        if address.path not in names:
            raise ValueError(f"{address} does not exist: the hub has {_some(names)} there")
        return get(address.path)
    folder = f"{address.path}/" if address.path else ""
    here = [name.removeprefix(folder) for name in names if name.startswith(folder)]
    here = [name for name in here if "/" not in name]
    if not here:
        raise ValueError(f"{address} does not exist: the hub has {_some(names)} there")
    if "model_index.json" in here:
        models = sorted({name.split("/")[0] for name in names if re.fullmatch(r"[^/]+/config\.json", name)})
        inside = ", ".join(str(join(str(address), name)) for name in models)
        raise ValueError(f"{address} is a whole pipeline: give one of its models, {inside}")
    read = {name: get(folder + name) for name in here if name.endswith(".json") and not INDEX.search(name)}
    if "config.json" in read and file is None:
        config = read_json(read["config.json"])
        kind = KNOWN.get(config.get("_class_name") or next(iter(config.get("architectures") or ()), None))
        file = KINDS[kind].file if kind else None
    safe = [name for name in here if name.endswith(SAFETENSORS) or INDEX.search(name)]
    chosen = choose_names(safe, file or "model.safetensors", str(address))
    if chosen and INDEX.search(chosen[0]):
        chosen += read_index(get(folder + chosen[0]))
    tokenizer = [] if chosen else [name for name in here if name in TOKENIZER or name == "tokenizer.json"]
    if not chosen and not tokenizer:
        raise ValueError(f"{address} holds no safetensors, and only these are downloaded: it holds {_some(here)}")
    paths = [get(folder + name) for name in (*chosen, *tokenizer)]
    return paths[0].parent


def _some(names: list[str]) -> str:
    return ", ".join(names[:8]) + (", ..." if len(names) > 8 else "") or "nothing"
