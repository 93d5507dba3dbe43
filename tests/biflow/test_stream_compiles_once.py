"""Other settings of the sampler compile nothing."""

import jax
import jax.numpy as jnp
import pytest
from compilations import LEVELS, START, STEPS, TOLERANCES, curved_field, programs_compiled

from jvflow.biflow.sample import joint, stream
from jvflow.flow.solver import Solver

pytestmark = pytest.mark.slow


def test_streams_of_frames():
    velocities, solver = curved_field(2), Solver(rtol=1e-2, atol=1e-2)

    def frames(**options):
        made = stream(velocities, START, jax.random.key(1), **dict(dict(curve=joint, solver=solver), **options))
        return jnp.concatenate([next(made)[0] for _ in range(2)])

    assert programs_compiled(lambda epsilon: frames(epsilon=epsilon), LEVELS) == 0
    assert programs_compiled(lambda gain: frames(epsilon=0.4, gain=gain), LEVELS) == 0
    assert programs_compiled(lambda tolerance: frames(solver=Solver(rtol=tolerance, atol=tolerance)), TOLERANCES) == 0
    assert programs_compiled(lambda steps: frames(solver=Solver("heun", steps=steps)), STEPS) == 0
