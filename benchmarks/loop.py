"""Measures the share of a training run's wall time outside the compiled step.

Data, metrics, checkpoints and the loop itself take this time.
"""

import time
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import subject
from jvflow.data import pipeline
from jvflow.training.loop import train
from jvflow.training.step import train_step
from jvflow.training.workdir import Metrics

STEPS, ROUNDS = 1000, 3


def measure() -> dict:
    config = subject.config(tensorboard=True)  # metrics and checkpoints as often as the demo writes them
    config.train.steps = STEPS
    data = subject.data()
    shares, loops, steps = [], [], []
    for number in range(ROUNDS):
        before = compiled(config, data)
        loop = in_loop(config, subject.folder() / f"run_{number}")
        step = (before + compiled(config, data)) / 2  # before and after the loop: other work may slow the machine
        loops.append(loop)
        steps.append(step)
        shares.append(1 - step / loop)
    return dict(
        share_outside_the_step=float(np.median(shares)),
        shares=shares,
        seconds_per_step=dict(loop=float(np.median(loops)), compiled=float(np.median(steps))),
        protocol=dict(steps=STEPS, rounds=ROUNDS, batch=config.train.batch_size, **config.run.to_dict()),
    )


def in_loop(config, workdir) -> float:
    """Returns the seconds per step of `train` after the first flush of the metrics: everything is compiled by then."""
    times, flush = [], Metrics.flush

    def timed(self, **options):
        loss = flush(self, **options)
        times.append(time.perf_counter())
        return loss

    Metrics.flush = timed
    try:
        train(config, workdir)
        end = time.perf_counter()
    finally:
        Metrics.flush = flush
    every = config.run.log_every
    return (end - times[0]) / (config.train.steps - every)


def compiled(config, data) -> float:
    """Returns the seconds per step of the compiled step alone, on one batch that is already on the device."""
    experiment, state = subject.experiment()
    batches = pipeline.batches(data, windows=[pipeline.Window(2)], batch_size=config.train.batch_size, seed=0)
    batch = jax.tree.map(jnp.asarray, next(batches))
    step = jax.jit(partial(train_step, experiment=experiment, ema=config.optimizer.ema), donate_argnums=0)
    key = jax.random.key(0)
    state, _ = jax.block_until_ready(step(state, batch, key))
    clock = time.perf_counter()
    for _ in range(STEPS // 4):
        state, values = step(state, batch, key)
    jax.block_until_ready((state, values))
    return (time.perf_counter() - clock) / (STEPS // 4)
