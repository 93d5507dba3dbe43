"""Target inversion of a whole data set: its chunks inverted to noise through the pretrained model, once, as columns beside the latents.

    ... all columns of the latents (`jvflow.data.latents`)
    inverted_8           float32 (f, h, w, c): each chunk of 8 frames, inverted; likewise for every other length
    inverted_8_error     float32 (f / 8,): how far each chunk comes back, RMS(x1' - x1) / RMS(x1)

Only what can be a target of training is inverted: not the first chunk of a clip, nor what is left after its last whole one, nor
other splits than `train`. There the latents are 0 and the error is infinite.

`manifest.json` names the model by a checksum of its parameters, with steps, guidance and methods: inversions of different
models never meet in one folder, nor in one run.
"""

import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jaxtyping import Array, Float

from jvflow.data import dataset, latents, pipeline, records
from jvflow.data.dataset_key import check_settings
from jvflow.data.files import check_room
from jvflow.flow.field import Condition, Field, along, guide
from jvflow.flow.path import squared_error
from jvflow.flow.solver import Solver
from jvflow.networks import as_field
from jvflow.parallel import processes
from jvflow.parallel.checksums import tree_checksum
from jvflow.parallel.mesh import local_mesh
from jvflow.run import Run

LOG = logging.getLogger(__name__)
SHARD_BYTES = 16 * 2**20  # clips take long here, and an interruption loses what is in the last shard
OPTIONS = ("steps", "guidance", "method", "back")


# --- chunks ---------------------------------------------------------------------------------------


Chunk = Float[Array, "b f h w c"]


class Inverted(NamedTuple):
    """A chunk inverted to noise (3).

    Attributes:
      latents: xhat_1, of the shape of the chunk.
      error: of the way back, RMS(x1' - x1) / RMS(x1), for each chunk.
    """

    latents: Chunk
    error: Float[Array, "b"]


@partial(jax.jit, static_argnames=("steps", "guidance", "method", "back"))
def invert(
    field: Field,
    chunk: Chunk,
    condition: Condition | None = None,
    *,
    steps: int = 25,
    guidance: float = 1.0,
    method: str = "rf_solver",
    back: str = "rf_solver",
) -> Inverted:
    """Inverts chunks to noise through a text-to-video field (3), and measures how well they come back.

    Args:
      field: u*; a `jax.tree_util.Partial`, as of `networks.as_field`.
      chunk: x1.
      condition: its caption.
      steps: from t = 1 to 0, and as many back.
      guidance: 1 is none.
      method: of the inversion.
      back: the method of the way back; the paper goes back by Euler, which does not come near.

    Returns:
      An `Inverted`. A solve that fails gives an error that is not finite.
    """
    derivative = along(guide(field, guidance), lambda t: (t,), condition)
    solve = lambda method, x, t0, t1: Solver(method, steps=steps, per_sample=False)(derivative, x, t0, t1).x
    noise = solve(method, chunk, 1.0, 0.0)
    again = solve(back, noise, 0.0, 1.0)
    size = squared_error(chunk, jnp.zeros_like(chunk))
    return Inverted(noise, jnp.sqrt(squared_error(again, chunk) / size))


# --- data sets ------------------------------------------------------------------------------------


def encode(config, directory: str | Path, load_model: Callable) -> tuple[dict, str]:
    """Writes the latents of a config's data, with inverted chunks if `config.inversion.rho` is above 0; see `prepare`."""
    if not config.inversion.rho:
        return latents.prepare(config, directory), ""
    return prepare(config, directory, load_model), "the chunks of every length are inverted too"


def prepare(config, directory: str | Path, load_model: Callable) -> dict:
    """Writes the latents of a config's data with the inversions of their chunks; returns the manifest.

    Latents that have to be made lie in `directory` + "-latents". An interrupted run continues.

    Args:
      config: an experiment's config; `data`, `codec`, `pretrained`, `chunk` and `inversion` are read.
      directory: of the data set to write; `config.data.path` takes it afterwards.
      load_model: `config -> Run`, reads the model of `config.pretrained`.
    """
    directory = Path(directory)
    if not config.pretrained:
        raise ValueError(
            "inversion needs the model that inverts: give the workdir of a text_to_video run as config.pretrained"
        )
    run = load_model(config)
    _check_model(run, config)
    encoded = directory.with_name(f"{directory.name}-latents")
    source = Path(config.data.path)
    if records.is_dataset(source) and latents.has_latents(source):
        dataset.prepare(config.data, encoded)  # checks size, rate, fit and type
    else:
        latents.prepare(config, source := encoded)
    latents.check_latents(
        source, latents.model_fingerprint(**config.codec), latents.chunk_lengths(run.experiment.codec, config)
    )
    options = {name: config.inversion[name] for name in OPTIONS}
    return invert_dataset(run, source, directory, lengths=tuple(config.chunk.frames), **options)


def _check_model(run: Run, config) -> None:
    if run.config.objective != "text_to_video":
        raise ValueError(
            f"config.pretrained={config.pretrained} is a run of {run.config.objective!r}: chunks are inverted through a 'text_to_video' run"
        )
    for what, of in dict(fps=lambda c: c.data.fps, codec=lambda c: latents.model_fingerprint(**c.codec)).items():
        if of(run.config) != of(config):
            raise ValueError(
                f"config.pretrained={config.pretrained} was trained with {what} {of(run.config)}, this config has {of(config)}: use the same"
            )


def invert_dataset(run: Run, source: Path, directory: Path, *, lengths: tuple[int, ...], **options) -> dict:
    """Writes the data set `source` with the inversions of its chunks to `directory`; returns its manifest.

    An interrupted run continues after its last complete shard. With a finished one there is nothing to do.

    Args:
      run: of text_to_video.
      source: a data set with latents.
      directory: where the result goes.
      lengths: of chunks, in frames of video.
      options: of `flowframes.invert`.
    """
    of = records.manifest(source)
    settings = dict(of["settings"], inversion=dict(model=tree_checksum(run.params), frames=list(lengths), **options))
    if "inversion" in of["settings"]:
        raise ValueError(f"{source} has inversions already: give the data set that it was made of")
    if records.is_dataset(directory):
        check_settings(directory, records.manifest(directory)["settings"], settings)
        return records.manifest(directory)
    clips = {split: pipeline.open_split(source, split) for split in of["splits"]}
    longest = min(len(split[0]["video"]) for split in clips.values())
    if max(lengths) > longest:
        raise ValueError(
            f"chunks of {max(lengths)} frames are longer than the clips in {source}, {longest} frames: use shorter ones in config.chunk.frames"
        )

    def inverted(split: str) -> records.LazyClips:
        make = partial(_with_inversions, run, lengths=lengths, options=options, empty=split != "train")
        return records.LazyClips(len(clips[split]), lambda i: make(clips[split][i]))

    processes.on_primary(
        lambda: _check_room(clips, lengths, directory, latents.DTYPES[settings.get("dtype", "float32")])
    )
    latents.write_latents(
        directory,
        {split: inverted(split) for split in clips},
        settings,
        records.report(source),
        shard_bytes=SHARD_BYTES,
    )
    for length in lengths:
        LOG.info("%s: chunks of %d frames, %s", directory, length, report(directory, length))
    return records.manifest(directory)


def _check_room(clips: dict, lengths: tuple[int, ...], directory: Path, dtype) -> None:
    """Raises a ValueError where the clips, and their latents once more for each length, are more than the disk has room for."""
    count, clip = sum(map(len, clips.values())), clips["train"][0]
    video = clip.pop("video").nbytes
    inverted = sum(
        clip[name].size
        for length in lengths
        for name in (pipeline.latent_columns(length)[0], "latent_mean")
        if name in clip
    )
    need = count * (video + np.dtype(dtype).itemsize * (inverted + sum(np.size(value) for value in clip.values())))
    check_room(directory, need - records.bytes_written(directory), f"{count} clips with their latents and inversions")


def _with_inversions(run: Run, clip: dict, *, lengths, options, empty: bool) -> dict:
    codec, frames = run.experiment.codec, len(clip["video"])
    again = lambda name, count: np.repeat(clip[name][None], count, axis=0)
    for length in lengths:
        mean = clip[pipeline.latent_columns(length if codec.frames > 1 else 0)[0]]
        whole, each = frames // length, codec.latent_shape((length, *clip["video"].shape[1:3]))[0]
        latents, error = np.zeros_like(mean), np.full(-(-frames // length), np.inf, np.float32)
        if whole > 1 and not empty:
            targets = slice(each, whole * each)
            chunks = rearrange(mean[targets], "(n f) ... -> n f ...", f=each)
            embedded = None
            if "text_embedding" in clip:
                embedded = tuple(again(name, len(chunks)) for name in ("text_embedding", "text_mask"))
            field = as_field(run.experiment.network, run.params)
            with jax.set_mesh(local_mesh()):
                captions = [clip["caption"]] * len(chunks)
                condition = run.experiment.caption_condition(run.params, captions, run.config.data.fps, embedded)
                made = invert(field, jnp.asarray(chunks), condition, **options)
            latents[targets] = rearrange(np.asarray(made.latents), "n f ... -> (n f) ...")
            error[1:whole] = np.asarray(made.error)
        name = pipeline.inverted_column(length)
        clip |= {name: latents, f"{name}_error": error}
    return clip


def report(directory: Path, length: int, most: float | None = None) -> dict:
    """The errors of the training chunks of a length: how many, median, 90th percentile, largest, and how many are above `most`."""
    column = f"{pipeline.inverted_column(length)}_error"
    errors = np.concatenate([clip[column] for clip in pipeline.open_split(directory, "train")])
    errors = errors[np.isfinite(errors)]
    figures = dict(
        chunks=len(errors),
        median=float(np.median(errors)),
        ninety=float(np.quantile(errors, 0.9)),
        largest=float(errors.max()),
    )
    return figures if most is None else figures | dict(above=int((errors > most).sum()))


def check_data(config, experiment, data: Path, checksum: str | None) -> None:
    """Raises ValueError if training needs inverted targets and the data set does not have them."""
    if experiment.window.inverted:
        check(data, config, checksum)


def check(directory: Path, config, model: str | None) -> None:
    """Raises a ValueError when a data set has not the inversions that a config asks for.

    Args:
      directory: what is trained on.
      config: the experiment's.
      model: checksum of the pretrained parameters; None when training starts from none, and any model may have inverted.
    """
    settings = records.manifest(directory)["settings"].get("inversion")
    if settings is None:
        raise ValueError(
            f"{directory} has no inverted targets, which config.inversion.rho={config.inversion.rho} asks for: make them once with launch.encode and "
            "give its folder as config.data.path, or use config.inversion.rho=0"
        )
    if model is not None and settings["model"] != model:
        raise ValueError(
            f"{directory} was inverted through a model with parameters {settings['model']}, config.pretrained={config.pretrained} has {model}: "
            "invert with that model into another folder, or start from the other"
        )
    want = {name: config.inversion[name] for name in OPTIONS} | dict(frames=list(config.chunk.frames))
    differing = [
        f"{name} {settings[name]} there and {value} here"
        for name, value in want.items()
        if name != "frames" and settings[name] != value
    ]
    missing = sorted(set(want["frames"]) - set(settings["frames"]))
    if differing or missing:
        said = "; ".join(differing + [f"no chunks of {n} frames there" for n in missing])
        raise ValueError(
            f"the inversions in {directory} are not those of config.inversion and config.chunk: {said}: use those, or invert anew"
        )
