"""Experiments of FlowFrames, and of the text-to-video model that it starts from."""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from jvflow import networks
from jvflow.flow import coupling
from jvflow.flowframes import method as flowframes
from jvflow.data.pipeline import Window
from jvflow.method import Latents, apart, choose, network_of, with_text, without_some
from jvflow.flow.path import squared_error
from jvflow.flow.times import TimeDensity


def assemble(config, codec, encoder) -> dict:
    """The entries of an `Experiment` that are this paper's."""
    design = flowframes.DESIGNS[config.objective]
    inversion = config.inversion if config.objective == "flowframes" and config.inversion.rho else None
    if not 0 <= config.inversion.rho <= 1:
        raise ValueError(f"config.inversion.rho is a probability and must be in [0, 1], got {config.inversion.rho}")
    if inversion and inversion.std is None and not codec.posterior:
        raise ValueError("config.inversion adds sigma_0 xhat_1, and this codec has no sigma_0: give its size with config.inversion.std")
    coin = choose({"example": False, "batch": True}, "inversion.coin", config.inversion.coin)
    lengths = tuple(config.chunk.frames)
    if not lengths or min(lengths) < 1:
        raise ValueError(f"config.chunk.frames lists lengths of chunks, each 1 or more, got {lengths}")
    encoded = {length: codec.latent_shape((length, *config.data.size)) for length in lengths}
    network = network_of(config, [encoded[length] for length in lengths], coordinates=1, velocities=1, text_width=encoder.width if encoder else 0)
    times = TimeDensity(**config.times)
    loss = partial(design.loss, times=times)
    tokens = partial(networks.tokens, network)
    def together(length: int, aligned=None) -> dict:
        """Of a window, whether it starts at a chunk: where chunks are inverted, or encoded, each as one."""
        each = encoded[length][0] if codec.frames > 1 else 0
        return dict(chunk=length if aligned or each else 0, encoded=each)

    if config.objective == "text_to_video":
        windows = tuple(Window(length, **together(length)) for length in lengths)
        loss = partial(text_to_video_loss, loss, tokens, config.caption_dropout)
    else:
        windows = tuple(Window(2 * length, inverted=bool(inversion), **together(length, inversion)) for length in lengths)
        invert = inversion and dict(rho=inversion.rho, std=inversion.std, most=inversion.max_error, one_coin=coin)
        loss = partial(chunk_loss, loss, tokens, choose(coupling.COUPLINGS, "coupling", config.coupling), config.caption_dropout, invert)
    sample = config.sample
    solver = flowframes.stepping(sample.method, sample.steps, sample.warp)
    return dict(
        network=with_text(network, encoder),
        shapes=tuple((shape[0] * (1 + design.beside), *shape[1:]) for shape in encoded.values()),
        windows=windows,
        loss=loss,
        text=encoder,
        predict=partial(flowframes.predicted, design=design, solver=solver, guidance=sample.guidance),
        inversions=inversion,
        chunks=1 if config.objective == "text_to_video" else 2,
        rate=networks.takes_rate(network),
    )


def text_to_video_loss(loss, tokens, dropout: float, field, latents: Latents, condition, keys: Key[Array, "b"], key) -> tuple[Float[Array, "b"], dict]:
    """The loss of the model that FlowFrames starts from: noise flows to chunks."""
    del key
    count = tokens(latents.mean.shape[1:])
    return loss(field, latents.mean, keys, without_some(condition, keys, dropout), tokens=count), {}


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
        coins = jnp.broadcast_to(jax.random.fold_in(key, 1), keys.shape) if invert["one_coin"] else apart(keys, 2**31 + 1)
        observed = flowframes.with_inversion(mean, std, latents.inverted, coins, rho=invert["rho"], usable=usable)
        metrics |= dict(inversion_used=jnp.ones(()) if usable is None else usable.mean())
    losses = loss(field, observed, future, keys, without_some(condition, keys, dropout), tokens=tokens(future.shape[1:]))
    return losses, metrics
