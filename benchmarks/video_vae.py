"""Temporary memory of the autoencoders of LTX-Video and Wan at their full size, whole and in pieces of one latent frame, over the length of a video.

    python -m benchmarks.run video_vae

What the compiled programs of 17, 41, 81 and 161 frames of 64 x 96 pixels say they need; nothing is run. Five minutes.
"""

FRAMES, SIDES = (17, 41, 81, 161), (64, 96)


def measure() -> dict:
    import jax
    import jax.numpy as jnp

    from jvflow import codecs, networks
    from jvflow.networks.ltx_vae import LTXVAE, LTXVAEConfig
    from jvflow.networks.wan_vae import WanVAE, WanVAEConfig

    found = {}
    for name, module, config in (("ltx_vae", LTXVAE, LTXVAEConfig()), ("wan_vae", WanVAE, WanVAEConfig())):
        params = jax.eval_shape(networks.functional(module, config).init, jax.random.key(0))
        for piece in (1, 0):
            codec = codecs.build(name, abstract=True, piece=piece)
            for way in ("encode", "decode"):
                sizes = {}
                for frames in FRAMES if piece else FRAMES[:2]:
                    shape = (1, frames, *SIDES, 3) if way == "encode" else (1, *codec.latent_shape((frames, *SIDES)))
                    given = jax.ShapeDtypeStruct(shape, jnp.uint8 if way == "encode" else jnp.float32)
                    sizes[frames] = (
                        getattr(codec, way).lower(params, given).compile().memory_analysis().temp_size_in_bytes / 1e6
                    )
                found[f"{name} {way} {'in pieces' if piece else 'whole'}"] = sizes
                print(
                    name,
                    way,
                    "in pieces" if piece else "whole",
                    {frames: round(size, 1) for frames, size in sizes.items()},
                    flush=True,
                )
    return dict(temporaries_mb=found, sides=list(SIDES))
