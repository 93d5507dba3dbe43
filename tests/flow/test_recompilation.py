"""Other settings of a sampler compile nothing: counted by JAX's own events, for the samplers of the three papers."""

from contextlib import contextmanager

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jvflow.biflow.sample import joint, stream
from jvflow.flow.field import Condition, expand_like
from jvflow.flow.solver import Solver, as_argument
from jvflow.flowframes.sample import make_solver, predict_chunks
from jvflow.vlfm import sample_frames

pytestmark = pytest.mark.slow

COMPILES = "/jax/core/compile/backend_compile_duration"
STEPS, LEVELS, WEIGHTS = (1, 2, 4, 5, 8), (0.05, 0.1, 0.2, 0.3, 0.4), (1.5, 2.0, 3.5, 5.0, 7.5)
TOLERANCES = (1e-1, 3e-2, 1e-2, 3e-3, 1e-3)


@contextmanager
def compilations():
    """Counts the programs that are compiled in the block: yields a list with one entry for each."""
    found = []
    listen = lambda event, duration, **_: found.append(event) if event == COMPILES else None
    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield found
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)


def results(sample, settings) -> tuple[list, int]:
    """Samples once, then with each of the settings; returns those results, and the number of programs they compiled."""
    jax.block_until_ready(sample(settings[0]))
    with compilations() as found:
        made = [np.asarray(sample(setting)) for setting in settings]
    return made, len(found)


def check(sample, settings) -> None:
    """Checks that no setting compiles a program, and that each has a result of its own."""
    made, compiled = results(sample, settings)
    assert compiled == 0
    for a, b in zip(made, made[1:]):
        assert np.isfinite(a).all() and abs(a - b).max() > 1e-6


def field(velocities: int = 1):
    """Returns a curved field whose velocities follow the caption."""

    def apply(x, s, condition=None):
        text = 0.0 if condition is None or condition.text is None else expand_like(condition.text.mean((1, 2)), x)
        return tuple(jnp.sin(3 * x + expand_like(s[0], x)) + text for _ in range(velocities))

    return jax.tree_util.Partial(apply)


START = jax.random.normal(jax.random.key(0), (2, 1, 4, 4, 3)) / 3
TEXT = Condition(text=jnp.ones((2, 3, 2)), text_mask=jnp.ones((2, 3), bool))


def test_the_count_sees_a_compilation():
    with compilations() as found:
        jax.jit(lambda x: x * 3.25)(jnp.ones(7))
    assert found


def test_streams_of_frames():
    velocities, solver = field(2), Solver(rtol=1e-2, atol=1e-2)

    def frames(**options):
        made = stream(velocities, START, jax.random.key(1), **dict(dict(curve=joint, solver=solver), **options))
        return jnp.concatenate([next(made)[0] for _ in range(2)])

    check(lambda epsilon: frames(epsilon=epsilon), LEVELS)
    check(lambda gain: frames(epsilon=0.4, gain=gain), LEVELS)
    check(lambda tolerance: frames(solver=Solver(rtol=tolerance, atol=tolerance)), TOLERANCES)
    check(lambda steps: frames(solver=Solver("heun", steps=steps)), STEPS)


def test_clips():
    times = np.arange(1, 9) / 8

    def clips(guidance=1.0, solver=None):
        options = dict(guidance=guidance, solver=solver or Solver(), readout="none")
        return sample_frames(field_of_clips, jax.random.key(1), times, (2, 4, 4, 3), TEXT, **options).frames

    field_of_clips = field()
    check(clips, WEIGHTS)
    check(lambda tolerance: clips(solver=Solver(rtol=tolerance, atol=tolerance)), TOLERANCES)
    check(lambda steps: clips(solver=Solver("heun", steps=steps)), STEPS)


def test_chunks():
    velocities = field()

    def chunks(steps=5, **options):
        options = dict(solver=make_solver("euler", steps), chunks=2) | options
        return predict_chunks(velocities, START, jax.random.key(1), TEXT, **options).frames

    check(lambda guidance: chunks(guidance=guidance), WEIGHTS)
    check(chunks, STEPS)
    check(lambda noise: chunks(noise=noise), LEVELS)


@pytest.mark.parametrize(
    "solver",
    [Solver(rtol=1e-3, atol=1e-4), Solver("euler", steps=3), Solver("heun", steps=11), Solver("rf_solver", steps=8)]
    + [Solver("euler", steps=(0.0, 0.5, 2.0), per_sample=False), Solver("heun", 1e-2, 1e-2, controller="torchode")],
)
def test_a_solver_as_an_argument_returns_the_same(solver):
    derivative = lambda t, x: jnp.sin(3 * x) + expand_like(t, x)
    x = jnp.linspace(-1, 1, 12).reshape(3, 4)
    expected = solver(derivative, x, 0.0, 2.0)
    made = jax.jit(lambda solver, x: solver(derivative, x, 0.0, 2.0))(as_argument(solver, x, 0.0, 2.0), x)
    np.testing.assert_allclose(made.x, expected.x, rtol=2e-6, atol=2e-6)
    np.testing.assert_array_equal(made.nfe, expected.nfe)
    np.testing.assert_array_equal(made.ok, True)


def test_steps_that_do_not_reach_the_end_are_an_error():
    with pytest.raises(ValueError, match=r"must run strictly from t0 = 0.0 to t1 = 2.0, got \[0.0, 0.5, 1.0\]"):
        as_argument(Solver("euler", steps=(0.0, 0.5, 1.0)), jnp.ones(1), 0.0, 2.0)
