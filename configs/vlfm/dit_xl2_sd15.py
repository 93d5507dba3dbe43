"""The paper's setting: DiT-XL/2 on frames that DDIM has inverted through Stable Diffusion v1.5, captions by CLIP, trained with Grams.

    python -m launch.encode --config=configs/vlfm/dit_xl2_sd15.py --config.codec.weights="('SD15',)" --config.text.weights="('SD15/text_encoder', 'SD15/tokenizer')" --config.data.path=FOLDER --out=out/latents
    python -m launch.train  --config=configs/vlfm/dit_xl2_sd15.py --config.codec.weights="('SD15',)" --config.text.weights="('SD15/text_encoder', 'SD15/tokenizer')" --config.data.path=out/latents --workdir=out/sd15
    python -m launch.sample --workdir=out/sd15 --out=out/sd15/samples --fps=24

SD15 is the folder of the model as the public hubs lay it out: vae, unet, text_encoder, tokenizer and scheduler. FOLDER is videos with
captions. Encoding takes `codec.steps` evaluations of the U-Net for each frame, once: latents and embedded captions are kept beside
the clips, and training runs neither model. What the paper does not say is as in paper.py, and the steps and guidance of DDIM are ours:
50 and none. Nothing of this size has been run: it is checked for shapes, and its parts with small models.
"""

from pathlib import Path
from runpy import run_path

import ml_collections


def get_config(mode: str = "") -> ml_collections.ConfigDict:
    """`mode`: as of paper.py."""
    config = run_path(str(Path(__file__).with_name("paper.py")))["get_config"](mode)
    if mode != "debug":
        config.codec = dict(name="stable_diffusion_ddim", weights=(), scale=1.0, steps=50, guidance=1.0, prompt="", tile=0)
        config.text = dict(name="clip", weights=())
        config.data.size = (512, 512)
        config.path.motion = 0.4  # take what `launch.encode` says of your latents
    return config
