"""The protocol of FVD that `config.evaluate.fvd` names, and its network, which every evaluation of a process shares."""

import copy
from ast import literal_eval
from dataclasses import replace
from functools import lru_cache

from jvflow.data import pipeline
from jvflow.metrics import extractor
from jvflow.metrics.networks.i3d import MIN_FRAMES
from jvflow.metrics.protocol import PRESETS, Protocol, preset

BATCH = 8
"""Clips that the network sees at a time."""
WEIGHTS = "weights"
"""The entry that names a file with the network's parameters."""
NAMES = tuple(name for name, each in PRESETS.items() if each.metric == "fvd")


def parse(text: str) -> Protocol:
    """Returns the protocol that `config.evaluate.fvd` names: NAME, or NAME,ENTRY=VALUE,... such as original,frames=9.

    The entry weights=FILE is no part of the protocol: `weights_file` returns it.

    Raises ValueError for unknown names, for values that are not allowed, and for protocols of another metric.
    """
    return _parse(text)[0]


def weights_file(text: str) -> str | None:
    """Returns the file of the network's parameters that `config.evaluate.fvd` names, None for the installed ones."""
    return _parse(text)[1]


def _parse(text: str) -> tuple[Protocol, str | None]:
    name, *entries = (part.strip() for part in text.split(","))
    if name not in NAMES:
        raise ValueError(f"unknown protocol {name!r}: use one of {', '.join(NAMES)}")
    changes, file = {}, None
    for entry in entries:
        key, equals, value = entry.partition("=")
        if not (key and equals and value):
            raise ValueError(f"{entry!r} is no entry of a protocol: write NAME,ENTRY=VALUE, such as {name},frames=9")
        if key == WEIGHTS:
            file = value
            continue
        try:
            changes[key] = literal_eval(value)
        except (ValueError, SyntaxError):
            changes[key] = value
    return preset(name, changes), file


def check_network(text: str) -> None:
    """Raises ValueError if `config.evaluate.fvd` asks for a distance and its network cannot be loaded."""
    if not text:
        return
    protocol, file = _parse(text)
    try:
        _network(_network_entries(protocol), file)
    except ValueError as error:
        reason = str(error).replace("--weights=FILE", f"{text},{WEIGHTS}=FILE")  # the flag is that of `jvflow score`
        raise ValueError(f"FVD ({text}) cannot be computed: {reason}, or leave FVD out") from error


def is_installed(text: str) -> bool:
    """Returns whether the network of this protocol can be loaded."""
    try:
        check_network(text)
    except ValueError:
        return False
    return True


def _network_entries(protocol: Protocol) -> Protocol:
    """Returns the entries that determine the network and its input; those of windows and sums are the default's."""
    default = PRESETS["original"]
    unread = ("name", "frames", "frame_step", "window", "window_stride", "seed", "real_count", "generated_count")
    unread += ("redraw", "ddof", "precision")
    return replace(protocol, **{name: getattr(default, name) for name in unread})


@lru_cache(maxsize=2)
def _network(protocol: Protocol, file: str | None) -> extractor.Extractor:
    return extractor.Extractor(protocol, file, batch=BATCH)


def bound_network(protocol: Protocol, file: str | None = None) -> extractor.Extractor:
    """Returns the network for this protocol; protocols with equal networks share parameters and programs.

    `file` holds the network's parameters; by default they are those of the extra `metrics`.
    """
    shared = copy.copy(_network(_network_entries(protocol), file))
    shared.protocol = protocol
    return shared


def fit(text: str, made: int, real: int, *, asked: bool, cure: str = "") -> tuple[Protocol | None, dict]:
    """Returns the protocol for videos and real clips of these lengths, and {"frames": [before, now]} if it changed.

    Args:
      text: `config.evaluate.fvd`.
      made, real: frames of the generated videos, and of the real clips.
      asked: whether the command names the protocol; then it is not adapted.
      cure: how to make longer videos, for the error.

    Returns None, with a warning, if the videos are shorter than I3D takes.

    Raises:
      ValueError: if `asked` and the videos are shorter than a clip of the protocol.
    """
    protocol, have = parse(text), min(made, real)
    if have >= protocol.span:
        return protocol, {}
    frames = (have - 1) // protocol.frame_step + 1
    short = f"clips of {protocol.span} frames, generated videos have {made} and real clips {real}"
    if asked:
        same = f",{WEIGHTS}={file}" if (file := weights_file(text)) else ""
        ways = [f"--fvd={protocol.name.removesuffix(' (changed)')},frames={frames}{same}"] * (frames >= MIN_FRAMES)
        ways += [cure] * bool(cure)
        least = "" if frames >= MIN_FRAMES else f" (I3D takes {MIN_FRAMES} or more)"
        raise ValueError(f"--fvd={text} needs {short}{least}: use {', or '.join(ways)}")
    if frames < MIN_FRAMES:
        pipeline.warn_once("warning: no FVD: config.evaluate.fvd=%s needs %s, and I3D %s", text, short, MIN_FRAMES)
        return None, {}
    pipeline.warn_once("warning: config.evaluate.fvd=%s needs %s: it uses frames=%s", text, short, frames)
    name = protocol.name.removesuffix(" (changed)")
    return replace(protocol, frames=frames, name=f"{name} (changed)"), dict(frames=[protocol.frames, frames])
