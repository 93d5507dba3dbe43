"""Other settings of the sampler compile nothing."""

import jax
import jax.numpy as jnp
import pytest
from compilations import LEVELS, START, STEPS, TOLERANCES, check_no_compilation, curved_field

from jvflow.biflow.sample import joint, stream
from jvflow.flow.solver import Solver

pytestmark = pytest.mark.slow


def test_streams_of_frames():
    velocities, solver = curved_field(2), Solver(rtol=1e-2, atol=1e-2)

    def frames(**options):
        made = stream(velocities, START, jax.random.key(1), **dict(dict(curve=joint, solver=solver), **options))
        return jnp.concatenate([next(made)[0] for _ in range(2)])

    check_no_compilation(lambda epsilon: frames(epsilon=epsilon), LEVELS)
    check_no_compilation(lambda gain: frames(epsilon=0.4, gain=gain), LEVELS)
    check_no_compilation(lambda tolerance: frames(solver=Solver(rtol=tolerance, atol=tolerance)), TOLERANCES)
    check_no_compilation(lambda steps: frames(solver=Solver("heun", steps=steps)), STEPS)
