"""What a config means: the one place where config keys become functions, those of each paper in a file."""

import optax

from jvflow import biflow, codecs, flowframes, optimizer, text
from jvflow.experiment import of_biflow, of_flowframes, of_vlfm
from jvflow.experiment.base import Experiment, Latents, choose, example_keys, with_text

__all__ = ["Experiment", "Latents", "assemble", "example_keys", "with_text"]


def assemble(config, *, abstract: bool = False) -> Experiment:
    """All functions of a config. Wrong names and sizes that do not fit are errors here.

    With `abstract` a codec and a text encoder without weights are taken for their public models, of which nothing but shapes is known then.
    """
    papers = ((biflow.OBJECTIVES, of_biflow), (of_vlfm.OBJECTIVES, of_vlfm), (flowframes.DESIGNS, of_flowframes))
    methods = {objective: paper.assemble for objectives, paper in papers for objective in objectives}
    method = choose(methods, "objective", config.objective)
    codec = codecs.build(**config.codec, abstract=abstract)
    encoder = text.build(**config.text, abstract=abstract) if "text" in config else None
    if codec.frames > 1 and config.objective not in flowframes.DESIGNS:
        raise ValueError(f"the codec {config.codec.name} takes {codec.frames} frames as one, {config.objective} is about single frames: use a codec of images, such as tiny")
    update, rate = _optimizer(config)
    return Experiment(codec=codec, optimizer=update, schedule=rate, **method(config, codec, encoder))


def _optimizer(config) -> tuple[optax.GradientTransformation, optax.Schedule]:
    settings = dict(config.optimizer)
    settings.pop("ema")
    rate = optimizer.schedule(
        settings.pop("schedule"), settings.pop("learning_rate"), warmup_steps=settings.pop("warmup_steps"), steps=config.train.steps
    )
    return optimizer.build(settings.pop("name"), rate, **settings), rate
