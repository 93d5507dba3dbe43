"""`Experiment`, and the parts that the papers share when they assemble one from a config."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from jaxtyping import Array, Float, Key
from ml_collections import ConfigDict

from jvflow import networks
from jvflow.codecs import Codec, encode_chunks
from jvflow.data.pipeline import Batch, Window
from jvflow.flow.field import Condition, drop
from jvflow.flow.solver import Solver
from jvflow.method import Method, SampleRequest
from jvflow.networks import Network
from jvflow.text import TextEncoder


class Latents(NamedTuple):
    """The latents of a batch, (b, f, h, w, c) each: the input of a loss; see `jvflow.data.pipeline.Batch`."""

    mean: Float[Array, "b f h w c"]
    std: Float[Array, "b f h w c"] | None = None
    inverted: Float[Array, "b n h w c"] | None = None
    inverted_error: Float[Array, "b"] | None = None


@dataclass(frozen=True)
class Experiment:
    """The functions and settings of one config.

    Attributes:
      method: the paper.
      network: the network; if a text encoder trains with it, its parameters are under "text".
      codec: from video to latents and back.
      shapes: the shapes of the network's input for one example, (f, h, w, c) each.
      windows: the frames of each clip that the loss takes; each batch uses one window.
      loss: `(field, latents, condition, keys (b,), key) -> ((b,), metrics)`, see `Latents`.
      sampler: the paper's sampling settings.
      start_frames: number of frames of video, or latent frames, that a sample starts from.
      optimizer: the optimizer of the trained parameters.
      schedule: the learning rate over the steps.
      text: the encoder of captions, or None.
      pretrained: the workdir of a run, or folders of public models, whose parameters training starts from; or "".
      tuning: the choice of trained parameters (`jvflow.training.lora.Tuning`); None trains all.
      chunks: number of chunks of one example; a video codec encodes each of them separately.
    """

    method: Method
    network: Network
    codec: Codec
    shapes: tuple[tuple[int, ...], ...]
    windows: tuple[Window, ...]
    loss: Callable
    sampler: Any
    start_frames: int
    optimizer: optax.GradientTransformation
    schedule: optax.Schedule
    text: TextEncoder | None = None
    pretrained: str = ""
    tuning: Any = None
    chunks: int = 1

    @property
    def window(self) -> Window:
        """The longest of `windows`."""
        return max(self.windows, key=lambda window: window.span)

    @property
    def encoder_params(self) -> dict:
        """Reads the parameters of codec and text encoder, and embeds "": a compiled step takes them as arguments."""
        return dict(codec=self.codec.params, text=self.text and self.text.params, empty=self.text and self.text.empty)

    def latents(self, batch: Batch, encoder_params: Mapping) -> Latents:
        """Returns the latents of a batch, or encodes its video."""
        if batch.latent_mean is None:
            return Latents(*encode_chunks(self.codec, encoder_params["codec"], batch.video, self.chunks))
        return Latents(batch.latent_mean, batch.latent_std, batch.inverted, batch.inverted_error)

    def condition(self, params, tokens, mask, encoder_params, embedding=None, fps=None) -> Condition | None:
        """Embeds captions that are not embedded yet, and adds the frame rate if the network takes it.

        Returns None without captions and frame rate. `params` are those of `network`.
        """
        fps = fps if self.network.takes_fps else None
        if self.text is None:
            return None if fps is None else Condition(fps=fps)
        if embedding is None:
            embedding = self.text.apply(params["text"] if self.text.init else encoder_params["text"], tokens)
        return Condition(text=embedding, text_mask=mask, fps=fps, empty=encoder_params and encoder_params["empty"])

    def caption_condition(self, params, captions: Sequence[str], fps: float, embedded: tuple | None = None):
        """Returns the condition for captions; `embedded` is what `TextEncoder.embed` returns for them, if known."""
        tokens, (embedding, mask, empty) = None, embedded or (None, None, None)
        if self.text and self.text.init:
            tokens, mask = self.text.tokenize(captions)
        elif self.text and not embedded:
            embedding, mask, empty = self.text.embed(captions)
        rates = np.full(len(captions), fps, np.float32)
        return self.condition(params, tokens, mask, dict(empty=empty), embedding, rates)


# --- parts that the papers share ------------------------------------------------------------------


def choose(table: Mapping, key: str, value: str):
    """Returns the entry of a table that a config key names."""
    if value not in table:
        raise ValueError(f"unknown {key} {value!r}: use one of {', '.join(table)}")
    return table[value]


def build_network(config, shapes: Sequence[tuple], encoder: TextEncoder | None, to_field: Callable, **sizes) -> Network:
    """Builds the network of a config for latents of these shapes.

    Args:
      config: an entry of `config.network` that is a dict has a value for each objective.
      shapes: (f, h, w, c) each.
      encoder: the encoder of captions; its parameters are under "text" if it trains with the network.
      to_field: `field -> field`, from the network's outputs to velocities; the identity if the network returns them.
      sizes: further fields of the network's config.
    """
    named = {
        key: size[config.objective] if isinstance(size, ConfigDict) else size for key, size in config.network.items()
    }
    network = networks.build(**dict(named, remat=config.run.remat, channels=shapes[0][-1], **sizes))
    for shape in shapes:
        networks.check(network, shape)
    trains_text = encoder is not None and encoder.init is not None

    def init(key):
        if not trains_text:
            return network.init(key)
        key_network, key_text = jax.random.split(key)
        return dict(network.init(key_network), text=encoder.init(key_text))

    def apply(params, x, s, condition=None):
        if trains_text:
            params = {name: value for name, value in params.items() if name != "text"}
        return to_field(jax.tree_util.Partial(network.apply, params))(x, s, condition)

    return network._replace(init=init, apply=apply)


def build_solver(sample) -> Solver:
    """Returns the solver of `config.sample`: with tolerances, or with a number of steps."""
    adaptive = dict(rtol=sample.rtol, atol=sample.atol, controller=sample.controller)
    return Solver(sample.method, steps=sample.steps, per_sample=sample.per_sample, **({} if sample.steps else adaptive))


def solver_protocol(solver) -> dict:
    """Returns the settings of a solver, for records."""
    nfe = "evaluations of the network that each sample needed, rejected steps included"
    settings = dict(method=solver.method, rtol=solver.rtol, atol=solver.atol, fixed_steps=solver.steps)
    return settings | dict(per_sample=solver.per_sample, controller=solver.controller, nfe=nfe)


def drop_captions(condition: Condition | None, keys: Key[Array, "b"], rate: float) -> Condition | None:
    """Drops the captions of a fraction `rate` of the examples. Uses keys that differ from all others of the step."""
    return drop(condition, fold_in_each(keys, 2**31), rate)


def fold_in_each(keys: Key[Array, "b"], number: int) -> Key[Array, "b"]:
    """Returns new keys (b,): folds a number into each key."""
    return jax.vmap(lambda key: jax.random.fold_in(key, number))(keys)


def split_each(keys: Key[Array, "b"], count: int) -> tuple[Key[Array, "b"], ...]:
    """Splits each key: `count` arrays of keys (b,)."""
    return jax.vmap(lambda key: tuple(jax.random.split(key, count)))(keys)


def noise_like(keys: Key[Array, "b"], like: Float[Array, "b ..."]) -> Float[Array, "b ..."]:
    """Draws unit noise of the shape and type of `like`, one key for each example."""
    return jax.vmap(lambda key: jax.random.normal(key, like.shape[1:], like.dtype))(keys)


def refuse(request: SampleRequest, objective: str, why: str, *names: str) -> None:
    """Raises ValueError if a request has one of these entries, which the objective does not support."""
    given = [name for name in names if getattr(request, name)]
    if given:
        raise ValueError(f"a run of {objective} {why}: leave out {', '.join(given)}")
