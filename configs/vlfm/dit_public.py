r"""Clips from captions, from the public DiT-XL/2: it learns a clip's latent path on its own autoencoder's latents.

    python -m launch.encode   --config=configs/vlfm/dit_public.py --config.codec.checkpoint="('DIT/vae',)" \
                              --config.data.path=FOLDER --out=out/dit_latents
    python -m launch.train    --config=configs/vlfm/dit_public.py --config.codec.checkpoint="('DIT/vae',)" \
                              --config.data.path=out/dit_latents --config.pretrained=DIT/transformer --workdir=out/dit
    python -m launch.evaluate --workdir=out/dit --out=out/dit/metrics.json

DIT is the folder of DiT-XL-2-256 in the public hubs' layout: transformer and vae. The network is that model, layer for
layer: its classes stay but none is given, its noise and variance outputs become mean and slope, and its times are
spread over the clip. An encoder that is trained as well embeds the captions; the layers that attend to them start at
zero. --config.text.name=none leaves both out; `launch.export` can then export the trained part for owners of the public
model. Cost: unknown; no run of this size was made. Expect: no figure is on record.
"""

from ml_collections import ConfigDict

from jvflow import defaults


def get_config(mode: str = "") -> ConfigDict:
    """Returns paper.py's config of the same mode, with the public network."""
    config = defaults.derive(__file__, "paper.py", mode)
    config.network.update(labels=1000, each_embeds=True, frequency_shift=1, mlp_epsilon=1e-5)
    config.network.time_scale = 500.0  # two seconds are its 1000 steps
    config.optimizer.update(name="adamw", warmup_steps=100, weight_decay=0.0, eps=1e-8)
    if mode == "debug":
        config.network.labels = 10
    else:
        config.codec = dict(name="stable_diffusion", checkpoint=(), scale=1.0, tile=0, dtype="float32")
        config.train.update(steps=20_000, batch_size=64)
    return config
