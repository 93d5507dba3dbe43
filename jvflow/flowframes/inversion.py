"""Target inversion of a data set: inverts its chunks to noise once, with the pretrained model, and adds columns.

    ... all columns of the latents (`jvflow.data.latents`)
    inverted_8           float32 (f, h, w, c): each chunk of 8 frames, inverted; likewise for every other length
    inverted_8_error     float32 (f / 8,): round-trip error of each chunk, RMS(x1' - x1) / RMS(x1)

Only chunks that can be targets of training are inverted. The first chunk of a clip, the frames after its last whole
chunk, and all splits other than `train` get latents of 0 and an infinite error.

`manifest.json` holds a checksum of the model's parameters, with steps, guidance and methods, so that a folder, and a
run, only have inversions from one model.
"""

import logging
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jaxtyping import Array, Bool, Float, Key

from jvflow import networks
from jvflow.assembly import Latents, choose, fold_in_each
from jvflow.data import dataset, latents, pipeline, records
from jvflow.data.columns import inverted_column, latent_columns
from jvflow.data.dataset_key import check_settings
from jvflow.files import check_room
from jvflow.flow.field import Condition, Field, along, expand_like, guide
from jvflow.flow.path import squared_error
from jvflow.flow.solver import Solver
from jvflow.flowframes.sample import Chunk, check_chunks
from jvflow.networks import as_field, precision
from jvflow.parallel import processes
from jvflow.parallel.checksums import tree_checksum
from jvflow.parallel.mesh import local_mesh
from jvflow.run import Run

LOG = logging.getLogger(__name__)
SHARD_BYTES = 16 * 2**20  # small: a clip takes long, and an interruption loses the clips of the last shard
OPTIONS = ("steps", "guidance", "method", "back")


# --- chunks ---------------------------------------------------------------------------------------


class Inverted(NamedTuple):
    """Chunks inverted to noise (3).

    Attributes:
      latents: xhat_1, of the shape of the chunks.
      error: round-trip error of each chunk, RMS(x1' - x1) / RMS(x1); not finite if a solve failed.
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
    """Inverts chunks to noise with a text-to-video field (3), and measures the round-trip error.

    Args:
      field: u*; a `jax.tree_util.Partial`, such as `networks.as_field` returns.
      chunk: x1.
      condition: captions.
      steps: number of steps from t = 1 to 0, and again from 0 to 1.
      guidance: weight of the guidance by captions, 1 for none.
      method: the solver from t = 1 to 0.
      back: the solver from t = 0 to 1; the paper uses Euler, whose result is far from x1.
    """
    derivative = along(guide(field, guidance), lambda t: (t,), condition)
    solve = lambda method, x, t0, t1: Solver(method, steps=steps, per_sample=False)(derivative, x, t0, t1).x
    noise = solve(method, chunk, 1.0, 0.0)
    again = solve(back, noise, 0.0, 1.0)
    size = squared_error(chunk, jnp.zeros_like(chunk))
    return Inverted(noise, jnp.sqrt(squared_error(again, chunk) / size))


def with_inversion(
    mean: Chunk,
    std: Chunk | float | None,
    inverted: Chunk,
    keys: Key[Array, "b"],
    *,
    rho: float = 0.7,
    usable: Bool[Array, "b"] | None = None,
) -> Chunk:
    """Returns the observed chunk of algorithm 1 (2).

    Args:
      mean, std: mu_0 and sigma_0, in the units of the latents.
      inverted: xhat_1.
      keys: one per example, to draw its coin; equal keys share one coin in the micro-batch, as in the authors' code.
      rho: the probability of adding xhat_1, in [0, 1].
      usable: True where the error of `inverted` is small enough; all when None.
    """
    if not 0 <= rho <= 1:
        raise ValueError(f"rho is a probability and must be in [0, 1], got {rho}")
    if std is None:
        raise ValueError(
            "target inversion adds sigma_0 xhat_1, and this codec has no sigma_0: set sigma_0 with config.inversion.std"
        )
    check_chunks(mean, inverted)
    coin = jax.vmap(lambda key: jax.random.bernoulli(key, rho))(keys)
    coin = coin if usable is None else coin & usable
    return jnp.where(expand_like(coin, mean), mean + std * inverted, mean)


def add_inversions(mean: Chunk, std, latents: Latents, keys, key, settings) -> tuple[Chunk, Float[Array, ""]]:
    """Returns the observed chunks of a batch (2), and the fraction of its inversions whose error is small enough.

    `settings` is `config.inversion`; `keys` (b,) and `key` are those of the loss.
    """
    assert latents.inverted is not None, "the windows of this experiment have inverted targets"
    std = std if settings.std is None else settings.std
    usable = None if settings.max_error is None else latents.inverted_error <= settings.max_error
    one_coin = settings.coin == "batch"
    coins = jnp.broadcast_to(jax.random.fold_in(key, 1), keys.shape) if one_coin else fold_in_each(keys, 2**31 + 1)
    observed = with_inversion(mean, std, latents.inverted, coins, rho=settings.rho, usable=usable)
    return observed, jnp.ones(()) if usable is None else usable.mean()


# --- data sets ------------------------------------------------------------------------------------


def prepare(config, directory: str | Path, load_model: Callable) -> dict:
    """Writes the latents of a config's data with the inversions of their chunks; returns the manifest.

    If the data set of the config has no latents, writes them to `directory` + "-latents" first. Continues an
    interrupted run.

    Args:
      config: an experiment's config; `data`, `codec`, `pretrained`, `chunk` and `inversion` are read.
      directory: the data set to write; give it as `config.data.path` afterwards.
      load_model: `config -> Run`, loads the model of `config.pretrained`.
    """
    directory = Path(directory)
    if not config.pretrained:
        raise ValueError(
            "inversion needs a pretrained model: give the workdir of a text_to_video run as config.pretrained"
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
    latents.has_embeddings(source, latents.text_fingerprint(config))  # raises if another encoder made them
    options = {name: config.inversion[name] for name in OPTIONS}
    return invert_dataset(run, source, directory, lengths=tuple(config.chunk.frames), **options)


def _check_model(run: Run, config) -> None:
    if run.config.objective != "text_to_video":
        raise ValueError(
            f"config.pretrained={config.pretrained} is a run of {run.config.objective!r}: "
            "inversion needs a 'text_to_video' run"
        )
    for name, read in dict(fps=lambda c: c.data.fps, codec=lambda c: latents.model_fingerprint(**c.codec)).items():
        if read(run.config) != read(config):
            raise ValueError(
                f"config.pretrained={config.pretrained} was trained with {name} {read(run.config)}, "
                f"this config has {read(config)}: use the same"
            )


def invert_dataset(run: Run, source: Path, directory: Path, *, lengths: tuple[int, ...], **options) -> dict:
    """Writes the data set `source` with the inversions of its chunks to `directory`; returns its manifest.

    Continues an interrupted run after its last complete shard. Writes nothing if `directory` is complete.

    Args:
      run: a run with the objective text_to_video.
      source: a data set with latents.
      directory: a folder.
      lengths: lengths of chunks, in frames of video.
      options: options of `invert`.
    """
    manifest = records.manifest(source)
    inversion = dict(model=tree_checksum(run.params), frames=list(lengths), **options)
    settings: dict = dict(manifest["settings"], inversion=inversion)
    # its layers compute in this dtype, so that storing their kernels in it changes no bit
    run = replace(run, params=precision.cast(run.params, run.config.network.dtype))
    if "inversion" in manifest["settings"]:
        raise ValueError(f"{source} has inversions already: give the data set of latents that it was made from")
    if records.is_dataset(directory):
        check_settings(directory, records.manifest(directory)["settings"], settings)
        return records.manifest(directory)
    clips = {split: pipeline.open_split(source, split) for split in manifest["splits"]}
    longest = min(len(split[0]["video"]) for split in clips.values())
    if max(lengths) > longest:
        raise ValueError(
            f"chunks of {max(lengths)} frames are longer than the clips in {source}, {longest} frames: "
            "use shorter ones in config.chunk.frames"
        )

    empty = latents.empty_caption(source) if "text" in manifest["settings"] else None

    def inverted(split: str) -> records.LazyClips:
        make = partial(_with_inversions, run, empty, lengths=lengths, options=options, skip=split != "train")
        return records.LazyClips(len(clips[split]), lambda i: make(clips[split][i]))

    dtype = latents.DTYPES[settings.get("dtype", "float32")]
    processes.on_primary(lambda: _check_room(clips, lengths, directory, dtype))
    made = {split: inverted(split) for split in clips}
    writing: dict = dict(empty=empty and (lambda: empty), shard_bytes=SHARD_BYTES, videos=manifest.get("videos"))
    latents.write_latents(directory, made, settings, source, **writing)
    for length in lengths:
        LOG.info("%s: round-trip errors for chunks of %d frames: %s", directory, length, report(directory, length))
    return records.manifest(directory)


def _check_room(clips: dict, lengths: tuple[int, ...], directory: Path, dtype) -> None:
    """Raises ValueError if the disk has no room for the clips with one more copy of their latents for each length."""
    count, clip = sum(map(len, clips.values())), clips["train"][0]
    video = clip.pop("video").nbytes
    names = [name for length in lengths for name in (latent_columns(length)[0], "latent_mean")]
    numbers = sum(clip[name].size for name in names if name in clip) + sum(map(np.size, clip.values()))
    need = count * (video + np.dtype(dtype).itemsize * numbers)
    check_room(directory, need - records.bytes_written(directory), f"{count} clips with their latents and inversions")


def _with_inversions(run: Run, empty: tuple | None, clip: dict, *, lengths, options, skip: bool) -> dict:
    """Adds the columns of inversions to a clip; with `skip` fills them with 0 and infinite errors.

    `empty` is the embedded empty caption of a data set with embeddings, see `latents.empty_caption`.
    """
    codec, frames = run.experiment.codec, len(clip["video"])
    repeat = lambda name, count: np.repeat(clip[name][None], count, axis=0)
    for length in lengths:
        mean = clip[latent_columns(length if codec.frames_per_latent > 1 else 0)[0]]
        count, latent_frames = frames // length, codec.latent_shape((length, *clip["video"].shape[1:3]))[0]
        latents, error = np.zeros_like(mean), np.full(-(-frames // length), np.inf, np.float32)
        if count > 1 and not skip:
            targets = slice(latent_frames, count * latent_frames)
            chunks = rearrange(mean[targets], "(n f) ... -> n f ...", f=latent_frames)
            embedded = None
            if "text_embedding" in clip:
                columns = (repeat(name, len(chunks)) for name in ("text_embedding", "text_mask"))
                embedded = (*columns, empty)
            field = as_field(run.experiment.network, run.params, cast=True)
            with jax.set_mesh(local_mesh()):
                captions = [clip["caption"]] * len(chunks)
                condition = run.experiment.caption_condition(run.params, captions, run.config.data.fps, embedded)
                made = invert(field, jnp.asarray(chunks), condition, **options)
            latents[targets] = rearrange(np.asarray(made.latents), "n f ... -> (n f) ...")
            error[1:count] = np.asarray(made.error)
        name = inverted_column(length)
        clip |= {name: latents, f"{name}_error": error}
    return clip


def report(directory: Path, length: int, max_error: float | None = None) -> dict:
    """Returns statistics of the round-trip errors of training chunks: number, median, 90th percentile and maximum.

    With `max_error`, also the number of errors above it.
    """
    column = f"{inverted_column(length)}_error"
    errors = np.concatenate([clip[column] for clip in pipeline.open_split(directory, "train", video=False)])
    errors = errors[np.isfinite(errors)]
    figures = dict(
        chunks=len(errors),
        median=float(np.median(errors)),
        ninety=float(np.quantile(errors, 0.9)),
        largest=float(errors.max()),
    )
    return figures if max_error is None else figures | dict(above=int((errors > max_error).sum()))


def check_sigma(settings, codec) -> None:
    """Raises ValueError if neither the codec nor `config.inversion` gives sigma_0, or if no such coin is known."""
    if settings.std is None and not codec.posterior:
        raise ValueError(
            "config.inversion adds sigma_0 xhat_1, and this codec has no sigma_0: set sigma_0 with config.inversion.std"
        )
    choose(dict(example=False, batch=True), "inversion.coin", settings.coin)


def check_data(config, experiment, data: Path, checksum: str | None) -> None:
    """Raises ValueError if an evaluation cannot predict chunks, or training lacks inversions, see `Method`."""
    try:
        for length in config.evaluate.frames:
            networks.check(experiment.network, experiment.codec.latent_shape((length, *config.data.size)))
    except ValueError as error:
        raise ValueError(f"config.evaluate.frames is {tuple(config.evaluate.frames)}: {error}") from None
    if experiment.window.inverted:
        check(data, config, checksum)


def check(directory: Path, config, model: str | None) -> None:
    """Raises ValueError if a data set does not have the inversions that a config needs.

    Args:
      directory: the data set.
      config: an experiment's config.
      model: checksum of the pretrained parameters that must have inverted it; None accepts any model.
    """
    settings = records.manifest(directory)["settings"].get("inversion")
    if settings is None:
        raise ValueError(
            f"{directory} has no inverted targets, which config.inversion.rho={config.inversion.rho} needs: "
            "make them once with `jvflow encode` and give its folder as config.data.path, "
            "or use config.inversion.rho=0"
        )
    if model is not None and settings["model"] != model:
        raise ValueError(
            f"{directory} was inverted with a model whose parameters have the checksum {settings['model']}, "
            f"config.pretrained={config.pretrained} has {model}: "
            "invert with config.pretrained into another folder, or start from the model that inverted"
        )
    want = {name: config.inversion[name] for name in OPTIONS}
    differences = [
        f"{name} is {settings[name]}, not {value}" for name, value in want.items() if settings[name] != value
    ]
    missing = sorted(set(config.chunk.frames) - set(settings["frames"]))
    differences += [f"there are no chunks of {frames} frames" for frames in missing]
    if differences:
        raise ValueError(
            f"the inversions in {directory} do not match config.inversion and config.chunk: "
            f"{'; '.join(differences)}: change the config, or invert into another folder"
        )
