"""Evaluation of VLFM: compares generated clips with the clips of training, at every frame and beyond their end.

Training uses every e-th frame of a data set's clip, at R frames per second. Frame i of this clip is at
t = (1 + i / e) / R, and belongs to one of three parts:

    frames      used in training
    between     inside the clip of training, but not used: measures interpolation
    beyond      after the clip's end T: measures extrapolation

Each generated frame is compared with the real frame, and with the codec's round trip of the real frame, which is the
result of a perfect flow. Baselines that need no training are evaluated too: the decoded mean mu(t), a blend of the two
neighbours, the last frame repeated; beyond the clip also the polynomial of order 2, which is a line.
"""

from pathlib import Path

import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jaxtyping import Float

from jvflow import metrics
from jvflow.data import pipeline, records
from jvflow.method import Preview
from jvflow.metrics import in_evaluation
from jvflow.run import Run, described, explained, lowered
from jvflow.vlfm import hippo
from jvflow.vlfm.legend import LEGEND
from jvflow.vlfm.sample import Videos, clip_protocol, generate_videos

FAR = 1e3  # latents are of about unit size


def evaluate(run: Run, data: Path) -> dict:
    """Generates the clips that a run was trained on, and compares them with the real ones.

    Args:
      run: a trained run; `config.evaluate` gives the number of clips.
      data: the folder of its data set.

    Returns:
      frames, between, beyond: PSNR in dB (peak 2; the mean over clips, squared errors averaged over frames) against the
        codec's round trip and against real video, for the generated clips and the baselines; for square
        frames also the VLFM paper's quantity, `metrics.psnr_side`. `beyond` has a row for each second after T.
      text: how many generated clips are nearest to their own real clip, with and without guidance; and, with captions
        swapped in pairs, how many are nearest to the other clip of the pair.
      motion: of the generated clips up to T, divided by that of the real ones; None if these stand still.
      fvd: with `config.evaluate.fvd`, the FVD of the generated clips up to T against held-out clips.
    """
    settings, window = run.config.evaluate, run.experiment.window
    if window.anywhere:
        raise ValueError(
            "the evaluation compares clips from their first frame, but this run was trained on windows anywhere in its "
            "clips: train with config.window.anywhere=False"
        )
    splits, split = records.manifest(data)["splits"], settings.split
    if split not in splits and "split" not in run.asked:
        split = pipeline.held_out(data)
    settings, adapted = lowered(settings, data, run.asked, clips=splits.get(split, settings.clips))
    real = pipeline.clips(data, split, count=settings.clips)
    captions = pipeline.captions(data, split, count=settings.clips)
    if len(real) < settings.clips:
        raise ValueError(
            f"config.evaluate.clips is {settings.clips}, split {split!r} of {data} has {len(real)} clips: "
            f"use config.evaluate.clips={len(real)} or fewer"
        )
    scorer = _scorer(run, data, len(real))
    times = (1 + np.arange(real.shape[1]) / window.every) / run.experiment.sampler.path.position.sigma.frame_rate
    made, nfe, seconds = generate_videos(run, times, captions, seed=settings.seed, batch=settings.batch)
    figures = compare_with_real(run, made, real) | dict(
        nfe_per_frame=float(nfe.mean() / len(times)), seconds_per_frame=seconds / made[:, :, 0, 0, 0].size
    )
    if window.span > 1:
        figures["motion"] = metrics.motion_ratio(made[:, : window.span], real[:, : window.span])
    if run.experiment.text and len(real) > 1:
        figures["text"] = text_figures(run, real, captions)
    used = dict(described(settings), split=split, adapted=adapted, nfe="of a clip over its frames")
    if scorer:
        groups = in_evaluation.sources(data, split, len(real))
        figures["fvd"] = scorer.score(made[:, : window.span], groups=groups)
        used["fvd"] = scorer.described
    return explained(figures | dict(protocol=clip_protocol(run) | used), LEGEND)


def _scorer(run: Run, data: Path, clips: int) -> in_evaluation.VideoScorer | None:
    """Returns what computes FVD, or None: beyond the clip of training there are no videos to score."""
    settings, span = run.config.evaluate, run.experiment.window.span
    options: dict = dict(
        frames=span, videos=clips, asked="fvd" in run.asked, segments=in_evaluation.Segments(frames=span)
    )
    cure = "a run that was trained on longer clips (config.window.frames)"
    return in_evaluation.VideoScorer.of(settings.fvd, data, pipeline.held_out(data), **options, cure=cure)


def compare_with_real(run: Run, made: Videos, real: Videos) -> dict:
    """Returns the tables of `evaluate`, for clips with one frame for each real frame."""
    window = run.experiment.window
    codec = run.experiment.codec
    latents = np.concatenate([np.asarray(codec.encode(codec.params, clip[None]).mean) for clip in real])
    decode = lambda latents: np.concatenate([np.asarray(codec.decode(codec.params, clip[None])) for clip in latents])
    shown = decode(latents)
    videos = dict(generated=made) | {name: decode(a) for name, a in _untrained_baselines(run, latents).items()}
    videos["blend_pixels"] = _blended(shown, window)
    index = np.arange(real.shape[1])
    inside = index < window.span
    parts = dict(frames=index[inside & (index % window.every == 0)], between=index[inside & (index % window.every > 0)])
    second = max(round(run.experiment.sampler.path.position.sigma.frame_rate * window.every), 1)
    tables = {}
    for part, chosen in parts.items():
        if len(chosen):
            names = (
                ("generated", "mean", "blend_latents", "blend_pixels", "repeat_last")
                if part == "between"
                else ("generated", "mean")
            )
            tables[part] = {n: _errors(videos[n][:, chosen], shown[:, chosen], real[:, chosen]) for n in names}
    after = index[~inside]
    if len(after):
        names = ("generated", "mean", "line", "repeat_last")
        tables["beyond"] = {
            f"second_{k + 1}": {n: _errors(videos[n][:, some], shown[:, some], real[:, some]) for n in names}
            for k, some in enumerate(after[i : i + second] for i in range(0, len(after), second))
        }
    return tables


def _untrained_baselines(run: Run, latents: Float[np.ndarray, "b f h w c"]) -> dict:
    """Returns the baselines' latents at every frame of the clips, made from the frames of training alone.

    They are the mean path, the polynomial of order 2 (a line), blends and repeats. Beyond the clip a polynomial grows
    without bound, so the latents are clipped at +-FAR.
    """
    window, position = run.experiment.window, run.experiment.sampler.path.position
    known = latents[:, : window.span : window.every]
    at = (1 + np.arange(latents.shape[1]) / window.every) / position.frames
    at = at * position.seconds if position.basis == "paper" else at
    options = dict(rule=position.rule, basis=position.basis)
    options |= dict(extrapolate=True, allow_divergence=position.allow_divergence)

    def of_order(order):
        w, _ = hippo.weights(at, position.frames, order, **options)
        return np.clip(np.einsum("mn,bn...->bm...", w, known), -FAR, FAR).astype(np.float32)

    last = np.minimum(np.arange(latents.shape[1]) // window.every, window.frames - 1)
    return dict(
        mean=of_order(position.order),
        line=of_order(2),
        blend_latents=_blended(latents, window),
        repeat_last=known[:, last],
    )


def _blended(frames, window):
    """Blends every frame from its two neighbours among the frames of training; repeats the last one after the clip."""
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
    """Counts the generated clips whose nearest real clip has their caption, at each guidance of the protocol."""
    settings, window = run.config.evaluate, run.experiment.window
    times = run.experiment.sampler.read_times()
    real = real[:, : window.span : window.every]
    words, order = np.array(captions), np.arange(len(captions))  # several clips may have one caption
    swapped = np.minimum(order ^ 1, len(order) - 1)
    count = {}
    for guidance in settings.text_guidance:
        for name, of in dict(nearest=order, swapped=swapped).items():
            made, _, _ = generate_videos(
                run, times, [captions[i] for i in of], seed=settings.seed, batch=settings.batch, guidance=guidance
            )
            count[f"{name}_guidance_{guidance:g}"] = int((words[nearest(made, real)] == words[of]).sum())
    return dict(clips=len(captions), different_captions=len(set(captions)), **count)


def nearest(made: Videos, real: Videos) -> np.ndarray:
    """Returns the index of the real clip that is nearest to each of `made`, in mean squared error of pixels."""
    a, b = (rearrange(video, "b ... -> b (...)").astype(np.float32) for video in (made, real))
    return np.argmin((a**2).sum(1)[:, None] - 2 * a @ b.T + (b**2).sum(1)[None], axis=1)


def preview(run: Run, data: Path) -> Preview:
    """Generates clips from captions of training, each below the real clip."""
    window = run.experiment.window
    real = pipeline.clips(data, "train", count=4)[:, : window.span : window.every]
    captions = pipeline.captions(data, "train", count=4)
    made, _, _ = generate_videos(run, run.experiment.sampler.read_times(), captions, seed=run.config.seed)
    rows = [row for caption in captions for row in (f"real: {caption}", "generated")]
    return Preview(
        rearrange([real, made], "two b ... -> (b two) ..."), float(run.config.data.fps) / window.every, tuple(rows)
    )
