"""Encodes a data set of clips: adds a codec's latents to the clips, in one format for every codec.

    fps, start, caption, source            of the clip, as in the data set that was encoded
    video                                  the same; in records of its own in the folder `clips`, which training leaves
    latent_mean                            float32 (f, h, w, c), in the units that a flow sees
    latent_std                             the same shape, where the codec has a posterior
    latent_mean_17, latent_std_17          replace these two where the codec encodes several frames as one: float32
                                           (n f, h, w, c), n chunks of 17 frames, each encoded separately; likewise for
                                           every other length in `config.chunk.frames`
    text_embedding, text_mask              float32 (m, d) and bool (m,) of the caption, where the config has a
                                           pretrained text encoder; `empty_caption.safetensors` holds both for ""

`config.data.dtype` float16 or bfloat16 rounds latents and embeddings on disk; they are read back as float32. Training
reads the latents and the embeddings, and runs neither codec nor text encoder; streams start from the video, and are
compared with it. `manifest.json` identifies codec and text encoder by checksums of their checkpoints, so that training
never mixes the latents of two codecs. It also holds the key of everything that determines the content
(`jvflow.data.dataset_key`). `report.json` lists the source files, the clips that were left out, and statistics of the
latents.
"""

import hashlib
import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from numbers import Real
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from jvflow import codecs, text
from jvflow.codecs import Codec, encode_chunks
from jvflow.data import dataset, pipeline, records
from jvflow.data.columns import latent_columns
from jvflow.data.dataset_key import check_settings
from jvflow.files import check_room, mebibytes
from jvflow.parallel import processes
from jvflow.pretrained.files import Files, save
from jvflow.pretrained.sources import model_files
from jvflow.text import TextEncoder

LOG = logging.getLogger(__name__)
IGNORED_OPTIONS = ("piece", "time", "by_layer")
"""Options that split the work or affect only decoding: they change stored values at most by rounding."""
DTYPES = dict(float32=np.float32, float16=np.float16, bfloat16=jnp.bfloat16)
EMPTY_CAPTION = "empty_caption.safetensors"
"""The file with the embedding of the empty caption, which guidance and caption dropout use, and its mask."""


def model_fingerprint(name: str, *, checkpoint: Sequence[str | Path] = (), **options) -> dict:
    """Returns a codec's or text encoder's identity: its config without `IGNORED_OPTIONS`, with checksums for files."""
    digests = []
    with_config = name != "tiny"  # the sizes of this codec follow from its tensors
    for file, prefix in (part for source in checkpoint for part in model_files(source, with_config=with_config)):
        with file.open("rb") as opened:  # reads in pieces: a file may have many gigabytes
            digests.append(hashlib.file_digest(opened, "sha256").hexdigest() + prefix)
    kept = {key: value for key, value in options.items() if key not in IGNORED_OPTIONS}
    if name in codecs.CODECS and kept.get("dtype") == "float32":  # as of a codec without this option
        del kept["dtype"]
    return dict(name=name, weights=digests, **kept)  # stays weights: another name would change all keys


def text_fingerprint(config) -> dict | None:
    """Returns the `model_fingerprint` of a pretrained text encoder, whose embeddings are stored; None for any other.

    Its entry `empty_caption` tells these data sets from earlier ones, which masked empty captions and did not store "".
    """
    if not config.get("text", {}).get("checkpoint"):
        return None
    return model_fingerprint(**config.text) | dict(empty_caption=True)


def chunk_lengths(codec: Codec, config) -> tuple[int, ...]:
    """Returns the lengths of the chunks that are encoded separately; () if the codec encodes single frames."""
    return tuple(sorted(config.chunk.frames)) if codec.frames_per_latent > 1 else ()


def prepare(config, directory: str | Path) -> dict:
    """Writes the latents of a config's data into the data set `directory`; returns its manifest.

    Clips that have to be built go to `directory` + "-clips". An interrupted run continues.

    Args:
      config: an experiment's config; `data`, `codec`, `text` and `chunk` are read.
      directory: folder of the result; training on it takes this as `config.data.path`.
    """
    directory = Path(directory)
    codec = codecs.build(**config.codec)
    lengths, dtype = chunk_lengths(codec, config), config.data.dtype
    if dtype not in DTYPES:
        raise ValueError(f"config.data.dtype is {dtype!r}: latents are stored as one of {', '.join(DTYPES)}")
    for frames in lengths or (config.data.frames,):
        codec.latent_shape((frames, *config.data.size))  # raises for a wrong size before anything is built
    if max(lengths, default=0) > config.data.frames:
        raise ValueError(
            f"chunks of {max(lengths)} frames are longer than the clips, config.data.frames={config.data.frames}: "
            "use longer clips, or shorter chunks"
        )
    clips_workdir = directory.with_name(f"{directory.name}-clips")
    codec_id, text_id = model_fingerprint(**config.codec), text_fingerprint(config)
    if records.is_dataset(directory):  # comparing settings needs no clips
        clips = processes.primary_first(lambda: dataset.settings(config.data, clips_workdir))
        wanted = latent_settings(clips, codec_id, text_id, lengths, dtype)
        check_settings(directory, records.manifest(directory)["settings"], wanted)
        return records.manifest(directory)
    captions = (text.build(**config.text), text_id) if text_id else None
    encoder = captions[0] if captions else None
    processes.on_primary(lambda: _check_room(config.data, codec, encoder, lengths, directory, clips_workdir))
    source = processes.primary_first(lambda: dataset.prepare(config.data, clips_workdir))
    return encode(codec, codec_id, source, directory, captions, lengths, dtype)


def encode_config(config, directory: str | Path, load_model: Callable) -> tuple[dict, str]:
    """Returns the manifest of `prepare`, and an empty note on the data; does not use `load_model`."""
    del load_model
    return prepare(config, directory), ""


def latent_settings(
    clips: dict,
    codec_id: dict,
    text_id: dict | None = None,
    lengths: tuple[int, ...] = (),
    dtype: str = "float32",
) -> dict:
    """Returns everything that determines the content of latents: settings of clips, fingerprints, chunks and dtype."""
    made = dict(kind="latents", codec=codec_id, of=clips, dtype=dtype)
    return made | (dict(text=text_id) if text_id else {}) | (dict(chunks=list(lengths)) if lengths else {})


def _check_room(
    data, codec: Codec, encoder: TextEncoder | None, lengths: tuple[int, ...], directory: Path, clips_workdir: Path
) -> None:
    """Raises ValueError if the disk has no room for clips and latents; files of an interrupted run need none."""
    count, itemsize = dataset.max_clips(data), np.dtype(DTYPES[data.dtype]).itemsize
    size = lambda frames: math.prod(codec.latent_shape((frames, *data.size)))
    latents = sum(data.frames // n * size(n) for n in lengths) or size(data.frames)
    embedded = encoder.tokenize([""])[1].size * encoder.width if encoder else 0
    video = count * data.frames * math.prod(data.size) * 3
    latents = count * itemsize * ((1 + codec.posterior) * latents + embedded)
    need = video + latents - records.bytes_written(directory)
    what = f"{count} clips with their latents ({mebibytes(video + latents)})"
    clips_built = dataset.is_built(data.path) or list(clips_workdir.glob(f"data/*/{records.MANIFEST}"))
    if not (data.cache or clips_built):  # the clips go to the same disk
        need += video - records.bytes_written(clips_workdir)
        what += f", and the clips without latents ({mebibytes(video)}),"
    check_room(directory, need, what)


def encode(
    codec: Codec,
    codec_id: dict,
    source: Path,
    directory: Path,
    captions: tuple[TextEncoder, dict] | None = None,
    lengths: tuple[int, ...] = (),
    dtype: str = "float32",
) -> dict:
    """Encodes every clip of the data set `source` into the data set `directory`; returns its manifest.

    An interrupted run continues after its last complete shard; a finished one is not changed. Every process encodes
    some of the clips, and the primary process writes.

    Args:
      codec: encodes the video.
      codec_id: its `model_fingerprint`.
      source: a data set of clips.
      directory: folder of the result.
      captions: a text encoder for the captions, and its `model_fingerprint`; None stores no embeddings.
      lengths: the lengths of chunks, see `chunk_lengths`.
      dtype: dtype of latents and embeddings on disk, a key of `DTYPES`.
    """
    made = records.manifest(source)
    wanted = latent_settings(made["settings"], codec_id, captions and captions[1], lengths, dtype)
    embed = _embedder(captions[0]) if captions else lambda caption: {}
    if records.is_dataset(directory):
        check_settings(directory, records.manifest(directory)["settings"], wanted)
        return records.manifest(directory)
    clips = {split: pipeline.open_split(source, split) for split in made["splits"]}
    encoded = {
        split: records.LazyClips(
            len(clips[split]), lambda i, split=split: _with_latents(codec, embed, lengths, clips[split][i])
        )
        for split in clips
    }
    empty = (lambda: captions[0].empty) if captions else None
    write_latents(directory, encoded, wanted, source, empty, videos=made.get("videos"))
    return records.manifest(directory)


def write_latents(
    directory: Path,
    splits: Mapping[str, records.LazyClips],
    settings: dict,
    source: Path,
    empty: Callable[[], tuple] | None = None,
    **options,
) -> None:
    """Writes a data set of clips with latents; every process makes some of the clips.

    Float arrays of two or more axes count as latents: they are rounded to the dtype in the settings, and the report has
    their statistics.

    Args:
      directory: folder of the data set.
      splits: the clips of each split.
      settings: everything that determines the content.
      source: the data set that the clips come from, in the same order.
      empty: returns `TextEncoder.empty` of the encoder of the captions; None for a data set without embeddings.
      options: options of `records.Build.write`.
    """
    dtype, made, shapes, started = DTYPES[settings.get("dtype", "float32")], 0, {}, time.perf_counter()
    source_report, video_from = records.report(source), records.video_folder(source)

    def stored(clip: dict) -> dict:
        nonlocal made
        made += 1
        shapes.update({name: list(value.shape) for name, value in clip.items() if _is_latent(value)})
        rounded = lambda name, value: _rounded(name, value, dtype, clip["source"])
        kept = {name: value for name, value in clip.items() if name != "video" or not video_from}
        return {name: rounded(name, value) if name in shapes else value for name, value in kept.items()}

    def write_empty(folder: Path):
        if empty is not None:
            embedding, mask = (np.asarray(a) for a in empty())
            embedding = _rounded("text_embedding", embedding.astype(np.float32), dtype, "the empty caption")
            save(folder / EMPTY_CAPTION, dict(text_embedding=embedding.astype(np.float32), text_mask=mask))

    def write(splits):
        lazy = lambda clips: records.LazyClips(len(clips), lambda i: stored(clips[i]))
        records.write(
            directory,
            {split: lazy(clips) for split, clips in splits.items()},
            settings=settings,
            measure=_sums,
            report=lambda sums: _report(source_report, shapes, sums),
            extra=write_empty,
            video_from=video_from,
            **options,
        )

    processes.serve_items(splits, write)
    LOG.info("%s: %.3g s per clip", directory, (time.perf_counter() - started) / max(made, 1))


def _is_latent(value) -> bool:
    return np.ndim(value) > 1 and np.asarray(value).dtype in [np.dtype(dtype) for dtype in DTYPES.values()]


def _rounded(name: str, value: np.ndarray, dtype, source: str) -> np.ndarray:
    if not np.isfinite(value).all():
        made_by = "text encoder" if name == "text_embedding" else "model"
        raise ValueError(
            f"{name} of {source} holds values that are not finite: the {made_by} is damaged, or its numbers exceed its "
            "dtype; use other files, or float32 for it"
        )
    with np.errstate(over="ignore"):
        rounded = value.astype(dtype)
    if not np.isfinite(rounded).all():
        largest = np.abs(value).max()
        raise ValueError(
            f"{name} of {source} holds values up to {largest:.4g}, more than float16 can hold: "
            "use --config.data.dtype=bfloat16"
        )
    return rounded


def _sums(clip: dict) -> dict[str, Real]:
    """Returns count, sum and sum of squares of each column of latents."""
    columns = {name: np.asarray(value, np.float64) for name, value in clip.items() if _is_latent(value)}
    return {
        f"{name} {quantity}": value
        for name, a in columns.items()
        for quantity, value in dict(count=a.size, sum=a.sum(), squares=np.square(a).sum()).items()
    }


def _report(source_report: dict, shapes: dict, sums: dict[str, float]) -> dict:
    latents = {}
    for name, shape in shapes.items():
        count, total, squares = (sums[f"{name} {quantity}"] for quantity in ("count", "sum", "squares"))
        mean = total / count
        latents[name] = dict(shape=shape, mean=mean, std=math.sqrt(max(squares / count - mean**2, 0.0)))
    kept = {name: source_report[name] for name in ("folder", "files", "notes") if name in source_report}
    return kept | dict(latents=latents)


def _embedder(encoder: TextEncoder) -> Callable[[str], dict]:
    @lru_cache(maxsize=64)  # consecutive clips of one video share their caption
    def embed(caption: str) -> dict:
        tokens, mask = encoder.tokenize([caption])
        embedding = np.asarray(encoder.apply(encoder.params, tokens)[0], np.float32)
        return dict(text_embedding=embedding, text_mask=mask[0])

    return embed


def _with_latents(codec: Codec, embed: Callable, lengths: tuple[int, ...], clip: dict) -> dict:
    video = clip["video"]
    for length in lengths or (0,):
        chunks = len(video) // length if length else 1
        posterior = encode_chunks(codec, codec.params, jnp.asarray(video[: chunks * length or None])[None], chunks)
        columns = zip(latent_columns(length), posterior)
        clip |= {name: np.asarray(a[0], np.float32) for name, a in columns if a is not None}
    return clip | embed(clip["caption"])


def frame_difference(directory: Path, *, every: int = 1, clips: int = 64) -> float:
    """Returns the root mean square difference between latents `every` frames apart, over the first training clips.

    Use it as `config.path.velocity_scale`.
    """
    source = pipeline.open_split(directory, "train", video=False)
    means = [source[i]["latent_mean"][::every] for i in range(min(clips, len(source)))]
    return float(np.sqrt(np.mean([np.square(np.diff(mean, axis=0)).mean() for mean in means])))


def has_latents(directory: str | Path) -> bool:
    """Returns whether a data set holds latents."""
    return records.manifest(directory)["settings"].get("kind") == "latents"


def check_latents(directory: str | Path, codec_id: dict, lengths: tuple[int, ...] = ()) -> None:
    """Raises ValueError if the latents have another `model_fingerprint`, or lack chunks of one of the lengths."""
    settings = records.manifest(directory)["settings"]
    made_with = settings.get("codec")
    if made_with != codec_id:
        raise ValueError(
            f"the latents in {directory} were made with {made_with}, config.codec is {codec_id}: "
            "use that codec, or encode into another folder"
        )
    _check_finite(directory)
    missing = sorted(set(lengths) - set(settings.get("chunks", [])))
    if missing:
        raise ValueError(
            f"the latents in {directory} have chunks of {settings.get('chunks')} frames, "
            f"config.chunk.frames={list(lengths)} needs {missing} too: "
            "use those lengths, or encode into another folder"
        )


def has_embeddings(directory: str | Path, text_id: dict | None) -> bool:
    """Returns whether a data set holds embeddings of this text encoder; raises ValueError if another one made them."""
    made_with = records.manifest(directory)["settings"].get("text")
    if text_id and made_with and dict(made_with, empty_caption=True) == text_id != made_with:
        raise ValueError(
            f"the captions in {directory} were embedded by an earlier version of jvflow, which did not store the "
            "embedding of the empty caption, and guidance needs it: encode the data again, into another folder"
        )
    if text_id and made_with not in (None, text_id):
        raise ValueError(
            f"the captions in {directory} were embedded with {made_with}, config.text is {text_id}: "
            "use that encoder, or encode into another folder"
        )
    if text_id and made_with is not None:
        _check_finite(directory)
        return True
    return False


def empty_caption(directory: str | Path) -> tuple[np.ndarray, np.ndarray]:
    """Returns the embedding (1, m, d) and the mask (1, m) of the empty caption in a data set with embeddings."""
    stored = Files([Path(directory) / EMPTY_CAPTION])
    return stored["text_embedding"], stored["text_mask"]


def _check_finite(directory: str | Path) -> None:
    """Raises ValueError if the statistics of a data set show latents or embeddings that are not finite."""
    statistics = records.report(directory).get("latents", {})
    wrong = [name for name, a in statistics.items() if not math.isfinite(a["mean"]) or not math.isfinite(a["std"])]
    if wrong:
        raise ValueError(
            f"{', '.join(wrong)} in {directory} hold values that are not finite: remove the data set and encode it "
            "again, with other files of the model, or float32 for it"
        )
