"""Memory of a prediction over its size: FlowFrames, which gets the observed chunk, and the conventional design, which gets noise beside it.

    python -m benchmarks.memory [--weights=ENCODER.safetensors,DECODER.safetensors]

Fits Mem(V) = k V / 1e6 + b by least squares, as the paper's table 1, with V = c f h w of the observed latents, and gives the ratio of
the slopes k of the two designs (the paper: 0.50 on LTX-Video, 0.52 on Wan). Memory is what the compiled program of five Euler steps says
it needs (temporaries, arguments and outputs), at six lengths; on an accelerator the peak of a device that ran it, too. The network has
attention in blocks, whose memory is linear in the tokens. With `--weights` also end to end, from uint8 frames to uint8 frames through
the codec, one image at a time. Writes `benchmarks/results/memory.json`. Two minutes.
"""

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from benchmarks.record import write
from jvflow import cli

WEIGHTS = flags.DEFINE_list("weights", None, "Encoder and decoder of the TAESD family, as safetensors.")
FRAMES, SIDE, CHANNELS = (20, 24, 28, 32, 36, 40), 64, 32
NETWORK = dict(name="dit", width=256, depth=4, heads=4, patch=(1, 2, 2), channels=CHANNELS, attention=256, scan=True)


def main():
    results = {}
    for part in ("latents", *(["end_to_end"] if WEIGHTS.value else [])):
        designs = {name: _measured(name, part) for name in ("flowframes", "conventional")}
        slopes = {name: figures["fit"]["slope_mb"] for name, figures in designs.items()}
        results[part] = designs | dict(slope_ratio=slopes["flowframes"] / slopes["conventional"])
        print(
            part,
            {name: round(value, 2) for name, value in slopes.items()},
            f"ratio {results[part]['slope_ratio']:.3f}",
            flush=True,
        )
    write("memory", dict(results=results, side=SIDE, network={k: v for k, v in NETWORK.items()}))


def _measured(design: str, part: str) -> dict:
    volumes, planned, peaks = [], [], []
    for frames in FRAMES:
        compiled, arrays = _compiled(design, part, frames)
        analysis = compiled.memory_analysis()
        volumes.append(CHANNELS * frames * SIDE * SIDE)
        planned.append(
            (analysis.temp_size_in_bytes + analysis.argument_size_in_bytes + analysis.output_size_in_bytes) / 1e6
        )
        peaks.append(_peak(compiled, arrays))
    figures = dict(volume=volumes, megabytes=planned, fit=fit(volumes, planned))
    return figures | dict(device_peak=peaks, device_fit=fit(volumes, peaks)) if all(peaks) else figures


def fit(volumes, megabytes) -> dict:
    """Least squares of Mem(V) = k V / 1e6 + b, with R^2."""
    x, y = np.array(volumes) / 1e6, np.array(megabytes)
    slope, intercept = np.polyfit(x, y, 1)
    left = y - (slope * x + intercept)
    return dict(
        slope_mb=float(slope),
        intercept_mb=float(intercept),
        r_squared=float(1 - (left**2).sum() / ((y - y.mean()) ** 2).sum()),
    )


def _compiled(name: str, part: str, frames: int):
    """The program of one prediction, and abstract arguments."""
    from jvflow import codecs, networks
    from jvflow.flowframes import method as flowframes

    network = networks.build(**NETWORK)
    params = jax.eval_shape(network.init, jax.random.key(0))
    design, solver = flowframes.DESIGNS[name], flowframes.euler(5)

    def predict(params, observed):
        key = jax.random.key(0)
        return flowframes.predicted(
            networks.as_field(network, params), observed, key, design=design, solver=solver
        ).frames

    latents = jax.ShapeDtypeStruct((1, frames, SIDE, SIDE, CHANNELS), jnp.float32)
    if part == "latents":
        arrays = (params, latents)
        return jax.jit(predict).lower(*arrays).compile(), arrays
    codec = codecs.build("tiny", weights=tuple(WEIGHTS.value), scale=1.0)
    _, height, width, channels = codec.latent_shape((frames, 8 * SIDE, 8 * SIDE))
    assert (height, width, channels) == (SIDE, SIDE, CHANNELS)

    def whole(params, weights, video):
        return codec.decode(weights, predict(params, codec.encode(weights, video).mean))

    video = jax.ShapeDtypeStruct((1, frames, 8 * SIDE, 8 * SIDE, 3), jnp.uint8)
    arrays = (params, codec.params, video)
    return jax.jit(whole).lower(*arrays).compile(), arrays


def _peak(compiled, arrays) -> float | None:
    """Megabytes at the peak of a device that ran the program from zeros; None where a device does not tell (a CPU)."""
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
