"""The transformer of LTX-Video under the names of the diffusers package."""

from collections.abc import Mapping
from functools import partial

import jax.numpy as jnp

from jvflow import networks
from jvflow.networks import ltx
from jvflow.networks.ltx import LTX, LTXConfig
from jvflow.pretrained.layout import Kind, Model, mirror_stacked, network_shapes
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
    in_channels=Key(128, SIZE),
    out_channels=Key(128, either(SIZE, NONE)),
    patch_size=Key(1, one_of(1)),
    patch_size_t=Key(1, one_of(1)),
    num_attention_heads=Key(32, SIZE),
    attention_head_dim=Key(64, SIZE),
    cross_attention_dim=Key(2048, SIZE),
    num_layers=Key(28, LAYERS),
    activation_fn=Key("gelu-approximate", TANH_GELU),
    qk_norm=Key("rms_norm_across_heads", one_of("rms_norm_across_heads")),
    norm_elementwise_affine=Key(False, FALSE),
    norm_eps=Key(1e-6, POSITIVE),
    caption_channels=Key(4096, SIZE),
    attention_bias=Key(True, TRUE),
    attention_out_bias=Key(True, TRUE),
)
"""The keys of diffusers' LTXVideoTransformer3DModel."""
BLOCKS = "transformer_blocks/"


def model(config: Mapping, naming: str, *, scan: bool = False, **options) -> Model:
    """Returns the model of a config of the diffusers package.

    Args:
      scan: whether the layers are scanned.
      options: other fields of `LTXConfig`.
    """
    del naming
    values = read_config(config, KEYS, "a transformer of LTX-Video", _rules)
    sizes = LTXConfig(
        depth=values["num_layers"],
        heads=values["num_attention_heads"],
        head=values["attention_head_dim"],
        channels=values["in_channels"],
        outputs=values["out_channels"] or values["in_channels"],
        captions=values["caption_channels"],
        epsilon=values["norm_eps"],
        scan=scan,
        **options,
    )
    network = networks.functional(LTX, sizes, ltx.RULES)
    shapes = network_shapes(network)
    layout = mirror_stacked(shapes, BLOCKS, sizes.depth if scan else 0)
    return Model(network, shapes, layout, (), partial(_apply, network), partial(ltx.field, network))


def _rules(values: dict) -> dict[str, str]:
    width = values["num_attention_heads"] * values["attention_head_dim"]
    if width % 2:
        return dict(attention_head_dim="a number that gives an even width with num_attention_heads")
    fits = values["cross_attention_dim"] == width
    return {} if fits else dict(cross_attention_dim=f"the width {width} of the transformer")


def _apply(
    network,
    params,
    hidden_states,
    encoder_hidden_states,
    timestep,
    encoder_attention_mask=None,
    num_frames=None,
    height=None,
    width=None,
    rope_interpolation_scale=None,
    video_coords=None,
):
    """Maps tokens (b, n, c) in the order of frames, rows and columns, at timesteps (b,) or (b, n), to (b, n, c).

    Positions are `video_coords` (b, 3, n) in seconds and pixels, or the indices of frames, rows and columns times
    `rope_interpolation_scale`.
    """
    tokens = jnp.asarray(hidden_states)
    if video_coords is None:
        axes = jnp.meshgrid(*(jnp.arange(n, dtype=jnp.float32) for n in (num_frames, height, width)), indexing="ij")
        scale = jnp.asarray(ltx.SPAN if rope_interpolation_scale is None else rope_interpolation_scale, jnp.float32)
        video_coords = (jnp.stack([axis.reshape(-1) for axis in axes]) * scale[:, None])[None]
    positions = jnp.moveaxis(jnp.asarray(video_coords, jnp.float32), 1, 2) / jnp.asarray(ltx.SPAN)[None, None]
    timestep, text = jnp.asarray(timestep, jnp.float32).reshape(len(tokens), -1), jnp.asarray(encoder_hidden_states)
    return network.apply(params, tokens, positions, timestep, text, encoder_attention_mask)


KIND = Kind(model, lambda names: "diffusers", ("diffusers",))
