"""Compares a curved path, through the true frames between x0 and x1, with the straight path, which blends x0 and x1.

The Bi-flow paper leaves curved paths open. Procedural video can be rendered between its frames, so the true states are
known. Both fields train on the same clips at four times the frame rate, with the same noise, seed, network and steps:
one on x0 + t (x1 - x0), one on the frames in between (`jvflow.flow.curved.CURVED`).
"""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp

from benchmarks import subject
from jvflow.assembly import fold_in_each, noise_like
from jvflow.biflow.evaluate import Reference, controls, describe, evaluate_streams
from jvflow.data import dataset, pipeline
from jvflow.experiment import assemble
from jvflow.flow.curved import CURVED
from jvflow.flow.path import BILINEAR, Ends, matching_loss
from jvflow.load import run_protocol
from jvflow.parallel.mesh import local_mesh
from jvflow.run import Run
from jvflow.training import step as steps

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
    reference = Reference.from_dataset(config.evaluate, slow)
    figures = []
    for seed in SEEDS:
        for name, path in dict(straight=BILINEAR, curved=CURVED).items():
            run = trained(config, fast, path, seed)
            with jax.set_mesh(local_mesh()):
                figures.append(dict(path=name, seed=seed) | evaluate_streams(run, reference, slow)[0])
            floats = {key: value for key, value in figures[-1].items() if isinstance(value, float)}
            print(name, seed, floats, flush=True)
    return dict(
        results=figures,
        controls=controls(reference, slow),
        protocol=describe(run, reference) | dict(between=BETWEEN, steps=config.train.steps),
    )


def loss(path, loss_weights, field, latents, condition, keys, key):
    """Computes BI-FLOW's loss along `path`, for latents of frames (b, BETWEEN + 2, h, w, c)."""
    del condition, key
    frames = latents.mean
    t, alpha = (jax.vmap(jax.random.uniform)(fold_in_each(keys, i)) for i in range(2))
    x0, between, x1 = frames[:, :1], frames[:, 1:-1, None], frames[:, -1:]
    noise = noise_like(fold_in_each(keys, 2), x0)
    return matching_loss(path, field, Ends(x0, x1, noise, between), (t, alpha), None, loss_weights), {}


def trained(config, data, path, seed: int) -> Run:
    """Trains with the demo's config and the loss along `path`."""
    experiment = dataclasses.replace(assemble(config), loss=partial(loss, path, tuple(config.loss_weights.biflow)))
    key_init, key_steps = jax.random.split(jax.random.key(seed))
    state = steps.create(key_init, experiment.network, experiment.optimizer, ema=True)
    batches = pipeline.batches(
        data, windows=[pipeline.Window(BETWEEN + 2)], batch_size=config.train.batch_size, seed=seed
    )
    step = jax.jit(partial(steps.train_step, experiment=experiment, ema=config.optimizer.ema), donate_argnums=0)
    for _, batch in zip(range(config.train.steps), batches):
        state, _ = step(state, jax.tree.map(jnp.asarray, batch), key_steps)
    protocol = run_protocol(config, config.train.steps, state.ema)
    return Run(config, experiment, state.ema, subject.folder(), config.train.steps, protocol)
