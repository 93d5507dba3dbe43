"""The rules for the entries of a Bi-flow config."""

from collections.abc import Iterator

from jvflow.flow.coupling import COUPLINGS
from jvflow.metrics.image import WINDOW
from jvflow.training.rules import COUNT, DISTANCE, NOT_NEGATIVE, POSITIVE, SOLVER, Rules, check_solver, choice, many

WEIGHTS = many(NOT_NEGATIVE, "a tuple with a number of 0 or more for each velocity, such as (30.0, 1.0)")

ENTRIES = {
    "alpha_max": POSITIVE,
    "context.frames": COUNT,
    "context.noise": NOT_NEGATIVE,
    "coupling": choice(*COUPLINGS),
    "prediction": choice("velocity", "clean"),
    "loss_weights.flow": WEIGHTS,
    "loss_weights.biflow": WEIGHTS,
    "loss_weights.condiff": WEIGHTS,
    "sample.curve": choice("plain", "joint", "backward", "correcting"),
    "sample.epsilon": NOT_NEGATIVE,
    "sample.gain": NOT_NEGATIVE,
    "sample.context_noise": NOT_NEGATIVE,
    "evaluate.videos": COUNT,
    "evaluate.frames": COUNT,
    "evaluate.stride": COUNT,
    "evaluate.pooled": COUNT,
    "run.sample_frames": COUNT,
    **SOLVER,
    **DISTANCE,
}


def contradictions(config: dict) -> Iterator[str]:
    """Yields a sentence for each pair of entries that contradict each other."""
    settings, sample, past = config["evaluate"], config["sample"], config["context"]["frames"]
    need = settings["window"] + (settings["pooled"] - 1) * settings["stride"]
    if settings["frames"] < need:
        yield (
            f"config.evaluate.frames is {settings['frames']}, and {settings['pooled']} windows of {settings['window']} "
            f"frames need {need}: use {need} or more, or a smaller config.evaluate.pooled or config.evaluate.window"
        )
    if settings["frames"] <= past:
        yield (
            f"config.evaluate.frames is {settings['frames']}, and a stream starts from config.context.frames={past} "
            f"frames: use {past + 1} or more"
        )
    if min(config["data"]["size"]) < WINDOW:
        yield (
            f"config.data.size is {tuple(config['data']['size'])}: use at least {WINDOW} pixels a side, because the "
            f"SSIM of an evaluation has windows of {WINDOW} x {WINDOW}"
        )
    if sample.get("curve") == "backward" and past > 1:
        yield f"config.sample.curve 'backward' needs config.context.frames=1, not {past}: use another curve"
    if sample.get("gain") and sample.get("curve") == "joint" and not sample["epsilon"]:
        yield (
            f"config.sample.gain is {sample['gain']}, and config.sample.epsilon, the highest noise level, is 0: use a "
            "higher epsilon, or a gain of 0"
        )
    yield from check_solver(sample)
    yield from _check_lengths(config)


def _check_lengths(config: dict) -> Iterator[str]:
    """Yields a sentence for each tuple that does not have a number for each velocity of the objective."""
    objective, scales = config["objective"], config["network"].get("scales", ())
    count = 2 if objective == "biflow" else 1
    given = {f"config.loss_weights.{objective}": config["loss_weights"].get(objective, ())}
    own = f".{objective}" if isinstance(scales, dict) else ""
    scales = scales.get(objective, ()) if own else scales
    if scales:
        given[f"config.network.scales{own}"] = scales
    for name, numbers in given.items():
        if len(numbers) != count:
            example = "(1.0,1.0)" if count == 2 else "(1.0,)"
            yield (
                f"{name} is {tuple(numbers)}: use a number for each velocity, and {objective} has {count}, such as "
                f"'--{name}={example}'"
            )


RULES = Rules(ENTRIES, contradictions)
