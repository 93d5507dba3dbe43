"""The transformer of Wan 2.1: it agrees with diffusers, and is a field in our layout and time."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from public_models import FIXTURES, assert_same, read_fixture

from jvflow import networks, pretrained
from jvflow.flow.field import Condition


def run_fixture(network, io):
    io = dict(io)
    expected = io.pop("output")
    return np.asarray(jax.jit(lambda params, io: network.apply(params, **io))(network.params, io)), expected


@pytest.mark.parametrize("options", [{}, dict(scan=True, remat="full", attention=5)])
@pytest.mark.parametrize("name", ["wan_plain", "wan_tokens", "wan_nine", "wan_seventeen", "wan_frequencies"])
def test_the_transformer_gives_what_diffusers_gives(name, options):
    """Covers one timestep or one per token, 1 to 17 frames, head widths divisible by 6 or not, and optional norms."""
    config, tensors, io = read_fixture(FIXTURES / f"{name}.safetensors")
    assert_same(*run_fixture(pretrained.import_checkpoint("wan_transformer", config, tensors, **options), io))


@pytest.mark.parametrize("scan", [False, True])
def test_full_size_transformer_has_the_public_tensors(shared, scan):
    manifest = json.loads((shared / "golden" / "manifests" / "wan21_1p3b_transformer.json").read_text())
    model = pretrained.KINDS["wan_transformer"].model(manifest["config"], "diffusers", scan=scan)
    pretrained.check_tensors(
        "wan_transformer", model, {name: tuple(shape) for name, shape in manifest["tensors"].items()}
    )
    assert sum(a.size for a in model.shapes.values()) == manifest["parameters"] == 1_418_996_800
    assert len(model.layout) == (42 if scan else len(manifest["tensors"]))


def test_it_is_a_field_in_our_time():
    """Checks that the field is data - noise at t = 1 - timestep / 1000, one per video or frame; masked text is 0."""
    config, tensors, io = read_fixture(FIXTURES / "wan_plain.safetensors")
    network = pretrained.import_checkpoint("wan_transformer", config, tensors)
    x, t = np.moveaxis(np.tile(io["hidden_states"], (1, 1, 3, 1, 1)), 1, -1), 1 - io["timestep"] / 1000
    text = io["encoder_hidden_states"]
    field = jax.jit(lambda params, x, t, condition: networks.as_field(network, params)(x, (t,), condition)[0])
    made = field(network.params, x[:, :1], t, Condition(text=text))
    np.testing.assert_allclose(-np.moveaxis(made, -1, 1), io["output"], atol=1e-4 * np.abs(io["output"]).max())
    made, each = field(network.params, x, t, Condition(text=text)), np.repeat(t[:, None], 3, 1)
    np.testing.assert_allclose(field(network.params, x, each, Condition(text=text)), made, atol=1e-4)
    each[:, -1] = 0.99
    assert np.abs(field(network.params, x, each, Condition(text=text)) - made).max() > 1e-3
    mask = np.arange(5)[None] < np.array([[3], [5]])
    masked, zeros = (
        field(network.params, x, t, c)
        for c in (Condition(text=text, text_mask=mask), Condition(text=text * mask[..., None]))
    )
    np.testing.assert_allclose(masked, zeros, atol=1e-6)
    assert np.abs(masked[0] - made[0]).max() > 1e-3


def test_built_from_sizes_it_is_the_same_function():
    config, tensors, _ = read_fixture(FIXTURES / "wan_plain.safetensors")
    public = pretrained.import_checkpoint("wan_transformer", config, tensors)
    network = networks.build("wan", channels=4, text_width=6, depth=2, heads=2, head=12, hidden=20)
    x, condition = jax.random.normal(jax.random.key(0), (1, 2, 4, 2, 4)), Condition(text=jnp.ones((1, 3, 6)))
    given = (x, (jnp.full(1, 0.3),), condition)
    np.testing.assert_array_equal(
        networks.as_field(network, public.params)(*given)[0], networks.as_field(public)(*given)[0]
    )
    assert networks.tokens(network, (2, 4, 2, 4)) == 4 and not network.takes_fps


@pytest.mark.parametrize(
    "make, message",
    [
        (
            lambda: networks.check(networks.build("wan", channels=4, text_width=6), (1, 3, 4, 4)),
            r"does not divide latents .* \(1, 3, 4\): use \(1, 4, 4\)",
        ),
        (lambda: networks.build("wan", channels=4, text_width=0), "attends to captions in every layer"),
        (lambda: networks.build("wan", channels=4, text_width=6, velocities=2), "this objective has 1 and 2"),
        (lambda: networks.build("wan", channels=4, text_width=6, remat="some"), "unknown remat 'some'"),
        (
            lambda: pretrained.KINDS["wan_transformer"].model(dict(image_dim=1280), "diffusers"),
            "read: image_dim is 1280, allowed: null$",
        ),
    ],
)
def test_bad_input(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_captions_are_asked_for():
    config, tensors, io = read_fixture(FIXTURES / "wan_plain.safetensors")
    network = pretrained.import_checkpoint("wan_transformer", config, tensors)
    with pytest.raises(ValueError, match="give condition.text"):
        networks.as_field(network)(np.moveaxis(io["hidden_states"], 1, -1), (jnp.zeros(2),), Condition(fps=jnp.ones(2)))
