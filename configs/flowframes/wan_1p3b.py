r"""The paper's second setting (tables 3, 4): FlowFrames from Wan 2.1 1.3B, 17 and 41 frames, 240 x 416 at 16 fps.

    python -m launch.encode   --config=configs/flowframes/wan_1p3b.py --config.codec.checkpoint="('WAN/vae',)" \
                              --config.text.checkpoint="('WAN/text_encoder', 'WAN/tokenizer')" \
                              --config.data.path=FOLDER --config.pretrained=WAN/transformer --out=out/wan_inverted
    python -m launch.train    --config=configs/flowframes/wan_1p3b.py --config.codec.checkpoint="('WAN/vae',)" \
                              --config.text.checkpoint="('WAN/text_encoder', 'WAN/tokenizer')" \
                              --config.data.path=out/wan_inverted --config.pretrained=WAN/transformer --workdir=out/wan
    python -m launch.sample   --workdir=out/wan --out=out/wan/future
    python -m launch.evaluate --workdir=out/wan --out=out/wan/metrics.json

WAN is the folder of Wan2.1-T2V-1.3B-Diffusers in the public hubs' layout: transformer, vae, text_encoder and tokenizer.
All else is as in ltx_2b.py, whose `:debug` commands work with this file too. The frame rate is Wan's own; its network
does not receive it. Table 3 says UniPC and "shifting", which in Wan is the warp of times, without a factor: 3 here, the
public one for 480p. Cost: unknown; no run of this size was made, its step is compiled for TPU slices
(`python -m benchmarks.backbones`). Expect: the paper's tables 3 and 4.
"""

from ml_collections import ConfigDict

from jvflow import defaults


def get_config(mode: str = "") -> ConfigDict:
    """Returns ltx_2b.py's config of the same mode, with Wan's models."""
    config = defaults.derive(__file__, "ltx_2b.py", mode)
    config.codec = dict(name="wan_vae", checkpoint=(), scale=1.0, piece=1, tile=0, dtype="float32")
    config.data.update(fps=16.0, size=(240, 416))
    config.times = dict(name="uniform", warp=3.0)
    config.network = dict(name="wan", depth=30, heads=12, head=128, hidden=8960, patch=(1, 2, 2))
    config.network.update(dtype="bfloat16", attention=0, scan=True)
    config.optimizer.schedule = "cosine"
    config.sample.update(method="unipc", schedule="warp", warp=3.0, terminal=0.0, guidance=5.0)
    if mode == "debug":
        config.codec.tiny = True
        config.data.size = (32, 32)
        config.network.update(depth=2, heads=2, head=12, hidden=32, dtype="float32")
    else:
        config.text.length = 512
        # more than LTX-Video's 8: at 41 frames a sequence has 4,290 tokens, 7.4 times as many
        config.run.microbatches = 28
    return config
