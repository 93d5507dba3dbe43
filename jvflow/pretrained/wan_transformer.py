"""The transformer of Wan 2.1, text to video, under the names of the diffusers package."""

from collections.abc import Mapping
from functools import partial

import jax.numpy as jnp
from einops import rearrange

from jvflow import networks
from jvflow.networks import wan
from jvflow.networks.wan import Wan, WanConfig
from jvflow.pretrained.layout import Kind, Model, mirror_stacked, network_shapes
from jvflow.pretrained.public_config import (
    FLAG,
    LAYERS,
    NONE,
    POSITIVE,
    SIZE,
    Key,
    either,
    list_of,
    one_of,
    read_config,
    whole,
)

KEYS = dict(
    patch_size=Key([1, 2, 2], list_of(SIZE, 3)),
    num_attention_heads=Key(40, SIZE),
    attention_head_dim=Key(128, whole(2, even=True)),
    in_channels=Key(16, SIZE),
    out_channels=Key(16, either(SIZE, NONE)),
    text_dim=Key(4096, SIZE),
    freq_dim=Key(256, whole(2, even=True)),
    ffn_dim=Key(13824, SIZE),
    num_layers=Key(40, LAYERS),
    cross_attn_norm=Key(True, FLAG),
    qk_norm=Key("rms_norm_across_heads", one_of("rms_norm_across_heads")),
    eps=Key(1e-6, POSITIVE),
    image_dim=Key(None, NONE),
    added_kv_proj_dim=Key(None, NONE),
    rope_max_seq_len=Key(1024),
    pos_embed_seq_len=Key(None),
)
"""The keys of diffusers' WanTransformer3DModel; the last one changes nothing without `image_dim`."""
BLOCKS = "blocks/"


def model(config: Mapping, naming: str, *, scan: bool = False, **options) -> Model:
    """Returns the model of a config of the diffusers package.

    Args:
      scan: whether the layers are scanned.
      options: other fields of `WanConfig`.
    """
    del naming
    values = read_config(config, KEYS, "a transformer of Wan for text to video")
    sizes = WanConfig(
        depth=values["num_layers"],
        heads=values["num_attention_heads"],
        head=values["attention_head_dim"],
        hidden=values["ffn_dim"],
        patch=tuple(values["patch_size"]),
        channels=values["in_channels"],
        outputs=values["out_channels"] or values["in_channels"],
        captions=values["text_dim"],
        frequencies=values["freq_dim"],
        norm_text=bool(values["cross_attn_norm"]),
        epsilon=values["eps"],
        scan=scan,
        **options,
    )
    network = networks.functional(Wan, sizes, wan.RULES)
    shapes = network_shapes(network)
    layout = mirror_stacked(shapes, BLOCKS, sizes.depth if scan else 0)
    return Model(network, shapes, layout, (), partial(_apply, network), partial(wan.field, network))


def _apply(network: networks.Network, params, hidden_states, timestep, encoder_hidden_states):
    """Maps latents (b, c, f, h, w) at timesteps (b,), or (b, n) for each token, with text (b, m, d) to velocities."""
    x = rearrange(jnp.asarray(hidden_states), "b c f h w -> b f h w c")
    time = jnp.asarray(timestep, jnp.float32).reshape(len(x), -1)
    return rearrange(network.apply(params, x, time, jnp.asarray(encoder_hidden_states)), "b f h w c -> b c f h w")


KIND = Kind(model, lambda names: "diffusers", ("diffusers",))
