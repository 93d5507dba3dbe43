"""How many batches the loader reads in the time in which the train step uses one."""

from functools import partial

import jax

from benchmarks import subject
from benchmarks.timing import in_turn
from jvflow.data import pipeline
from jvflow.training.loop import train_step

BATCHES, STEPS, ROUNDS = 200, 20, 7


def measure() -> dict:
    config, data = subject.config(), subject.data()
    experiment, state = subject.experiment()
    read = lambda: pipeline.batches(
        data, windows=experiment.windows, batch_size=config.train.batch_size, seed=0, threads=config.data.threads
    )
    iterator = read()
    held = [state, jax.tree.map(jax.numpy.asarray, next(iterator))]
    step = jax.jit(partial(train_step, experiment=experiment, ema=config.optimizer.ema), donate_argnums=0)
    key = jax.random.key(0)

    def load():
        for _ in range(BATCHES):
            next(iterator)

    def consume():
        for _ in range(STEPS):
            held[0], values = step(held[0], held[1], key)
        jax.block_until_ready((held[0], values))

    seconds = in_turn(dict(load=load, consume=consume), ROUNDS)
    batches, steps = BATCHES / seconds["load"], STEPS / seconds["consume"]
    return dict(
        ratio=batches / steps,
        batches_per_second=batches,
        steps_per_second=steps,
        protocol=dict(
            batch=config.train.batch_size,
            clip_frames=config.data.frames,
            size=list(config.data.size),
            threads=config.data.threads,
            rounds=ROUNDS,
        ),
    )
