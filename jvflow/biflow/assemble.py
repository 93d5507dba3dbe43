"""Experiments of Generative Video Bi-flow."""

from functools import partial

from jaxtyping import Array, Float, Key

from jvflow.biflow import method as biflow
from jvflow.flow import coupling
from jvflow.data.pipeline import Window
from jvflow.method import Latents, choose, network_of, solver_of
from jvflow.flow.path import squared_error


def assemble(config, codec, encoder) -> dict:
    """The entries of an `Experiment` that are this paper's, which has no captions."""
    del encoder
    objective = biflow.OBJECTIVES[config.objective]
    couple = choose(coupling.COUPLINGS, "coupling", config.coupling)
    past = config.context.frames
    if past < 1:
        raise ValueError(f"config.context.frames is {past}: at least the last frame is known, use 1 or more")
    if config.context.noise < 0:
        raise ValueError(f"config.context.noise is a noise level and must be 0 or more, got {config.context.noise}")
    options = dict(weights=tuple(config.weights[config.objective]), context_noise=config.context.noise)
    if objective.coordinates == 2:
        options["alpha_max"] = config.alpha_max
    latent = codec.latent_shape((1, *config.data.size))
    network = network_of(
        config, [latent],
        context=objective.context(past) * latent[-1], coordinates=objective.coordinates, velocities=objective.coordinates,
    )
    convert = choose({"velocity": None, "clean": objective.from_clean}, "prediction", config.prediction)
    if convert:
        network = network._replace(apply=partial(_converted, convert, network.apply))
    return dict(
        network=network,
        shapes=(latent,),
        windows=(Window(past + 1),),
        loss=partial(biflow_loss, partial(objective.loss, **options), couple),
        past_frames=past,
        stream=_stream(config.sample, objective, codec),
    )


def biflow_loss(loss, couple, field, latents: Latents, condition, keys: Key[Array, "b"], key) -> tuple[Float[Array, "b"], dict]:
    """The loss of consecutive frames: the last frame of each clip is the future, those before it the past."""
    past, future = couple(latents.mean[:, :-1], latents.mean[:, -1:], key)
    return loss(field, past, future, keys, condition), dict(coupling_cost=squared_error(past[:, -1:], future).mean())


def _converted(convert, apply, params, x, s, condition=None):
    return convert(x, s, apply(params, x, s, condition))


def _stream(sample, objective, codec):
    # FLOW and CONDIFF know no noise level: their only curve is the plain one.
    name = sample.curve if objective.coordinates == 2 else "plain"
    return partial(
        biflow.stream, curve=choose(biflow.CURVES, "sample.curve", name),
        epsilon=0.0 if name == "plain" else sample.epsilon, gain=sample.gain if name == "joint" else 0.0, context_noise=sample.context_noise,
        solver=solver_of(sample), source=objective.source, clamp=codec.range,
    )
