"""A path whose states between two frames are real frames, against the straight one that blends them.

The paper leaves curved paths open. Procedural video can be looked at between its frames, so the truth is
at hand: both fields are trained on the same clips at four times the frame rate, one on x0 + t (x1 - x0),
one on the frames between (`jvflow.flow.path.CURVED`), each with the same noise, seed, network and steps.
"""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp

from benchmarks import subject
from jvflow.biflow.evaluate import Yardstick, controls, describe, method
from jvflow.data import dataset, pipeline
from jvflow.experiment import assemble
from jvflow.flow.path import BILINEAR, CURVED, Ends, matching_loss
from jvflow.run import Run
from jvflow.training import state as states
from jvflow.training.loop import train_step
from jvflow.training.workdir import Workdir

BETWEEN = 3
VIDEOS, FRAMES = 32, 192
SEEDS = (1, 2)


def measure() -> dict:
    config = subject.config()
    config.evaluate.update(videos=VIDEOS, frames=FRAMES, batch=VIDEOS)
    slow = subject.data()
    fine = subject.config()
    fine.data.update(fps=config.data.fps * (BETWEEN + 1), frames=config.data.frames * (BETWEEN + 1))
    fast = dataset.prepare(fine.data, subject.folder())
    yardstick = Yardstick.of(config.evaluate, slow)
    figures = []
    for seed in SEEDS:
        for name, path in dict(straight=BILINEAR, curved=CURVED).items():
            run = trained(config, fast, path, seed)
            figures.append(dict(path=name, seed=seed) | method(run, yardstick, slow)[0])
            print(
                name, seed, {key: value for key, value in figures[-1].items() if isinstance(value, float)}, flush=True
            )
    return dict(
        results=figures,
        controls=controls(yardstick, slow),
        protocol=describe(run, yardstick) | dict(between=BETWEEN, steps=config.train.steps),
    )


def loss(path, weights, field, latents, condition, keys, key):
    """BI-FLOW's loss along `path`, for latents of frames (b, BETWEEN + 2, h, w, c)."""
    del condition, key
    frames = latents.mean
    t, alpha = (jax.vmap(lambda k: jax.random.uniform(jax.random.fold_in(k, i)))(keys) for i in range(2))
    x0, between, x1 = frames[:, :1], frames[:, 1:-1, None], frames[:, -1:]
    noise = jax.vmap(lambda k: jax.random.normal(jax.random.fold_in(k, 2), x0.shape[1:]))(keys)
    return matching_loss(path, field, Ends(x0, x1, noise, between), (t, alpha), None, weights), {}


def trained(config, data, path, seed: int) -> Run:
    """The demo's training with another loss."""
    experiment = dataclasses.replace(assemble(config), loss=partial(loss, path, tuple(config.loss_weights.biflow)))
    key_init, key_steps = jax.random.split(jax.random.key(seed))
    state = states.create(key_init, experiment.network, experiment.optimizer, ema=True)
    batches = pipeline.batches(
        data, windows=[pipeline.Window(BETWEEN + 2)], batch_size=config.train.batch_size, seed=seed
    )
    step = jax.jit(partial(train_step, experiment=experiment, ema=config.optimizer.ema), donate_argnums=0)
    for _, batch in zip(range(config.train.steps), batches):
        state, _ = step(state, jax.tree.map(jnp.asarray, batch), key_steps)
    return Run(config, experiment, state.ema, Workdir(subject.folder()), config.train.steps)
