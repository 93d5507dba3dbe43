import os
import socket
import subprocess
import sys
from itertools import permutations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import linprog

from jvflow.flow import coupling, transport


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


def clouds(n, seed=0, shape=(2, 2, 2, 3)):
    return [jax.random.normal(key, (n, *shape)) for key in jax.random.split(jax.random.key(seed))]


def test_the_pairs_of_a_small_batch_are_the_optimal_ones():
    past, future = clouds(16)
    cost = np.square(np.asarray(past).reshape(16, 1, -1) - np.asarray(future).reshape(1, 16, -1)).mean(-1)
    np.testing.assert_allclose(transport.pairwise_costs(past, future), cost, rtol=1e-5)
    (x0, label), x1 = jax.jit(coupling.minibatch_ot)((past, jnp.arange(16)), future, jax.random.key(1))
    np.testing.assert_array_equal(x1, future)
    np.testing.assert_array_equal(x0, past[label])  # the label moves with its row
    plan = coupling.ot_plan(cost)
    np.testing.assert_array_equal(plan.argmax(0), label)
    assert np.trace(cost[:, :]) / 16 > (plan * cost).sum()


def test_older_context_frames_are_not_in_the_cost():
    past, future = clouds(8)
    older = 100 * jax.random.normal(jax.random.key(5), past.shape)
    longer, _ = coupling.minibatch_ot(jnp.concatenate([older, past], axis=1), future, jax.random.key(1))
    short, _ = coupling.minibatch_ot(past, future, jax.random.key(1))
    np.testing.assert_array_equal(longer[:, 2:], short)


def test_a_large_batch_is_coupled_by_sinkhorn():
    """Checks that the drawn pairs cost more than the optimal ones, but less than half of the mean cost."""
    n = coupling.MAX_EXACT_ROWS + 32
    past, future = clouds(n, shape=(1, 1, 1, 2))
    cost = transport.pairwise_costs(past, future)
    plan = transport.sinkhorn_plan(cost)
    np.testing.assert_allclose(plan.sum(0), 1 / n, rtol=0.02)
    x0, _ = jax.jit(coupling.minibatch_ot)(past, future, jax.random.key(1))
    drawn, best = float(jnp.square(x0 - future).mean()), float((coupling.ot_plan(cost) * cost).sum())
    assert best < drawn < 0.5 * float(jnp.mean(cost)), (best, drawn, jnp.mean(cost))


@pytest.mark.parametrize("n", [16, 80])
def test_rows_of_all_devices_are_paired(n):
    """Checks that four devices give the pairs of one device, and that some pairs cross devices."""
    past, future = clouds(n)
    one, _ = jax.jit(coupling.minibatch_ot)(past, future, jax.random.key(1))
    mesh = jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    split = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    four, _ = jax.jit(coupling.minibatch_ot)(*jax.device_put((past, future), split), jax.random.key(1))
    np.testing.assert_array_equal(one, four)
    origin = np.array([int(np.flatnonzero((np.asarray(past) == row).all((1, 2, 3, 4)))[0]) for row in np.asarray(one)])
    assert (origin // (n // 4) != np.arange(n) // (n // 4)).any()


PROCESS = """
import sys
import jax
import jax.numpy as jnp
import numpy as np
jax.distributed.initialize(sys.argv[1], num_processes=2, process_id=int(sys.argv[2]))
from jvflow.flow import coupling
from jvflow.parallel import mesh as meshes
mesh = meshes.make_mesh()
for n in (16, 80):
    past, future = (np.asarray(jax.random.normal(key, (n, 2, 2, 2, 3))) for key in jax.random.split(jax.random.key(0)))
    rows = slice(jax.process_index() * n // 2, (jax.process_index() + 1) * n // 2)
    tree, future = meshes.put_batch(((past[rows], np.arange(n)[rows]), future[rows]), mesh, n)
    join = jax.jit(lambda *a: coupling.minibatch_ot(*a)[0][1], out_shardings=meshes.replicated(mesh))
    print(np.asarray(join(tree, future, jax.random.key(1))).tolist(), flush=True)
"""


@pytest.mark.integration
def test_rows_of_all_processes_are_paired():
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    environment = dict(os.environ, XLA_FLAGS="", JAX_PLATFORMS="cpu")
    run = lambda i: subprocess.Popen(
        [sys.executable, "-c", PROCESS, address, str(i)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    outputs = [(process.communicate(timeout=240), process.returncode) for process in [run(0), run(1)]]
    assert not any(code for _, code in outputs), outputs
    (first, second) = ([line for line in out.splitlines() if not line.startswith("[Gloo]")] for (out, _), _ in outputs)
    assert first == second
    for n, line in zip((16, 80), first, strict=True):
        _, label = jax.jit(coupling.minibatch_ot)((clouds(n)[0], jnp.arange(n)), clouds(n)[1], jax.random.key(1))[0]
        assert line == str(np.asarray(label).tolist())


@pytest.mark.parametrize("seed", range(5))
def test_a_plan_is_the_best_permutation(seed):
    cost = np.random.default_rng(seed).normal(size=(5, 5))
    plan = coupling.ot_plan(cost)
    np.testing.assert_allclose(plan.sum(0), 0.2)
    np.testing.assert_allclose(plan.sum(1), 0.2)
    best = min(sum(cost[i, j] for i, j in enumerate(p)) / 5 for p in permutations(range(5)))
    assert (plan * cost).sum() == pytest.approx(best)


def test_a_plan_is_the_solution_of_the_linear_programme():
    """Compares with all plans that have these marginals, not only with permutations."""
    n, rng = 7, np.random.default_rng(0)
    cost, mask = rng.uniform(size=(n, n)), ~np.eye(n, dtype=bool)
    rows = np.concatenate([np.kron(np.eye(n), np.ones(n)), np.kron(np.ones(n), np.eye(n))])
    bounds = [(0, None if allowed else 0) for allowed in mask.ravel()]
    expected = linprog(cost.ravel(), A_eq=rows, b_eq=np.full(2 * n, 1 / n), bounds=bounds).fun
    plan = coupling.ot_plan(cost, mask)
    assert (plan * cost).sum() == pytest.approx(expected) and not plan[~mask].any()


def test_a_mask_without_a_plan_raises_and_a_penalty_gives_one():
    """Allows each chunk of a video only later chunks, so that the last one has no partner (FlowFrames, figure 2b)."""
    cost, later = np.random.default_rng(0).uniform(size=(4, 4)), np.triu(np.ones((4, 4), bool), 1)
    with pytest.raises(ValueError, match=r"rows \[3\] are left without a column of their own.*penalty="):
        coupling.ot_plan(cost, later)
    priced = coupling.ot_plan(cost, later, penalty=100.0)
    assert priced.sum() == 1 and (priced[later].sum(), priced[3, 0]) == (
        0.75,
        0.25,
    )  # each chunk gets the next one, whatever the costs
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
