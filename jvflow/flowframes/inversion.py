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
from functools import partial
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from einops import rearrange

from jvflow.flowframes import method as flowframes
from jvflow.data import latents
from jvflow.parallel import processes
from jvflow.data import key, pipeline, records
from jvflow.data.files import check_room
from jvflow.run import Run, checksum, model

LOG = logging.getLogger(__name__)
SHARD_BYTES = 16 * 2**20  # clips take long here, and an interruption loses what is in the last shard
OPTIONS = ("steps", "guidance", "method", "back")


def prepare(config, directory) -> dict:
    """The latents of a config's data with the inversions of their chunks, in the data set `directory`; returns its manifest.

    Latents that have to be made lie beside it, in `directory` + "-latents". What was interrupted continues.

    Args:
      config: an experiment's config; `data`, `codec`, `pretrained`, `chunk` and `inversion` are read.
      directory: where the result goes; what `config.data.path` takes afterwards.
    """
    directory = Path(directory)
    if not config.pretrained:
        raise ValueError("inversion needs the model that inverts: give the workdir of a text_to_video run as config.pretrained")
    run = model(config)
    _check_model(run, config)
    beside = directory.with_name(f"{directory.name}-latents")
    source = Path(config.data.path)
    if records.is_dataset(source) and latents.are_in(source):
        pipeline.prepare(config.data, beside)  # of the size, rate, fit and type that the config says
    else:
        latents.prepare(config, source := beside)
    latents.check(source, latents.fingerprint(**config.codec), latents.lengths_of(run.experiment.codec, config))
    return invert(run, source, directory, lengths=tuple(config.chunk.frames), **{name: config.inversion[name] for name in OPTIONS})


def _check_model(run: Run, config) -> None:
    if run.config.objective != "text_to_video":
        raise ValueError(f"config.pretrained={config.pretrained} is a run of {run.config.objective!r}: chunks are inverted through a 'text_to_video' run")
    for what, of in dict(fps=lambda c: c.data.fps, codec=lambda c: latents.fingerprint(**c.codec)).items():
        if of(run.config) != of(config):
            raise ValueError(f"config.pretrained={config.pretrained} was trained with {what} {of(run.config)}, this config has {of(config)}: use the same")


def invert(run: Run, source: Path, directory: Path, *, lengths: tuple[int, ...], **options) -> dict:
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
    settings = dict(of["settings"], inversion=dict(model=checksum(run), frames=list(lengths), **options))
    if "inversion" in of["settings"]:
        raise ValueError(f"{source} has inversions already: give the data set that it was made of")
    if records.is_dataset(directory):
        key.check(directory, records.manifest(directory)["settings"], settings)
        return records.manifest(directory)
    clips = {split: records.open(source, split) for split in of["splits"]}
    longest = min(len(split[0]["video"]) for split in clips.values())
    if max(lengths) > longest:
        raise ValueError(f"chunks of {max(lengths)} frames are longer than the clips in {source}, {longest} frames: use shorter ones in config.chunk.frames")

    def inverted(split: str) -> records.Lazy:
        make = partial(_with_inversions, run, lengths=lengths, options=options, empty=split != "train")
        return records.Lazy(len(clips[split]), lambda i: make(clips[split][i]))

    processes.on_primary(lambda: _check_room(clips, lengths, directory, latents.DTYPES[settings.get("dtype", "float32")]))
    latents.write_columns(directory, {split: inverted(split) for split in clips}, settings, records.report(source), shard_bytes=SHARD_BYTES)
    for length in lengths:
        LOG.info("%s: chunks of %d frames, %s", directory, length, report(directory, length))
    return records.manifest(directory)


def _check_room(clips: dict, lengths: tuple[int, ...], directory: Path, dtype) -> None:
    """Raises a ValueError where the clips, and their latents once more for each length, are more than the disk has room for."""
    count, clip = sum(map(len, clips.values())), clips["train"][0]
    video = clip.pop("video").nbytes
    inverted = sum(clip[name].size for length in lengths for name in (pipeline.latent_columns(length)[0], "latent_mean") if name in clip)
    need = count * (video + np.dtype(dtype).itemsize * (inverted + sum(np.size(value) for value in clip.values())))
    check_room(directory, need - records.written(directory), f"{count} clips with their latents and inversions")


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
            embedded = tuple(again(name, len(chunks)) for name in ("text_embedding", "text_mask")) if "text_embedding" in clip else None
            with run.on_devices():
                made = flowframes.invert(run.field, jnp.asarray(chunks), run.condition([clip["caption"]] * len(chunks), embedded), **options)
            latents[targets], error[1:whole] = rearrange(np.asarray(made.latents), "n f ... -> (n f) ..."), np.asarray(made.error)
        name = pipeline.inverted_column(length)
        clip |= {name: latents, f"{name}_error": error}
    return clip


def report(directory: Path, length: int, most: float | None = None) -> dict:
    """The errors of the training chunks of a length: how many, median, 90th percentile, largest, and how many are above `most`."""
    column = f"{pipeline.inverted_column(length)}_error"
    errors = np.concatenate([clip[column] for clip in records.open(directory, "train")])
    errors = errors[np.isfinite(errors)]
    figures = dict(chunks=len(errors), median=float(np.median(errors)), ninety=float(np.quantile(errors, 0.9)), largest=float(errors.max()))
    return figures if most is None else figures | dict(above=int((errors > most).sum()))


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
    differing = [f"{name} {settings[name]} there and {value} here" for name, value in want.items() if name != "frames" and settings[name] != value]
    missing = sorted(set(want["frames"]) - set(settings["frames"]))
    if differing or missing:
        said = "; ".join(differing + [f"no chunks of {n} frames there" for n in missing])
        raise ValueError(f"the inversions in {directory} are not those of config.inversion and config.chunk: {said}: use those, or invert anew")
