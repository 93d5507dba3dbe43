"""Two chunks that a video codec encodes separately, in one sequence: their places, times and tokens."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import load_config
from public_models import FIXTURES, assert_same, read_fixture

from jvflow import networks, pretrained
from jvflow.experiment import assemble
from jvflow.flow.field import Condition
from jvflow.flowframes.context import with_observed
from jvflow.flowframes.method import conventional_loss
from jvflow.networks import layers, ltx, wan

SIZES = {17: (3, 5), 41: (6, 11)}
"""Latent frames of a chunk, of LTX-Video and of Wan."""


@pytest.mark.parametrize("frames", SIZES)
def test_ltx_agrees_with_the_pipeline_of_diffusers(frames):
    """Compares places, times and the future's velocity with LTXConditionPipeline's, which places chunks by frames."""
    config, tensors, io = read_fixture(FIXTURES / "ltx_chunks.safetensors")
    network = pretrained.import_checkpoint("ltx_transformer", config, tensors)
    f, starts = SIZES[frames][0], (0.0, frames / 8)
    places = np.asarray(ltx.token_positions((2 * f, 1, 2), jnp.full(2, 24.0), True, starts)) * np.array(
        [20 * 24, 2048, 2048]
    )
    np.testing.assert_allclose(places, np.moveaxis(io[f"{frames}.coords"], 1, 2), atol=1e-4)
    assert_same(*velocities(network, io, frames, 8, io[f"{frames}.x"].reshape(2, 2 * f, 1, 2, 4)))


@pytest.mark.parametrize("frames", SIZES)
def test_wan_agrees_with_diffusers(frames):
    """Compares with diffusers' transformer, whose rotations for 4.25 and so on come from its own function."""
    config, tensors, io = read_fixture(FIXTURES / "wan_chunks.safetensors")
    network = pretrained.import_checkpoint("wan_transformer", config, tensors)
    f = SIZES[frames][1]
    cosine, sine = wan.rotary_embedding((2 * f, 1, 2), network.config, (0.0, frames / 4))
    angles = np.arctan2(sine, cosine)[0, ::2, 0]  # of the first pair of channels, which turns by 1 from frame to frame
    np.testing.assert_allclose(np.unwrap(angles), io[f"{frames}.places"], atol=1e-5)
    assert_same(*velocities(network, io, frames, 4, np.moveaxis(io[f"{frames}.x"], 1, -1)))


def velocities(network, io, frames, per, x):
    """Returns the velocity of the second half of x, given the first, from our field and from the fixture."""
    half, t = x.shape[1] // 2, 1 - io[f"{frames}.timestep"][:, -1] / 1000
    condition = Condition(text=io["text"], fps=io.get("fps"))
    field = lambda params: with_observed(networks.as_field(network, params), jnp.asarray(x[:, :half]), per)
    made = jax.jit(lambda params: field(params)(x[:, half:], (t,), condition)[0])(network.params)
    expected = io[f"{frames}.output"]
    expected = np.moveaxis(expected, 1, -1) if expected.ndim == 5 else expected.reshape(x.shape)
    return -made, expected[:, half:]


def test_places():
    """Checks 17 + 17 frames: of LTX in both public conventions, in frames; of the DiT's sine table, in latents."""
    at = lambda causal: np.asarray(ltx.token_positions((6, 1, 1), jnp.array([24.0]), causal, (0.0, 17 / 8)))[0, :, 0]
    np.testing.assert_allclose(480 * at(True), [0, 1, 9, 17, 18, 26], atol=1e-4)
    np.testing.assert_allclose(480 * at(False), [0, 8, 16, 17, 25, 33], atol=1e-4)
    one, two = (layers.position_table((n, 1, 1), 8, starts) for n, starts in ((3, (2.0,)), (6, (0.0, 2.125))))
    np.testing.assert_allclose(layers.position_table((5, 1, 1), 8)[2:], one, atol=1e-6)
    assert np.abs(two[3:] - layers.position_table((6, 1, 1), 8)[3:]).max() > 0.1


def test_the_dit_reads_the_places():
    network = networks.build("dit", width=16, depth=1, heads=2, patch=(1, 1, 1), channels=2)
    params = jax.tree.map(
        lambda a: jax.random.normal(jax.random.key(2), a.shape), jax.eval_shape(network.init, jax.random.key(0))
    )
    x, observed = jax.random.normal(jax.random.key(1), (2, 1, 3, 2, 2, 2))
    field = networks.as_field(network, params)
    made = {per: with_observed(field, observed, per)(x, (jnp.full(1, 0.5),))[0] for per in (1, 8)}
    assert np.abs(made[1] - made[8]).max() > 1e-3


@pytest.mark.parametrize("name, tokens, starts", [("ltx_2b", (576, 1152), 17 / 8), ("wan_1p3b", (3900, 8580), 17 / 4)])
def test_training_and_sampling_of_the_config_see_both_chunks(name, tokens, starts):
    """Checks tokens, places and known times that the network gets in the loss and in a prediction; nothing computes."""
    config = load_config(f"flowframes/{name}.py")
    config.objective, config.inversion.rho = "conventional", 0.0
    experiment = assemble(config, abstract=True)
    sampler = experiment.sampler
    assert [sampler.count_tokens((f // 2, *rest)) for f, *rest in experiment.shapes] == list(tokens)
    seen = []

    def field(x, s, condition=None):
        seen.append((condition.starts, s[0].shape))
        return (jnp.zeros_like(x),)

    shape = (1, 3 if name == "ltx_2b" else 5, 2, 2, 4)
    keys, chunk = jax.random.split(jax.random.key(0), 1), jnp.zeros(shape)
    experiment.loss.keywords["objective"](jax.tree_util.Partial(field), chunk, chunk, keys, tokens=9)
    sampler(jax.tree_util.Partial(field), chunk, jax.random.key(0), solver=sampler.solver)
    assert set(seen) == {((0.0, starts), (1, 2 * shape[1]))}


def test_the_density_counts_all_tokens():
    """Checks the mean of LTX's logit-normal in the conventional loss: 576 tokens have 0.790, and 288 have 0.686."""
    config = load_config("flowframes/ltx_2b.py")
    means, drawn = {}, {}
    for objective in ("conventional", "flowframes"):
        config.objective, config.inversion.rho = objective, 0.0
        experiment = assemble(config, abstract=True)
        count = experiment.loss.keywords["count_tokens"]((3, 8, 12, 128))
        means[objective] = round(experiment.loss.keywords["objective"].keywords["times"].mean(count), 3)
        drawn[objective] = count
    assert drawn == dict(conventional=576, flowframes=288) and means == dict(conventional=0.79, flowframes=0.686)


def test_an_image_codec_keeps_its_places():
    """Checks that chunks of frames that are encoded one by one are one video, and keep the compiled program."""
    seen = []
    field = lambda x, s, condition=None: (seen.append(condition), jnp.zeros_like(x))[1:]
    with_observed(jax.tree_util.Partial(field), jnp.zeros((1, 3, 2, 2, 4)))(jnp.zeros((1, 3, 2, 2, 4)), (jnp.zeros(1),))
    loss = partial(conventional_loss, jax.tree_util.Partial(field), *jnp.zeros((2, 1, 3, 2, 2, 4)))
    loss(jax.random.split(jax.random.key(0), 1))
    assert seen == [None, None]


def test_a_run_of_an_earlier_version_is_refused():
    config = load_config("flowframes/ltx_2b.py", "debug")
    config.objective, config.inversion.rho = "conventional", 0.0
    with config.sample.unlocked():
        del config.sample.schedule
    with pytest.raises(ValueError, match="chunks of a codec that merges frames at other times: train it again"):
        assemble(config)
