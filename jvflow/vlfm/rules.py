"""The rules for the entries of a VLFM config."""

from collections.abc import Iterator

from jvflow.training.rules import (
    BOOLEAN,
    COUNT,
    FRACTION,
    NOT_NEGATIVE,
    NUMBER,
    POSITIVE,
    SEED,
    SOLVER,
    TINY,
    Rules,
    check_solver,
    choice,
    many,
    optional,
    real,
    whole,
)
from jvflow.vlfm import hippo

ENTRIES = {
    "window.frames": whole(2),
    "window.every": COUNT,
    "window.anywhere": BOOLEAN,
    "path.order": optional(COUNT),
    "path.rule": choice(*hippo.RULES),
    "path.basis": choice("legs", "paper"),
    "path.allow_divergence": BOOLEAN,
    "path.ramp": BOOLEAN,
    "path.sigma": choice("exponential", "paper"),
    "path.alpha": POSITIVE,
    "path.sigma_min": real(TINY, 0.9999999, "a number between 0 and 1"),
    "path.velocity_scale": optional(NOT_NEGATIVE),
    "times.start": FRACTION,
    "times.frames": POSITIVE,
    "prediction": choice("clean", "velocity", "scaled_velocity"),
    "mean_weight": NOT_NEGATIVE,
    "caption_dropout": FRACTION,
    "sample.guidance": NUMBER,
    "sample.readout": choice("mean", "noise", "none"),
    **SOLVER,
    "evaluate.split": choice("train", "test", "val"),
    "evaluate.clips": COUNT,
    "evaluate.batch": COUNT,
    "evaluate.seed": SEED,
    "evaluate.text_guidance": many(NUMBER, "a tuple of numbers, such as (1.0, 2.0)"),
}


def contradictions(config: dict) -> Iterator[str]:
    """Yields a sentence for each pair of entries that contradict each other."""
    if config["window"]["anywhere"] and config["run"]["evaluate_every"]:
        yield (
            f"config.run.evaluate_every is {config['run']['evaluate_every']}, and the evaluation compares clips from "
            "their first frame: use config.run.evaluate_every=0, or config.window.anywhere=False"
        )
    yield from check_solver(config["sample"])


RULES = Rules(ENTRIES, contradictions)


def unread_entries(config) -> tuple[str, ...]:
    """Returns the entries that a config's objective does not read, see `Method`."""
    path = ("path.sigma", "path.sigma_min", "path.alpha", "path.velocity_scale")
    solver = tuple(f"sample.{key}" for key in config.sample if key != "guidance")
    captions = () if "text" in config and config.text.name != "none" else ("caption_dropout", "evaluate.text_guidance")
    if config.objective == "direct":
        return captions + path + solver + ("times", "prediction", "mean_weight")
    return captions + (() if config.prediction == "clean" else ("mean_weight",))
