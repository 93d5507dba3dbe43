"""How many frames the field has to know where one frame does not show the motion: `procedural:bouncing`.

The demo's experiment for BI-FLOW and CONDIFF, with the last frame alone (the paper's) and with the one before
it beside it. Noise on the older frame hides what went wrong in it: with at most 0.3 streams break into speckle, with
0.6 shapes stay shapes and move, while they and their colours turn into others. The streams are shown in `out/context/report.html`; what was stopped continues.
"""

from benchmarks import subject
from jvflow.demo import TITLES, side_by_side

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
    )


def _config(objective: str, known: int):
    config = subject.knowing(subject.config(), known, NOISE)
    config.objective = objective
    config.train.steps = STEPS
    config.data.path = "procedural:bouncing"
    config.evaluate.update(videos=VIDEOS, frames=FRAMES)
    return config
