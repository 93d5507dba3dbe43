"""Other settings of the sampler compile nothing."""

import jax
import numpy as np
import pytest
from compilations import STEPS, TEXT, TOLERANCES, WEIGHTS, check_no_compilation, curved_field

from jvflow.flow.solver import Solver
from jvflow.vlfm import sample_frames

pytestmark = pytest.mark.slow


def test_clips():
    times = np.arange(1, 9) / 8

    def clips(guidance=1.0, solver=None):
        options = dict(guidance=guidance, solver=solver or Solver(), readout="none")
        return sample_frames(field_of_clips, jax.random.key(1), times, (2, 4, 4, 3), TEXT, **options).frames

    field_of_clips = curved_field()
    check_no_compilation(clips, WEIGHTS)
    check_no_compilation(lambda tolerance: clips(solver=Solver(rtol=tolerance, atol=tolerance)), TOLERANCES)
    check_no_compilation(lambda steps: clips(solver=Solver("heun", steps=steps)), STEPS)
