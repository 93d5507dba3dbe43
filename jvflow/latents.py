"""Latents on disk: a data set of clips with the latents of a codec beside the video, one format for every codec.

    video, fps, start, caption, source     the clip, as in the data set that was encoded
    latent_mean                            float32 (f, h, w, c), in the units that a flow sees
    latent_std                             the same shape, where the codec has a posterior
    latent_mean_17, latent_std_17          in their place float32 (n f, h, w, c) where a codec takes some frames as one: n chunks of 17 frames, each encoded
                                           by itself; likewise for every other length of `config.chunk.frames`
    text_embedding, text_mask              float32 (m, d) and bool (m,) of the caption, where the config has a pretrained text encoder

Training reads the latents and the embeddings and runs neither codec nor text encoder; streams start from the video, and are compared with it.
`manifest.json` names codec and text encoder by checksums of their weights, so that neither meets the latents of another one.
"""

import hashlib
import logging
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from jvflow import codecs, processes, text
from jvflow.codecs import Codec, encode_chunks
from jvflow.data import pipeline, records
from jvflow.text import TextEncoder

LOG = logging.getLogger(__name__)
HOW = ("piece", "time", "by_layer")
"""Options of codecs and text encoders that say how it is encoded, or how it is decoded, and change nothing in the latents but rounding."""


def fingerprint(name: str, *, weights: tuple[str, ...] = (), **options) -> dict:
    """What tells a codec from another, or a text encoder: the keys of its config but for `HOW`, with checksums in place of files."""
    files = [file for path in map(Path, weights) for file in (_read_of(path) if path.is_dir() else [path])]
    digests = []
    for file in files:
        with file.open("rb") as opened:  # of many gigabytes, some
            digests.append(hashlib.file_digest(opened, "sha256").hexdigest())
    return dict(name=name, weights=digests, **{key: value for key, value in options.items() if key not in HOW})


def _read_of(folder: Path) -> list[Path]:
    """What decides a model in a folder."""
    return sorted(path for path in folder.rglob("*") if path.suffix in (".safetensors", ".json", ".txt"))


def of_text(config) -> dict | None:
    """The `fingerprint` of a config's text encoder, where it is a pretrained one, whose embeddings are kept."""
    if not config.get("text", {}).get("weights"):
        return None
    return fingerprint(**config.text)


def prepare(config, directory) -> dict:
    """The latents of a config's data under its codec, in the data set `directory`; returns its manifest.

    Clips that have to be built lie beside it, in `directory` + "-clips". What was interrupted continues.

    Args:
      config: an experiment's config; `data`, `codec` and `text` are read.
      directory: where the result goes; what `config.data.path` takes afterwards.
    """
    directory = Path(directory)
    codec = codecs.build(**config.codec)
    lengths = lengths_of(codec, config)
    for frames in lengths or (config.data.frames,):
        codec.latent_shape((frames, *config.data.size))  # one that cannot be encoded is said before anything is built
    if max(lengths, default=0) > config.data.frames:
        raise ValueError(f"chunks of {max(lengths)} frames are longer than the clips, config.data.frames={config.data.frames}: use longer clips, or shorter chunks")
    beside = directory.with_name(f"{directory.name}-clips")
    source = processes.built(lambda: pipeline.prepare(config.data, beside))
    described = of_text(config)
    captions = (text.build(**config.text), described) if described else None
    return encode(codec, fingerprint(**config.codec), source, directory, captions, lengths)


def lengths_of(codec: Codec, config) -> tuple[int, ...]:
    """Of the chunks that are encoded each by itself; none where each frame is."""
    return tuple(sorted(config.chunk.frames)) if codec.frames > 1 else ()


def encode(
    codec: Codec, described: dict, source: Path, directory: Path, captions: tuple[TextEncoder, dict] | None = None, lengths: tuple[int, ...] = ()
) -> dict:
    """Encodes every clip of the data set `source` into the data set `directory`; returns its manifest.

    An interrupted run continues after its last complete shard. With a finished one there is nothing to do. Of many
    processes each encodes some of the clips, and the first one writes.

    Args:
      codec: what encodes.
      described: its `fingerprint`.
      captions: the text encoder of the captions, and its `fingerprint`; None leaves them as they are.
      source: a data set of clips.
      directory: where the result goes.
      lengths: of chunks, see `lengths_of`.
    """
    of = records.manifest(source)
    settings = dict(kind="latents", codec=described, of=of["settings"]) | (dict(text=captions[1]) if captions else {})
    settings |= dict(chunks=list(lengths)) if lengths else {}
    embed = _embedder(captions[0]) if captions else lambda caption: {}
    if records.is_dataset(directory):
        check(directory, described, lengths)
        if records.manifest(directory)["settings"] != settings:
            raise ValueError(f"{directory} holds the latents of other clips, or embeddings of another text encoder: remove it, or choose another name")
        return records.manifest(directory)
    clips = {split: records.open(source, split) for split in of["splits"]}

    def encoded(split: str) -> records.Lazy:
        return records.Lazy(len(clips[split]), lambda i: _with_latents(codec, embed, lengths, clips[split][i]))

    processes.served({split: encoded(split) for split in clips}, lambda splits: records.write(directory, splits, settings=settings))
    manifest = records.manifest(directory)
    LOG.info("%s: %s", directory, ", ".join(f"{n} clips in {k}" for k, n in manifest["splits"].items()))
    return manifest


def _embedder(encoder: TextEncoder) -> Callable[[str], dict]:
    @lru_cache(maxsize=64)  # clips of one video come one after the other
    def embed(caption: str) -> dict:
        tokens, mask = encoder.tokenize([caption])
        return dict(text_embedding=np.asarray(encoder.apply(encoder.params, tokens)[0], np.float32), text_mask=mask[0])

    return embed


def _with_latents(codec: Codec, embed: Callable, lengths: tuple[int, ...], clip: dict) -> dict:
    video = clip["video"]
    for length in lengths or (0,):
        chunks = len(video) // length if length else 1
        posterior = encode_chunks(codec, codec.params, jnp.asarray(video[: chunks * length or None])[None], chunks)
        found = zip(pipeline.latent_columns(length), posterior)
        clip |= {name: np.asarray(a[0], np.float32) for name, a in found if a is not None}
    return clip | embed(clip["caption"])


def motion(directory: Path, *, every: int = 1, clips: int = 64) -> float:
    """How much the latents of a data set change from a frame to the `every`-th after it, root mean square over its first training clips: what `config.path.motion` takes."""
    source = records.open(directory, "train")
    means = [source[i]["latent_mean"][::every] for i in range(min(clips, len(source)))]
    return float(np.sqrt(np.mean([np.square(np.diff(mean, axis=0)).mean() for mean in means])))


def are_in(directory: Path) -> bool:
    """Whether a data set holds latents."""
    return records.manifest(directory)["settings"].get("kind") == "latents"


def check(directory: Path, described: dict, lengths: tuple[int, ...] = ()) -> None:
    """Raises a ValueError when the latents in a data set are not those of the codec with this `fingerprint`, or not of chunks of these lengths."""
    settings = records.manifest(directory)["settings"]
    made_with = settings.get("codec")
    if made_with != described:
        raise ValueError(
            f"the latents in {directory} were made with {made_with}, config.codec is {described}: "
            "take that codec, or encode into another folder"
        )
    missing = sorted(set(lengths) - set(settings.get("chunks", [])))
    if missing:
        raise ValueError(
            f"the latents in {directory} are of chunks of {settings.get('chunks')} frames, config.chunk.frames={list(lengths)} needs {missing} too: "
            "use those lengths, or encode into another folder"
        )


def has_text(directory: Path, described: dict | None) -> bool:
    """Whether a data set holds the embeddings of the text encoder with this fingerprint; a ValueError when it holds those of another one."""
    made_with = records.manifest(directory)["settings"].get("text")
    if described and made_with not in (None, described):
        raise ValueError(f"the captions in {directory} were embedded with {made_with}, config.text is {described}: take that encoder, or encode into another folder")
    return bool(described) and made_with is not None
