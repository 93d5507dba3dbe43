"""Measures the temporary memory of LTX-Video's and Wan's autoencoders at full size, over the length of a video.

    python -m benchmarks.run video_vae

Compiles them in pieces of one latent frame for 17, 41, 81 and 161 frames of 64 x 96 pixels, and as a whole for 17 and
41 frames; runs nothing. Takes five minutes.
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
            for method in ("encode", "decode"):
                sizes = {}
                for frames in FRAMES if piece else FRAMES[:2]:
                    if method == "encode":
                        inputs = jax.ShapeDtypeStruct((1, frames, *SIDES, 3), jnp.uint8)
                    else:
                        inputs = jax.ShapeDtypeStruct((1, *codec.latent_shape((frames, *SIDES))), jnp.float32)
                    program = getattr(codec, method).lower(params, inputs).compile()
                    sizes[frames] = program.memory_analysis().temp_size_in_bytes / 1e6
                label = f"{name} {method} {'in pieces' if piece else 'whole'}"
                found[label] = sizes
                print(label, {frames: round(size, 1) for frames, size in sizes.items()}, flush=True)
    return dict(temporaries_mb=found, sides=list(SIDES))
