from itertools import permutations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import linprog

from jvflow import coupling


def pairs(n=16):
    past = jnp.arange(n, dtype=jnp.float32).reshape(n, 1, 1, 1, 1)
    return past, past + 100


def test_consecutive_keeps_pairs():
    past, future = pairs()
    x0, x1 = coupling.consecutive(past, future, jax.random.key(0))
    np.testing.assert_array_equal(x1 - x0, 100 * np.ones_like(x0))


def test_independent_permutes_the_past_alone():
    past, future = pairs()
    x0, x1 = coupling.independent(past, future, jax.random.key(0))
    np.testing.assert_array_equal(x1, future)
    np.testing.assert_array_equal(np.sort(x0, axis=0), past)
    assert not np.array_equal(x0, past)
    other, _ = coupling.independent(past, future, jax.random.key(1))
    assert not np.array_equal(x0, other)


@pytest.mark.parametrize("seed", range(5))
def test_a_plan_is_the_best_permutation(seed):
    cost = np.random.default_rng(seed).normal(size=(5, 5))
    plan = coupling.ot_plan(cost)
    np.testing.assert_allclose(plan.sum(0), 0.2)
    np.testing.assert_allclose(plan.sum(1), 0.2)
    best = min(sum(cost[i, j] for i, j in enumerate(p)) / 5 for p in permutations(range(5)))
    assert (plan * cost).sum() == pytest.approx(best)


def test_a_plan_is_the_solution_of_the_linear_programme():
    """Independent of permutations: no plan with these marginals is cheaper."""
    n, rng = 7, np.random.default_rng(0)
    cost, mask = rng.uniform(size=(n, n)), ~np.eye(n, dtype=bool)
    rows = np.concatenate([np.kron(np.eye(n), np.ones(n)), np.kron(np.ones(n), np.eye(n))])
    bounds = [(0, None if allowed else 0) for allowed in mask.ravel()]
    expected = linprog(cost.ravel(), A_eq=rows, b_eq=np.full(2 * n, 1 / n), bounds=bounds).fun
    plan = coupling.ot_plan(cost, mask)
    assert (plan * cost).sum() == pytest.approx(expected) and not plan[~mask].any()


def test_a_mask_that_allows_no_plan_names_its_rows_and_a_penalty_is_a_price():
    """Chunks of one video, each with the later ones alone: the last has no partner (FlowFrames, figure 2b)."""
    cost, later = np.random.default_rng(0).uniform(size=(4, 4)), np.triu(np.ones((4, 4), bool), 1)
    with pytest.raises(ValueError, match=r"rows \[3\] are left without a column of their own.*penalty="):
        coupling.ot_plan(cost, later)
    priced = coupling.ot_plan(cost, later, penalty=100.0)
    assert priced.sum() == 1 and (priced[later].sum(), priced[3, 0]) == (0.75, 0.25)  # the next chunk, whatever the costs are
    np.testing.assert_array_equal(coupling.ot_plan(cost, later, penalty=0.0), coupling.ot_plan(cost))


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: coupling.ot_plan(np.zeros((2, 3))), r"needs a cost \(n, n\), got \(2, 3\)"),
        (lambda: coupling.ot_plan(np.zeros((2, 2)), np.ones((3, 3), bool)), "the mask has shape"),
        (lambda: coupling.ot_plan(np.full((2, 2), np.nan)), "is not finite"),
    ],
)
def test_mistakes(call, message):
    with pytest.raises(ValueError, match=message):
        call()
