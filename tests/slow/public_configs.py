"""Compares public configs with the packages that published them; needs the extra `dev`.

    python tests/slow/public_configs.py                 the tables of default values
    python tests/slow/public_configs.py --configs=DIR   and all configs DIR/KIND/*.json; prints a table of them

For each config that is read, the names and shapes of all tensors must equal those of the package, which builds the
model on torch's meta device, without memory. A config of the authors (folder original) must also describe the same
network as one of the package's configs. For each scheduler, a_t and timesteps must equal the package's. For each
tokenizer, the tokens of captions must equal the package's, with a small vocabulary in the place of the model's. An
index of a pipeline must be refused with its subfolders.
"""

import argparse
import collections
import dataclasses
import importlib
import inspect
import json
import re
import sys
import tempfile
from pathlib import Path

import diffusers
import numpy as np
import tokenizers
import torch
import transformers

from jvflow.flow.schedule import CLASSES, TRAINING, Schedule
from jvflow.pretrained import KINDS, kinds, single, sources, t5_encoder
from jvflow.text import clip_text, t5

PACKAGES = {
    "dit": diffusers.DiTTransformer2DModel,
    "sd_vae": diffusers.AutoencoderKL,
    "taesd": diffusers.AutoencoderTiny,
    "unet2d": diffusers.UNet2DModel,
    "sd_unet": diffusers.UNet2DConditionModel,
    "ltx_transformer": diffusers.LTXVideoTransformer3DModel,
    "ltx_vae": diffusers.AutoencoderKLLTXVideo,
    "wan_transformer": diffusers.WanTransformer3DModel,
    "wan_vae": diffusers.AutoencoderKLWan,
}
OTHER_VERSIONS = {"wan_vae": {"clip_output"}, "t5_encoder": {"dense_act_fn", "is_gated_act"}}
"""Keys of a table that the class of the installed package does not declare."""
STEPS = (5, 20, 50)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--configs", type=Path, help="folder with a folder of json files for each kind")
    configs = parser.parse_args().configs
    wrong = compare_defaults()
    print(
        f"{len(wrong)} defaults differ from diffusers {diffusers.__version__}, transformers {transformers.__version__}"
    )
    for line in wrong:
        print(f"  {line}")
    if configs:
        wrong += compare_configs(configs)
    sys.exit(1 if wrong else 0)


# --- defaults -------------------------------------------------------------------------------------


def compare_defaults() -> list[str]:
    """Returns a line for each default that differs from the package's, and for each key that only one of them has."""
    wrong = []
    for kind, model in PACKAGES.items():
        table = importlib.import_module(f"jvflow.pretrained.{kind}").KEYS
        wrong += _differences(kind, {key: entry.default for key, entry in table.items()}, _signature(model))
    clip = importlib.import_module("jvflow.pretrained.clip_text").KEYS
    tables = {
        "clip_text": (clip, transformers.CLIPTextConfig),
        "t5_encoder": (t5_encoder.KEYS, transformers.T5Config),
        "umt5": (t5_encoder.UMT5_KEYS, transformers.UMT5Config),
    }
    for name, (table, config) in tables.items():
        inherited = {field.name for field in dataclasses.fields(transformers.PreTrainedConfig)} - table.keys()
        fields = {f.name: f.default for f in dataclasses.fields(config) if f.name not in inherited}
        kind = "t5_encoder" if "t5" in name else name
        wrong += _differences(kind, {key: entry.default for key, entry in table.items()}, fields)
    for name, (_, _, defaults) in CLASSES.items():
        theirs, ours = _signature(getattr(diffusers, name)), TRAINING | defaults
        shared = ours.keys() & theirs.keys()
        wrong += _differences(name, {k: ours[k] for k in shared}, {k: theirs[k] for k in shared})
    return wrong


def _signature(model) -> dict:
    parameters = inspect.signature(model.__init__).parameters
    return {name: p.default for name, p in parameters.items() if name != "self" and p.kind is not p.VAR_KEYWORD}


def _differences(name: str, ours: dict, theirs: dict) -> list[str]:
    plain = lambda value: list(value) if isinstance(value, tuple) else value
    keys = (ours.keys() | theirs.keys()) - OTHER_VERSIONS.get(name, set())
    missing = "no such key"
    pairs = [(key, plain(ours.get(key, missing)), plain(theirs.get(key, missing))) for key in sorted(keys)]
    return [f"{name} {key}: {a!r} here, {b!r} in the package" for key, a, b in pairs if a != b]


# --- configs --------------------------------------------------------------------------------------


def compare_configs(folder: Path) -> list[str]:
    """Prints a table of all configs; returns a line for each that differs from the package."""
    rows, wrong = collections.defaultdict(list), []
    special = dict(scheduler=compare_schedule, tokenizer=compare_tokenizer, model_index=compare_index)
    for file in sorted(folder.glob("*/*.json")):
        config = json.loads(file.read_text())
        try:
            outcome, differences = "read", special.get(file.parent.name, compare_model)(config, file)
            wrong += [f"{file}: {line}" for line in differences]
        except ValueError as error:
            outcome = str(error).partition(": use one of")[0].removeprefix(f"{file.parent}/").removeprefix(file.name)
        rows[file.parent.name, outcome.strip()].append(file.stem)
    print("\n| folder | configs | outcome |\n| --- | --- | --- |")
    for (kind, outcome), files in sorted(rows.items(), key=lambda row: (row[0][0], row[0][1] != "read", row[0][1])):
        print(f"| {kind} | {len(files)} | {outcome} |")
    print(f"\n{sum(map(len, rows.values()))} configs; {len(wrong)} tensors, numbers or tokens differ")
    for line in wrong:
        print(f"  {line}")
    return wrong


def compare_model(config: dict, file: Path) -> list[str]:
    """Returns differences of names and shapes; raises ValueError if the config is refused."""
    name = sources.class_of(config)
    wrong = []
    if name in single.CONFIGS:
        kind, translate = single.CONFIGS[name]
        config = translate(config)
        wrong = _differences_of_network(kind, config, sorted(file.parents[1].glob(f"{kind}/*.json")))
    kind = KINDS[kinds.kind_of(config, file.name)]
    model = kind.model(config, kind.namings[0])
    ours = {}
    for entry in model.layout:
        for name, tensor in zip(
            entry.names, entry.write(np.broadcast_to(False, model.shapes[entry.path].shape)), strict=True
        ):
            ours[name] = tuple(tensor.shape)
    with torch.device("meta"):
        theirs = {name: tuple(tensor.shape) for name, tensor in _reference(config).state_dict().items()}
    ignored = lambda name: any(re.fullmatch(pattern, name) for pattern in model.ignored)
    names = [name for name in ours.keys() | theirs.keys() if name in ours or not ignored(name)]
    return wrong + [
        f"{name}: {ours.get(name)}, {theirs.get(name)}" for name in sorted(names) if ours.get(name) != theirs.get(name)
    ]


def _differences_of_network(kind: str, config: dict, files: list[Path]) -> list[str]:
    """Returns differences between a translated config and the nearest of the package's configs."""
    table = importlib.import_module(f"jvflow.pretrained.{kind}").KEYS
    fill = lambda given: {key: given.get(key, entry.default) for key, entry in table.items()}
    found = [_differences(file.stem, fill(config), fill(json.loads(file.read_text()))) for file in files]
    return min(found, key=len)


def _reference(config: dict):
    """Returns the package's model of a config."""
    kind = kinds.kind_of(config, "config")
    if kind in PACKAGES:
        return PACKAGES[kind].from_config(dict(config))
    if kind == "clip_text":
        whole = "text_config" in config
        text = transformers.CLIPConfig(**config).text_config if whole else transformers.CLIPTextConfig(**config)
        return torch.nn.ModuleDict(dict(text_model=transformers.CLIPTextModel(text)))
    own_bias = config.get("model_type") == "umt5"
    made = (transformers.UMT5Config if own_bias else transformers.T5Config)(**config)
    return (transformers.UMT5EncoderModel if own_bias else transformers.T5EncoderModel)(made)


def compare_schedule(config: dict, file: Path) -> list[str]:
    """Returns differences of a_t and timesteps; raises ValueError if the config is refused."""
    ours = Schedule.from_config(config)
    theirs = getattr(diffusers, config["_class_name"]).from_config(dict(config))
    wrong = []
    if not np.allclose(ours.alphas(), theirs.alphas_cumprod.numpy(), rtol=1e-4, atol=1e-7):
        wrong.append("a_t differ")
    for steps in STEPS:
        theirs.set_timesteps(steps)
        at = theirs._timesteps[::-1] if "PNDM" in config["_class_name"] else theirs.timesteps.numpy()
        if not np.allclose(ours.timesteps(steps), at, atol=1e-3):
            wrong.append(f"timesteps of {steps} steps differ")
    return wrong


def compare_index(config: dict, file: Path) -> list[str]:
    """Raises ValueError if a pipeline with this index is refused with the list of its models that can be read."""
    classes = {part: entry[1] for part, entry in config.items() if isinstance(entry, list) and entry[1:] != [None]}
    readable = {part: kinds.KNOWN[name] for part, name in classes.items() if name in kinds.KNOWN}
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "model_index.json").write_text(file.read_text())
        for part, name in classes.items():
            (Path(folder) / part).mkdir()
            (Path(folder) / part / "config.json").write_text(json.dumps(dict(_class_name=name)))
        try:
            sources.open_source(folder)
        except ValueError as error:
            message = str(error)
        else:
            return [f"a pipeline is read as one model, {config['_class_name']}"]
        expected = ", ".join(f"{Path(folder) / part} ({kind})" for part, kind in sorted(readable.items()))
    if message.endswith(f"give one of its models, {expected or 'none of which is known'}"):
        raise ValueError("a whole pipeline: the message lists the models in it")
    return [f"the message does not list {sorted(readable)}: {message}"]


# --- tokenizers -----------------------------------------------------------------------------------


CAPTIONS = (
    "",
    "a",
    "A cat! sits",
    "wow !! ok",
    "a <|endoftext|> b",
    "a <|EndOfText|> <|STARTOFTEXT|>b",
    "a </s> b<pad>c",
    "d <extra_id_0>e",
    "a long caption that does not fit in a row of sixteen tokens",
)
LENGTH = 16


def compare_tokenizer(config: dict, file: Path) -> list[str]:
    """Returns differences of tokens between the package's tokenizer and ours, with a small vocabulary."""
    name = config["tokenizer_class"]
    with tempfile.TemporaryDirectory() as folder:
        write, ours = dict(CLIPTokenizer=(_write_clip, clip_text), T5Tokenizer=(_write_t5, t5))[name]
        write(Path(folder))
        (Path(folder) / "tokenizer_config.json").write_text(file.read_text())
        theirs = getattr(transformers, name).from_pretrained(folder)
        found = ours.make_tokenize(folder, LENGTH)(CAPTIONS)
        made = theirs(list(CAPTIONS), padding="max_length", max_length=LENGTH, truncation=True)
    wrong = []
    for array, expected in zip(found, (made["input_ids"], made["attention_mask"]), strict=True):
        rows = zip(CAPTIONS, array.astype(int).tolist(), expected, strict=True)
        wrong += [f"{caption!r}: {a} here, {b} in the package" for caption, a, b in rows if a != b]
    return wrong


def _write_clip(folder: Path) -> None:
    """Writes CLIP's two files, with letters as pieces and special tokens at their public numbers."""
    letters = list(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    pieces = sorted(letters) + sorted(f"{letter}</w>" for letter in letters)
    pieces += [f"unused{i}" for i in range(49406 - len(pieces))] + ["<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({piece: number for number, piece in enumerate(pieces)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")


def _write_t5(folder: Path) -> None:
    """Writes tokenizer.json with letters as pieces, and as many pieces as T5 has."""
    letters = [chr(number) for number in range(33, 127)]
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("\u2581", -2.0)] + [(letter, -3.0) for letter in letters]
    pieces += [(f"unused{i}", -99.0) for i in range(32000 - len(pieces))]
    pieces += [(f"<extra_id_{i}>", 0.0) for i in reversed(range(100))]
    tokenizer = tokenizers.Tokenizer(tokenizers.models.Unigram(pieces, unk_id=2))
    words = [tokenizers.pre_tokenizers.WhitespaceSplit(), tokenizers.pre_tokenizers.Metaspace()]
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Sequence(words)
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing("$A </s>", special_tokens=[("</s>", 1)])
    tokenizer.save(str(folder / "tokenizer.json"))


if __name__ == "__main__":
    main()
