"""Measures how the memory of a prediction grows with its size, for FlowFrames and for the conventional design.

    python -m benchmarks.memory [--checkpoint=ENCODER.safetensors,DECODER.safetensors]

FlowFrames' network gets the observed chunk; the conventional design's network gets noise and the observed chunk. Fits
Mem(V) = k V / 1e6 + b by least squares, as in the paper's table 1, with V = c f h w of the observed latents, and gives
the ratio of the slopes k of the two designs (the paper: 0.50 on LTX-Video, 0.52 on Wan). Memory means temporaries,
arguments and outputs of the compiled program of five Euler steps, at six lengths; on an accelerator also the measured
peak of the device. The network computes attention in blocks, whose memory is linear in the number of tokens. With
`--checkpoint`, also measures end to end, from uint8 frames to uint8 frames through the codec, one image at a time.
Writes `out/benchmarks/memory.json`. Takes two minutes.
"""

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from benchmarks.record import write
from jvflow import cli

CHECKPOINT = flags.DEFINE_list("checkpoint", None, "Encoder and decoder of the TAESD family, as safetensors.")
FRAMES, SIDE, CHANNELS = (20, 24, 28, 32, 36, 40), 64, 32
NETWORK = dict(name="dit", width=256, depth=4, heads=4, patch=(1, 2, 2), channels=CHANNELS, attention=256, scan=True)


def main():
    results = {}
    for part in ("latents", *(["end_to_end"] if CHECKPOINT.value else [])):
        designs = {name: measure(name, part) for name in ("flowframes", "conventional")}
        slopes = {name: figures["fit"]["slope_mb"] for name, figures in designs.items()}
        results[part] = designs | dict(slope_ratio=slopes["flowframes"] / slopes["conventional"])
        rounded = {name: round(value, 2) for name, value in slopes.items()}
        print(part, rounded, f"ratio {results[part]['slope_ratio']:.3f}", flush=True)
    write("memory", dict(results=results, side=SIDE, network=NETWORK))


def measure(design: str, part: str) -> dict:
    """Returns the volumes, the megabytes and their fit for one design."""
    volumes, planned, peaks = [], [], []
    for frames in FRAMES:
        compiled, arrays = _compile(design, part, frames)
        analysis = compiled.memory_analysis()
        volumes.append(CHANNELS * frames * SIDE * SIDE)
        needed = analysis.temp_size_in_bytes + analysis.argument_size_in_bytes + analysis.output_size_in_bytes
        planned.append(needed / 1e6)
        peaks.append(_peak(compiled, arrays))
    figures = dict(volume=volumes, megabytes=planned, fit=fit(volumes, planned))
    return figures | dict(device_peak=peaks, device_fit=fit(volumes, peaks)) if all(peaks) else figures


def fit(volumes, megabytes) -> dict:
    """Fits Mem(V) = k V / 1e6 + b by least squares; returns k, b and R^2."""
    x, y = np.array(volumes) / 1e6, np.array(megabytes)
    slope, intercept = np.polyfit(x, y, 1)
    residual = y - (slope * x + intercept)
    return dict(
        slope_mb=float(slope),
        intercept_mb=float(intercept),
        r_squared=float(1 - (residual**2).sum() / ((y - y.mean()) ** 2).sum()),
    )


def _compile(design: str, part: str, frames: int):
    """Returns the compiled program of one prediction, and its abstract arguments."""
    from jvflow import codecs, networks
    from jvflow.flowframes.method import OBJECTIVES
    from jvflow.flowframes.sample import make_solver, predict_chunks

    network = networks.build(**NETWORK)
    params = jax.eval_shape(network.init, jax.random.key(0))
    objective, solver = OBJECTIVES[design], make_solver("euler", 5)

    def predict(params, observed):
        field, key = networks.as_field(network, params), jax.random.key(0)
        options = dict(source=objective.source, context=objective.context, solver=solver)
        return predict_chunks(field, observed, key, **options).frames

    latents = jax.ShapeDtypeStruct((1, frames, SIDE, SIDE, CHANNELS), jnp.float32)
    if part == "latents":
        arrays = (params, latents)
        return jax.jit(predict).lower(*arrays).compile(), arrays
    codec = codecs.build("tiny", checkpoint=tuple(CHECKPOINT.value), scale=1.0)
    _, height, width, channels = codec.latent_shape((frames, 8 * SIDE, 8 * SIDE))
    assert (height, width, channels) == (SIDE, SIDE, CHANNELS)

    def end_to_end(params, codec_params, video):
        return codec.decode(codec_params, predict(params, codec.encode(codec_params, video).mean))

    video = jax.ShapeDtypeStruct((1, frames, 8 * SIDE, 8 * SIDE, 3), jnp.uint8)
    arrays = (params, codec.params, video)
    return jax.jit(end_to_end).lower(*arrays).compile(), arrays


def _peak(compiled, arrays) -> float | None:
    """Runs the program on zeros; returns the device's peak memory in MB, or None if it has no statistics (a CPU)."""
    device = jax.devices()[0]
    if device.memory_stats() is None:
        return None
    zeros = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), arrays)
    before = device.memory_stats()["peak_bytes_in_use"]
    jax.block_until_ready(compiled(*zeros))
    after = device.memory_stats()["peak_bytes_in_use"]
    return after / 1e6 if after > before else None


if __name__ == "__main__":
    cli.run(main)
