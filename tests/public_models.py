"""Reads reference models, and writes random public models, for the tests of public checkpoints."""

import json
import shutil
from functools import partial
from pathlib import Path

import jax
import numpy as np
from safetensors import safe_open
from safetensors.numpy import load_file

from jvflow import pretrained

FIXTURES = Path(__file__).parent / "fixtures"
SINGLE = "diffusion_pytorch_model.safetensors"


def read_fixture(file):
    """Returns the config, the tensors, and the inputs and outputs of a reference model."""
    with safe_open(file, "np") as opened:
        config = json.loads(opened.metadata()["meta"])["config"]
    tensors = load_file(file)
    part = lambda prefix: {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
    return config, part("w."), part("io.")


def jitted(network):
    """Returns `network.apply` as one program, which compiles faster than its operations one by one."""

    def apply(params, *inputs, method="", **named):
        chosen = partial(network.apply, method=method) if method else network.apply
        return jax.jit(chosen)(params, *inputs, **named)

    return apply


def outputs(network, io):
    return np.asarray(jitted(network)(network.params, io["hidden_states"], io["timestep"], io["class_labels"]))


def assert_same(made, expected):
    assert made.shape == expected.shape and np.abs(expected).max() > 0.1
    np.testing.assert_allclose(made, expected, rtol=0, atol=2e-5 * np.abs(expected).max())


def export_random(kind, config, folder, *, named=None, size=1.0, seed=0):
    """Writes a public model of this config with random parameters into a folder, and returns the folder."""
    rng = np.random.default_rng(seed)
    draw = lambda a: (size * rng.normal(size=a.shape) / np.sqrt(max(np.prod(a.shape[:-1]), 1))).astype(np.float32)
    params = jax.tree.map(
        draw,
        jax.eval_shape(
            pretrained.KINDS[kind].model(config, pretrained.KINDS[kind].namings[0]).network.init, jax.random.key(0)
        ),
    )
    pretrained.export(
        kind, dict(config, _class_name=named or {k: c for c, k in pretrained.CLASSES.items()}[kind]), params, folder
    )
    return folder


def stable_diffusion(folder):
    """Writes a very small Stable Diffusion into a folder and returns the folder; 8 x 8 pixels become a 2 x 2 latent."""
    latent = dict(read_fixture(FIXTURES / "vae_three_levels.safetensors")[0])
    unet = dict(read_fixture(FIXTURES / "sd_unet_two_levels.safetensors")[0], cross_attention_dim=12)
    text = dict(read_fixture(FIXTURES / "clip_text_quick.safetensors")[0], vocab_size=700, max_position_embeddings=12)
    export_random("sd_vae", latent, folder / "vae", seed=1)
    export_random("sd_unet", unet, folder / "unet", seed=2)
    export_random("clip_text", text, folder / "text_encoder", seed=3)
    shutil.copytree(FIXTURES / "clip_text_tokenizer", folder / "tokenizer")
    (folder / "scheduler").mkdir()
    settings = dict(
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        steps_offset=1,
        set_alpha_to_one=False,
        clip_sample=False,
    )
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(settings))
    return folder
