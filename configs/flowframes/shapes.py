"""FlowFrames on shapes that collide, 64 x 64 pixels, with a U-Net and without captions.

    python -m launch.train    --config=configs/flowframes/shapes.py --workdir=out/shapes
    python -m launch.sample   --workdir=out/shapes --out=out/shapes/future --frames=48
    python -m launch.evaluate --workdir=out/shapes --out=out/shapes/metrics.json

Cost: 42 minutes on one CPU core. Expect the next chunk to be sharp in five evaluations. Over eleven chunks square
and triangle keep their forms, and the disc becomes uneven; without config.chunk.noise all dissolve after three.
"""

from ml_collections import ConfigDict

from jvflow import defaults


def get_config(mode: str = "") -> ConfigDict:
    """Returns procedural.py's config of the same mode, with a U-Net and without captions: algorithm 3 from scratch."""
    config = defaults.derive(__file__, "procedural.py", mode)
    config.data.path = "procedural:shapes"
    config.inversion.rho = 0.0
    config.prediction = "clean"
    config.text = dict(name="none")
    config.chunk.update(frames=(4,), noise=0.3)
    config.network = dict(name="unet", width=32, levels=(1, 2, 2, 4), attends=(False, False, False, True), frames=4)
    config.network.update(blocks=1, groups=8, head=32, time_scale=1000.0, dtype="float32")
    config.evaluate.update(frames=(4,), chunks=4)
    if mode == "debug":
        config.network.update(width=8, levels=(1, 2), attends=(False, True), groups=4, head=8)
        return config
    config.data.update(frames=48, stride=48, fps=32.0, size=(64, 64), clips=dict(train=1024, test=128))
    config.optimizer.update(warmup_steps=100, ema=0.998)
    config.train.update(steps=4000, batch_size=8)
    config.evaluate.update(clips=64, starts=2, batch=32, steps=(1, 5))
    config.run.update(checkpoint_every=500, sample_every=1000, validate_every=1000)
    return config
