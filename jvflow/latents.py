"""Latents on disk: a data set of clips with the latents of a codec beside the video, one format for every codec.

    video, fps, start, caption, source     the clip, as in the data set that was encoded
    latent_mean                            float32 (f, h, w, c), in the units that a flow sees
    latent_std                             the same shape, where the codec has a posterior

Training reads the latents and runs no codec; streams start from the video, and are compared with it.
`manifest.json` names the codec by a checksum of its weights, so that latents never meet another one.
"""

import hashlib
import logging
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from jvflow import codecs, processes
from jvflow.codecs import Codec
from jvflow.data import pipeline, records

LOG = logging.getLogger(__name__)


def fingerprint(name: str, *, weights: tuple[str, ...] = (), scale: float = 1.0) -> dict:
    """What tells a codec from another: the keys of `config.codec`, with checksums in place of files."""
    files = [file for path in map(Path, weights) for file in (sorted(path.glob("*.safetensors")) if path.is_dir() else [path])]
    digests = [hashlib.sha256(file.read_bytes()).hexdigest() for file in files]
    return dict(name=name, scale=scale, weights=digests)


def prepare(config, directory) -> dict:
    """The latents of a config's data under its codec, in the data set `directory`; returns its manifest.

    Clips that have to be built lie beside it, in `directory` + "-clips". What was interrupted continues.

    Args:
      config: an experiment's config; `data` and `codec` are read.
      directory: where the result goes; what `config.data.path` takes afterwards.
    """
    directory = Path(directory)
    codec = codecs.build(**config.codec)
    codec.latent_shape((config.data.frames, *config.data.size))  # one that cannot be encoded is said before anything is built
    beside = directory.with_name(f"{directory.name}-clips")
    source = processes.built(lambda: pipeline.prepare(config.data, beside))
    return encode(codec, fingerprint(**config.codec), source, directory)


def encode(codec: Codec, described: dict, source: Path, directory: Path) -> dict:
    """Encodes every clip of the data set `source` into the data set `directory`; returns its manifest.

    An interrupted run continues after its last complete shard. With a finished one there is nothing to do. Of many
    processes each encodes some of the clips, and the first one writes.

    Args:
      codec: what encodes.
      described: its `fingerprint`.
      source: a data set of clips.
      directory: where the result goes.
    """
    of = records.manifest(source)
    settings = dict(kind="latents", codec=described, of=of["settings"])
    if records.is_dataset(directory):
        check(directory, described)
        if records.manifest(directory)["settings"] != settings:
            raise ValueError(f"{directory} holds the latents of other clips: remove it, or choose another name")
        return records.manifest(directory)
    clips = {split: records.open(source, split) for split in of["splits"]}

    def encoded(split: str) -> records.Lazy:
        return records.Lazy(len(clips[split]), lambda i: _with_latents(codec, clips[split][i]))

    processes.served({split: encoded(split) for split in clips}, lambda splits: records.write(directory, splits, settings=settings))
    manifest = records.manifest(directory)
    LOG.info("%s: %s", directory, ", ".join(f"{n} clips in {k}" for k, n in manifest["splits"].items()))
    return manifest


def _with_latents(codec: Codec, clip: dict) -> dict:
    posterior = codec.encode(codec.params, jnp.asarray(clip["video"])[None])
    clip["latent_mean"] = np.asarray(posterior.mean[0], np.float32)
    if posterior.std is not None:
        clip["latent_std"] = np.asarray(posterior.std[0], np.float32)
    return clip


def are_in(directory: Path) -> bool:
    """Whether a data set holds latents."""
    return records.manifest(directory)["settings"].get("kind") == "latents"


def check(directory: Path, described: dict) -> None:
    """Raises a ValueError when the latents in a data set are not those of the codec with this `fingerprint`."""
    made_with = records.manifest(directory)["settings"].get("codec")
    if made_with != described:
        raise ValueError(
            f"the latents in {directory} were made with {made_with}, config.codec is {described}: "
            "take that codec, or encode into another folder"
        )
