"""What it costs to learn the same clips to the same PSNR: VLFM, a frame at a time, against a full-sequence model of equal size.

    python -m benchmarks.cost

The VLFM paper claims to be efficient because its network sees one frame of latents, and not a video. Here both networks are
the same DiT with the same captions, on 8 procedural clips of 16 frames at 16 x 16 pixels: VLFM's field has 16 tokens,
the full sequence (noise to a whole clip, linear path) 256. Each trains at a constant rate with a moving average until what
it generates from the captions is within TARGET dB of the clips, or for LIMIT seconds. Twenty minutes at most on two CPU cores.
"""

import dataclasses
import time
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import subject
from benchmarks.record import write
from configs.vlfm.procedural import get_config
from jvflow import cli

TARGET, LIMIT, EVERY, FRAMES, CLIPS = 26.0, 400.0, 100, 16, 8


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
    project = jax.jit(lambda t: jax.vmap(lambda clip: experiment.path.position.mean(clip, t))(latents))
    project(0.3).block_until_ready()
    clock = time.perf_counter()
    project(0.4).block_until_ready()
    projection = time.perf_counter() - clock

    times = (1 + np.arange(FRAMES)) / 24.0
    whole = _full_sequence(config, experiment)
    makes = dict(
        vlfm=lambda field, condition: experiment.generate(field, jax.random.key(7), times, CLIPS, condition),
        full_sequence=lambda field, condition: _from_noise(field, condition, latents.shape),
    )
    results = {}
    for name, built in dict(vlfm=experiment, full_sequence=whole).items():
        results[name] = _until(built, makes[name], latents, (tokens, mask), real, config)
        print(name, {k: v for k, v in results[name].items() if k != "curve"}, flush=True)
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
            ),
        ),
    )


def _full_sequence(config, experiment):
    """The experiment of the same network on whole clips: noise at 0, the clip at 1."""
    from jvflow import networks
    from jvflow.experiment import with_text
    from jvflow.flow.path import LINEAR, Ends, matching_loss

    network = networks.build(**dict(config.network), channels=3, text_width=experiment.text.width)

    def loss(field, frames, condition, keys, key):
        t = jax.vmap(jax.random.uniform)(keys)
        noise = jax.vmap(lambda k: jax.random.normal(jax.random.fold_in(k, 1), frames.shape[1:]))(keys)
        return matching_loss(LINEAR, field, Ends(noise, frames), (t,), condition)

    return dataclasses.replace(experiment, network=with_text(network, experiment.text), loss=loss)


def _from_noise(field, condition, shape):
    from jvflow.flow.field import along
    from jvflow.flow.solver import Solver
    from jvflow.vlfm.method import Clips

    derivative = along(field, lambda k: (k,), condition, num_moving=1)
    solution = Solver(rtol=1e-2, atol=1e-2)(derivative, jax.random.normal(jax.random.key(7), shape), 0.0, 1.0)
    return Clips(solution.x, solution.nfe)


def _until(experiment, make, latents, text, real, config) -> dict:
    """Trains until `make` is within TARGET dB of the clips, or the time is over."""
    from jvflow import metrics
    from jvflow.data.pipeline import Batch
    from jvflow.networks import as_field
    from jvflow.training import state as states
    from jvflow.training.loop import train_step

    state = states.create(jax.random.key(0), experiment.network, experiment.optimizer, ema=True)
    batch = Batch(None, jnp.full(CLIPS, 24.0), jnp.zeros(CLIPS), latents, *map(jnp.asarray, text))
    step = jax.jit(partial(train_step, experiment=experiment, ema=config.optimizer.ema), donate_argnums=0)
    compiled = step.lower(state, batch, jax.random.key(1)).compile()
    signal = jnp.asarray(real, jnp.float32) / 127.5 - 1
    seconds, steps, curve = 0.0, 0, []
    while True:
        clock = time.perf_counter()
        for _ in range(EVERY):
            state, values = compiled(state, batch, jax.random.key(1))
        jax.block_until_ready(state.params)
        seconds, steps = seconds + time.perf_counter() - clock, steps + EVERY
        field, condition = (
            as_field(experiment.network, state.ema),
            experiment.condition(state.ema, *text, experiment.given),
        )
        clock = time.perf_counter()
        made = make(field, condition)
        frames = experiment.codec.decode(None, made.frames).block_until_ready()
        sampling = time.perf_counter() - clock
        value = float(jnp.mean(metrics.psnr(jnp.asarray(frames, jnp.float32) / 127.5 - 1, signal)))
        curve.append((steps, seconds, value))
        if value >= TARGET or seconds > LIMIT:
            break
    flops = compiled.cost_analysis()["flops"]
    return dict(
        reached=value >= TARGET,
        psnr=value,
        training_steps=steps,
        training_seconds=seconds,
        training_flops=flops * steps,
        sampling_seconds=sampling,
        nfe=float(np.mean(made.nfe)),
        parameters=sum(a.size for a in jax.tree.leaves(state.params)),
        curve=curve,
    )


if __name__ == "__main__":
    cli.run(main)
