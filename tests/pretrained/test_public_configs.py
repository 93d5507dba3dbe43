"""Configs of public models: defaults of the library, values that are refused, classes, and parts of other models."""

import json
import logging
import re

import author_names
import ml_dtypes
import numpy as np
import pytest
from public_models import FIXTURES, SINGLE, assert_same, jitted, outputs, read_fixture
from safetensors.numpy import save_file

from jvflow import pretrained
from jvflow.pretrained import kinds, t5_encoder
from jvflow.pretrained.single import ltx

SIZES = {
    "clip_text": dict(hidden_size=8, num_attention_heads=2, intermediate_size=8, num_hidden_layers=1, vocab_size=20),
    "dit": dict(num_attention_heads=2, attention_head_dim=4, num_layers=1, num_embeds_ada_norm=3),
    "ltx_transformer": dict(num_attention_heads=2, attention_head_dim=4, cross_attention_dim=8, num_layers=1),
    "ltx_vae": dict(
        block_out_channels=[2, 2], decoder_block_out_channels=[2, 2], layers_per_block=[1] * 3, latent_channels=2
    ),
    "sd_unet": dict(block_out_channels=[4, 8, 8, 8], norm_num_groups=2, attention_head_dim=2, cross_attention_dim=4),
    "sd_vae": dict(block_out_channels=[4], norm_num_groups=2),
    "t5_encoder": dict(d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2, vocab_size=20),
    "taesd": dict(encoder_block_out_channels=[4] * 4, decoder_block_out_channels=[4] * 4),
    "unet2d": dict(block_out_channels=[4, 8, 8, 8], norm_num_groups=2, attention_head_dim=2),
    "wan_transformer": dict(num_attention_heads=1, attention_head_dim=12, num_layers=1, ffn_dim=8, text_dim=4),
    "wan_vae": dict(base_dim=4),
}
"""Sizes that make a small model of each kind; all other keys have the library's defaults."""
STRANGE = (
    None,
    "a",
    "",
    "8",
    -1,
    0,
    1,
    3,
    1.5,
    True,
    [],
    [1],
    [None],
    ["a"],
    [[1]],
    {},
    {"a": 1},
    10**12,
    float("nan"),
)


def build(kind, config):
    known = pretrained.KINDS[kind]
    return known.model(config, known.namings[0])


def table(kind):
    return vars(getattr(kinds, kind))["KEYS"]


# --- defaults -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", SIZES)
def test_absent_keys_take_the_librarys_defaults(kind):
    """Checks that a config without defaults is the same model as one with every key."""
    written = {key: entry.default for key, entry in table(kind).items()} | SIZES[kind]
    bare, whole = build(kind, SIZES[kind]), build(kind, written)
    assert bare.shapes == whole.shapes and bare.network.config in (whole.network.config, SIZES[kind])
    assert dict(bare.settings or written) == written


@pytest.mark.parametrize("kind", SIZES)
def test_no_value_of_a_key_raises_anything_but_a_value_error(kind, monkeypatch):
    """Replaces each key by strange values; each message names the key, or the keys that it no longer fits."""
    monkeypatch.setattr(getattr(kinds, kind), "network_shapes", lambda network: {}, raising=False)
    for key, entry in table(kind).items():
        for value in STRANGE:
            try:
                build(kind, SIZES[kind] | {key: value})
            except ValueError as error:
                assert entry.allowed is not None, (key, value)
                assert "allowed: " in str(error) or "multiple" in str(error), (key, value, error)


def test_only_the_keys_that_differ_are_in_the_message():
    config = SIZES["wan_transformer"] | dict(image_dim=1280, num_layers=None, text_dim="4096", dropout=3, freq_dim=7)
    with pytest.raises(ValueError) as error:
        build("wan_transformer", config)
    assert str(error.value) == (
        'a transformer of Wan for text to video of this config cannot be read: text_dim is "4096", allowed: a whole '
        "number from 1 to 16777216; freq_dim is 7, allowed: an even number from 2 to 16777216; num_layers is null, "
        "allowed: a whole number from 1 to 1024; image_dim is 1280, allowed: null"
    )
    with pytest.raises(
        ValueError, match=r"cross_attention_dim is 2048 \(the library's default\), allowed: the width 8 "
    ):
        build("ltx_transformer", dict(num_attention_heads=2, attention_head_dim=4))


def test_keys_that_change_nothing_are_ignored_and_unknown_ones_are_named(caplog):
    caplog.set_level(logging.WARNING)
    build(
        "dit", SIZES["dit"] | dict(_diffusers_version="0.1", torch_dtype="float16", dropout=0.5, num_vector_embeds=None)
    )
    assert not caplog.messages
    build("dit", SIZES["dit"] | dict(rotary=True, attention_scale=2))
    assert caplog.messages == [
        "the config of a DiT has keys that are not known and are ignored: attention_scale, rotary"
    ]


@pytest.mark.parametrize(
    "content", [[], "a model", None, 3, {}, {"_class_name": ["T5EncoderModel"]}, {"architectures": 1}]
)
def test_a_config_that_describes_nothing(tmp_path, content):
    (tmp_path / "config.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="config.json (is damaged: it holds|describes .*: use one of DiTTrans)"):
        pretrained.open_folder(tmp_path)


@pytest.mark.parametrize(
    "name, config",
    [
        ("WanModel", dict(model_type="t2v", dim=24, ffn_dim=8, freq_dim=8, text_len=512, num_heads=2, num_layers=1)),
        (
            "Transformer3DModel",
            dict(
                num_attention_heads=2,
                attention_head_dim=4,
                cross_attention_dim=8,
                caption_channels=8,
                norm_eps=1e-6,
                norm_elementwise_affine=False,
                activation_fn="gelu-approximate",
                attention_bias=True,
                in_channels=2,
                out_channels=2,
            )
            | {key: ltx.TRANSFORMER_EXPECTED[key] for key in ltx.TRANSFORMER_DEFAULTS},
        ),
        ("CausalVideoAutoencoder", author_names.VAE_METADATA | author_names.VAE_BLOCKS["0.9.0"]),
    ],
)
def test_a_config_of_the_authors_without_its_class(tmp_path, name, config):
    """Finds the class by the keys, as in configs that other libraries derived, and reads the same model."""
    found, config = {}, {key: value for key, value in config.items() if key != "_class_name"}
    for folder, given in (("named", dict(config, _class_name=name)), ("bare", dict(config, ckpt_path=""))):
        write(tmp_path / folder, given, {"a": np.zeros(3, np.float32)})
        found[folder] = pretrained.open_folder(tmp_path / folder)[:2]
    assert found["bare"] == found["named"] and found["bare"][0] in pretrained.KINDS


# --- spellings and variants -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "kind, config, same",
    [
        ("dit", dict(activation_fn="gelu_pytorch_tanh"), dict()),
        ("ltx_transformer", dict(activation_fn="gelu_new"), dict()),
        ("sd_unet", dict(act_fn="swish", layers_per_block=[2] * 4, cross_attention_dim=[4] * 4), dict()),
        ("sd_unet", dict(attention_head_dim=[2] * 4, transformer_layers_per_block=[1] * 4), dict()),
        ("unet2d", dict(act_fn="swish"), dict()),
        ("clip_text", dict(hidden_act="gelu_python"), dict(hidden_act="gelu_python")),
        ("t5_encoder", dict(feed_forward_proj="gated-gelu"), dict(is_gated_act=True, dense_act_fn="gelu_new")),
    ],
)
def test_spellings_of_one_function_are_one_model(kind, config, same):
    assert build(kind, SIZES[kind] | config).network.config == build(kind, SIZES[kind] | same).network.config


def test_t5s_of_all_versions():
    sizes = SIZES["t5_encoder"]
    mlp = lambda **more: (lambda c: (c.gated, c.activation, c.own_bias))(
        build("t5_encoder", sizes | more).network.config
    )
    assert mlp() == (False, "relu", False)
    assert mlp(feed_forward_proj="gated-gelu", tie_word_embeddings=False) == (True, "gelu_new", False)
    assert mlp(model_type="umt5") == mlp(architectures=["UMT5EncoderModel"]) == (True, "gelu_new", True)
    assert mlp(feed_forward_proj="gated-silu") == (True, "silu", False)
    assert mlp(dense_act_fn="gelu_pytorch_tanh", is_gated_act=True) == (True, "gelu_pytorch_tanh", False)
    assert build("t5_encoder", dict(model_type="umt5", d_model=8)).network.config.vocabulary == 250112


def test_full_size_13b_transformer_takes_its_sizes_from_the_config():
    config = dict(num_attention_heads=32, attention_head_dim=128, cross_attention_dim=4096, num_layers=48)
    model = pretrained.KINDS["ltx_transformer"].model(config, "diffusers", scan=True)
    assert sum(a.size for a in model.shapes.values()) == 13_042_569_344


# --- classes and parts of other models ------------------------------------------------------------


def write(path, config, tensors, name=SINGLE):
    path.mkdir(parents=True)
    (path / "config.json").write_text(json.dumps(config))
    save_file(tensors, path / name)
    return path


def test_the_class_of_older_dits(tmp_path):
    config, tensors, io = read_fixture(FIXTURES / "dit_two_layers.safetensors")
    old = config | dict(_class_name="Transformer2DModel", num_vector_embeds=None, cross_attention_dim=None)
    with pytest.raises(ValueError, match='norm_type is "layer_norm", allowed: "ada_norm_zero"$'):
        pretrained.load(write(tmp_path / "other", old, tensors))
    network = pretrained.load(write(tmp_path / "dit", old | dict(norm_type="ada_norm_zero"), tensors))
    assert_same(outputs(network, io), io["output"])


@pytest.mark.parametrize("named", ["T5ForConditionalGeneration", "T5Model", "T5EncoderModel", None])
def test_a_whole_t5_is_read_as_its_encoder(tmp_path, named):
    config, tensors, io = read_fixture(FIXTURES / "t5_masked.safetensors")
    others = ("decoder.embed_tokens.weight", "decoder.block.0.layer.0.SelfAttention.q.weight", "lm_head.weight")
    whole = tensors | {name: np.full((2, 3), np.nan, np.float32) for name in others}
    whole["spiece_model"] = np.zeros(5, np.uint8)
    config = config | dict(architectures=named and [named], tie_word_embeddings=False)
    network = pretrained.load(write(tmp_path / "t5", config, whole, "model.safetensors"))
    assert_same(
        np.asarray(jitted(network)(network.params, io["input_ids"], io["attention_mask"])), io["last_hidden_state"]
    )


def test_t5s_embedding_under_either_name():
    config, tensors, io = read_fixture(FIXTURES / "t5_masked.safetensors")
    copied = dict(tensors)
    embedding = copied.pop(t5_encoder.EMBEDDING)
    network = pretrained.import_checkpoint("t5_encoder", config, copied | {t5_encoder.COPY: embedding})
    np.testing.assert_array_equal(network.params["shared"]["embedding"], embedding)
    pretrained.import_checkpoint("t5_encoder", config, tensors | {t5_encoder.COPY: embedding})
    with pytest.raises(ValueError, match="encoder.embed_tokens.weight and shared.weight differ, and the model has one"):
        pretrained.import_checkpoint("t5_encoder", config, tensors | {t5_encoder.COPY: embedding + 1})


@pytest.mark.parametrize("named", ["CLIPModel", "CLIPTextModelWithProjection"])
def test_a_whole_clip_is_read_as_its_text_encoder(tmp_path, named):
    config, tensors, io = read_fixture(FIXTURES / "clip_text_quick.safetensors")
    others = ("vision_model.embeddings.class_embedding", "visual_projection.weight", "text_projection.weight")
    whole = {f"text_model.{name}": tensor for name, tensor in tensors.items()}
    whole |= {name: np.ones(3, np.float32) for name in (*others, "logit_scale", "text_model.embeddings.position_ids")}
    about = dict(text_config=config, vision_config=dict(hidden_size=9)) if named == "CLIPModel" else config
    network = pretrained.load(write(tmp_path / "clip", about | dict(architectures=[named]), whole, "model.safetensors"))
    assert_same(np.asarray(jitted(network)(network.params, io["input_ids"])[0]), io["last_hidden_state"])


@pytest.mark.integration
def test_older_names_of_attention_in_unets(tmp_path):
    """Checks that query, key, value and proj_attn are read, and written on request."""
    config, tensors, io = read_fixture(FIXTURES / "unet_old.safetensors")
    names = {".to_q.": ".query.", ".to_k.": ".key.", ".to_v.": ".value.", ".to_out.0.": ".proj_attn."}
    old = {re.sub(r"\.to_(q|k|v|out\.0)\.", lambda found: names[found[0]], name): a for name, a in tensors.items()}
    assert len(old.keys() - tensors.keys()) == 8 * sum(name.endswith("to_q.weight") for name in tensors) > 0
    network = pretrained.import_checkpoint("unet2d", config, old)
    assert_same(np.asarray(network.apply(network.params, io["sample"], io["timestep"])), io["output"])
    pretrained.export("unet2d", config, network.params, tmp_path, naming="first")
    assert pretrained.inspect(write(tmp_path / "hub", config | dict(_class_name="UNet2DModel"), old)).shapes


# --- values ---------------------------------------------------------------------------------------


@pytest.fixture
def dit():
    return read_fixture(FIXTURES / "dit_two_layers.safetensors")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_weights_that_are_not_finite(dit, value, dtype):
    config, tensors, _ = dit
    broken = {name: tensor.astype(dtype) for name, tensor in tensors.items()}
    broken["proj_out_2.bias"][3] = value
    with pytest.raises(
        ValueError, match="proj_out_2.bias holds 1 of 32 values that are not finite: the file is damaged"
    ):
        pretrained.import_checkpoint("dit", config, broken)


@pytest.mark.parametrize(
    "extra",
    [
        "scaled_fp8",
        "transformer_blocks.0.attn1.to_q.scale_weight",
        "proj_out_1.weight.absmax",
        "proj_out_1.weight_scale",
    ],
)
def test_quantised_tensors_are_refused_by_name(dit, extra):
    config, tensors, _ = dit
    with pytest.raises(ValueError, match=f"weights of this dit are quantised, {extra} hold their scales"):
        pretrained.find_model("dit", config, tensors | {extra: np.ones((), np.float32)})


def test_quantised_configs_and_integers_are_refused(dit):
    config, tensors, _ = dit
    with pytest.raises(
        ValueError, match=r"has quantised weights \(quantization_config, bitsandbytes\): take the files"
    ):
        pretrained.find_model("dit", config | dict(quantization_config=dict(quant_method="bitsandbytes")), tensors)
    integers = tensors | {"proj_out_2.bias": np.ones(32, np.int8)}
    with pytest.raises(ValueError, match="proj_out_2.bias holds int8, weights are floats"):
        pretrained.import_checkpoint("dit", config, integers)
