"""The transformer of Wan 2.1, text to video, under the names of the diffusers package."""

from collections.abc import Mapping
from functools import partial

import jax.numpy as jnp
from einops import rearrange

from jvflow import networks
from jvflow.networks import wan
from jvflow.networks.wan import Wan, WanConfig
from jvflow.pretrained.layout import Kind, Model, find_differences, mirror_stacked, network_shapes

EXPECTED = dict(
    freq_dim=256, qk_norm="rms_norm_across_heads", image_dim=None, added_kv_proj_dim=None, pos_embed_seq_len=None
)
BLOCKS = "blocks/"


def model(config: Mapping, naming: str, *, scan: bool = False, **options) -> Model:
    """Returns the model of a config of the diffusers package.

    Args:
      scan: whether the layers are scanned.
      options: other fields of `WanConfig`.
    """
    del naming
    unsupported = find_differences(config, EXPECTED)
    if unsupported:
        raise ValueError(f"a transformer of Wan 2.1, text to video, has {EXPECTED}, this config says {unsupported}")
    sizes = WanConfig(
        depth=config["num_layers"],
        heads=config["num_attention_heads"],
        head=config["attention_head_dim"],
        hidden=config["ffn_dim"],
        patch=tuple(config["patch_size"]),
        channels=config["in_channels"],
        outputs=config.get("out_channels") or config["in_channels"],
        captions=config["text_dim"],
        norm_text=config["cross_attn_norm"],
        epsilon=config.get("eps", 1e-6),
        scan=scan,
        **options,
    )
    network = networks.functional(Wan, sizes, wan.RULES)
    shapes = network_shapes(network)
    layout = mirror_stacked(shapes, BLOCKS, sizes.depth if scan else 0)
    return Model(network, shapes, layout, frozenset(), partial(_apply, network), partial(wan.field, network))


def _apply(network: networks.Network, params, hidden_states, timestep, encoder_hidden_states):
    """Maps latents (b, c, f, h, w) at timesteps (b,), or (b, n) for each token, with text (b, m, d) to velocities."""
    x = rearrange(jnp.asarray(hidden_states), "b c f h w -> b f h w c")
    time = jnp.asarray(timestep, jnp.float32).reshape(len(x), -1)
    return rearrange(network.apply(params, x, time, jnp.asarray(encoder_hidden_states)), "b f h w c -> b c f h w")


KIND = Kind(model, lambda names: "diffusers", ("diffusers",))
