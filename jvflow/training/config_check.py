"""Checks every value of a config before anything is built or written.

The rules of the entries that all papers share are here; each paper adds the rules of its own entries (`Method.rules`).
Sizes that do not fit one another are found later, when the experiment is assembled, but also before anything is
written.
"""

import dataclasses
import difflib
import reprlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from importlib import import_module

from ml_collections import ConfigDict

from jvflow import codecs, text
from jvflow.data import dataset, latents, procedural
from jvflow.experiment import method_of
from jvflow.networks import NETWORKS, precision
from jvflow.networks.layers import REMAT
from jvflow.training.rules import (
    BELOW_ONE,
    BOOLEAN,
    COUNT,
    DTYPE,
    FRACTION,
    FVD,
    NAME,
    NOT_NEGATIVE,
    NUMBER,
    POSITIVE,
    RATE,
    SEED,
    TEXT,
    Rule,
    check,
    choice,
    many,
    problem,
    real,
    refuse,
    special,
    whole,
)

EVERY = special(0, "for never", COUNT)
AXIS = special(-1, "for the remaining devices", COUNT)
FILES = many(NAME, "a tuple of paths, such as ('FOLDER/vae',)")
SIZE = many(
    COUNT, "(height, width) in pixels, two whole numbers of 1 or more, such as '--config.data.size=(64,64)'", (2,)
)
PATCH = many(
    COUNT, "(frames, height, width), three whole numbers of 1 or more, such as '--config.network.patch=(1,2,2)'", (3,)
)

RULES: Mapping[str, Rule] = {
    "method": TEXT,
    "objective": TEXT,
    "seed": SEED,
    "pretrained": TEXT,
    "pretrained_state": BOOLEAN,
    "codec.name": choice("pixels", *codecs.CODECS),
    "codec.checkpoint": FILES,
    "codec.scale": POSITIVE,
    "codec.tile": whole(0),
    "codec.piece": whole(0),
    "codec.time": FRACTION,
    "codec.dtype": choice(*precision.DTYPES),
    "codec.tiny": BOOLEAN,
    "codec.steps": COUNT,
    "codec.guidance": NUMBER,
    "codec.prompt": TEXT,
    "text.name": choice("none", "bytes", *text.ENCODERS),
    "text.checkpoint": FILES,
    "text.length": COUNT,
    "text.group": COUNT,
    "text.width": COUNT,
    "text.depth": COUNT,
    "text.heads": COUNT,
    "text.dtype": DTYPE,
    "text.by_layer": BOOLEAN,
    "text.attend_padding": BOOLEAN,
    "data.path": TEXT,
    "data.cache": TEXT,
    "data.seed": SEED,
    "data.captions": TEXT,
    "data.splits": TEXT,
    "data.slow": choice("skip", "error"),
    "data.image_fps": special(0, "to skip folders of images", RATE),
    "data.fit": choice("crop", "squeeze"),
    "data.test_fraction": real(0, 0.999999, "a number of 0 or more and below 1"),
    "data.threads": special(0, "to read on demand", COUNT),
    "data.clips.train": whole(0, dataset.TEST_SEEDS),
    "data.clips.test": whole(0, dataset.TEST_SEEDS),
    "data.min_frames": special(0, "to keep the length of clips", COUNT),
    "data.dtype": choice(*latents.DTYPES),
    "data.frames": COUNT,
    "data.fps": RATE,
    "data.size": SIZE,
    "data.stride": COUNT,
    "optimizer.name": choice("adamw", "grams"),
    "optimizer.schedule": choice("constant", "linear", "cosine"),
    "optimizer.learning_rate": POSITIVE,
    "optimizer.warmup_steps": whole(0),
    "optimizer.b1": BELOW_ONE,
    "optimizer.b2": BELOW_ONE,
    "optimizer.eps": POSITIVE,
    "optimizer.weight_decay": NOT_NEGATIVE,
    "optimizer.max_grad_norm": NOT_NEGATIVE,
    "optimizer.ema": BELOW_ONE,
    "tune.layers": many(NAME, "a tuple of regular expressions, such as ('attn1',), or () for all layers"),
    "tune.rank": special(0, "for no LoRA matrices", COUNT),
    "tune.alpha": POSITIVE,
    "tune.lora": TEXT,
    "tune.dtype": choice(*precision.DTYPES),
    "train.steps": special(0, "to write the model that a run starts from", COUNT),
    "train.batch_size": COUNT,
    "run.mesh.data": AXIS,
    "run.mesh.fsdp": AXIS,
    "run.mesh.sequence": AXIS,
    "run.mesh.tensor": AXIS,
    "run.microbatches": COUNT,
    "run.remat": choice(*REMAT),
    "run.keep": COUNT,
    "run.log_every": EVERY,
    "run.checkpoint_every": EVERY,
    "run.sample_every": EVERY,
    "run.validate_every": EVERY,
    "run.evaluate_every": EVERY,
    "run.progress": BOOLEAN,
    "run.tensorboard": BOOLEAN,
    "evaluate.fvd": FVD,
    "network.name": choice(*NETWORKS),
    "network.width": COUNT,
    "network.depth": COUNT,
    "network.heads": COUNT,
    "network.head": COUNT,
    "network.hidden": COUNT,
    "network.patch": PATCH,
    "network.mlp_ratio": real(0.25, 1000),
    "network.time_scale": POSITIVE,
    "network.dtype": choice("float32", "bfloat16"),  # gradients in float16 would need a scaled loss
    "network.scan": BOOLEAN,
    "network.local": BOOLEAN,
    "network.attention": whole(0),
    "network.kernel": choice("auto", "cudnn", "splash", "xla"),
    "network.scales": many(NUMBER, "a tuple of numbers"),
    "network.labels": whole(0),
    "network.each_embeds": BOOLEAN,
    "network.frequency_shift": whole(0, 1),
    "network.mlp_epsilon": POSITIVE,
    "network.epsilon": POSITIVE,
    "network.causal": BOOLEAN,
    "network.norm_text": BOOLEAN,
    "network.levels": many(COUNT, "a tuple of whole numbers of 1 or more, such as (1, 2)", range(1, 32)),
    "network.attends": many(BOOLEAN, "a tuple with True or False for each level", range(1, 32)),
    "network.blocks": COUNT,
    "network.groups": COUNT,
    "network.shared": BOOLEAN,
    "network.frames": COUNT,
}
"""The rule of each entry that every paper may have."""
NETWORK_CONFIGS = dict(dit="DiTConfig", unet="UNetFieldConfig", ltx="LTXConfig", wan="WanConfig")
"""The class in the module of each network whose fields are the entries of `config.network`."""
GIVEN = {"channels", "context", "coordinates", "velocities", "text_width", "outputs", "captions", "remat"}
"""Fields of these classes that the experiment determines."""
ROTATES_PAIRS = ("ltx", "wan")
"""Networks that rotate pairs of channels of a head."""


def check_config(config) -> None:
    """Raises ValueError if entries of a config have values that are not allowed, or contradict each other.

    The message has a line for each of them. Entries that the config lacks are no error here.
    """
    if not isinstance(config, ConfigDict):
        raise ValueError(
            f"the config is a {type(config).__name__}: let get_config return a ConfigDict of ml_collections"
        )
    tree = config.to_dict()
    check((f"config.{name}", tree[name], TEXT) for name in ("method", "objective") if name in tree)
    own = method_of(config).rules
    rules = {**RULES, **own.entries}
    refuse(_wrong_values(tree, rules, tree["objective"]))
    refuse([*_present(_misfits(tree)), *_present(own.contradictions(tree))])


def check_overrides(config, section: str, entries: Mapping) -> None:
    """Raises ValueError if `config[section]` cannot have these entries; see `check_config`."""
    tree = config.to_dict()
    tree[section] |= entries
    own = method_of(config).rules
    rules = {**RULES, **own.entries}
    refuse(_wrong_values({section: tree[section]}, rules, tree["objective"]))
    refuse(sentence for sentence in _present(own.contradictions(tree)) if sentence.startswith(f"config.{section}."))


def _wrong_values(tree: Mapping, rules: Mapping[str, Rule], objective: str, prefix: str = "") -> Iterator[str]:
    """Yields a sentence for each entry that has no rule, or another value than its rule allows."""
    for name, value in tree.items():
        path = f"{prefix}{name}"
        inside = [known for known in rules if known.startswith(f"{path}.")]
        # an entry of the network may be a dict with a value for each objective
        if path in rules and isinstance(value, Mapping) and path.startswith("network."):
            yield "" if objective in value else f"config.{path} has no value for the objective {objective}"
            for key, part in value.items():
                yield problem(f"config.{path}.{key}", part, rules[path])
        elif path in rules:
            yield problem(f"config.{path}", value, rules[path])
        elif inside and isinstance(value, Mapping):
            yield from _wrong_values(value, rules, objective, f"{path}.")
        elif inside:
            names = ", ".join(known.removeprefix(f"{path}.") for known in inside)
            yield f"config.{path} is {reprlib.repr(value)}: use a dict with the entries {names}"
        else:
            near = difflib.get_close_matches(path, rules, n=1)
            yield f"config.{path} is unknown: " + (f"did you mean config.{near[0]}?" if near else "remove it")


def _misfits(config: dict) -> Iterator[str]:
    """Yields a sentence for each pair of entries that contradict each other, among those of every paper."""
    data = config.get("data", {})
    if data.get("min_frames", 0) > data.get("frames", 0):
        yield (
            f"config.data.min_frames is {data['min_frames']}, more than config.data.frames={data['frames']}: use "
            f"{data['frames']} or less"
        )
    if config.get("train", {}).get("steps", 1) == 0 and not config.get("pretrained"):
        yield "config.train.steps is 0, and config.pretrained names no model: use a whole number of 1 or more"
    if data.get("path", "").startswith(dataset.PROCEDURAL):
        if not data["clips"]["train"]:
            yield "config.data.clips.train is 0: use a whole number of 1 or more for procedural video"
        if min(data["size"]) < procedural.SMALLEST:
            yield (
                f"config.data.size is {tuple(data['size'])}: use at least {procedural.SMALLEST} pixels a side for "
                "procedural video"
            )
    if name := config.get("network", {}).get("name"):
        module = import_module(f"jvflow.networks.{NETWORKS[name]}")
        fields = dataclasses.fields(getattr(module, NETWORK_CONFIGS[name]))
        needed = {field.name for field in fields if field.default is dataclasses.MISSING} - GIVEN
        given = config["network"].keys() - {"name"}
        unknown, missing = sorted(given - {field.name for field in fields}), sorted(needed - given)
        if unknown or missing:
            differences = [f"does not take {', '.join(unknown)}"] * bool(unknown)
            differences += [f"needs {', '.join(missing)}"] * bool(missing)
            yield (
                f"config.network.name is {name!r}, a network that {' and '.join(differences)}: start from a config "
                "that has this network"
            )
        if name in ROTATES_PAIRS and config["network"]["head"] % 2:
            yield f"config.network.head is {config['network']['head']}: use an even number for the network {name}"


def _present(sentences: Iterable[str]) -> Iterator[str]:
    """Yields sentences until one needs an entry that the config lacks."""
    with suppress(KeyError):
        yield from sentences
