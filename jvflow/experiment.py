"""What a config means: the one place where config keys become functions."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, Key
from ml_collections import ConfigDict

from jvflow import biflow, codecs, coupling, flowframes, hippo, latent_path, networks, optimizer, text, vlfm
from jvflow.codecs import Codec
from jvflow.data.pipeline import Batch, Window
from jvflow.field import Condition, drop
from jvflow.networks import Network
from jvflow.path import Path, squared_error
from jvflow.solver import Solver
from jvflow.text import TextEncoder
from jvflow.times import TimeDensity, grid


class Latents(NamedTuple):
    """What a loss gets of a batch, (b, f, h, w, c) each. All but the mean may be absent, see `pipeline.Batch`."""

    mean: Float[Array, "b f h w c"]
    std: Float[Array, "b f h w c"] | None = None
    inverted: Float[Array, "b n h w c"] | None = None
    inverted_error: Float[Array, "b"] | None = None


@dataclass(frozen=True)
class Experiment:
    """The functions of one experiment.

    Attributes:
      network: `init` and `apply`. Its parameters hold those of a trained text encoder, under "text".
      codec: video to latents and back.
      shapes: of what the network sees of an example, (f, h, w, c) each.
      windows: which frames of each clip the loss gets; each batch is of one of them.
      loss: `(field, latents, condition, keys (b,), key) -> ((b,), metrics)`, see `Latents`.
      optimizer: of the parameters.
      schedule: the learning rate over the steps.
      text: the encoder of captions, or None.
      past_frames: frames that a stream starts from.
      stream: `(field, first frames, key) -> iterator of (frames, nfe)`, of what streams (Bi-flow).
      path: the path of a clip, of what generates whole clips (VLFM).
      generate: `(field, key, times, count, condition) -> Clips`, likewise.
      predict: `(field, observed, key, condition) -> Prediction`, of what makes chunks (FlowFrames).
      pretrained: workdir of the run whose parameters training starts from, or "".
      inversions: `config.inversion`, where training needs inverted targets.
    """

    network: Network
    codec: Codec
    shapes: tuple[tuple[int, ...], ...]
    windows: tuple[Window, ...]
    loss: Callable
    optimizer: optax.GradientTransformation
    schedule: optax.Schedule
    text: TextEncoder | None = None
    past_frames: int = 0
    stream: Callable | None = None
    path: Path | None = None
    generate: Callable | None = None
    predict: Callable | None = None
    pretrained: str = ""
    inversions: Any = None

    @property
    def window(self) -> Window:
        """The longest of `windows`."""
        return max(self.windows, key=lambda window: window.span)

    def check_mesh(self, mesh) -> None:
        """Raises a ValueError when a mesh cannot split the network's heads, or the tokens of what it sees."""
        for shape in self.shapes:
            networks.check_mesh(self.network, shape, mesh)

    @property
    def given(self) -> dict:
        """Parameters that came with the codec and the text encoder: arguments of a compiled step, not constants in it."""
        return dict(codec=self.codec.params, text=self.text and self.text.params)

    def latents(self, batch: Batch, given: dict) -> Latents:
        """What the flow is learned on: the batch's latents, or its video through the codec."""
        if batch.latent_mean is None:
            return Latents(*self.codec.encode(given["codec"], batch.video))
        return Latents(batch.latent_mean, batch.latent_std, batch.inverted, batch.inverted_error)

    def condition(self, params: Any, tokens, mask, given: dict, embedding=None) -> Condition | None:
        """The captions, embedded if they are not yet; None without a text encoder. `params` are those of `network`."""
        if self.text is None:
            return None
        if embedding is not None:
            return Condition(text=embedding, text_mask=mask)
        return Condition(text=self.text.apply(params["text"] if self.text.init else given["text"], tokens), text_mask=mask)


def assemble(config) -> Experiment:
    """All functions of a config. Wrong names and sizes that do not fit are errors here."""
    methods = {**dict.fromkeys(biflow.OBJECTIVES, _biflow), "vlfm": _vlfm, "direct": _vlfm, **dict.fromkeys(flowframes.DESIGNS, _flowframes)}
    method = _choose(methods, "objective", config.objective)
    codec = codecs.build(**config.codec)
    update, rate = _optimizer(config)
    return Experiment(codec=codec, optimizer=update, schedule=rate, **method(config, codec))


def example_keys(key: Key[Array, ""], rows: Int[Array, "b"]) -> Key[Array, "b"]:
    """One key per example, from its row in the global batch: independent of the number of devices and of microbatches."""
    return jax.vmap(partial(jax.random.fold_in, key))(rows)


# --- Bi-flow --------------------------------------------------------------------------------------


def _biflow(config, codec) -> dict:
    objective = biflow.OBJECTIVES[config.objective]
    couple = _choose(coupling.COUPLINGS, "coupling", config.coupling)
    past = config.context.frames
    if past < 1:
        raise ValueError(f"config.context.frames is {past}: at least the last frame is known, use 1 or more")
    if config.context.noise < 0:
        raise ValueError(f"config.context.noise is a noise level and must be 0 or more, got {config.context.noise}")
    options = dict(weights=tuple(config.weights[config.objective]), context_noise=config.context.noise)
    if objective.coordinates == 2:
        options["alpha_max"] = config.alpha_max
    latent = codec.latent_shape((1, *config.data.size))
    network = _network(
        config, [latent],
        context=objective.context(past) * latent[-1], coordinates=objective.coordinates, velocities=objective.coordinates,
    )
    convert = _choose({"velocity": None, "clean": objective.from_clean}, "prediction", config.prediction)
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
        biflow.stream, curve=_choose(biflow.CURVES, "sample.curve", name),
        epsilon=0.0 if name == "plain" else sample.epsilon, gain=sample.gain if name == "joint" else 0.0, context_noise=sample.context_noise,
        solver=_solver(sample), source=objective.source, clamp=codec.range,
    )


# --- VLFM -----------------------------------------------------------------------------------------


def _vlfm(config, codec) -> dict:
    window = Window(**config.clip)
    path = _latent_path(config.path, window, config.data.fps)
    slope = config.path.motion and config.path.motion * path.position.sigma.frame_rate
    flows = config.objective == "vlfm"
    prediction = _choose({"velocity": vlfm.scaled, "mean": vlfm.from_mean, "plain": None}, "prediction", config.prediction)
    if flows and prediction and not slope:
        raise ValueError(f"prediction {config.prediction!r} is in units of config.path.motion, which is {config.path.motion}: measure it, or use 'plain'")
    means = flows and config.prediction == "mean"
    if config.sample.readout == "mean" and flows and not means:
        raise ValueError(f"config.sample.readout 'mean' reads what prediction 'mean' returns, and it is {config.prediction!r}: use 'noise'")
    encoder = text.build(**config.text)
    latent = codec.latent_shape((1, *config.data.size))
    network = _network(config, [latent], coordinates=1, velocities=2 if means else 1, text_width=encoder.width if encoder else 0)
    if flows and prediction:
        network = network._replace(apply=partial(_predicting, prediction, path, slope, network.apply))
    if flows:
        loss = partial(vlfm.loss, path=path, slope=slope, density=vlfm.Density(**config.draw), mean=config.mean_weight if means else 0.0)
        made = dict(make=vlfm.sampled, solver=_solver(config.sample), sigma=path.position.sigma, readout=config.sample.readout)
    else:
        loss, made = partial(vlfm.direct_loss, path=path), dict(make=vlfm.direct)
    return dict(
        network=with_text(network, encoder),
        shapes=(latent,),
        windows=(window,),
        loss=partial(vlfm_loss, loss, config.caption_dropout),
        text=encoder,
        path=path,
        generate=partial(generate_clips, latent=latent[1:], guidance=config.sample.guidance, **made),
    )


def vlfm_loss(loss, dropout: float, field, latents: Latents, condition, keys: Key[Array, "b"], key) -> tuple[Float[Array, "b"], dict]:
    """The loss of whole clips, a part `dropout` of them without their captions."""
    del key
    return loss(field, latents.mean, keys, _without_some(condition, keys, dropout)), {}


def _without_some(condition, keys, dropout):
    return drop(condition, _apart(keys, 2**31), dropout)


def _apart(keys, number: int):
    """Keys (b,) of another use."""
    return jax.vmap(lambda key: jax.random.fold_in(key, number))(keys)


def generate_clips(field, key, times, count: int, condition=None, *, make, latent: tuple[int, int, int], **options) -> vlfm.Clips:
    """`count` clips at `times` in seconds by `make`, `vlfm.sampled` or `vlfm.direct`."""
    return make(field, key, times, (count, *latent), condition, **options)


def _latent_path(config, window: Window, fps: float) -> Path:
    sigma = latent_path.SigmaSchedule(fps / window.every, config.sigma, config.minimum, config.alpha)
    order = hippo.likely_order(window.frames) if config.order is None else config.order
    return latent_path.latent(window.frames, order, sigma, config.rule, ramp=config.ramp)


def _predicting(prediction, path, slope, apply, params, x, s, condition=None):
    return prediction(jax.tree_util.Partial(apply, params), path, slope)(x, s, condition)


def with_text(network: Network, encoder: TextEncoder | None) -> Network:
    """The network with the parameters of a trained text encoder beside its own."""
    if encoder is None or encoder.init is None:
        return network

    def init(key):
        of_network, of_text = jax.random.split(key)
        return dict(network.init(of_network), text=encoder.init(of_text))

    def apply(params, x, s, condition=None):
        return network.apply({name: value for name, value in params.items() if name != "text"}, x, s, condition)

    return network._replace(init=init, apply=apply)


# --- FlowFrames -----------------------------------------------------------------------------------


def _flowframes(config, codec) -> dict:
    design = flowframes.DESIGNS[config.objective]
    inversion = config.inversion if config.objective == "flowframes" and config.inversion.rho else None
    if not 0 <= config.inversion.rho <= 1:
        raise ValueError(f"config.inversion.rho is a probability and must be in [0, 1], got {config.inversion.rho}")
    if inversion and inversion.std is None and not codec.posterior:
        raise ValueError("config.inversion adds sigma_0 xhat_1, and this codec has no sigma_0: give its size with config.inversion.std")
    coin = _choose({"example": False, "batch": True}, "inversion.coin", config.inversion.coin)
    encoder = text.build(**config.text)
    lengths = tuple(config.chunk.frames)
    if not lengths or min(lengths) < 1:
        raise ValueError(f"config.chunk.frames lists lengths of chunks, each 1 or more, got {lengths}")
    latent = codec.latent_shape((max(lengths), *config.data.size))
    network = _network(config, [(length, *latent[1:]) for length in lengths], coordinates=1, velocities=1, text_width=encoder.width if encoder else 0)
    times = TimeDensity(**config.times)
    loss = partial(design.loss, times=times)
    tokens = partial(networks.tokens, network)
    if config.objective == "text_to_video":
        windows = tuple(Window(length) for length in lengths)
        loss = partial(text_to_video_loss, loss, tokens, config.caption_dropout)
    else:
        windows = tuple(Window(2 * length, chunk=length if inversion else 0) for length in lengths)
        invert = inversion and dict(rho=inversion.rho, std=inversion.std, most=inversion.max_error, one_coin=coin)
        loss = partial(chunk_loss, loss, tokens, _choose(coupling.COUPLINGS, "coupling", config.coupling), config.caption_dropout, invert)
    sample = config.sample
    solver = Solver(sample.method, steps=grid(sample.steps, sample.warp), per_sample=False)
    return dict(
        network=with_text(network, encoder),
        shapes=tuple((length * (1 + design.beside), *latent[1:]) for length in lengths),
        windows=windows,
        loss=loss,
        text=encoder,
        predict=partial(flowframes.predicted, design=design, solver=solver, guidance=sample.guidance),
        pretrained=config.pretrained,
        inversions=inversion,
    )


def text_to_video_loss(loss, tokens, dropout: float, field, latents: Latents, condition, keys: Key[Array, "b"], key) -> tuple[Float[Array, "b"], dict]:
    """The loss of the model that FlowFrames starts from: noise flows to chunks."""
    del key
    count = tokens(latents.mean.shape[1:])
    return loss(field, latents.mean, keys, _without_some(condition, keys, dropout), tokens=count), {}


def chunk_loss(
    loss, tokens, couple, dropout: float, invert: dict | None, field, latents: Latents, condition, keys: Key[Array, "b"], key
) -> tuple[Float[Array, "b"], dict]:
    """The loss of consecutive chunks: the first half of each clip is observed, the second is the future."""
    halves = lambda a: jnp.split(a, 2, axis=1)
    (mean, future), std = halves(latents.mean), None if latents.std is None else halves(latents.std)[0]
    (mean, std), future = couple((mean, std), future, key)
    metrics = dict(coupling_cost=squared_error(mean, future).mean())
    observed = mean
    if invert:
        std = std if invert["std"] is None else invert["std"]
        usable = None if invert["most"] is None else latents.inverted_error <= invert["most"]
        coins = jnp.broadcast_to(jax.random.fold_in(key, 1), keys.shape) if invert["one_coin"] else _apart(keys, 2**31 + 1)
        observed = flowframes.with_inversion(mean, std, latents.inverted, coins, rho=invert["rho"], usable=usable)
        metrics |= dict(inversion_used=jnp.ones(()) if usable is None else usable.mean())
    losses = loss(field, observed, future, keys, _without_some(condition, keys, dropout), tokens=tokens(future.shape[1:]))
    return losses, metrics


# --- what all share -------------------------------------------------------------------------------


def _choose(table: dict, key: str, value: str):
    if value not in table:
        raise ValueError(f"unknown {key} {value!r}: use one of {', '.join(table)}")
    return table[value]


def _network(config, shapes: Sequence[tuple], **sizes) -> Network:
    """The network of a config for latents of these shapes. An entry of `config.network` that is a dict has a value for each objective."""
    given = {key: value[config.objective] if isinstance(value, ConfigDict) else value for key, value in config.network.items()}
    network = networks.build(**dict(given, remat=config.run.remat, channels=shapes[0][-1], **sizes))
    for shape in shapes:
        networks.check(network, shape)
    return network


def _optimizer(config) -> tuple[optax.GradientTransformation, optax.Schedule]:
    settings = dict(config.optimizer)
    settings.pop("ema")
    rate = optimizer.schedule(
        settings.pop("schedule"), settings.pop("learning_rate"), warmup_steps=settings.pop("warmup_steps"), steps=config.train.steps
    )
    return optimizer.build(settings.pop("name"), rate, **settings), rate


def _solver(sample) -> Solver:
    """The solver of `config.sample`: tolerances, or a number of steps."""
    fixed = sample.steps is not None
    return Solver(
        method=sample.method, rtol=None if fixed else sample.rtol, atol=None if fixed else sample.atol, steps=sample.steps,
        per_sample=sample.per_sample,
    )
