"""What a paper gives to the rest of the library: the training loop and the commands call it and know no paper."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple


def accept(*args) -> None:
    """Accepts every data set and every setting: the check of a paper that needs none."""


def same_config(config):
    """Returns the config itself: training starts from a model of the same config."""
    return config


def refuse_comparison(*args, **options):
    """Raises ValueError: the paper has no comparison of its own."""
    raise ValueError(
        "`jvflow compare` and `jvflow demo` are for runs that stream: use `jvflow evaluate` for each run of this method"
    )


@dataclass(frozen=True)
class Method:
    """One paper, as the training loop and the commands see it.

    Attributes:
      name: of the paper's folder, and `config.method`.
      objectives: the values of `config.objective`.
      assemble: `(config, codec, encoder) -> dict`, the fields of `Experiment` that the paper decides.
      preview: `(run, data) -> uint8 (rows, f, h, w, 3)`, what a sheet shows during training.
      sample: `(run, out, SampleRequest) -> record`; writes videos.
      evaluate: `(run, data) -> record`, the figures of `config.evaluate` with their protocol.
      sampling_program: `experiment -> function(field, start, key, condition)`, what a dry run compiles.
      video_codecs: whether the paper works with codecs that take several frames as one.
      encode: `(config, directory, load_model) -> (manifest, note)`; writes the data set of latents.
      check_data: `(config, experiment, data, checksum) -> None`; raises ValueError if the data set does not fit.
        `checksum` is that of the pretrained parameters, or None.
      check_sampling: `(config, entries) -> None`; raises ValueError if `config.sample` cannot take these entries.
      pretrained_config: `config -> config` of the model that training starts from.
      compare: `(configs, load, out, **options) -> record`; compares trained runs.
      demo: `(config, out, command, train, load) -> record`; trains and compares small runs.
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
    check_data: Callable = accept
    check_sampling: Callable = accept
    pretrained_config: Callable = same_config
    compare: Callable = refuse_comparison
    demo: Callable = refuse_comparison


class SampleRequest(NamedTuple):
    """What `jvflow sample` asks of a run; None and empty entries take the method's own value.

    Attributes:
      data: gives the folder of the run's data set, and builds it if it is absent.
      count: number of videos.
      length: frames of each video.
      seed: of all noise.
      first_frame: path of an image, a video or a folder of images to start from.
      captions: one for each video.
      fps: frames per second of the result.
      extrapolate: whether videos may be longer than those of training.
      observed: frames of an observed chunk.
    """

    data: Callable
    count: int = 4
    length: int | None = None
    seed: int = 0
    first_frame: Any = None
    captions: Sequence[str] = ()
    fps: float | None = None
    extrapolate: bool = False
    observed: int | None = None
