"""DiT under its public names, as the diffusers package and as its authors write them.

    diffusers    each block embeds time and class itself; q, k and v are separate tensors
    original     one embedding for all blocks; q, k and v are one tensor; stored sine positions are ignored

Both predict the noise and its variance for noisy latents at a timestep; our velocities are these two, in this order.
"""

import re
from collections.abc import Mapping
from functools import partial

import jax.numpy as jnp
from einops import rearrange

from jvflow import networks
from jvflow.flow.field import Condition
from jvflow.pretrained.layout import (
    Entry,
    Kind,
    Model,
    linear_entries,
    network_shapes,
    rearranged_entry,
    same_entry,
    stack,
)
from jvflow.pretrained.public_config import (
    FALSE,
    LAYERS,
    NONE,
    POSITIVE,
    SIZE,
    TANH_GELU,
    TRUE,
    Key,
    either,
    one_of,
    read_config,
)

KEYS = dict(
    num_attention_heads=Key(16, SIZE),
    attention_head_dim=Key(72, SIZE),
    in_channels=Key(4, SIZE),
    out_channels=Key(None, either(SIZE, NONE)),
    num_layers=Key(28, LAYERS),
    dropout=Key(0.0),
    norm_num_groups=Key(32),
    attention_bias=Key(True, TRUE),
    sample_size=Key(32),
    patch_size=Key(2, SIZE),
    activation_fn=Key("gelu-approximate", TANH_GELU),
    num_embeds_ada_norm=Key(1000, SIZE),
    upcast_attention=Key(False),
    norm_type=Key("ada_norm_zero", one_of("ada_norm_zero")),
    norm_elementwise_affine=Key(False, FALSE),
    norm_eps=Key(1e-5, POSITIVE),
)
"""The keys of diffusers' DiTTransformer2DModel."""
OLD_CLASS = "Transformer2DModel"
"""The class of DiT in older files; its `norm_type` tells DiT from other transformers."""


def find_naming(names) -> str:
    """Returns the naming of these tensors."""
    return "original" if any(name.startswith("x_embedder.") for name in names) else "diffusers"


def model(config: Mapping, naming: str, *, scan: bool = False, text_width: int = 0) -> Model:
    """Returns the model of a config of the diffusers package; the original naming uses the same config.

    Args:
      scan: whether the layers are scanned.
      text_width: width of text that each block also attends to, without effect until it is trained; 0 for no text.
    """
    if config.get("_class_name") == OLD_CLASS:
        config = {"norm_type": "layer_norm"} | dict(config)
    values = read_config(config, KEYS, "a DiT", _rules)
    original = naming == "original"
    heads, channels, patch = values["num_attention_heads"], values["in_channels"], values["patch_size"]
    out = values["out_channels"] or channels
    network = networks.build(
        "dit",
        width=heads * values["attention_head_dim"],
        depth=values["num_layers"],
        heads=heads,
        patch=(1, patch, patch),
        channels=channels,
        velocities=out // channels,
        labels=values["num_embeds_ada_norm"],
        time_scale=1.0,
        text_width=text_width,
        scan=scan,
        each_embeds=not original,
        frequency_shift=0 if original else 1,
        mlp_epsilon=1e-6 if original else values["norm_eps"],
    )
    sizes = dict(heads=heads, patch=patch, velocities=out // channels)
    block = _original_block if original else _diffusers_block
    blocks = [block(f"blocks/{i}", i, heads) for i in range(values["num_layers"])]
    blocks = stack(blocks, lambda path: path.replace("blocks/0/", "blocks/")) if scan else sum(blocks, [])
    ends = _original_ends(**sizes) if original else _diffusers_ends(**sizes)
    shapes, ignored = network_shapes(network), (r"pos_embed(\.pos_embed)?",)
    added = frozenset(path for path in shapes if re.search(r"/text_(q|kv|proj)/", path))
    return Model(network, shapes, blocks + ends, ignored, partial(_apply, network), network.apply, added)


def _rules(values: dict) -> dict[str, str]:
    channels = values["in_channels"]
    if (values["out_channels"] or channels) % channels:
        return dict(out_channels=f"a multiple of in_channels {channels}")
    return {}


def _apply(network, params, hidden_states, timestep, class_labels):
    """Maps latents (b, c, h, w) at timesteps (b,) with classes (b,) to noise and variance (b, 2 c, h, w)."""
    x = rearrange(hidden_states, "b c h w -> b 1 h w c")
    outputs = network.apply(
        params, x, (jnp.asarray(timestep, jnp.float32),), Condition(label=jnp.asarray(class_labels))
    )
    return rearrange(list(outputs), "v b 1 h w c -> b (v c) h w")


def _diffusers_block(path: str, i: int, heads: int) -> list[Entry]:
    name = f"transformer_blocks.{i}"
    parts = [f"{name}.attn1.to_{part}" for part in "qkv"]

    def merge(kind, inside):  # a head's q, k and v follow one another
        names = tuple(f"{part}.{kind}" for part in parts)
        read = lambda *tensors: rearrange(list(tensors), f"p (h e) {inside} -> {inside} (h p e)", h=heads)
        write = lambda array: tuple(
            rearrange(array, f"{inside} (h p e) -> p (h e) {inside}", h=heads, p=3)[p] for p in range(3)
        )
        return names, read, write

    return [
        Entry(f"{path}/qkv/kernel", *merge("weight", "d")),
        Entry(f"{path}/qkv/bias", *merge("bias", "")),
        *linear_entries(f"{path}/proj", f"{name}.attn1.to_out.0"),
        *linear_entries(f"{path}/mlp_in", f"{name}.ff.net.0.proj"),
        *linear_entries(f"{path}/mlp_out", f"{name}.ff.net.2"),
        *linear_entries(f"{path}/modulation", f"{name}.norm1.linear"),
        *linear_entries(f"{path}/conditioning/embedders/0/hidden", f"{name}.norm1.emb.timestep_embedder.linear_1"),
        *linear_entries(f"{path}/conditioning/embedders/0/out", f"{name}.norm1.emb.timestep_embedder.linear_2"),
        same_entry(f"{path}/conditioning/labels/embedding", f"{name}.norm1.emb.class_embedder.embedding_table.weight"),
    ]


def _original_block(path: str, i: int, heads: int) -> list[Entry]:
    name = f"blocks.{i}"
    return [
        rearranged_entry(f"{path}/qkv/kernel", f"{name}.attn.qkv.weight", "(p h e) d -> d (h p e)", p=3, h=heads),
        rearranged_entry(f"{path}/qkv/bias", f"{name}.attn.qkv.bias", "(p h e) -> (h p e)", p=3, h=heads),
        *linear_entries(f"{path}/proj", f"{name}.attn.proj"),
        *linear_entries(f"{path}/mlp_in", f"{name}.mlp.fc1"),
        *linear_entries(f"{path}/mlp_out", f"{name}.mlp.fc2"),
        *linear_entries(f"{path}/modulation", f"{name}.adaLN_modulation.1"),
    ]


def _diffusers_ends(**sizes) -> list[Entry]:
    return [*_patches("pos_embed.proj", "proj_out_2", **sizes), *linear_entries("modulation", "proj_out_1")]


def _original_ends(**sizes) -> list[Entry]:
    return [
        *_patches("x_embedder.proj", "final_layer.linear", **sizes),
        *linear_entries("modulation", "final_layer.adaLN_modulation.1"),
        *linear_entries("conditioning/embedders/0/hidden", "t_embedder.mlp.0"),
        *linear_entries("conditioning/embedders/0/out", "t_embedder.mlp.2"),
        same_entry("conditioning/labels/embedding", "y_embedder.embedding_table.weight"),
    ]


def _patches(into: str, out: str, *, heads: int, patch: int, velocities: int) -> list[Entry]:
    sizes = dict(p=patch, q=patch, v=velocities)
    return [
        rearranged_entry("patch_in/kernel", f"{into}.weight", "d c p q -> (p q c) d", p=patch, q=patch),
        same_entry("patch_in/bias", f"{into}.bias"),
        rearranged_entry("patch_out/kernel", f"{out}.weight", "(p q v c) d -> d (p q c v)", **sizes),
        rearranged_entry("patch_out/bias", f"{out}.bias", "(p q v c) -> (p q c v)", **sizes),
    ]


KIND = Kind(model, find_naming, ("diffusers", "original"))
