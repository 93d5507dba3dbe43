"""A small network in the place of I3D, for the tests of FVD in evaluations."""

import jax
import jax.numpy as jnp


class SmallNetwork:
    """Stands in for I3D with its parameters: 400 features of coarse pixels. Counts its traces and lists its files."""

    name, sha256, source = "small", "0", "none"

    def __init__(self):
        self.params, self.loads, self.traces, self.files = jnp.ones(()), 0, 0, []

    def load(self, name, file=None, **options):
        self.loads += 1
        self.files.append(file)
        return self

    def apply(self, params, method, clips):
        self.traces += 1
        coarse = clips[:, :, ::8, ::8].reshape(len(clips), -1)
        mixed = jax.random.normal(jax.random.key(0), (coarse.shape[1], 400)) / 40
        return params * (coarse @ mixed)
