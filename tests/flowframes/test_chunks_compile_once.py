"""Other settings of the sampler compile nothing."""

import jax
import pytest
from compilations import LEVELS, START, STEPS, TEXT, WEIGHTS, curved_field, programs_compiled

from jvflow.flowframes.sample import make_solver, predict_chunks

pytestmark = pytest.mark.slow


def test_chunks():
    velocities = curved_field()

    def chunks(steps=5, **options):
        options = dict(solver=make_solver("euler", steps), chunks=2) | options
        return predict_chunks(velocities, START, jax.random.key(1), TEXT, **options).frames

    assert programs_compiled(lambda guidance: chunks(guidance=guidance), WEIGHTS) == 0
    assert programs_compiled(chunks, STEPS) == 0
    assert programs_compiled(lambda noise: chunks(noise=noise), LEVELS) == 0
