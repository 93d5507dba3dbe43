"""The interface between a paper and the rest of the library: the training loop and the commands know no paper."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8

from jvflow.training.rules import Rules


def accept(*args) -> None:
    """Accepts every data set and every setting, for a paper that checks nothing."""


def nothing_unread(config) -> tuple[str, ...]:
    """Returns no keys: the paper reads every key, whatever the objective."""
    return ()


def same_config(config):
    """Returns the config unchanged, for a paper whose pretrained model has the same config."""
    return config


def refuse_comparison(*args, **options):
    """Raises ValueError, for a paper without a comparison of runs."""
    raise ValueError(
        "`jvflow compare` and `jvflow demo` are for runs that stream: use `jvflow evaluate` for each run of this method"
    )


@dataclass(frozen=True)
class Method:
    """The functions of one paper that the training loop and the commands call.

    Attributes:
      name: the name of the paper's folder, and the value of `config.method`.
      objectives: the values of `config.objective`.
      assemble: `(config, codec, encoder) -> dict`; returns the fields of `Experiment` that the paper determines.
      preview: `(run, data) -> Preview`; returns a few videos to look at, during training and in reports.
      sample: `(run, out, SampleRequest) -> record`; writes videos.
      evaluate: `(run, data) -> record`; computes the metrics that `config.evaluate` sets, with their protocol.
      sampling_program: `experiment -> function(field, start, key, condition)`; returns the program for a dry run.
      video_codecs: True if the paper works with codecs that encode several frames into one latent frame.
      encode: `(config, directory, load_model) -> (manifest, note)`; writes the data set of latents.
      rules: the rules for the values of the config's entries, see `jvflow.training.config_check`.
      check_data: `(config, experiment, data, checksum) -> None`; raises ValueError if the data set does not fit.
        `checksum` is that of the pretrained parameters, or None.
      check_sampling: `(config, entries) -> None`; raises ValueError if `config.sample` cannot take these entries.
      unread: `config -> key paths` that the objective does not read, such as "loss_weights.x"; records omit them.
      pretrained_config: `config -> config`; returns the config of the model that training starts from.
      presets: names of protocols that `evaluate` takes as `preset`.
      compare: `(configs, load, out, **options) -> record`; compares trained runs.
      demo: `(config, out, command, train, load, above) -> record`; trains and compares small runs.
    """

    name: str
    objectives: tuple[str, ...]
    assemble: Callable
    preview: Callable
    sample: Callable
    evaluate: Callable
    sampling_program: Callable
    video_codecs: bool
    encode: Callable
    rules: Rules = Rules()
    check_data: Callable = accept
    check_sampling: Callable = accept
    unread: Callable = nothing_unread
    pretrained_config: Callable = same_config
    presets: tuple[str, ...] = ()
    compare: Callable = refuse_comparison
    demo: Callable = refuse_comparison


class Preview(NamedTuple):
    """A few videos of a run.

    Attributes:
      videos: uint8 (rows, f, h, w, 3); generated ones, or pairs of a real and a generated one.
      fps: frames per second.
      captions: what each row is, or nothing.
    """

    videos: UInt8[np.ndarray, "n f h w 3"]
    fps: float
    captions: tuple[str, ...] = ()


class SampleRequest(NamedTuple):
    """The arguments of `jvflow sample` for a run; the method replaces None and empty entries by its own values.

    Attributes:
      data: a function that returns the folder of the run's data set, and builds the data set if it is absent.
      count: number of videos; None for as many as there are clips to start from, at most 4.
      length: frames of each video.
      seed: the random seed of all noise.
      first_frame: the path of an image, a video or a folder of images to start from.
      captions: one for each video.
      fps: frames per second of the result.
      extrapolate: True if videos may be longer than the clips of training.
      observed: number of frames of an observed chunk.
    """

    data: Callable
    count: int | None = None
    length: int | None = None
    seed: int = 0
    first_frame: Any = None
    captions: Sequence[str] = ()
    fps: float | None = None
    extrapolate: bool = False
    observed: int | None = None
