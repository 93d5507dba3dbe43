"""What `jvflow.weights.export` writes, loaded by the packages that published the models: how far their output is from ours (needs the extra `dev`)."""

import json
import tempfile
from pathlib import Path

import jax
import numpy as np
from safetensors import safe_open
from safetensors.numpy import load_file

from jvflow import weights

FIXTURES = Path(__file__).parents[1] / "tests" / "fixtures"
INPUTS = dict(
    dit=("hidden_states", "timestep", "class_labels"), unet2d=("sample", "timestep", "class_labels"),
    sd_unet=("sample", "timestep", "encoder_hidden_states"), clip_text=("input_ids", "attention_mask"),
    sd_vae=("mean",), taesd=("latents",),
)
"""Of the public models, autoencoders their latents."""
PREFIXES = dict(dit="dit", unet2d="unet", sd_unet="sd_unet", sd_vae="vae", clip_text="clip", taesd="taesd")
"""Of the fixtures of each kind."""


def measure() -> dict:
    """The largest difference over the largest output, of every kind in every layout that its package reads."""
    found = {}
    for kind, prefix in PREFIXES.items():
        for file in sorted(FIXTURES.glob(f"{prefix}_*.safetensors")):
            for generation in _readable(kind):
                with tempfile.TemporaryDirectory() as folder:
                    found[f"{kind} {file.stem} {generation}"] = _difference(kind, file, generation, Path(folder))
    return dict(relative_difference=found, largest=max(found.values()))


def _readable(kind: str) -> tuple[str, ...]:
    return tuple(g for g in weights.KINDS[kind].generations if g != "original")  # no package reads those


def _difference(kind: str, file: Path, generation: str, folder: Path) -> float:
    with safe_open(file, "np") as opened:
        config = json.loads(opened.metadata()["meta"])["config"]
    tensors = load_file(file)
    network = weights.import_checkpoint(kind, config, {name.removeprefix("w."): a for name, a in tensors.items() if name.startswith("w.")})
    params = jax.tree.map(lambda a: 1.1 * a + 0.01, network.params)  # not what was read
    named = {known: name for name, known in weights.CLASSES.items()}[kind]
    weights.export(kind, dict(config, _class_name=named), params, folder, generation=generation)
    inputs = {name: tensors[f"io.{name}"] for name in INPUTS[kind] if f"io.{name}" in tensors}
    decodes = kind in ("sd_vae", "taesd")
    ours = network.apply(params, method="decode", z=inputs.popitem()[1]) if decodes else network.apply(params, **inputs)
    ours = np.asarray(ours[0] if isinstance(ours, tuple) else ours)
    theirs = _theirs(named, folder, {name: tensors[f"io.{name}"] for name in INPUTS[kind] if f"io.{name}" in tensors}, decodes)
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


def _theirs(named: str, folder: Path, inputs: dict, decodes: bool) -> np.ndarray:
    import diffusers
    import torch
    import transformers

    model = getattr(transformers if named.startswith("CLIP") else diffusers, named).from_pretrained(folder).eval()
    given = {name: torch.tensor(a) for name, a in inputs.items()}
    with torch.no_grad():
        made = model.decode(*given.values()) if decodes else model(**given)
    return (made.last_hidden_state if named.startswith("CLIP") else made.sample).numpy()
