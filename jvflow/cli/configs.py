"""Configs on the command line: finds their files, expands shorthands, explains mistakes in overrides, and lists keys.

Nothing here imports JAX.
"""

import json
import os
import re
import traceback
from functools import reduce
from operator import getitem
from pathlib import Path

from absl import flags
from ml_collections import ConfigDict, config_flags

flags.disclaim_key_flags()  # --help lists --show under the command that defines it
PACKAGE = Path(__file__).resolve().parents[1]
SIZES = {
    "small": dict(width=384, depth=12, heads=6),
    "base": dict(width=768, depth=12, heads=12),
    "large": dict(width=1024, depth=24, heads=16),
    "xlarge": dict(width=1152, depth=28, heads=16),
}
"""The sizes DiT-S, DiT-B, DiT-L and DiT-XL (Peebles and Xie, 2023, table 1), as entries of config.network."""
NAMED = re.compile(r"--?config\.network=([A-Za-z][\w-]*)")
SECTION = re.compile(r"flag --([\w.]+)=(.*?): Failed to parse .* as a ConfigDict")


def find_config(path: str) -> str:
    """Returns the path of a config given as FILE or FILE:MODE, for any working directory.

    Searches the working directory, then the checkout, then the installed package. Returns `path` unchanged if no such
    file exists.
    """
    path = os.path.expanduser(path)
    file = path.partition(":")[0]
    for root in (Path(), PACKAGE.parent, PACKAGE):
        if (root / file).exists():
            return str(root / path)
    return path


def with_found_file(argv: list[str]) -> list[str]:
    """Returns the arguments with the path of --config as `find_config` finds it."""
    joined = []
    for argument in argv:
        if joined and joined[-1] == "--config":
            joined[-1] += f"={argument}"
        else:
            joined.append(argument)
    return [f"--config={find_config(a.split('=', 1)[1])}" if a.startswith("--config=") else a for a in joined]


def expand_sizes(argv: list[str]) -> list[str]:
    """Returns the arguments with the entries of a network's size in place of its name, --config.network=large.

    Raises:
      ValueError: if the name is no size.
    """
    return [part for argument in argv for part in _entries_of_size(argument)]


def _entries_of_size(argument: str) -> list[str]:
    named = NAMED.fullmatch(argument)
    if not named:
        return [argument]
    if named[1] not in SIZES:
        raise ValueError(
            f"{argument} is no size: use one of {', '.join(SIZES)}, or set single entries, such as "
            "--config.network.width=384"
        )
    return [f"--config.network.{key}={value}" for key, value in SIZES[named[1]].items()]


def check_file(argv: list[str]) -> None:
    """Raises ValueError if the file of --config does not exist."""
    for argument in argv:
        file = argument.removeprefix("--config=").partition(":")[0]
        if argument.startswith("--config=") and not Path(file).is_file():
            raise ValueError(
                f"{argument} is no file: give FILE.py or FILE.py:MODE; its folder is looked up here and in the package"
            )


def check_type() -> None:
    """Raises ValueError if --config is given and its file returns no ConfigDict."""
    config = flags.FLAGS["config"].value if "config" in flags.FLAGS else None
    if not isinstance(config, ConfigDict | None):
        kind = type(config).__name__
        raise ValueError(f"the config is a {kind}: let get_config return a ConfigDict of ml_collections")


def square_size() -> None:
    """Makes one number for the size of videos, --config.data.size=64, a square, (64, 64)."""
    for flag in (flags.FLAGS[name] for name in flags.FLAGS):
        if isinstance(flag.value, ConfigDict):
            size = config_flags.get_override_values(flag).get("data.size", ())
            if len(size) == 1 and isinstance(size[0], int):
                flag.value.data.size = size * 2


def explain(error: Exception, given: list[str]) -> str:
    """Returns one sentence for an error that the flags, the config's file or an override raised.

    `given` holds the arguments as the user wrote them.
    """
    text = " ".join(str(error).split())
    file = next((a.split("=", 1)[1] for a in with_found_file(given) if a.startswith("--config=")), "the config")
    if "Error whilst parsing config file" in text:  # followed by a traceback
        return f"{file}: {str(error).strip().splitlines()[-1]}"
    if isinstance(error, flags.Error):
        return f"{_wrong_flag(text)} (--help lists the flags)"
    if "has no attribute 'get_config'" in text:
        return f"{file} has no function get_config: let it return a ConfigDict, as the files in configs/ do"
    if isinstance(error, AttributeError | KeyError) and any(a.startswith("--config.") for a in given):
        return _unknown_key(error, given)
    if isinstance(error, ValueError | OSError):
        return text
    frames = traceback.extract_tb(error.__traceback__)
    where = next((frame for frame in reversed(frames) if frame.filename == file.partition(":")[0]), frames[-1])
    line = "" if isinstance(error, SyntaxError) else f" ({where.filename}, line {where.lineno})"  # it has its own
    return f"{file} cannot be read: {type(error).__name__}: {text}{line}"


def _unknown_key(error: Exception, given: list[str]) -> str:
    """Returns the sentence for an override of a key that the config lacks; ml_collections suggests the nearest one."""
    text = str(error).strip("\"'").replace("\\'", "'").replace("\\n", ". ")
    text = text if "'" in text else f"'{text}'"
    sizes = [argument for argument in given if NAMED.fullmatch(argument)]
    note = f"; {sizes[0]} sets width, depth and heads of a DiT: leave it out for another network" if sizes else ""
    given = ", ".join(argument for argument in given if argument.startswith("--config."))
    return f"the config has no key {text} (given: {given}){note}"


def _wrong_flag(text: str) -> str:
    """Returns the sentence for a mistake in the flags."""
    if missing := re.search(r"Flag --(\w+) must have a value other than None", text):
        return f"--{missing[1]} is missing: give --{missing[1]}=VALUE"
    if section := SECTION.match(text):
        name, value = section.groups()
        keys = _section(name)
        one = f"set them one by one, such as --{name}.{keys[0]}=VALUE" if keys else "give a dict"
        return f"--{name}={value}: {name} has the entries {', '.join(keys) or 'none'}: {one}"
    if number := re.search(r"(--[\w.]+=.*): (invalid literal for int|could not convert string to float)", text):
        return f"{number[1]}: give {'a whole number' if 'int' in number[2] else 'a number'}"
    return text


def _section(name: str) -> list[str]:
    """Returns the entries of a section of the config that a flag names, such as "config.data.clips"."""
    flag, *path = name.split(".")
    section = flags.FLAGS[flag].value
    for key in path:
        section = section[key]
    return _keys(section)


def define_show(*required: str) -> None:
    """Defines the flag --show, and makes the flags with these names required unless it is given."""
    flags.DEFINE_boolean("show", False, "Only list the keys of --config with their values, and do nothing else.")
    for name in required:
        message = f"Flag --{name} must have a value other than None"
        given = lambda values, name=name: values["show"] or values[name] is not None
        flags.register_multi_flags_validator([name, "show"], given, message)


def given() -> dict[str, object]:
    """Returns --config and its overrides, without the path of the data: {"config": FILE, "config.KEY": value}."""
    flag = flags.FLAGS["config"]
    keys = [key for key in config_flags.get_override_values(flag) if key != "data.path"]
    overrides = {f"config.{key}": reduce(getitem, key.split("."), flag.value) for key in keys}
    return {"config": config_flags.get_config_filename(flag)} | overrides


def listed(config: ConfigDict, prefix: str = "config") -> str:
    """Returns a line `key = value` for each entry of a config, in its order."""
    lines = []
    for key in _keys(config):
        path, value = f"{prefix}.{key}", config[key]
        if isinstance(value, ConfigDict):
            lines.append(listed(value, path) if len(value) else f"{path} = {{}}")
        else:
            lines.append(f"{path} = {value!r}")
    return "\n".join(lines)


def _keys(section: ConfigDict) -> list[str]:
    """Returns the keys of a section in the config's order; ConfigDict itself sorts them."""
    return list(json.loads(section.to_json_best_effort()))
