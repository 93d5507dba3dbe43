"""The paper's training settings (unet.py) with a DiT-B/4 in place of the paper's U-Net: 128 x 128 pixels, bf16.

    python -m launch.train --config=configs/biflow/paper.py --config.data.path=FOLDER --workdir=out/paper

Cost: unknown; no run of this size was made. Its shapes are checked, its step is compiled for TPU slices
(`python -m launch.dryrun`), and its debug mode runs. Expect: the paper has no figure for this network.
"""

from ml_collections import ConfigDict

from jvflow import defaults


def get_config(mode: str = "") -> ConfigDict:
    """Returns unet.py's config of the same mode, with a DiT."""
    config = defaults.derive(__file__, "unet.py", mode)
    config.network = dict(name="dit", width=768, depth=12, heads=12, patch=(1, 4, 4), mlp_ratio=4.0, time_scale=1000.0)
    config.network.update(dtype="bfloat16", scan=True, local=False)
    config.network.scales = dict(flow=(), biflow=(), condiff=())
    if mode == "debug":
        config.network.update(width=32, depth=1, heads=2)
    return config
