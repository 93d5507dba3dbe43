"""BI-FLOW with two known frames on shapes that collide, 64 x 64: the config of the shipped model jvflow:bouncing.

    python -m launch.train    --config=configs/biflow/bouncing.py --workdir=out/bouncing
    python -m launch.sample   --workdir=out/bouncing --out=out/bouncing/stream --frames=256
    python -m launch.evaluate --workdir=out/bouncing --out=out/bouncing/metrics.json

Cost: 45 minutes on one CPU core. Expect: see docs/models.md.
"""

from ml_collections import ConfigDict

from jvflow import defaults


def get_config(mode: str = "") -> ConfigDict:
    """Returns unet.py's config of the same mode, small, with a second known frame, which shows where the shapes go."""
    config = defaults.derive(__file__, "unet.py", mode)
    config.data.update(path="procedural:shapes", fps=16.0)
    config.context.update(frames=2, noise=0.6)
    config.sample.update(epsilon=0.3, context_noise=0.6)
    if mode != "debug":
        config.data.update(frames=32, size=(64, 64), stride=32, threads=1, clips=dict(train=1024, test=256))
        config.network.update(width=dict(flow=32, biflow=32, condiff=32), levels=(1, 2, 2, 4), groups=8, shared=True)
        config.network.update(attends=(False, False, False, True), blocks=1, head=32, time_scale=1000.0)
        config.network.dtype = "float32"
        config.prediction = "clean"
        config.loss_weights.biflow = (10.0, 1.0)
        config.optimizer.update(learning_rate=1e-3, schedule="cosine", warmup_steps=100, ema=0.998)
        config.train = dict(steps=4000, batch_size=8)
        config.evaluate.update(videos=16, frames=96, batch=16, dimensions=32, real_clips=256)
        config.run.update(log_every=25, checkpoint_every=500, sample_every=1000, validate_every=1000, sample_frames=48)
    return config
