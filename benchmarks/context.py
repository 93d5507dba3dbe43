"""How many frames the field has to know where one frame does not show the motion: BI-FLOW on `procedural:bouncing`.

The demo's experiment, once with the last frame alone (the paper's), once with the one before it beside it, and
the same for CONDIFF. The streams of each are kept as a sheet: rows are real video and each run.
"""

import numpy as np

from benchmarks import subject
from benchmarks.record import RESULTS
from jvflow.data import pipeline, video
from jvflow.evaluate import Yardstick, controls, describe, method
from jvflow.sample import load
from jvflow.train import train

KNOWN = (1, 2)
NOISE = dict(train=0.3, sample=0.15)  # on the frames beside x
VIDEOS, FRAMES = 32, 192


def measure() -> dict:
    yardstick, results, rows = None, [], []
    for objective in ("biflow", "condiff"):
        for known in KNOWN:
            config = _config(objective, known)
            run = load(train(config, subject.folder() / f"{objective}_{known}").path)
            if yardstick is None:
                data = run.data()
                yardstick = Yardstick.of(config.evaluate, data)
                rows.append(pipeline.clips(data, "test", count=2))
            figures, streams = method(run, yardstick, data)
            results.append(dict(method=objective, known_frames=known) | figures | dict(protocol=describe(run, yardstick)))
            rows.append(streams[:2])
            print(objective, known, {key: value for key, value in figures.items() if isinstance(value, float)}, flush=True)
    length = min(row.shape[1] for row in rows)
    RESULTS.mkdir(exist_ok=True)
    video.write_png(RESULTS / "context.png", video.sheet(np.concatenate([row[:, :length] for row in rows]), columns=12))
    return dict(results=results, controls=controls(yardstick, data))


def _config(objective: str, known: int):
    config = subject.config()
    config.objective = objective
    config.data.path = "procedural:bouncing"
    config.context.frames = known
    if known > 1 or objective == "condiff":
        config.context.noise, config.sample.context_noise = NOISE["train"], NOISE["sample"]
    config.evaluate.update(videos=VIDEOS, frames=FRAMES)
    return config
