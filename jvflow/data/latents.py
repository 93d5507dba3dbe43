"""Latents on disk: a data set of clips with the latents of a codec beside the video, one format for every codec.

    video, fps, start, caption, source     the clip, as in the data set that was encoded
    latent_mean                            float32 (f, h, w, c), in the units that a flow sees
    latent_std                             the same shape, where the codec has a posterior
    latent_mean_17, latent_std_17          in their place float32 (n f, h, w, c) where a codec takes some frames as one: n chunks of 17 frames, each encoded
                                           by itself; likewise for every other length of `config.chunk.frames`
    text_embedding, text_mask              float32 (m, d) and bool (m,) of the caption, where the config has a pretrained text encoder

With `config.data.dtype` float16 or bfloat16 latents and embeddings are rounded to that on disk, and read back as float32.
Training reads the latents and the embeddings and runs neither codec nor text encoder; streams start from the video, and are compared with it.
`manifest.json` names codec and text encoder by checksums of their weights, so that neither meets the latents of another one, and holds the key of
all that decides the content (`jvflow.data.key`). `report.json` says what came in, what was left out, and how large the latents are.
"""

import hashlib
import logging
import math
import time
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from jvflow import codecs, text
from jvflow.parallel import processes
from jvflow.codecs import Codec, encode_chunks
from jvflow.data import key, pipeline, records
from jvflow.data.files import check_room, mebibytes
from jvflow.text import TextEncoder

LOG = logging.getLogger(__name__)
HOW = ("piece", "time", "by_layer")
"""Options of codecs and text encoders that say how it is encoded, or how it is decoded, and change nothing in the latents but rounding."""
DTYPES = dict(float32=np.float32, float16=np.float16, bfloat16=jnp.bfloat16)


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
    lengths, dtype = lengths_of(codec, config), config.data.dtype
    if dtype not in DTYPES:
        raise ValueError(f"config.data.dtype is {dtype!r}: latents are stored as one of {', '.join(DTYPES)}")
    for frames in lengths or (config.data.frames,):
        codec.latent_shape((frames, *config.data.size))  # one that cannot be encoded is said before anything is built
    if max(lengths, default=0) > config.data.frames:
        raise ValueError(f"chunks of {max(lengths)} frames are longer than the clips, config.data.frames={config.data.frames}: use longer clips, or shorter chunks")
    beside = directory.with_name(f"{directory.name}-clips")
    described, of_captions = fingerprint(**config.codec), of_text(config)
    if records.is_dataset(directory):  # which needs no clips
        clips = processes.primary_first(lambda: pipeline.settings(config.data, beside))
        key.check(directory, records.manifest(directory)["settings"], settings(clips, described, of_captions, lengths, dtype))
        return records.manifest(directory)
    captions = (text.build(**config.text), of_captions) if of_captions else None
    processes.on_primary(lambda: _check_room(config.data, codec, captions and captions[0], lengths, directory, beside))
    source = processes.primary_first(lambda: pipeline.prepare(config.data, beside))
    return encode(codec, described, source, directory, captions, lengths, dtype)


def settings(clips: dict, described: dict, of_captions: dict | None = None, lengths: tuple[int, ...] = (), dtype: str = "float32") -> dict:
    """What decides the content of latents (`jvflow.data.key`): that of their clips, what encodes, of which chunks, and how it is stored."""
    made = dict(kind="latents", codec=described, of=clips, dtype=dtype)
    return made | (dict(text=of_captions) if of_captions else {}) | (dict(chunks=list(lengths)) if lengths else {})


def _check_room(data, codec: Codec, encoder: TextEncoder | None, lengths: tuple[int, ...], directory: Path, beside: Path) -> None:
    """Raises a ValueError where clips and latents are more than the disk has room for. What an interruption has left is there already."""
    count, each = pipeline.expected(data), np.dtype(DTYPES[data.dtype]).itemsize
    latents = sum(data.frames // n * math.prod(codec.latent_shape((n, *data.size))) for n in lengths) or math.prod(codec.latent_shape((data.frames, *data.size)))
    embedded = encoder.tokenize([""])[1].size * encoder.width if encoder else 0
    video, latents = count * data.frames * math.prod(data.size) * 3, count * each * ((1 + codec.posterior) * latents + embedded)
    need, what = video + latents - records.written(directory), f"{count} clips with their latents ({mebibytes(video + latents)})"
    if not (data.cache or pipeline.is_built(data.path) or list(beside.glob(f"data/*/{records.MANIFEST}"))):  # clips go elsewhere, or are there
        need, what = need + video - records.written(beside), f"{what}, beside the clips alone ({mebibytes(video)}),"
    check_room(directory, need, what)


def lengths_of(codec: Codec, config) -> tuple[int, ...]:
    """Of the chunks that are encoded each by itself; none where each frame is."""
    return tuple(sorted(config.chunk.frames)) if codec.frames > 1 else ()


def encode(
    codec: Codec, described: dict, source: Path, directory: Path, captions: tuple[TextEncoder, dict] | None = None, lengths: tuple[int, ...] = (),
    dtype: str = "float32",
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
      dtype: of latents and embeddings on disk, a key of `DTYPES`.
    """
    of = records.manifest(source)
    decisive = settings(of["settings"], described, captions and captions[1], lengths, dtype)
    embed = _embedder(captions[0]) if captions else lambda caption: {}
    if records.is_dataset(directory):
        key.check(directory, records.manifest(directory)["settings"], decisive)
        return records.manifest(directory)
    clips = {split: records.open(source, split) for split in of["splits"]}
    encoded = {
        split: records.Lazy(len(clips[split]), lambda i, split=split: _with_latents(codec, embed, lengths, clips[split][i])) for split in clips
    }
    write_columns(directory, encoded, decisive, records.report(source))
    return records.manifest(directory)


def write_columns(directory: Path, clips: dict[str, records.Lazy], decisive: dict, came_in: dict, **options) -> None:
    """Writes clips with latents, of which each process makes some: float32 arrays of several axes in the type that the settings say, with their sizes in the report."""
    dtype, made, shapes, begun = DTYPES[decisive.get("dtype", "float32")], 0, {}, time.perf_counter()

    def stored(clip: dict) -> dict:
        nonlocal made
        made += 1
        shapes.update({name: list(value.shape) for name, value in clip.items() if _is_latent(value)})
        return {name: _rounded(name, value, dtype, clip["source"]) if name in shapes else value for name, value in clip.items()}

    def write(splits):
        as_stored = {split: records.Lazy(len(splits[split]), lambda i, split=split: stored(splits[split][i])) for split in splits}
        records.write(directory, as_stored, settings=decisive, measure=_sizes, report=lambda sums: _report(came_in, shapes, sums), **options)

    processes.serve_items(clips, write)
    LOG.info("%s: %.3g s a clip", directory, (time.perf_counter() - begun) / max(made, 1))


def _is_latent(value) -> bool:
    return np.ndim(value) > 1 and np.asarray(value).dtype in [np.dtype(dtype) for dtype in DTYPES.values()]


def _rounded(name: str, value: np.ndarray, dtype, source: str) -> np.ndarray:
    with np.errstate(over="ignore"):
        rounded = value.astype(dtype)
    if not np.isfinite(rounded).all() and np.isfinite(value).all():
        raise ValueError(f"{name} of {source} holds values up to {np.abs(value).max():.4g}, more than float16 can: use --config.data.dtype=bfloat16")
    return rounded


def _sizes(clip: dict) -> dict[str, float]:
    """Count, sum and sum of squares of each column of latents."""
    columns = {name: np.asarray(value, np.float64) for name, value in clip.items() if _is_latent(value)}
    return {f"{name} {of}": value for name, a in columns.items() for of, value in dict(count=a.size, sum=a.sum(), squares=np.square(a).sum()).items()}


def _report(came_in: dict, shapes: dict, sums: dict[str, float]) -> dict:
    latents = {}
    for name, shape in shapes.items():
        count, total, squares = (sums[f"{name} {of}"] for of in ("count", "sum", "squares"))
        mean = total / count
        latents[name] = dict(shape=shape, mean=mean, std=math.sqrt(max(squares / count - mean**2, 0.0)))
    return {name: came_in[name] for name in ("folder", "files") if name in came_in} | dict(latents=latents)


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
