"""Optimizers: Grams follows the trajectories of its authors' code."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from ml_collections import ConfigDict

from jvflow import experiment
from jvflow.training import optimizer

RENAMED = {"lr": "learning_rate", "weight_decay": "weight_decay", "eps": "eps"}


def trajectory(update, start, gradients):
    params, state, steps = jnp.asarray(start), update.init(jnp.asarray(start)), []
    for gradient in gradients:
        change, state = update.update(jnp.asarray(gradient), state, params)
        params = optax.apply_updates(params, change)
        steps.append(params)
    return np.stack(steps)


@pytest.mark.parametrize("case", ["default", "wd", "b", "nobias"])
def test_grams_goes_where_the_authors_code_goes(shared, case):
    golden = np.load(shared / "golden" / "grams_official.npz")
    given = json.loads(str(golden[f"kw_{case}"]))
    betas = given.pop("betas", (0.9, 0.999))
    correct_bias = given.pop("correct_bias", True)
    with jax.enable_x64(True):
        settings = {"learning_rate": 1e-3} | {RENAMED[key]: value for key, value in given.items()}
        update = optimizer.grams(b1=betas[0], b2=betas[1], **settings)
        if not correct_bias:
            update = optax.chain(optimizer.scale_by_grams(correct_bias=False), optax.scale(-given["lr"]))
        steps = trajectory(update, golden["p0"], golden["grads"])
    np.testing.assert_allclose(steps, golden[f"traj_{case}"], rtol=0, atol=1e-10)


def test_grams_turns_with_the_gradient_at_once():
    """Checks that the step of Grams has the new sign of the gradient, while Adam's momentum keeps the old sign."""
    gradients = np.array([[1.0], [1.0], [1.0], [-1.0]])
    sign = lambda update: np.sign(np.diff(trajectory(update, np.zeros(1, np.float32), gradients), axis=0))[-1]
    assert sign(optimizer.grams(0.1)) == 1 and sign(optax.adam(0.1)) == -1


def test_grams_is_a_transformation_of_trees_under_jit():
    params = {"a": jnp.ones((2, 3)), "b": [jnp.zeros(4)]}
    update = optimizer.grams(optax.constant_schedule(0.1), weight_decay=0.5)
    state = update.init(params)
    gradients = jax.tree.map(jnp.ones_like, params)
    change, _ = jax.jit(update.update)(gradients, state, params)
    np.testing.assert_allclose(change["a"], -0.1 * (1 + 0.5), rtol=1e-3)
    np.testing.assert_allclose(change["b"][0], -0.1, rtol=1e-3)


@pytest.mark.parametrize("name, plain", [("grams", optimizer.grams), ("adamw", optax.adamw)])
def test_an_optimizer_by_name_is_behind_clipping(name, plain):
    settings = dict(b1=0.9, b2=0.99, eps=1e-6, weight_decay=0.1)
    rng = np.random.default_rng(0)
    start, gradients = rng.normal(size=3).astype(np.float32), rng.normal(size=(4, 3)).astype(np.float32)

    def built(max_grad_norm):
        entries = dict(settings, name=name, learning_rate=0.1, schedule="constant", warmup_steps=0)
        config = ConfigDict(dict(optimizer=dict(entries, max_grad_norm=max_grad_norm), train=dict(steps=4)))
        return trajectory(experiment._optimizer(config)[0], start, gradients)

    np.testing.assert_allclose(built(0.0), trajectory(plain(0.1, **settings), start, gradients), rtol=1e-6)
    clipped = gradients * np.minimum(0.5 / np.linalg.norm(gradients, axis=1, keepdims=True), 1)
    np.testing.assert_allclose(built(0.5), trajectory(plain(0.1, **settings), start, clipped), rtol=1e-5)
