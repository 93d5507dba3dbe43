"""What an experiment is, and what those of all papers share."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import optax
from jaxtyping import Array, Float, Int, Key
from ml_collections import ConfigDict

from jvflow import networks
from jvflow.codecs import Codec, encode_chunks
from jvflow.data.pipeline import Batch, Window
from jvflow.flow.field import Condition, drop
from jvflow.networks import Network
from jvflow.flow.path import Path
from jvflow.flow.solver import Solver
from jvflow.text import TextEncoder
from jvflow.training.lora import ALL, Tuning


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
      pretrained: what training starts from, or "": the workdir of a run, or folders of public models.
      tuning: which parameters train.
      inversions: `config.inversion`, where training needs inverted targets.
      chunks: that an example has, which a codec of many frames takes one by one.
      rate: whether the network is told how many frames per second a video has.
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
    tuning: Tuning = ALL
    inversions: Any = None
    chunks: int = 1
    rate: bool = False

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
        """Parameters that came with the codec and the text encoder, read now: arguments of a compiled step, not constants in it."""
        return dict(codec=self.codec.params, text=self.text and self.text.params)

    def release(self) -> None:
        """Lets those go, until they are asked for again."""
        for model in (self.codec, self.text):
            if model:
                model.held.release()

    def latents(self, batch: Batch, given: dict) -> Latents:
        """What the flow is learned on: the batch's latents, or its video through the codec."""
        if batch.latent_mean is None:
            return Latents(*encode_chunks(self.codec, given["codec"], batch.video, self.chunks))
        return Latents(batch.latent_mean, batch.latent_std, batch.inverted, batch.inverted_error)

    def condition(self, params: Any, tokens, mask, given: dict, embedding=None, fps=None) -> Condition | None:
        """The captions, embedded if they are not yet, and the rate where the network is told it; None without either. `params` are those of `network`."""
        fps = fps if self.rate else None
        if self.text is None:
            return None if fps is None else Condition(fps=fps)
        if embedding is None:
            embedding = self.text.apply(params["text"] if self.text.init else given["text"], tokens)
        return Condition(text=embedding, text_mask=mask, fps=fps)


def example_keys(key: Key[Array, ""], rows: Int[Array, "b"]) -> Key[Array, "b"]:
    """One key per example, from its row in the global batch: independent of the number of devices and of microbatches."""
    return jax.vmap(partial(jax.random.fold_in, key))(rows)


def choose(table: dict, key: str, value: str):
    """The entry of a table that a config key names."""
    if value not in table:
        raise ValueError(f"unknown {key} {value!r}: use one of {', '.join(table)}")
    return table[value]


def network_of(config, shapes: Sequence[tuple], **sizes) -> Network:
    """The network of a config for latents of these shapes. An entry of `config.network` that is a dict has a value for each objective."""
    given = {key: value[config.objective] if isinstance(value, ConfigDict) else value for key, value in config.network.items()}
    network = networks.build(**dict(given, remat=config.run.remat, channels=shapes[0][-1], **sizes))
    for shape in shapes:
        networks.check(network, shape)
    return network


def solver_of(sample) -> Solver:
    """The solver of `config.sample`: tolerances, or a number of steps."""
    fixed = sample.steps is not None
    return Solver(
        method=sample.method, rtol=None if fixed else sample.rtol, atol=None if fixed else sample.atol, steps=sample.steps,
        per_sample=sample.per_sample,
    )


def without_some(condition, keys, dropout):
    """Caption dropout, by keys of its own."""
    return drop(condition, apart(keys, 2**31), dropout)


def apart(keys, number: int):
    """Keys (b,) of another use."""
    return jax.vmap(lambda key: jax.random.fold_in(key, number))(keys)


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
