"""Compares one and two known frames on `procedural:bouncing`, where one frame does not show the motion.

Runs the demo's experiment for BI-FLOW and CONDIFF, with only the last frame (as in the paper) and with the last two.
Noise on the older frame hides its errors. With a noise level of at most 0.3 the streams break into speckle. With 0.6
the shapes keep moving, but their forms and colours change over time. `out/context/report.html` shows the streams.
Continues an interrupted run.
"""

from benchmarks import subject
from jvflow.biflow.demo import TITLES, side_by_side
from jvflow.commands import load_with_data
from jvflow.training.loop import train

OUT = "out/context"
VIDEOS, FRAMES = 32, 192
STEPS, NOISE = 3600, 0.6


def measure() -> dict:
    configs, titles = {}, {}
    for objective in ("biflow", "condiff"):
        for known in (1, 2):
            name = f"{objective}_{known}"
            configs[name], titles[name] = _config(objective, known), f"{TITLES[objective]}, {known} known"
    return side_by_side(
        configs,
        OUT,
        titles=titles,
        heading="Known frames, on bouncing shapes",
        command="python -m benchmarks.run context",
        train=train,
        load=load_with_data,
    )


def _config(objective: str, known: int):
    config = subject.knowing(subject.config(), known, NOISE)
    config.objective = objective
    config.train.steps = STEPS
    config.data.path = "procedural:bouncing"
    config.evaluate.update(videos=VIDEOS, frames=FRAMES)
    return config
