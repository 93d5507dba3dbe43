"""What a config means: the one place where config keys become functions."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import jax
import optax
from jaxtyping import Array, Float, Key

from jvflow import biflow, codecs, coupling, networks, optimizer
from jvflow.codecs import Codec
from jvflow.networks import Network
from jvflow.solver import Solver


@dataclass(frozen=True)
class Experiment:
    """The functions of one experiment.

    Attributes:
      network: `init` and `apply`.
      codec: video to latents and back.
      loss: `(field, latents (b, f, h, w, c), keys (b,), key) -> (b,)`.
      past_frames: frames that a stream starts from.
      clip_frames: frames that the loss needs of each clip.
      optimizer: of the parameters.
      schedule: the learning rate over the steps.
      stream: `(field, first frames, key) -> iterator of (frames, nfe)`.
    """

    network: Network
    codec: Codec
    loss: Callable
    past_frames: int
    clip_frames: int
    optimizer: optax.GradientTransformation
    schedule: optax.Schedule
    stream: Callable


COUPLINGS = {"consecutive": coupling.consecutive, "independent": coupling.independent}


def _choose(table: dict, key: str, value: str):
    if value not in table:
        raise ValueError(f"unknown {key} {value!r}: use one of {', '.join(table)}")
    return table[value]


def biflow_loss(loss, couple, field, latents: Float[Array, "b f h w c"], keys: Key[Array, "b"], key) -> Float[Array, "b"]:
    """The loss of consecutive frames: the last frame of each clip is the future, those before it the past."""
    past, future = couple(latents[:, :-1], latents[:, -1:], key)
    return loss(field, past, future, keys)


def _converted(convert, apply, params, x, s, condition=None):
    return convert(x, s, apply(params, x, s, condition))


def assemble(config) -> Experiment:
    """All functions of a config. Wrong names and sizes that do not fit are errors here."""
    objective = _choose(biflow.OBJECTIVES, "objective", config.objective)
    couple = _choose(COUPLINGS, "coupling", config.coupling)
    past = config.context.frames
    if past < 1:
        raise ValueError(f"config.context.frames is {past}: at least the last frame is known, use 1 or more")
    if config.context.noise < 0:
        raise ValueError(f"config.context.noise is a noise level and must be 0 or more, got {config.context.noise}")
    options = dict(weights=tuple(config.weights[config.objective]), context_noise=config.context.noise)
    if objective.coordinates == 2:
        options["alpha_max"] = config.alpha_max
    codec = codecs.build(**config.codec)
    latent = codec.latent_shape((1, *config.data.size))
    sizes = dict(config.network)
    network = networks.build(
        **dict(sizes, scales=tuple(sizes["scales"][config.objective])),
        channels=latent[-1],
        context=objective.context(past) * latent[-1],
        coordinates=objective.coordinates,
        velocities=objective.coordinates,
    )
    networks.check(network, latent)
    convert = _choose({"velocity": None, "clean": objective.from_clean}, "prediction", config.prediction)
    if convert:
        network = network._replace(apply=partial(_converted, convert, network.apply))
    rate = optimizer.schedule(
        config.optimizer.schedule, config.optimizer.learning_rate,
        warmup_steps=config.optimizer.warmup_steps, steps=config.train.steps,
    )
    update = optimizer.adamw(
        rate, b1=config.optimizer.b1, b2=config.optimizer.b2, eps=config.optimizer.eps,
        weight_decay=config.optimizer.weight_decay, clip=config.optimizer.clip,
    )
    return Experiment(
        network=network,
        codec=codec,
        loss=partial(biflow_loss, partial(objective.loss, **options), couple),
        past_frames=past,
        clip_frames=past + 1,
        optimizer=update,
        schedule=rate,
        stream=_stream(config, objective, codec),
    )


def _stream(config, objective, codec):
    sample = config.sample
    # FLOW and CONDIFF know no noise level: their only curve is the plain one.
    name = sample.curve if objective.coordinates == 2 else "plain"
    fixed = sample.steps is not None
    solver = Solver(
        method=sample.method,
        rtol=None if fixed else sample.rtol,
        atol=None if fixed else sample.atol,
        steps=sample.steps,
        per_sample=sample.per_sample,
    )
    return partial(
        biflow.stream, curve=_choose(biflow.CURVES, "sample.curve", name),
        epsilon=0.0 if name == "plain" else sample.epsilon, gain=sample.gain if name == "joint" else 0.0, context_noise=sample.context_noise,
        solver=solver, source=objective.source, clamp=codec.range,
    )


def example_keys(key: Key[Array, ""], count: int) -> Key[Array, "b"]:
    """One key per example of the global batch, from its index: independent of the number of devices."""
    return jax.vmap(partial(jax.random.fold_in, key))(jax.numpy.arange(count))
