"""From a trained run of VLFM to clips at any times, and what they are worth beside the clips that they should be.

Frame i of a data set's clip, of which every e-th was trained on at R frames per second, is at t = (1 + i / e) / R. So it
is one of three things:

    frames      trained on
    between     inside the clip, and never seen: what interpolation is measured on
    beyond      after the clip's end T: what extrapolation is measured on

Each is compared with the codec's round trip of the real frame (what a perfect flow would show) and with the real frame,
and stands beside what needs no training: the decoded mean mu(t), blending the two neighbours, repeating the last frame;
beyond the clip also the polynomial of order 2, a line.
"""

import time
from itertools import cycle, islice

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jaxtyping import Float, UInt8

from jvflow import metrics
from jvflow.vlfm import hippo
from jvflow.parallel import processes
from jvflow.data import pipeline
from jvflow.run import Run, protocol, solver_protocol, write_videos

FAR = 1e3  # latents are of about unit size
Videos = UInt8[np.ndarray, "b f h w c"]


# --- clips ----------------------------------------------------------------------------------------


def read_times(run: Run, *, length: int | None = None, fps: float | None = None, extrapolate: bool = False) -> Float[np.ndarray, "m"]:
    """Times in seconds from the first frame of a clip on, 1 / fps apart: `length` of them, or as many as the clip has.

    The first frame is at 1 / R. Before it a path rises out of noise, and shows nothing.
    """
    position = run.experiment.path.position
    rate = position.sigma.frame_rate
    fps = rate if fps is None else fps
    if not fps > 0:
        raise ValueError(f"fps is frames per second and must be above 0, got {fps}")
    whole = int((position.frames - 1) / rate * fps + 1e-6) + 1
    length = whole if length is None else length
    if length > whole and not extrapolate:
        raise ValueError(
            f"{length} frames at {fps:g} fps end after the clips of training, {position.frames} frames at {rate:g} fps: "
            f"use {whole} or fewer, or extrapolate (launch.sample --extrapolate), which soon shows nothing true"
        )
    return 1 / rate + np.arange(length) / fps


def generate(run: Run, times: Float[np.ndarray, "m"], captions: list[str], *, seed: int = 0, batch: int = 16, **options) -> tuple[Videos, np.ndarray, float]:
    """A clip for each caption, at `times` in seconds.

    Args:
      run: of VLFM, or of its ablation.
      times: see `read_times`.
      captions: their number is that of the clips; a run without a text encoder ignores what they say.
      seed: of the noise.
      batch: clips at a time.
      options: replace those of `vlfm.sampled`, such as guidance.

    Returns:
      video uint8 (b, m, h, w, 3); evaluations of the network for each clip (b,); seconds, compilation included.
    """
    experiment, codec = run.experiment, run.experiment.codec
    clock = time.perf_counter()

    def make(group: int) -> tuple:
        some = captions[group * batch : (group + 1) * batch]
        key = jax.random.fold_in(jax.random.key(seed), group)
        with run.on_devices():
            made = experiment.generate(run.field, key, times, len(some), run.condition(some), **options)
            return np.asarray(codec.decode(codec.params, made.frames)), np.asarray(made.nfe)

    videos, nfe = zip(*processes.distributed_map(-(-len(captions) // batch), make))
    return np.concatenate(videos), np.concatenate(nfe), time.perf_counter() - clock


def sample(run: Run, out, *, count: int, captions=(), length=None, fps=None, seed=0, extrapolate=False) -> dict:
    """Writes a clip for each caption, or `count` clips for the captions of training, in turn; see `sample.sample`."""
    times = read_times(run, length=length, fps=fps, extrapolate=extrapolate)
    fps = float(fps or run.experiment.path.position.sigma.frame_rate)
    captions = list(captions) or list(islice(cycle(pipeline.captions(run.data(), "train", count=count)), count))
    made, nfe, seconds = generate(run, times, captions, seed=seed)
    return write_videos(
        out, made, captions, fps=fps, nfe_per_frame=nfe / len(times), seconds_per_frame=seconds / (len(times) * len(made)), seed=seed,
        protocol=clip_protocol(run) | dict(times=[float(times[0]), float(times[-1])], seconds="wall time of a frame, compilation included"),
    )


def clip_protocol(run: Run) -> dict:
    """How the clips of a run are made: what every record of them carries."""
    position, options = run.experiment.path.position, run.experiment.generate.keywords
    told = protocol(run) | dict(
        clip_frames=position.frames, frame_rate=position.sigma.frame_rate, order=position.order, rule=position.rule,
        sigma=position.sigma.kind, sigma_minimum=position.sigma.minimum, guidance=options["guidance"],
    )
    return told | dict(readout=options["readout"], **solver_protocol(options["solver"])) if "solver" in options else told


# --- what they are worth --------------------------------------------------------------------------


def evaluate(run: Run) -> dict:
    """Generates the clips that a run was trained on and compares them with those; `config.evaluate` says how many.

    Returns:
      frames, between, beyond: PSNR in dB (peak 2; the mean over clips, squared errors averaged over frames) against the
        codec's round trip and against real video, of the generated clips and of what needs no training; where frames
        are square also the VLFM paper's quantity, `metrics.psnr_side`. `beyond` has a row for each second after T.
      text: of how many clips the generated one is nearest to its own, with and without guidance, and of how many to
        the other one when captions are swapped in pairs.
    """
    settings, window = run.config.evaluate, run.experiment.window
    if window.anywhere:
        raise ValueError("clips are compared with those of training from their first frame: this run was trained anywhere in them (config.clip.anywhere)")
    data = run.data()
    real = pipeline.clips(data, settings.split, count=settings.clips)
    captions = pipeline.captions(data, settings.split, count=settings.clips)
    if len(real) < settings.clips:
        raise ValueError(f"{settings.clips} clips are asked for, split {settings.split!r} of {data} has {len(real)}: evaluate clips={len(real)}")
    times = (1 + np.arange(real.shape[1]) / window.every) / run.experiment.path.position.sigma.frame_rate
    made, nfe, seconds = generate(run, times, captions, seed=settings.seed, batch=settings.batch)
    figures = compared(run, made, real) | dict(nfe_per_frame=float(nfe.mean() / len(times)), seconds_per_frame=seconds / made[:, :, 0, 0, 0].size)
    if run.experiment.text and len(real) > 1:
        figures["text"] = text_figures(run, real, captions)
    return figures | dict(protocol=clip_protocol(run) | dict(settings.to_dict(), nfe="of a clip over its frames"))


def compared(run: Run, made: Videos, real: Videos) -> dict:
    """The tables of `evaluate`, for clips with a frame for each of the real ones."""
    window = run.experiment.window
    codec = run.experiment.codec
    latents = np.concatenate([np.asarray(codec.encode(codec.params, clip[None]).mean) for clip in real])
    decode = lambda latents: np.concatenate([np.asarray(codec.decode(codec.params, clip[None])) for clip in latents])
    shown = decode(latents)
    videos = dict(generated=made) | {name: decode(a) for name, a in _without_training(run, latents).items()}
    videos["blend_pixels"] = _blended(shown, window)
    index = np.arange(real.shape[1])
    inside = index < window.span
    parts = dict(frames=index[inside & (index % window.every == 0)], between=index[inside & (index % window.every > 0)])
    second = max(round(run.experiment.path.position.sigma.frame_rate * window.every), 1)
    tables = {}
    for part, chosen in parts.items():
        if len(chosen):
            names = ("generated", "mean", "blend_latents", "blend_pixels", "repeat_last") if part == "between" else ("generated", "mean")
            tables[part] = {n: _errors(videos[n][:, chosen], shown[:, chosen], real[:, chosen]) for n in names}
    after = index[~inside]
    if len(after):
        names = ("generated", "mean", "line", "repeat_last")
        tables["beyond"] = {
            f"second_{k + 1}": {n: _errors(videos[n][:, some], shown[:, some], real[:, some]) for n in names}
            for k, some in enumerate(after[i : i + second] for i in range(0, len(after), second))
        }
    return tables


def _without_training(run: Run, latents: Float[np.ndarray, "b f h w c"]) -> dict:
    """Latents at every frame of clips from those that are trained on alone: the mean path, the polynomial of order 2, blends, repeats.

    Beyond the clip a polynomial grows without end: it is cut at +-FAR, and a line is the most that can be expected to hold.
    """
    window, position = run.experiment.window, run.experiment.path.position
    known = latents[:, : window.span : window.every]
    at = (1 + np.arange(latents.shape[1]) / window.every) / position.frames
    options = dict(rule=position.rule, extrapolate=True, allow_divergence=position.allow_divergence)

    def of_order(order):
        w, _ = hippo.weights(at, position.frames, order, **options)
        return np.clip(np.einsum("mn,bn...->bm...", w, known), -FAR, FAR).astype(np.float32)

    last = np.minimum(np.arange(latents.shape[1]) // window.every, window.frames - 1)
    return dict(
        mean=of_order(position.order), line=of_order(2), blend_latents=_blended(latents, window), repeat_last=known[:, last],
    )


def _blended(frames, window):
    """Every frame from its two neighbours among those that are trained on; after the clip its last one."""
    known = frames[:, : window.span : window.every].astype(np.float32)
    at = np.minimum(np.arange(frames.shape[1]) / window.every, window.frames - 1)
    low = np.minimum(at.astype(int), max(window.frames - 2, 0))
    part = (at - low).reshape(1, -1, 1, 1, 1).astype(np.float32)
    blend = (1 - part) * known[:, low] + part * known[:, np.minimum(low + 1, window.frames - 1)]
    return np.round(blend).astype(np.uint8) if frames.dtype == np.uint8 else blend


def _errors(made: Videos, shown: Videos, real: Videos) -> dict:
    a, b, c = (jnp.asarray(video, jnp.float32) / 127.5 - 1 for video in (made, shown, real))
    figures = dict(against_codec=metrics.psnr(a, b), against_real=metrics.psnr(a, c))
    if made.shape[2] == made.shape[3]:
        figures["side_against_codec"] = metrics.psnr_side(a, b)
    return {name: float(jnp.mean(jnp.minimum(values, 99.0))) for name, values in figures.items()}


def text_figures(run: Run, real: Videos, captions: list[str]) -> dict:
    """Of how many clips the generated one is nearest to the real one of its caption, at each guidance of `config.evaluate`."""
    settings, window = run.config.evaluate, run.experiment.window
    times = read_times(run)
    real = real[:, : window.span : window.every]
    order = np.arange(len(captions))
    swapped = np.minimum(order ^ 1, len(order) - 1)
    count = {}
    for guidance in settings.text_guidance:
        for name, of in dict(nearest=order, swapped=swapped).items():
            made, _, _ = generate(run, times, [captions[i] for i in of], seed=settings.seed, batch=settings.batch, guidance=guidance)
            count[f"{name}_guidance_{guidance:g}"] = int((nearest(made, real) == of).sum())
    return dict(clips=len(captions), different_captions=len(set(captions)), **count)


def nearest(made: Videos, real: Videos) -> np.ndarray:
    """Which real clip each of `made` is nearest to, in mean squared error of pixels."""
    a, b = (rearrange(video, "b ... -> b (...)").astype(np.float32) for video in (made, real))
    return np.argmin((a**2).sum(1)[:, None] - 2 * a @ b.T + (b**2).sum(1)[None], axis=1)
