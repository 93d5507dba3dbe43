"""Clips from captions, from a public DiT: DiT-XL/2 of its authors learns to follow the latent path of a clip, on the latents of its own autoencoder.

    python -m launch.encode   --config=configs/vlfm/dit_public.py --config.codec.weights="('DIT/vae',)" --config.data.path=FOLDER --out=out/dit_latents
    python -m launch.train    --config=configs/vlfm/dit_public.py --config.codec.weights="('DIT/vae',)" --config.data.path=out/dit_latents --config.pretrained=DIT/transformer --workdir=out/dit
    python -m launch.evaluate --workdir=out/dit --out=out/dit/metrics.json

DIT is the folder of DiT-XL-2-256 as the public hubs lay it out: transformer and vae. The network is that one, layer for layer: its classes are left alone (none
is named), its noise and variance become mean and slope, and its times are spread over the clip. Captions are embedded by an encoder that is
trained besides, and attended to by layers that start at nothing; --config.text.name=none leaves both out, and what is trained then can be exported
(`launch.export`) for those who have the public model. Nothing of this size has been run.
"""

from pathlib import Path
from runpy import run_path

import ml_collections


def get_config(mode: str = "") -> ml_collections.ConfigDict:
    """`mode`: as of paper.py."""
    config = run_path(str(Path(__file__).with_name("paper.py")))["get_config"](mode)
    config.network.update(labels=1000, each_embeds=True, frequency_shift=1, mlp_epsilon=1e-5, time_scale=500.0)  # two seconds are its 1000 steps
    config.optimizer.update(name="adamw", warmup_steps=100, weight_decay=0.0, eps=1e-8)
    if mode == "debug":
        config.network.labels = 10
    else:
        config.codec = dict(name="stable_diffusion", weights=(), scale=1.0, tile=0)
        config.train.update(steps=20_000, batch_size=64)
    return config
