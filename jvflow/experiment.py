"""What a config means: the one place where config keys become functions, those of each paper in a file."""

import optax

from jvflow import codecs, text
from jvflow.biflow import method as biflow
from jvflow.flowframes import method as flowframes
from jvflow.training import optimizer
from jvflow.biflow import assemble as of_biflow
from jvflow.flowframes import assemble as of_flowframes
from jvflow.vlfm import assemble as of_vlfm
from jvflow.method import Experiment, Latents, choose, example_keys, with_text
from jvflow.training.lora import Tuning

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
    tuning = Tuning(tuple(config.tune.layers), config.tune.rank, config.tune.alpha)
    if tuning.freezes and not config.pretrained:
        raise ValueError("config.tune leaves parameters as they are, and without config.pretrained they would be random: name what training starts from, or use --config.tune.rank=0 --config.tune.layers='()'")
    return Experiment(codec=codec, optimizer=update, schedule=rate, pretrained=config.pretrained, tuning=tuning, **method(config, codec, encoder))


def _optimizer(config) -> tuple[optax.GradientTransformation, optax.Schedule]:
    settings = dict(config.optimizer)
    settings.pop("ema")
    rate = optimizer.schedule(
        settings.pop("schedule"), settings.pop("learning_rate"), warmup_steps=settings.pop("warmup_steps"), steps=config.train.steps
    )
    return optimizer.build(settings.pop("name"), rate, **settings), rate
