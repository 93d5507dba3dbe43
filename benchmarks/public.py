"""What `jvflow.pretrained.export` writes, loaded by the packages that published the models: how far their output is from ours (needs the extra `dev`)."""

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
"""Of the public models, autoencoders their latents."""
PREFIXES = dict(
    dit="dit_",
    unet2d="unet_",
    sd_unet="sd_unet_",
    sd_vae="vae_",
    clip_text="clip_",
    taesd="taesd_",
    t5_encoder="*t5_",
    ltx_vae="ltx_vae_",
    ltx_transformer="ltx_[!v]",
    wan_vae="wan_vae_",
    wan_transformer="wan_[!v]",
)
"""Of the fixtures of each kind."""


def measure() -> dict:
    """The largest difference over the largest output, of every kind in every layout that its package reads."""
    found = {}
    for kind, prefix in PREFIXES.items():
        for file in sorted(FIXTURES.glob(f"{prefix}*.safetensors")):
            for generation in _readable(kind):
                with tempfile.TemporaryDirectory() as folder:
                    found[f"{kind} {file.stem} {generation}"] = _difference(kind, file, generation, Path(folder))
    return dict(relative_difference=found, largest=max(found.values()))


def _readable(kind: str) -> tuple[str, ...]:
    return tuple(g for g in pretrained.KINDS[kind].generations if g != "original")  # no package reads those


def _difference(kind: str, file: Path, generation: str, folder: Path) -> float:
    with safe_open(file, "np") as opened:
        config = json.loads(opened.metadata()["meta"])["config"]
    tensors = load_file(file)
    network = pretrained.import_checkpoint(
        kind, config, {name.removeprefix("w."): a for name, a in tensors.items() if name.startswith("w.")}
    )
    params = jax.tree.map(lambda a: 1.1 * a + 0.01, network.params)  # not what was read
    named = (
        {known: name for name, known in pretrained.CLASSES.items()}[kind]
        if kind != "t5_encoder"
        else f"{config['model_type'].upper()}EncoderModel"
    )
    pretrained.export(kind, dict(config, _class_name=named), params, folder, generation=generation)
    inputs = {name: tensors[f"io.{name}"] for name in INPUTS[kind] if f"io.{name}" in tensors}
    if "rope_interpolation_scale" in inputs:
        inputs |= dict(zip(("num_frames", "height", "width"), config["shape"]))
    latents = inputs.pop("mean", inputs.pop("latents", None))
    ours = (
        network.apply(params, **inputs)
        if latents is None
        else network.apply(params, method="decode", z=latents, **inputs)
    )
    ours = np.asarray(ours[0] if isinstance(ours, tuple) else ours)
    theirs = _theirs(named, folder, inputs, latents)
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


def _theirs(named: str, folder: Path, inputs: dict, latents) -> np.ndarray:
    import diffusers
    import torch
    import transformers

    text = hasattr(transformers, named)
    model = getattr(transformers if text else diffusers, named).from_pretrained(folder).eval()
    given = {name: torch.tensor(a) if np.ndim(a) else a for name, a in inputs.items()}
    if "rope_interpolation_scale" in given:
        given["rope_interpolation_scale"] = tuple(given["rope_interpolation_scale"].tolist())
    with torch.no_grad():
        made = model(**given) if latents is None else model.decode(torch.tensor(latents), **given)
    return (made.last_hidden_state if text else made.sample).numpy()
