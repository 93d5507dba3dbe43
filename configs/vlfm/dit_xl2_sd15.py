r"""The paper's setting: DiT-XL/2 on frames inverted by DDIM through Stable Diffusion v1.5, CLIP captions, Grams.

    python -m launch.encode --config=configs/vlfm/dit_xl2_sd15.py --config.codec.checkpoint="('SD15',)" \
                            --config.text.checkpoint="('SD15/text_encoder', 'SD15/tokenizer')" \
                            --config.data.path=FOLDER --out=out/latents
    python -m launch.train  --config=configs/vlfm/dit_xl2_sd15.py --config.codec.checkpoint="('SD15',)" \
                            --config.text.checkpoint="('SD15/text_encoder', 'SD15/tokenizer')" \
                            --config.data.path=out/latents --workdir=out/sd15
    python -m launch.sample --workdir=out/sd15 --out=out/sd15/samples --fps=24

SD15 is the folder of the model in the public hubs' layout: vae, unet, text_encoder, tokenizer and scheduler. FOLDER
holds videos with captions. Encoding evaluates the U-Net `codec.steps` times per frame, once: latents and embedded
captions are stored with the clips, and training runs neither model. What the paper does not state is as in paper.py;
the steps and the guidance of DDIM are ours: 50 and none. Cost: unknown; no run of this size was made: its shapes are
checked, and its parts with small models. Expect: the paper's table 1.
"""

from ml_collections import ConfigDict

from jvflow import defaults


def get_config(mode: str = "") -> ConfigDict:
    """Returns paper.py's config of the same mode, with the paper's encoders."""
    config = defaults.derive(__file__, "paper.py", mode)
    if mode != "debug":
        config.codec = dict(name="stable_diffusion_ddim", checkpoint=(), scale=1.0)
        config.codec.update(steps=50, guidance=1.0, prompt="", tile=0, dtype="float32")
        config.text = dict(name="clip_text", checkpoint=(), dtype="float32")
        config.data.size = (512, 512)
        config.path.velocity_scale = 0.4  # use the value that `launch.encode` prints for your latents
    return config
