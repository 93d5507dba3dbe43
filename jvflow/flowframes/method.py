"""FlowFrames: a flow from the observed chunk of a video to the next ("Flowing from Observed to Future Frames").

    x(t) = x0 + t (x1 - x0),    L = E |u(x(t), t, c) - (x1 - x0)|^2                             (1)   paper, eq. 1 and 2

x0 is the observed chunk, x1 the next one of the same video, both as latents of an autoencoder, and c a caption.
Training starts from a text-to-video flow u*, which learned (1) with x0 ~ N(0, I). u takes one chunk and reaches the
next in few steps. mu and sigma are mean and standard deviation of the autoencoder's posterior:

    algorithm 1    consecutive    x0 = mu_0 + sigma_0 xhat_1 with probability rho, else mu_0    (2)   paper, algorithm 1
    algorithm 2    independent    x0 = mu_0                                                           paper, appendix B
    algorithm 3    consecutive    x0 = mu_0                                                           paper, appendix B
    with noise     consecutive    x0 = mu_0 + eps n, n ~ N(0, I)                                      not in the paper

with x1 = mu_1. A `jvflow.flow.coupling` forms pairs. xhat_1 is the target inverted to noise: u* is solved backwards,

    dx/dt = u*(x, t, c),  x(1) = x1,  xhat_1 = x(0)     target inversion, by RF-Solver          (3)   paper, section 3.2

Neither the paper nor the released code gives the number of steps and the guidance of (3): jvflow uses 25 and 1. Every
xhat_1 is stored with its round-trip error. A prediction starts from mu_0, or mu_0 + eps n, which hides older errors.

    conventional   noise flows to x1, with the observed chunk at t = 1 as context               (4)   LTX-Video

The paper compares with this design. Every frame has its own t, and the network takes twice the tokens: a density of
times that depends on the number of tokens counts all of them.

    S = mean over t of |u(x(t), t) - (x(1) - x(0))|^2 / |x(1) - x(0)|^2                         (5)

S is 0 for a straight trajectory, which one Euler step solves exactly.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from jvflow import networks
from jvflow.assembly import Latents, build_network, choose, drop_captions, fold_in_each, noise_like, split_each
from jvflow.data import latents as data_latents
from jvflow.data.pipeline import Window
from jvflow.flow import coupling as couplings
from jvflow.flow.field import Field
from jvflow.flow.path import LINEAR, Ends, matching_loss, squared_error
from jvflow.flow.prediction import loss_weight, to_data
from jvflow.flow.times import TimeDensity, TimeSchedule
from jvflow.flowframes import inversion
from jvflow.flowframes.context import with_observed
from jvflow.flowframes.evaluate import evaluate, preview
from jvflow.flowframes.inversion import add_inversions
from jvflow.flowframes.rules import RULES, unread_entries
from jvflow.flowframes.sample import ChunkSampler, check_chunks, sample, sampling_program
from jvflow.method import Method

Chunk = Float[Array, "b f h w c"]
Future = Float[Array, "b n h w c"]
Keys = Key[Array, "b"]
Losses = tuple[Float[Array, "b"], dict]


# --- objectives -----------------------------------------------------------------------------------


def text_to_video_loss(
    field: Field, chunk: Chunk, keys: Keys, condition=None, *, times=TimeDensity(), tokens: int = 0, loss_weights=None
) -> Float[Array, "b"]:
    """Computes the objective (1) of the pretrained model u*: x0 is noise. Takes the arguments of `loss`."""
    key_t, key_noise = split_each(keys, 2)
    ends = Ends(noise_like(key_noise, chunk), chunk)
    return matching_loss(LINEAR, field, ends, (times(key_t, tokens),), condition, loss_weights)


def loss(
    field: Field,
    observed: Chunk,
    future: Future,
    keys: Keys,
    condition=None,
    *,
    times=TimeDensity(),
    tokens: int = 0,
    loss_weights=None,
) -> Float[Array, "b"]:
    """Computes the objective (1), one number per example.

    Args:
      field: takes s = (t,) and returns one velocity.
      observed: x0; in algorithm 1 the result of `with_inversion`.
      future: x1, of the same shape.
      keys: one per example.
      condition: a `Condition` with captions, or None.
      times: a `TimeDensity`; uniform in algorithm 1, logit-normal in the paper's table 3 for LTX-Video.
      tokens: number of tokens of an example, for a density that depends on it.
      loss_weights: see `matching_loss`.
    """
    check_chunks(observed, future)
    key_t, _ = split_each(keys, 2)
    return matching_loss(LINEAR, field, Ends(observed, future), (times(key_t, tokens),), condition, loss_weights)


def conventional_loss(
    field: Field,
    observed: Chunk,
    future: Future,
    keys: Keys,
    condition=None,
    *,
    times=TimeDensity(),
    tokens: int = 0,
    loss_weights=None,
    frames_per_latent: int = 1,
) -> Float[Array, "b"]:
    """Computes (1) for the design (4): x0 is noise, the observed chunk is context.

    Takes the arguments of `loss`; `tokens` counts both chunks, and `frames_per_latent` is the codec's.
    """
    check_chunks(observed, future)
    key_t, key_noise = split_each(keys, 2)
    ends = Ends(noise_like(key_noise, future), future)
    field = with_observed(field, observed, frames_per_latent)
    return matching_loss(LINEAR, field, ends, (times(key_t, tokens),), condition, loss_weights)


@dataclass(frozen=True)
class Objective:
    """One of the designs: its loss, its source, and the context of the network.

    Attributes:
      loss: see `loss`.
      source: start of a prediction: "observed" (the observed chunk) or "noise".
      context: True if the network takes the observed chunk as context (4).
    """

    loss: Callable
    source: str
    context: bool = False


OBJECTIVES = {
    "flowframes": Objective(loss, "observed"),
    "conventional": Objective(conventional_loss, "noise", context=True),
    "text_to_video": Objective(text_to_video_loss, "noise"),
}


# --- an experiment from a config ------------------------------------------------------------------


def _to_velocity(field: Field) -> Field:
    return lambda x, s, condition=None: (to_data(x, s[0], *field(x, s, condition)),)


PREDICTIONS = dict(velocity=lambda field: field, clean=_to_velocity)
"""What the network returns: u, or x1, from which u follows as (x1 - x) / (1 - t)."""


def assemble(config, codec, encoder) -> dict:
    """Returns the fields of an `Experiment` that this paper determines."""
    objective, follows = OBJECTIVES[config.objective], config.objective != "text_to_video"
    inverted = uses_inversion(config)
    if inverted:
        inversion.check_sigma(config.inversion, codec)
    lengths = tuple(config.chunk.frames)
    if not lengths or min(lengths) < 1:
        raise ValueError(f"config.chunk.frames lists lengths of chunks, and each must be 1 or more, got {lengths}")
    encoded = {length: codec.latent_shape((length, *config.data.size)) for length in lengths}
    sizes = dict(coordinates=1, velocities=1, text_width=encoder.width if encoder else 0)
    prediction = config.get("prediction", "velocity")
    to_field = choose(PREDICTIONS, "prediction", prediction)
    network = build_network(config, list(encoded.values()), encoder, to_field, **sizes)

    def window(length: int) -> Window:
        latent_frames = encoded[length][0] if codec.frames_per_latent > 1 else 0  # 0: each frame is encoded by itself
        chunk = length if latent_frames or inverted else 0  # windows start at the start of a chunk
        return Window(length * (1 + follows), inverted=inverted, chunk=chunk, encoded=latent_frames)

    weights = (lambda s: loss_weight(1 - s[0]),) if prediction == "clean" else None
    times, merges = TimeDensity(**config.times), codec.frames_per_latent > 1
    noise = config.chunk.get("noise", 0.0) if config.objective == "flowframes" else 0.0
    batch_objective = partial(objective.loss, times=times, loss_weights=weights)
    if objective.context:
        batch_objective = partial(batch_objective, frames_per_latent=codec.frames_per_latent)
    if objective.context and merges and "schedule" not in config.sample:
        raise ValueError(
            "this run of the conventional design was trained by an earlier version, which placed the chunks of a codec "
            "that merges frames at other times: train it again"
        )
    count_tokens = partial(_count_tokens, network, 1 + objective.context)
    options: dict = dict(objective=batch_objective, count_tokens=count_tokens)
    options |= dict(dropout=config.caption_dropout if encoder else 0.0)
    if follows:
        pair = couplings.choose(config.coupling, config.run.microbatches)
        options |= dict(coupling=pair, inversion=config.inversion if inverted else None, noise=noise)
        batch_loss = partial(chunk_loss, **options)
    else:
        batch_loss = partial(caption_loss, **options)
    sample, longest = config.sample, encoded[max(lengths)]
    # runs of an earlier version have no schedule, and records leave out what a schedule does not read
    schedule = TimeSchedule(sample.get("schedule", "warp"), sample.get("warp", 1.0), sample.get("terminal") or None)
    settings: dict = dict(method=sample.method, steps=sample.steps, guidance=sample.guidance, schedule=schedule)
    settings |= dict(source=objective.source, context=objective.context, frames_per_latent=codec.frames_per_latent)
    sampler = ChunkSampler(**settings, noise=noise, follows=follows, count_tokens=count_tokens, shape=longest)
    _ = sampler.solver  # raises ValueError for settings that do not fit one another
    return dict(
        network=network,
        shapes=tuple((shape[0] * (1 + objective.context), *shape[1:]) for shape in encoded.values()),
        windows=tuple(window(length) for length in lengths),
        loss=batch_loss,
        sampler=sampler,
        start_frames=max(lengths),
        chunks=1 + follows,
    )


def _count_tokens(network, chunks: int, shape: tuple[int, ...]) -> int:
    """Returns the number of tokens that the network gets for `chunks` chunks with latents of this shape each."""
    return networks.tokens(network, (chunks * shape[0], *shape[1:]))


def uses_inversion(config) -> bool:
    """Returns True if training adds inverted targets (algorithm 1); raises ValueError for a rho outside [0, 1]."""
    rho = config.inversion.rho if config.objective == "flowframes" else 0
    if not 0 <= rho <= 1:
        raise ValueError(f"config.inversion.rho is a probability and must be in [0, 1], got {rho}")
    return rho > 0


def caption_loss(
    field: Field, latents: Latents, condition, keys: Keys, key, *, objective, count_tokens, dropout: float
) -> Losses:
    """Computes the loss of the text-to-video model: noise flows to chunks. See `Experiment.loss`."""
    del key
    tokens = count_tokens(latents.mean.shape[1:])
    return objective(field, latents.mean, keys, drop_captions(condition, keys, dropout), tokens=tokens), {}


def chunk_loss(
    field, latents: Latents, condition, keys: Keys, key, *, objective, count_tokens, dropout, coupling, inversion, noise
) -> Losses:
    """Computes the loss of consecutive chunks: the first half of a window is observed, the second is the future."""
    halves = lambda a: jnp.split(a, 2, axis=1)
    (observed, future), std = halves(latents.mean), None if latents.std is None else halves(latents.std)[0]
    (observed, std), future = coupling((observed, std), future, key)
    metrics = dict(coupling_cost=squared_error(observed, future).mean())
    if inversion:
        observed, metrics["inversion_used"] = add_inversions(observed, std, latents, keys, key, inversion)
    if noise:
        observed = observed + noise * noise_like(fold_in_each(keys, 2**31 + 2), observed)
    condition, tokens = drop_captions(condition, keys, dropout), count_tokens(future.shape[1:])
    return objective(field, observed, future, keys, condition, tokens=tokens), metrics


def _pretrained_config(config):
    """Returns the config of the text-to-video model, which inverts chunks and initialises training."""
    config = config.copy_and_resolve_references()
    config.objective = "text_to_video"
    return config


def _encode(config, directory, load_model: Callable) -> tuple[dict, str]:
    """Writes the latents of a config's data, with inverted chunks if the config uses them."""
    if not uses_inversion(config):
        return data_latents.prepare(config, directory), ""
    return inversion.prepare(config, directory, load_model), "the chunks of every length are inverted too"


METHOD = Method(
    name="flowframes",
    objectives=tuple(OBJECTIVES),
    assemble=assemble,
    preview=preview,
    sample=sample,
    evaluate=evaluate,
    sampling_program=sampling_program,
    video_codecs=True,
    encode=_encode,
    check_data=inversion.check_data,
    unread=lambda config: unread_entries(config, uses_inversion(config)),
    rules=RULES,
    pretrained_config=_pretrained_config,
)
