"""The rules for the entries of a FlowFrames config."""

from collections.abc import Iterator

from jvflow.flow.coupling import COUPLINGS
from jvflow.flow.solver import METHODS
from jvflow.flow.times import SCHEDULES
from jvflow.flowframes.inversion import OPTIONS
from jvflow.training.rules import (
    COUNT,
    DISTANCE,
    FRACTION,
    LARGEST,
    NOT_NEGATIVE,
    NUMBER,
    POSITIVE,
    Rules,
    choice,
    many,
    optional,
    real,
)

GRID = 8  # of `jvflow.metrics.fit_window_pca`
COUNTS = many(COUNT, "a tuple of whole numbers of 1 or more, such as (8,)", range(1, LARGEST))

ENTRIES = {
    "chunk.frames": COUNTS,
    "chunk.noise": NOT_NEGATIVE,
    "prediction": choice("velocity", "clean"),
    "coupling": choice(*COUPLINGS),
    "inversion.rho": FRACTION,
    "inversion.coin": choice("example", "batch"),
    "inversion.max_error": optional(POSITIVE),
    "inversion.std": optional(NOT_NEGATIVE),
    "inversion.steps": COUNT,
    "inversion.guidance": NUMBER,
    "inversion.method": choice(*METHODS),
    "inversion.back": choice(*METHODS),
    "times.name": choice("uniform", "logit_normal"),
    "times.logit_mean": optional(NUMBER),
    "times.logit_std": POSITIVE,
    "times.warp": POSITIVE,
    "caption_dropout": FRACTION,
    "sample.method": choice(*METHODS, "unipc"),
    "sample.steps": COUNT,
    "sample.warp": POSITIVE,
    "sample.schedule": choice(*SCHEDULES),
    "sample.terminal": real(0, 0.999999, "a noise level below 1, or 0 to leave the last step where it is"),
    "sample.guidance": NUMBER,
    "evaluate.clips": COUNT,
    "evaluate.starts": COUNT,
    "evaluate.frames": COUNTS,
    "evaluate.chunks": COUNT,
    "evaluate.steps": COUNTS,
    **DISTANCE,
}


def contradictions(config: dict) -> Iterator[str]:
    """Yields a sentence for each pair of entries that contradict each other."""
    settings = config["evaluate"]
    window, shortest = settings["window"], min(settings["frames"])
    most = min(settings["chunks"] * shortest, 2 * shortest + 1)  # half of a window is observed, in one chunk
    if window > most:
        yield (
            f"config.evaluate.window is {window}, too long for config.evaluate.chunks={settings['chunks']} of "
            f"{shortest} frames (config.evaluate.frames): use {most} or less, or longer chunks"
        )
    if min(config["data"]["size"]) < GRID:
        yield (
            f"config.data.size is {tuple(config['data']['size'])}: use at least {GRID} pixels a side, because the "
            f"features of the evaluation have {GRID} x {GRID} cells"
        )
    if config["objective"] == "conventional" and config["network"]["name"] == "unet":
        yield (
            "config.objective is 'conventional', which has a time for each frame, and config.network.name 'unet' takes "
            "one for all: use the network dit, or the objective flowframes"
        )
    if config["objective"] == "flowframes" and config["chunk"].get("noise") and config["inversion"]["rho"]:
        yield (
            f"config.chunk.noise is {config['chunk']['noise']}, which would hide the inverted targets that "
            f"config.inversion.rho={config['inversion']['rho']} adds: use config.inversion.rho=0.0, or no noise"
        )
    sample = config["sample"]
    if sample["schedule"] == "linear_quadratic" and sample["method"] == "unipc":
        yield (
            "config.sample.schedule is 'linear_quadratic', and config.sample.method 'unipc' has a grid of its own: use "
            "the method 'euler', or the schedule 'warp' or 'tokens'"
        )
    if sample["schedule"] != "warp" and sample["warp"] != 1:
        yield (
            f"config.sample.warp is {sample['warp']}, and config.sample.schedule {sample['schedule']!r} does not use "
            "it: use config.sample.warp=1.0, or config.sample.schedule='warp'"
        )


RULES = Rules(ENTRIES, contradictions)


def unread_entries(config, inverts: bool) -> tuple[str, ...]:
    """Returns the entries that a config's objective does not read, see `Method`; `inverts`: it uses inverted chunks."""
    settings = ("coin", "std", "max_error", *OPTIONS)
    unread = ("inversion",) if config.objective != "flowframes" else tuple(f"inversion.{key}" for key in settings)
    unread = () if inverts else unread
    unread += () if config.objective == "flowframes" else ("chunk.noise",)
    unread += ("coupling",) if config.objective == "text_to_video" else ()
    unread += () if "text" in config and config.text.name != "none" else ("caption_dropout",)
    unread += () if config.times.name == "logit_normal" else ("times.logit_mean", "times.logit_std")
    schedule = config.sample.get("schedule", "warp")
    return unread + dict(warp=(), tokens=("sample.warp",)).get(schedule, ("sample.warp", "sample.terminal"))
