"""Generative Video Bi-flow (Liu and Ritschel): a flow from the last frame to the next one.

    FLOW        x(t)        = x0 + t (x1 - x0)             learns v = x1 - x0                   (1)   paper, eq. 3
    BI-FLOW     x(t, alpha) = x0 + t (x1 - x0) + alpha n   learns (v, d) = (x1 - x0, n)         (2)   paper, eq. 4 and 5
    CONDIFF     x(t)        = n + t (x1 - n)               learns v = x1 - n, given x0          (3)   paper, section 3.1

x0 is a frame, x1 the next one, n ~ N(0, I), t and alpha ~ U(0, 1), pixels in [-1, 1]. A single frame may not show the
motion. The field can therefore take earlier frames as context, with noise added so that it learns to tolerate errors
in them. (The paper uses only the last frame, and names this as its main limitation, section 6.)

n has no structure, and a small network with large patches has too few channels to carry all its values. Such a network
can return the clean state y instead, x0 + t (x1 - x0) in BI-FLOW and x1 in CONDIFF. Then the velocity follows from y:

    BI-FLOW   d = (x - y) / max(alpha, 0.01)                                                   (6)   Li and He,
    CONDIFF   v = (y - x) / max(1 - t, 0.01)                                                         arXiv 2511.13720

Sampling a frame solves dx/dk = f^v dt/dk + f^d dalpha/dk along a curve (t, alpha)(k):            (4)   paper, eq. 8

    plain       (k, 0)              the next frame, no correction
    joint       (k, eps (1 - k))    the next frame from the last one plus noise eps n, which covers
                                    the accumulated error and is removed together with it         paper, eq. 9
    backward    (k, eps k)          the past frame, solved from k = 1 to 0                        paper, section 5
    correcting  (0, eps (1 - k))    the same frame, cleaned

The paper uses one eps for all frames, and leaves open how to adapt it to the error of each frame (section 6). For
an input x, the network estimates the size of the noise as

    r(x) = eps RMS(f^d(x, (0, eps)))                                                               (5)

r is small for a clean frame, and grows with the noise and the errors in a frame. So each frame can have its own noise
level, min(eps, g r(x)) with a gain g, at the cost of one more evaluation.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import jax
from jaxtyping import Array, Float, Key

from jvflow.assembly import Latents, build_network, build_solver, choose, noise_like, split_each
from jvflow.biflow.compare import compare
from jvflow.biflow.demo import demo
from jvflow.biflow.evaluate import preview
from jvflow.biflow.protocol import PRESETS, evaluate
from jvflow.biflow.rules import RULES
from jvflow.biflow.sample import CURVES, StreamSettings, add_context, context_keys, sample, sampling_program
from jvflow.data import latents as data_latents
from jvflow.data.pipeline import Window
from jvflow.flow import coupling as couplings
from jvflow.flow.field import Condition, Field, expand_like
from jvflow.flow.path import BILINEAR, LINEAR, Ends, matching_loss, squared_error
from jvflow.flow.prediction import from_clean, loss_weight, to_data
from jvflow.method import Method

Past = Float[Array, "b n h w c"]
Future = Float[Array, "b 1 h w c"]
Keys = Key[Array, "b"]


# --- objectives -----------------------------------------------------------------------------------


def flow_loss(
    field: Field, past: Past, future: Future, keys: Keys, condition=None, loss_weights=None, context_noise: float = 0.0
) -> Float[Array, "b"]:
    """Computes the loss of FLOW (1). The field takes s = (t,) and returns one velocity."""
    condition = _noised_context(condition, past[:, :-1], context_keys(keys), context_noise)
    t = jax.vmap(jax.random.uniform)(keys)
    return matching_loss(LINEAR, field, Ends(past[:, -1:], future), (t,), condition, loss_weights)


def biflow_loss(
    field: Field,
    past: Past,
    future: Future,
    keys: Keys,
    condition: Condition | None = None,
    loss_weights: tuple | None = None,
    context_noise: float = 0.0,
    alpha_max: float = 1.0,
) -> Float[Array, "b"]:
    """Computes the loss of BI-FLOW (2). The field takes s = (t, alpha) and returns two velocities."""
    condition = _noised_context(condition, past[:, :-1], context_keys(keys), context_noise)
    key_t, key_alpha, key_noise = split_each(keys, 3)
    t = jax.vmap(jax.random.uniform)(key_t)
    alpha = alpha_max * jax.vmap(jax.random.uniform)(key_alpha)
    ends = Ends(past[:, -1:], future, noise_like(key_noise, future))
    return matching_loss(BILINEAR, field, ends, (t, alpha), condition, loss_weights)


def condiff_loss(
    field: Field, past: Past, future: Future, keys: Keys, condition=None, loss_weights=None, context_noise: float = 0.0
) -> Float[Array, "b"]:
    """Computes the loss of CONDIFF (3). The field takes s = (t,) and the past as context; it returns one velocity."""
    condition = _noised_context(condition, past, context_keys(keys), context_noise)
    key_t, key_noise = split_each(keys, 2)
    t = jax.vmap(jax.random.uniform)(key_t)
    return matching_loss(LINEAR, field, Ends(noise_like(key_noise, future), future), (t,), condition, loss_weights)


def _noised_context(condition, frames: Past, keys: Keys, max_level: float) -> Condition | None:
    """Adds frames to the condition as context, with noise of a level drawn uniformly from [0, max_level]."""
    if not max_level:
        return add_context(condition, frames)
    key_level, key_noise = split_each(keys, 2)
    level = max_level * jax.vmap(jax.random.uniform)(key_level)
    return add_context(condition, frames + expand_like(level, frames) * noise_like(key_noise, frames))


def _biflow_velocities(x, s, outputs):
    velocity, clean = outputs
    return velocity, from_clean(x, s[1], clean)  # (6)


def _condiff_velocities(x, s, outputs):
    (clean,) = outputs
    return (to_data(x, s[0], clean),)  # (6)


@dataclass(frozen=True)
class Objective:
    """One of the paper's three methods.

    Attributes:
      loss: `(field, past, future, keys, condition) -> (b,)`, one key per example. `past` holds the known frames
        (b, n, h, w, c) in order; x0 is the last of them.
      coordinates: number of entries of s, and of the network's velocities.
      source: start of the solve of a frame: "frame" (x0) or "noise" (x0 is context).
      clean_to_velocity: `(x, s, outputs) -> velocities` for a network that returns the clean state (6).
        FLOW has no noise: its outputs are velocities.
      denominator: `s -> (b,)`, the denominator in (6); losses weigh errors as if it were at least 0.05.
    """

    loss: Callable
    coordinates: int
    source: str
    clean_to_velocity: Callable = lambda x, s, outputs: outputs
    denominator: Callable | None = None

    def loss_weights(self, weights: tuple, prediction: str) -> tuple:
        """Returns the weight of each velocity, of which the last one may come from a clean state."""
        denominator = self.denominator
        if prediction != "clean" or denominator is None:
            return weights
        return *weights[:-1], lambda s: weights[-1] * loss_weight(denominator(s))

    def context_frames(self, past: int) -> int:
        """Returns the number of context frames, on the channel axis of x, among `past` known frames."""
        return past if self.source == "noise" else past - 1


OBJECTIVES = {
    "flow": Objective(flow_loss, coordinates=1, source="frame"),
    "biflow": Objective(biflow_loss, 2, "frame", _biflow_velocities, denominator=lambda s: s[1]),
    "condiff": Objective(condiff_loss, 1, "noise", _condiff_velocities, denominator=lambda s: 1 - s[0]),
}


# --- an experiment from a config ------------------------------------------------------------------


def assemble(config, codec, encoder) -> dict:
    """Returns the fields of an `Experiment` that this paper determines. Bi-flow uses no captions."""
    del encoder
    objective = OBJECTIVES[config.objective]
    pair = couplings.choose(config.coupling, config.run.microbatches)
    past = config.context.frames
    if past < 1:
        raise ValueError(f"config.context.frames is {past}: use 1 or more, because the last frame is always known")
    if config.context.noise < 0:
        raise ValueError(f"config.context.noise is a noise level and must be 0 or more, got {config.context.noise}")
    weights = objective.loss_weights(tuple(config.loss_weights[config.objective]), config.prediction)
    options: dict = dict(loss_weights=weights, context_noise=config.context.noise)
    if objective.coordinates == 2:
        options["alpha_max"] = config.alpha_max
    latent = codec.latent_shape((1, *config.data.size))
    predicted = dict(velocity=lambda field: field, clean=partial(_to_velocities, objective.clean_to_velocity))
    to_field = choose(predicted, "prediction", config.prediction)
    sizes = dict(coordinates=objective.coordinates, velocities=objective.coordinates)
    sizes |= dict(context=objective.context_frames(past) * latent[-1])
    network = build_network(config, [latent], None, to_field, **sizes)
    return dict(
        network=network,
        shapes=(latent,),
        windows=(Window(past + 1),),
        loss=partial(next_frame_loss, partial(objective.loss, **options), pair),
        sampler=_stream_settings(config.sample, objective, codec),
        start_frames=past,
    )


def next_frame_loss(
    loss: Callable, coupling: Callable, field: Field, latents: Latents, condition, keys: Keys, key: Key[Array, ""]
) -> tuple[Float[Array, "b"], dict]:
    """Computes the loss of consecutive frames: the last frame of a clip is the future, the others are the past."""
    past, future = coupling(latents.mean[:, :-1], latents.mean[:, -1:], key)
    metrics = dict(coupling_cost=squared_error(past[:, -1:], future).mean())
    return loss(field, past, future, keys, condition), metrics


def _to_velocities(convert: Callable, field: Field) -> Field:
    return lambda x, s, condition=None: convert(x, s, field(x, s, condition))


def _stream_settings(sample, objective: Objective, codec) -> StreamSettings:
    # FLOW and CONDIFF have no noise level: their only curve is the plain one.
    name = sample.curve if objective.coordinates == 2 else "plain"
    return StreamSettings(
        curve=choose(CURVES, "sample.curve", name),
        epsilon=0.0 if name == "plain" else sample.epsilon,
        gain=sample.gain if name == "joint" else 0.0,
        context_noise=sample.context_noise,
        solver=build_solver(sample),
        source=objective.source,
        clamp=codec.latent_range,
    )


def _check_sampling(config, entries: dict) -> None:
    if {"curve", "epsilon"} & set(entries) and OBJECTIVES[config.objective].coordinates == 1:
        raise ValueError(
            f"a run of {config.objective} has no noise level, its only curve is the plain one: leave out {entries}"
        )


def _unread(config) -> tuple[str, ...]:
    without_noise_level = ("alpha_max", "sample.curve", "sample.epsilon", "sample.gain")
    others = tuple(f"loss_weights.{name}" for name in OBJECTIVES if name != config.objective)
    return others + (() if OBJECTIVES[config.objective].coordinates == 2 else without_noise_level)


METHOD = Method(
    name="biflow",
    objectives=tuple(OBJECTIVES),
    assemble=assemble,
    preview=preview,
    sample=sample,
    evaluate=evaluate,
    presets=tuple(PRESETS),
    sampling_program=sampling_program,
    video_codecs=False,
    encode=data_latents.encode_config,
    check_sampling=_check_sampling,
    rules=RULES,
    unread=_unread,
    compare=compare,
    demo=demo,
)
