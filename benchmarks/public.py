"""Loads exported models (`jvflow.pretrained.export`) into the packages that published them, and compares the outputs.

Needs the extra `dev`.
"""

import json
import tempfile
from pathlib import Path

import jax
import numpy as np
from safetensors import safe_open
from safetensors.numpy import load_file

from jvflow import pretrained

FIXTURES = Path(__file__).parents[1] / "tests" / "fixtures"
INPUTS = dict(
    dit=("hidden_states", "timestep", "class_labels"),
    unet2d=("sample", "timestep", "class_labels"),
    sd_unet=("sample", "timestep", "encoder_hidden_states"),
    clip_text=("input_ids", "attention_mask"),
    ltx_transformer=(
        "hidden_states",
        "encoder_hidden_states",
        "timestep",
        "encoder_attention_mask",
        "rope_interpolation_scale",
        "video_coords",
    ),
    t5_encoder=("input_ids", "attention_mask"),
    sd_vae=("mean",),
    taesd=("latents",),
    ltx_vae=("mean", "temb"),
    wan_transformer=("hidden_states", "timestep", "encoder_hidden_states"),
    wan_vae=("mean",),
)
"""Names of each public model's inputs; for an autoencoder, of the latents."""
PREFIXES = dict(
    dit="dit_",
    unet2d="unet_",
    sd_unet="sd_unet_",
    sd_vae="vae_",
    clip_text="clip_text_",
    taesd="taesd_",
    t5_encoder="*t5_",
    ltx_vae="ltx_vae_",
    ltx_transformer="ltx_[!v]",
    wan_vae="wan_vae_",
    wan_transformer="wan_[!v]",
)
"""First part of the names of each kind's fixtures."""


def measure() -> dict:
    """Returns the largest relative difference for every kind of model, in every naming that its package reads."""
    found = {}
    for kind, prefix in PREFIXES.items():
        for file in sorted(FIXTURES.glob(f"{prefix}*.safetensors")):
            for naming in _readable_namings(kind):
                with tempfile.TemporaryDirectory() as folder:
                    found[f"{kind} {file.stem} {naming}"] = _difference(kind, file, naming, Path(folder))
    return dict(relative_difference=found, largest=max(found.values()))


def _readable_namings(kind: str) -> tuple[str, ...]:
    return tuple(naming for naming in pretrained.KINDS[kind].namings if naming != "original")  # no package reads it


def _difference(kind: str, file: Path, naming: str, folder: Path) -> float:
    with safe_open(file, "np") as opened:
        config = json.loads(opened.metadata()["meta"])["config"]
    tensors = load_file(file)
    learned = {name.removeprefix("w."): a for name, a in tensors.items() if name.startswith("w.")}
    network = pretrained.import_checkpoint(kind, config, learned)
    params = jax.tree.map(lambda a: 1.1 * a + 0.01, network.params)  # differ from the imported parameters
    if kind == "t5_encoder":
        class_name = f"{config['model_type'].upper()}EncoderModel"
    else:
        class_name = next(name for name, known in pretrained.CLASSES.items() if known == kind)
    pretrained.export(kind, dict(config, _class_name=class_name), params, folder, naming=naming)
    inputs = {name: tensors[f"io.{name}"] for name in INPUTS[kind] if f"io.{name}" in tensors}
    if "rope_interpolation_scale" in inputs:
        inputs |= dict(zip(("num_frames", "height", "width"), config["shape"]))
    latents = inputs.pop("mean", inputs.pop("latents", None))
    decoding = {} if latents is None else dict(method="decode", z=latents)
    ours = network.apply(params, **inputs, **decoding)
    ours = np.asarray(ours[0] if isinstance(ours, tuple) else ours)
    theirs = _theirs(class_name, folder, inputs, latents)
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


def _theirs(class_name: str, folder: Path, inputs: dict, latents) -> np.ndarray:
    """Returns the output of the package's model of this class."""
    import diffusers
    import torch
    import transformers

    text = hasattr(transformers, class_name)
    model = getattr(transformers if text else diffusers, class_name).from_pretrained(folder).eval()
    given = {name: torch.tensor(a) if np.ndim(a) else a for name, a in inputs.items()}
    if "rope_interpolation_scale" in given:
        given["rope_interpolation_scale"] = tuple(given["rope_interpolation_scale"].tolist())
    with torch.no_grad():
        output = model(**given) if latents is None else model.decode(torch.tensor(latents), **given)
    return (output.last_hidden_state if text else output.sample).numpy()
