"""Other settings of the sampler compile nothing."""

import jax
import numpy as np
import pytest
from compilations import STEPS, TEXT, TOLERANCES, WEIGHTS, curved_field, programs_compiled

from jvflow.flow.solver import Solver
from jvflow.vlfm import sample_frames

pytestmark = pytest.mark.slow


def test_clips():
    times = np.arange(1, 9) / 8

    def clips(guidance=1.0, solver=None):
        options = dict(guidance=guidance, solver=solver or Solver(), readout="none")
        return sample_frames(field_of_clips, jax.random.key(1), times, (2, 4, 4, 3), TEXT, **options).frames

    field_of_clips = curved_field()
    assert programs_compiled(clips, WEIGHTS) == 0
    assert programs_compiled(lambda tolerance: clips(solver=Solver(rtol=tolerance, atol=tolerance)), TOLERANCES) == 0
    assert programs_compiled(lambda steps: clips(solver=Solver("heun", steps=steps)), STEPS) == 0
