"""Half precision: which parameters are stored in it, what it saves, and that it changes no more than it must."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import load_config
from public_models import FIXTURES, export_random, read_fixture

from jvflow import codecs, networks, pretrained, text
from jvflow.experiment import assemble
from jvflow.flow.field import Condition
from jvflow.networks import precision
from jvflow.networks.t5 import T5Config
from jvflow.networks.wan_vae import WanVAE, WanVAEConfig
from jvflow.pretrained import flatten_paths
from jvflow.training.lora import Tuning
from jvflow.training.step import create

PUBLIC = {
    "dit_two_layers": ("dit", ("conditioning/embedders",)),
    "ltx_tokens": ("ltx_transformer", ("norm_q", "norm_k", "scale_shift_table", "timestep_embedder")),
    "wan_plain": ("wan_transformer", ("norm_q", "norm_k", "norm2", "scale_shift_table", "time_embedder")),
    "unet_biflow": ("unet2d", ("norm1", "norm2", "group_norm", "conv_norm_out", "time_embedding")),
    "t5_masked": ("t5_encoder", ("layer_norm",)),
    "clip_text_quick": ("clip_text", ("layer_norm",)),
    "vae_plain": ("sd_vae", ("norm1", "norm2", "norm_out")),
    "ltx_vae_095": ("ltx_vae", ("latents_", "time_embedder", "scale_shift_table", "timestep_scale")),
    "wan_vae_one": ("wan_vae", ("gamma",)),
}


def itemsizes(tree):
    return {path: a.dtype.itemsize for path, a in flatten_paths(tree).items()}


@pytest.mark.parametrize("name", PUBLIC)
def test_norms_times_and_tables_stay_in_float32(name):
    kind, kept = PUBLIC[name]
    config, tensors, _ = read_fixture(FIXTURES / f"{name}.safetensors")
    config.pop("shape", None)
    found = itemsizes(pretrained.import_checkpoint(kind, config, tensors, dtype=jnp.bfloat16).params)
    whole = {path for path, size in found.items() if size == 4}
    assert all(any(part in path for path in found) for part in kept)
    assert whole == {path for path in found if any(part in path for part in kept)}
    assert all(path.endswith(("kernel", "embedding", "bias")) for path, size in found.items() if size == 2)


CASES = {
    "ltx": dict(channels=4, text_width=8, depth=2, heads=2, head=12, scan=True),
    "wan": dict(channels=4, text_width=8, depth=1, heads=2, head=12, hidden=16, patch=(1, 2, 2)),
    "dit": dict(width=16, depth=1, heads=2, patch=(1, 2, 2), channels=4, text_width=8, labels=3),
    "unet": dict(width=8, levels=(1, 2), attends=(False, True), channels=4, blocks=1, groups=4, head=4, velocities=1),
}


@pytest.mark.parametrize("name", CASES)
def test_kernels_in_the_dtype_of_the_computation_change_no_bit(name):
    network = networks.build(name, **CASES[name], dtype="bfloat16")
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(network.init, jax.random.key(0))
    params = jax.tree.map(lambda a: jnp.asarray(0.3 * rng.standard_normal(a.shape), jnp.float32), shapes)
    x = jnp.asarray(rng.standard_normal((2, 1, 4, 4, 4)), jnp.float32)
    words = jnp.asarray(rng.standard_normal((2, 3, 8)), jnp.float32)
    condition = None
    if name != "unet":
        condition = Condition(text=words, text_mask=jnp.ones((2, 3), bool), fps=jnp.full(2, 24.0))
        condition = replace(condition, label=jnp.array([0, 2])) if name == "dit" else condition
    apply = jax.jit(lambda params: network.apply(params, x, (jnp.asarray([0.2, 0.7]),), condition)[0])
    stored = precision.cast(params, "bfloat16")
    assert sum(a.nbytes for a in jax.tree.leaves(stored)) < sum(a.nbytes for a in jax.tree.leaves(params))
    np.testing.assert_array_equal(apply(stored), apply(params))


def nbytes(shapes) -> int:
    return sum(a.size * a.dtype.itemsize for a in jax.tree.leaves(shapes))


@pytest.mark.parametrize("file", ["flowframes/ltx_2b.py", "flowframes/wan_1p3b.py"])
def test_frozen_parameters_take_half_the_memory(file):
    """Counts bytes by shapes, at full size, for LoRA matrices in the attention layers."""
    config = load_config(file)
    config.pretrained, config.inversion.rho = "TRANSFORMER", 0.0
    config.tune.update(rank=32, layers=("attn1", "attn2"))
    sizes = {}
    for dtype in ("float32", "bfloat16"):
        assert config.tune.dtype == "bfloat16" or dtype == "bfloat16"  # the default, as in the public pipelines
        config.tune.dtype = dtype
        experiment = assemble(config, abstract=True)
        make = lambda key: create(key, experiment.network, experiment.optimizer, ema=False, tuning=experiment.tuning)  # noqa: B023
        state = jax.eval_shape(make, jax.random.key(0))
        sizes[dtype] = nbytes(state.frozen)
        assert {a.dtype for a in jax.tree.leaves(state.params)} == {jnp.dtype("float32")}
    assert 0.5 < sizes["bfloat16"] / sizes["float32"] < 0.51


def test_text_encoders_and_autoencoders_take_half_the_memory():
    t5 = dict(vocab_size=32128, d_model=4096, d_kv=64, d_ff=10240, num_layers=24, num_heads=64, model_type="t5")
    model = pretrained.KINDS["t5_encoder"].model(dict(t5, feed_forward_proj="gated-gelu"), "transformers")
    assert model.network.config == T5Config()
    autoencoder = networks.functional(WanVAE, WanVAEConfig())
    for shapes in (model.shapes, flatten_paths(jax.eval_shape(autoencoder.init, jax.random.key(0)))):
        stored = precision.stored_dtype(shapes, jnp.bfloat16)
        half = sum(a.size * jnp.dtype(stored(path)).itemsize for path, a in shapes.items())
        assert 0.5 < half / nbytes(shapes) < 0.501


VIDEO = dict(ltx_vae=(9, 64, 32), wan_vae=(5, 16, 8))


@pytest.mark.integration
@pytest.mark.parametrize("name", VIDEO)
def test_a_codec_in_bfloat16_is_close_to_float32(name):
    rng = np.random.default_rng(0)
    video = np.repeat(rng.integers(0, 256, (1, *VIDEO[name][:1], 2, 2, 3)), VIDEO[name][1] // 2, axis=2)
    video = np.repeat(video, VIDEO[name][2] // 2, axis=3).astype(np.uint8)
    made = {}
    for dtype in ("float32", "bfloat16"):
        codec = codecs.build(name, tiny=True, dtype=dtype)
        sizes = set(itemsizes(codec.params).values())
        assert sizes == ({4} if dtype == "float32" else {2, 4})
        posterior = codec.encode(codec.params, video)
        assert posterior.mean.dtype == posterior.std.dtype == jnp.float32
        made[dtype] = posterior.mean, codec.decode(codec.params, posterior.mean).astype(np.float32)
    for whole, half in zip(made["float32"], made["bfloat16"], strict=True):
        error = np.abs(np.asarray(half) - whole).max() / np.abs(whole - np.mean(whole)).max()
        assert 0 < error < 0.1, error


def test_other_models_in_bfloat16(tmp_path):
    """Covers the autoencoder of Stable Diffusion and the text encoder of CLIP."""
    vae = export_random("sd_vae", read_fixture(FIXTURES / "vae_three_levels.safetensors")[0], tmp_path / "vae")
    clip = dict(read_fixture(FIXTURES / "clip_text_quick.safetensors")[0], vocab_size=700)
    clip = export_random("clip_text", clip, tmp_path / "clip")
    frames = np.random.default_rng(0).integers(0, 256, (1, 1, 8, 8, 3), dtype=np.uint8)
    latents, embeddings = [], []
    for dtype in ("float32", "bfloat16"):
        codec = codecs.build("stable_diffusion", checkpoint=(vae,), dtype=dtype)
        latents.append(np.asarray(codec.encode(codec.params, frames).mean))
        encoder = text.build("clip_text", checkpoint=(clip, FIXTURES / "clip_text_tokenizer"), dtype=dtype)
        embeddings.append(np.asarray(encoder.embed(["a cat"])[0]))
        if dtype == "bfloat16":
            assert 2 in itemsizes(codec.params).values() and 2 in itemsizes(encoder.params).values()
    for whole, half in (latents, embeddings):
        assert half.dtype == np.float32 and 0 < np.abs(half - whole).max() < 0.1 * np.abs(whole).max()


@pytest.mark.parametrize(
    "call, message",
    [
        (
            lambda: codecs.build("ltx_vae", tiny=True, dtype="bf16"),
            "config.codec.dtype is 'bf16': use one of float32, bf",
        ),
        (lambda: text.build("t5", checkpoint=("a", "b"), dtype="half"), "config.text.dtype is 'half': use one of"),
        (lambda: text.build("clip_text", checkpoint=("a", "b"), dtype="float64"), "config.text.dtype is 'float64'"),
    ],
)
def test_unknown_dtypes(call, message):
    with pytest.raises(ValueError, match=message):
        call()


CONFIGS = ("biflow/procedural.py", "biflow/unet_carla.py", "vlfm/procedural.py", "flowframes/procedural.py")
CONFIGS += ("flowframes/shapes.py", "flowframes/ltx_2b.py", "flowframes/wan_1p3b.py")


@pytest.mark.parametrize("rank", [0, 2])
@pytest.mark.parametrize("name", CONFIGS)
def test_samplers_cast_parameters_once_and_get_the_same_result(name, rank):
    """Compares the field of a sampler, whose kernels are bfloat16, with the network on its float32 parameters."""
    config = load_config(name, "debug")
    config.network.dtype = "bfloat16"
    experiment, rng = assemble(config), np.random.default_rng(0)
    draw = lambda a: jnp.asarray(rng.normal(size=a.shape) / np.sqrt(max(np.prod(a.shape[:-1]), 4)), jnp.float32)
    params = jax.tree.map(draw, jax.eval_shape(experiment.network.init, jax.random.key(0)))
    if rank:
        params = Tuning(rank=rank).add_lora(jax.random.key(1), params)
        params = jax.tree.map(lambda a: a + 0.1, params)  # the second matrix starts as zeros
    (cast,) = networks.as_field(experiment.network, params, cast=True).args
    stored = {path: a.dtype for path, a in flatten_paths(cast).items()}
    halved = [path for path, dtype in stored.items() if dtype == jnp.bfloat16]
    assert halved and not any(path.startswith("text/") for path in halved)
    assert all(a.dtype == jnp.float32 for a in jax.tree.leaves(params))
    x = jax.random.normal(jax.random.key(2), (2, *experiment.shapes[-1]))
    condition = experiment.caption_condition(params, ["red", "a square"], 16.0) if experiment.text else None
    s = (jnp.full(2, 0.3),) * (2 if name.startswith("biflow") else 1)
    velocities = jax.jit(lambda params: networks.as_field(experiment.network, params)(x, s, condition))
    for ours, expected in zip(velocities(cast), velocities(params), strict=True):
        assert jnp.abs(expected).max() > 0.01
        np.testing.assert_array_equal(np.float32(ours), np.float32(expected))
