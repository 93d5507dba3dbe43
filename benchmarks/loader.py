"""Measures how many batches the loader reads in the time of one train step."""

from functools import partial

import jax
import jax.numpy as jnp

from benchmarks import subject
from benchmarks.timing import in_turn
from jvflow.data import pipeline
from jvflow.training.step import train_step

BATCHES, STEPS, ROUNDS = 200, 20, 7


def measure() -> dict:
    config, data = subject.config(), subject.data()
    experiment, state = subject.experiment()
    batches = pipeline.batches(
        data, windows=experiment.windows, batch_size=config.train.batch_size, seed=0, threads=config.data.threads
    )
    batch = jax.tree.map(jnp.asarray, next(batches))
    step = jax.jit(partial(train_step, experiment=experiment, ema=config.optimizer.ema), donate_argnums=0)
    key = jax.random.key(0)

    def load():
        for _ in range(BATCHES):
            next(batches)

    def consume():
        nonlocal state
        for _ in range(STEPS):
            state, values = step(state, batch, key)
        jax.block_until_ready((state, values))

    seconds = in_turn(dict(load=load, consume=consume), ROUNDS)
    batches_per_second, steps_per_second = BATCHES / seconds["load"], STEPS / seconds["consume"]
    return dict(
        ratio=batches_per_second / steps_per_second,
        batches_per_second=batches_per_second,
        steps_per_second=steps_per_second,
        protocol=dict(
            batch=config.train.batch_size,
            clip_frames=config.data.frames,
            size=list(config.data.size),
            threads=config.data.threads,
            rounds=ROUNDS,
        ),
    )
