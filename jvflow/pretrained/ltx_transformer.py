"""The transformer of LTX-Video under the names of the diffusers package."""

from collections.abc import Mapping
from functools import partial

import jax.numpy as jnp

from jvflow import networks
from jvflow.networks import ltx
from jvflow.networks.ltx import LTX, LTXConfig
from jvflow.pretrained.layout import Kind, Model, find_differences, mirror_stacked, network_shapes

EXPECTED = dict(
    patch_size=1,
    patch_size_t=1,
    activation_fn="gelu-approximate",
    qk_norm="rms_norm_across_heads",
    norm_elementwise_affine=False,
    attention_bias=True,
    attention_out_bias=True,
)
BLOCKS = "transformer_blocks/"


def model(config: Mapping, naming: str, *, scan: bool = False, **options) -> Model:
    """Returns the model of a config of the diffusers package.

    Args:
      scan: whether the layers are scanned.
      options: other fields of `LTXConfig`.
    """
    del naming
    unsupported = find_differences(config, EXPECTED)
    width = config["num_attention_heads"] * config["attention_head_dim"]
    unsupported |= find_differences(config, dict(cross_attention_dim=width))
    if unsupported:
        raise ValueError(
            f"a transformer of LTX-Video has {EXPECTED} and attends to text of its own width {width}, "
            f"this config says {unsupported}"
        )
    sizes = LTXConfig(
        depth=config["num_layers"],
        heads=config["num_attention_heads"],
        head=config["attention_head_dim"],
        channels=config["in_channels"],
        outputs=config.get("out_channels") or config["in_channels"],
        captions=config["caption_channels"],
        epsilon=config.get("norm_eps", 1e-6),
        scan=scan,
        **options,
    )
    network = networks.functional(LTX, sizes, ltx.RULES)
    shapes = network_shapes(network)
    layout = mirror_stacked(shapes, BLOCKS, sizes.depth if scan else 0)
    return Model(network, shapes, layout, frozenset(), partial(_apply, network), partial(ltx.field, network))


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
