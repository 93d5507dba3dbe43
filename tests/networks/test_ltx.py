"""The transformer of LTX-Video: it agrees with diffusers, and is a field in our layout and time."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from public_models import FIXTURES, assert_same, read_fixture

from jvflow import networks, pretrained
from jvflow.flow.field import Condition
from jvflow.networks import ltx

NAMES = ("ltx_padded", "ltx_tokens")


def run_fixture(network, io, shape):
    io = dict(io)
    expected = io.pop("output")
    sizes = dict(zip(("num_frames", "height", "width"), shape)) if "video_coords" not in io else {}
    return np.asarray(jax.jit(lambda params, io: network.apply(params, **io, **sizes))(network.params, io)), expected


@pytest.mark.parametrize("options", [{}, dict(scan=True, remat="full", attention=5)])
@pytest.mark.parametrize("name", NAMES)
def test_the_transformer_gives_what_diffusers_gives(name, options):
    """Covers one timestep or one per token, scaled or given positions, and widths that rotations fill or not."""
    config, tensors, io = read_fixture(FIXTURES / f"{name}.safetensors")
    assert_same(
        *run_fixture(pretrained.import_checkpoint("ltx_transformer", config, tensors, **options), io, config["shape"])
    )


@pytest.mark.parametrize("scan", [False, True])
def test_full_size_transformer_has_the_public_tensors(shared, scan):
    manifest = json.loads((shared / "golden" / "manifests" / "ltx_2b_transformer.json").read_text())
    model = pretrained.KINDS["ltx_transformer"].model(manifest["config"], "diffusers", scan=scan)
    pretrained.check_tensors(
        "ltx_transformer", model, {name: tuple(shape) for name, shape in manifest["tensors"].items()}
    )
    assert sum(a.size for a in model.shapes.values()) == manifest["parameters"] == 1_923_385_472
    assert len(model.layout) == (40 if scan else len(manifest["tensors"]))


@pytest.mark.parametrize("causal", [False, True])
def test_it_is_a_field_in_our_time(causal):
    """Checks that the field is data - noise at t = 1 - timestep / 1000, for one t, one per frame, or one per token."""
    config, tensors, io = read_fixture(FIXTURES / "ltx_padded.safetensors")
    network = pretrained.import_checkpoint("ltx_transformer", config, tensors, causal=causal)
    (f, h, w), c = config["shape"], config["in_channels"]
    x, t = io["hidden_states"].reshape(2, f, h, w, c), 1 - io["timestep"] / 1000
    condition = Condition(
        text=io["encoder_hidden_states"],
        text_mask=io["encoder_attention_mask"].astype(bool),
        fps=jnp.array([25.0, 25.0]),
    )
    field = jax.jit(lambda params, t, condition: networks.as_field(network, params)(x, (t,), condition)[0])
    made = field(network.params, t, condition)
    if not causal:
        np.testing.assert_allclose(-made.reshape(2, f * h * w, c), io["output"], atol=1e-4 * np.abs(io["output"]).max())
    for each in (np.repeat(t[:, None], f, 1), np.repeat(t[:, None], f * h * w, 1)):
        np.testing.assert_allclose(field(network.params, each, condition), made, atol=1e-4)
    later = np.repeat(t[:, None], f, 1)
    later[:, -1] = 0.99
    assert np.abs(field(network.params, later, condition) - made).max() > 1e-3
    rate = Condition(text=condition.text, text_mask=condition.text_mask, fps=jnp.array([25.0, 8.0]))
    faster = field(network.params, t, rate)
    np.testing.assert_allclose(faster[0], made[0], atol=1e-5)
    assert np.abs(faster[1] - made[1]).max() > 1e-3
    seconds = 20 * np.asarray(ltx.token_positions((3, 1, 1), jnp.array([24.0]), causal))[0, :, 0]
    np.testing.assert_allclose(24 * seconds, [0, 1, 9] if causal else [0, 8, 16], atol=1e-4)


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(patch_size=2), "read: patch_size is 2, allowed: 1$"),
        (dict(cross_attention_dim=5), "cross_attention_dim is 5, allowed: the width 16 of the transformer$"),
    ],
)
def test_another_transformer(change, message):
    config, tensors, _ = read_fixture(FIXTURES / "ltx_padded.safetensors")
    with pytest.raises(ValueError, match=message):
        pretrained.import_checkpoint("ltx_transformer", config | change, tensors)


def test_captions_and_rates_are_asked_for():
    config, tensors, _ = read_fixture(FIXTURES / "ltx_padded.safetensors")
    network = pretrained.import_checkpoint("ltx_transformer", config, tensors)
    with pytest.raises(ValueError, match="give condition.text and condition.fps"):
        networks.as_field(network)(jnp.zeros((1, 1, 1, 1, 4)), (jnp.zeros(1),), Condition(text=jnp.zeros((1, 2, 6))))
    with pytest.raises(ValueError, match="unknown remat 'some'"):
        pretrained.import_checkpoint("ltx_transformer", config, tensors, remat="some")


@pytest.mark.parametrize(
    "width, frequencies",
    [
        (24, [1.5707963705062866, 33.8417854309082, 729.0988159679688, 15707.9638671875]),
        (
            48,
            [
                1.5707963705062866,
                5.85529088973999,
                21.826147079467773,
                81.35902404785156,
                303.2732238769531,
                1130.4798583984375,
                4213.96923828125,
                15707.9638671875,
            ],
        ),
    ],
)
def test_frequencies_are_rounded_as_torch_rounds_them(width, frequencies):
    """Compares with 10000^torch.linspace(0, 1, n) pi / 2 in float32, to the last bit.

    For angles in the thousands, one rounding becomes an error of 1e-3.
    """
    cosine, sine = ltx.rotary_embedding(jnp.ones((1, 1, 3)), width)
    expected = np.repeat(np.asarray(frequencies), 3)
    np.testing.assert_allclose(cosine[0, 0], np.cos(expected), atol=2e-7)
    np.testing.assert_allclose(sine[0, 0], np.sin(expected), atol=2e-7)
