"""Other settings of the sampler compile nothing."""

import jax
import pytest
from compilations import LEVELS, START, STEPS, TEXT, WEIGHTS, check_no_compilation, curved_field

from jvflow.flowframes.sample import make_solver, predict_chunks

pytestmark = pytest.mark.slow


def test_chunks():
    velocities = curved_field()

    def chunks(steps=5, **options):
        options = dict(solver=make_solver("euler", steps), chunks=2) | options
        return predict_chunks(velocities, START, jax.random.key(1), TEXT, **options).frames

    check_no_compilation(lambda guidance: chunks(guidance=guidance), WEIGHTS)
    check_no_compilation(chunks, STEPS)
    check_no_compilation(lambda noise: chunks(noise=noise), LEVELS)
