"""Experiments of Video Latent Flow Matching."""

from functools import partial

import jax
from jaxtyping import Array, Float, Key

from jvflow.vlfm import hippo
from jvflow.vlfm import latent_path
from jvflow.vlfm import method as vlfm
from jvflow.data.pipeline import Window
from jvflow.method import Latents, choose, network_of, solver_of, with_text, without_some
from jvflow.flow.path import Path

OBJECTIVES = ("vlfm", "direct")
"""The paper's method, and its ablation without a flow."""


def assemble(config, codec, encoder) -> dict:
    """The entries of an `Experiment` that are this paper's."""
    window = Window(**config.clip)
    path = _latent_path(config.path, window, config.data.fps)
    slope = config.path.motion and config.path.motion * path.position.sigma.frame_rate
    flows = config.objective == "vlfm"
    prediction = choose({"velocity": vlfm.scaled, "mean": vlfm.from_mean, "plain": None}, "prediction", config.prediction)
    if flows and prediction and not slope:
        raise ValueError(f"prediction {config.prediction!r} is in units of config.path.motion, which is {config.path.motion}: measure it, or use 'plain'")
    means = flows and config.prediction == "mean"
    if config.sample.readout == "mean" and flows and not means:
        raise ValueError(f"config.sample.readout 'mean' reads what prediction 'mean' returns, and it is {config.prediction!r}: use 'noise'")
    latent = codec.latent_shape((1, *config.data.size))
    network = network_of(config, [latent], coordinates=1, velocities=2 if means else 1, text_width=encoder.width if encoder else 0)
    if flows and prediction:
        network = network._replace(apply=partial(_predicting, prediction, path, slope, network.apply))
    if flows:
        loss = partial(vlfm.loss, path=path, slope=slope, density=vlfm.Density(**config.draw), mean=config.mean_weight if means else 0.0)
        made = dict(make=vlfm.sampled, solver=solver_of(config.sample), sigma=path.position.sigma, readout=config.sample.readout)
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
    return loss(field, latents.mean, keys, without_some(condition, keys, dropout)), {}


def generate_clips(field, key, times, count: int, condition=None, *, make, latent: tuple[int, int, int], **options) -> vlfm.Clips:
    """`count` clips at `times` in seconds by `make`, `vlfm.sampled` or `vlfm.direct`."""
    return make(field, key, times, (count, *latent), condition, **options)


def _latent_path(config, window: Window, fps: float) -> Path:
    sigma = latent_path.SigmaSchedule(fps / window.every, config.sigma, config.minimum, config.alpha)
    order = hippo.likely_order(window.frames) if config.order is None else config.order
    return latent_path.latent(window.frames, order, sigma, config.rule, ramp=config.ramp)


def _predicting(prediction, path, slope, apply, params, x, s, condition=None):
    return prediction(jax.tree_util.Partial(apply, params), path, slope)(x, s, condition)
