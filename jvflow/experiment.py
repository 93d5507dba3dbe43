"""From a config to an experiment: here config keys become functions. Imports a paper by its name."""

from importlib import import_module
from importlib.util import find_spec

import optax

from jvflow import codecs, text
from jvflow.assembly import Experiment, choose
from jvflow.method import Method
from jvflow.training.lora import Tuning
from jvflow.training.optimizer import grams

PAPERS = ("biflow", "vlfm", "flowframes")


def method_of(config) -> Method:
    """Returns the method that `config.method` names; raises ValueError if it is absent or lacks the objective."""
    if config.method not in PAPERS or find_spec(f"jvflow.{config.method}") is None:
        there = [name for name in PAPERS if find_spec(f"jvflow.{name}")]
        raise ValueError(f"unknown method {config.method!r}: use one of {', '.join(there)}")
    method = import_module(f"jvflow.{config.method}.method").METHOD
    choose(dict.fromkeys(method.objectives), "objective", config.objective)
    return method


def assemble(config, *, abstract: bool = False) -> Experiment:
    """Assembles the functions of a config; raises ValueError for unknown names and for sizes that do not fit.

    With `abstract`, a codec or a text encoder without a checkpoint gets the shapes of its public model and no values.
    """
    method = method_of(config)
    codec = codecs.build(**config.codec, abstract=abstract)
    encoder = text.build(**config.text, abstract=abstract) if "text" in config else None
    if codec.frames_per_latent > 1 and not method.video_codecs:
        raise ValueError(
            f"the codec {config.codec.name} encodes {codec.frames_per_latent} frames into one latent frame, but "
            f"{config.objective} needs a latent for each frame: use an image codec, such as tiny"
        )
    update, schedule = _optimizer(config)
    tuned = any(config.tune.get(key) for key in ("layers", "rank", "lora"))
    return Experiment(
        method=method,
        codec=codec,
        optimizer=update,
        schedule=schedule,
        text=encoder,
        pretrained=config.pretrained,
        tuning=Tuning.of(config) if tuned else None,
        **method.assemble(config, codec, encoder),
    )


def _optimizer(config) -> tuple[optax.GradientTransformation, optax.Schedule]:
    """Returns the optimizer of a config, with clipping of gradients by their global norm, and its learning rates."""
    settings = config.optimizer
    lengths = dict(warmup_steps=settings.warmup_steps, steps=config.train.steps)
    schedule = learning_rate_schedule(settings.schedule, settings.learning_rate, **lengths)
    build = choose(dict(adamw=optax.adamw, grams=grams), "optimizer", settings.name)
    update = build(schedule, **{key: settings[key] for key in ("b1", "b2", "eps", "weight_decay")})
    limit = settings.max_grad_norm
    return optax.chain(optax.clip_by_global_norm(limit), update) if limit else update, schedule


def learning_rate_schedule(name: str, learning_rate: float, *, warmup_steps: int, steps: int) -> optax.Schedule:
    """Returns the learning rate over `steps` steps: linear warm-up, then constant, linear or cosine to 0."""
    rest = max(steps - warmup_steps, 1)
    decays = {
        "constant": optax.constant_schedule(learning_rate),
        "linear": optax.linear_schedule(learning_rate, 0.0, rest),
        "cosine": optax.cosine_decay_schedule(learning_rate, rest),
    }
    decay = choose(decays, "schedule", name)
    if warmup_steps < 1:
        return decay
    warmup = optax.linear_schedule(learning_rate / warmup_steps, learning_rate, warmup_steps - 1 or 1)
    return optax.join_schedules([warmup, decay], [warmup_steps])
