"""Measures the cost of learning the same clips to the same PSNR, for VLFM and for a full-sequence model of equal size.

    python -m benchmarks.cost

The VLFM paper claims efficiency because its network sees the latents of one frame, and not of a whole video. Here both
networks are the same DiT with the same captions, on 8 procedural clips of 16 frames at 16 x 16 pixels: VLFM's field has
16 tokens, the full-sequence model (linear path from noise to a whole clip) has 256. Each trains at a constant learning
rate with a moving average, until the clips that it generates from the captions reach a PSNR of `TARGET` dB, or for
`LIMIT` seconds. Each sampler is one program, which is compiled once, ahead of all calls; the two are timed in turn.
Takes at most twenty minutes on two CPU cores.
"""

import dataclasses
import time
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import subject, timing
from benchmarks.record import write
from configs.vlfm.procedural import get_config
from jvflow import cli

TARGET, LIMIT = 26.0, 400.0  # dB, seconds
EVERY = 100  # training steps between two measurements
FRAMES, CLIPS = 16, 8
REPEATS = 5


def main():
    from jvflow.data import dataset, pipeline
    from jvflow.experiment import assemble

    config = get_config()
    config.data.update(
        cache=str(subject.folder() / "data"), frames=FRAMES, fps=24.0, size=(16, 16), clips=dict(train=CLIPS, test=1)
    )
    config.window.update(frames=FRAMES, every=1)
    config.caption_dropout, config.train.batch_size = 0.0, CLIPS
    config.optimizer.update(schedule="constant", learning_rate=1e-3, ema=0.99)
    experiment = assemble(config)
    data = dataset.prepare(config.data, subject.folder())
    real, captions = pipeline.clips(data, "train"), pipeline.captions(data, "train")
    tokens, mask = experiment.text.tokenize(captions)

    clock = time.perf_counter()
    latents = experiment.codec.encode(None, jnp.asarray(real)).mean.block_until_ready()
    encoding = time.perf_counter() - clock
    project = jax.jit(lambda t: jax.vmap(lambda clip: experiment.sampler.path.position.mean(clip, t))(latents))
    project(0.3).block_until_ready()
    clock = time.perf_counter()
    project(0.4).block_until_ready()
    projection = time.perf_counter() - clock

    times = (1 + np.arange(FRAMES)) / 24.0
    methods = dict(
        vlfm=(
            experiment,
            lambda field, condition: experiment.sampler(field, jax.random.key(7), times, CLIPS, condition),
        ),
        full_sequence=(
            _full_sequence(config, experiment, latents.shape[1:]),
            partial(_from_noise, shape=latents.shape),
        ),
    )
    results, samplers = {}, {}
    for name, (method, generate) in methods.items():
        results[name], samplers[name] = _until(method, generate, latents, (tokens, mask), real, config)
        print(name, {k: v for k, v in results[name].items() if k != "curve"}, flush=True)
    for name, seconds in timing.in_turn(samplers, REPEATS).items():
        results[name]["sampling_seconds"] = seconds
    reached = all(r["reached"] for r in results.values())
    ratio = {
        k: results["full_sequence"][k] / results["vlfm"][k]
        for k in ("training_seconds", "training_flops", "sampling_seconds")
    }
    write(
        "cost",
        dict(
            results=results,
            full_sequence_over_vlfm=ratio,
            both_reached=reached,
            encoding_seconds=encoding,
            projection_seconds=projection,
            protocol=dict(
                target=TARGET,
                limit=LIMIT,
                clips=CLIPS,
                frames=FRAMES,
                size=[16, 16],
                network=dict(config.network),
                prediction=config.prediction,
                sampling=f"median of {REPEATS} calls in turn of programs that were compiled before",
            ),
        ),
    )


def _full_sequence(config, experiment, shape):
    """Returns the experiment with the same network on whole clips of a shape: noise at t = 0, the clip at t = 1."""
    from jvflow.assembly import build_network, fold_in_each, noise_like, unchanged
    from jvflow.flow.path import LINEAR, Ends, matching_loss

    text = experiment.text
    network = build_network(config, [shape], text, unchanged, text_width=text.width)

    def loss(field, latents, condition, keys, key):
        t = jax.vmap(jax.random.uniform)(keys)
        noise = noise_like(fold_in_each(keys, 1), latents.mean)
        return matching_loss(LINEAR, field, Ends(noise, latents.mean), (t,), condition), {}

    return dataclasses.replace(experiment, network=network, loss=loss)


def _from_noise(field, condition, shape):
    """Generates clips with the full-sequence model."""
    from jvflow.flow.field import along
    from jvflow.flow.solver import Solver
    from jvflow.vlfm.sample import Generated

    derivative = along(field, lambda k: (k,), condition, num_moving=1)
    solution = Solver(rtol=1e-2, atol=1e-2)(derivative, jax.random.normal(jax.random.key(7), shape), 0.0, 1.0)
    return Generated(solution.x, solution.nfe)


def compile_sampler(generate, field, condition) -> Callable:
    """Compiles `generate(field, condition)` as one program; it accepts only fields and conditions of these shapes."""
    return jax.jit(generate).lower(field, condition).compile()


def _until(experiment, generate, latents, text, real, config) -> tuple[dict, Callable]:
    """Trains until the PSNR of the generated clips reaches `TARGET` dB, or for `LIMIT` seconds.

    Returns the figures, and a function that samples with the trained parameters.
    """
    from jvflow import metrics
    from jvflow.data.pipeline import Batch
    from jvflow.networks import as_field
    from jvflow.training.step import create, train_step

    state = create(jax.random.key(0), experiment.network, experiment.optimizer, ema=True)
    tokens, mask = map(jnp.asarray, text)
    batch = Batch(
        video=None,
        fps=jnp.full(CLIPS, 24.0),
        start=jnp.zeros(CLIPS),
        latent_mean=latents,
        text_tokens=tokens,
        text_mask=mask,
    )
    step = jax.jit(partial(train_step, experiment=experiment, ema=config.optimizer.ema), donate_argnums=0)
    compiled = step.lower(state, batch, jax.random.key(1)).compile()
    signal = jnp.asarray(real, jnp.float32) / 127.5 - 1
    seconds, steps, curve, sampler = 0.0, 0, [], None
    while True:
        clock = time.perf_counter()
        for _ in range(EVERY):
            state, values = compiled(state, batch, jax.random.key(1))
        jax.block_until_ready(state.params)
        seconds, steps = seconds + time.perf_counter() - clock, steps + EVERY
        field = as_field(experiment.network, state.ema)
        condition = experiment.condition(state.ema, *text, experiment.encoder_params)
        sampler = sampler or compile_sampler(generate, field, condition)
        generated = sampler(field, condition)
        frames = experiment.codec.decode(None, generated.frames)
        value = float(jnp.mean(metrics.psnr(jnp.asarray(frames, jnp.float32) / 127.5 - 1, signal)))
        curve.append((steps, seconds, value))
        if value >= TARGET or seconds > LIMIT:
            break
    flops = compiled.cost_analysis()["flops"]
    figures = dict(
        reached=value >= TARGET,
        psnr=value,
        training_steps=steps,
        training_seconds=seconds,
        training_flops=flops * steps,
        nfe=float(np.mean(generated.nfe)),
        parameters=sum(a.size for a in jax.tree.leaves(state.params)),
        curve=curve,
    )
    return figures, lambda: sampler(field, condition).frames.block_until_ready()


if __name__ == "__main__":
    cli.run(main)
