"""Times mu(t) and its slope for a batch of clips: `jvflow.vlfm.hippo` against HiPPO's recurrence and a memory copy.

    python -m benchmarks.mean --hippo=CHECKOUT

CHECKOUT holds the public HiPPO code (github.com/HazyResearch/hippo-code), which runs from there; needs the extra `dev`.
Its `HiPPO_LegS` computes the coefficients of 64 frames at order 64; mu and mu' are then two matrix products. Our code
computes each as one weighted sum of the frames. The copy reads and writes the frames once. Writes
`out/benchmarks/mean.json`.
"""

import sys
import types

import numpy as np
from absl import flags

from benchmarks.record import write
from benchmarks.timing import in_turn
from jvflow import cli

HIPPO = flags.DEFINE_string("hippo", None, "A checkout of the public HiPPO code.")
FRAMES, ORDER, CHANNELS, CLIPS, ROUNDS = 64, 64, 16384, 32, 15
flags.mark_flag_as_required("hippo")


def main():
    import jax
    import jax.numpy as jnp
    import torch

    from jvflow.vlfm import hippo
    from jvflow.vlfm.latent_path import LatentPosition, SigmaSchedule

    public = _public(HIPPO.value)(ORDER, max_length=FRAMES)
    rng = np.random.default_rng(0)
    u = rng.normal(size=(CLIPS, FRAMES, CHANNELS)).astype(np.float32)
    at = rng.uniform(0.1, 0.9, CLIPS).astype(np.float32)
    h, phi = 1e-4, lambda times: hippo.reconstruct(np.eye(ORDER), times.astype(np.float64))
    values, slopes = (np.asarray(a, np.float32) for a in (phi(at), (phi(at + h) - phi(at - h)) / (2 * h)))

    # one second long, as in the public code
    position = LatentPosition(FRAMES, ORDER, SigmaSchedule(FRAMES), rule="bilinear", ramp=False)
    frames, times = jnp.asarray(u), jnp.asarray(at)
    both = lambda frames, t: jax.jvp(lambda t: position.mean(frames, t), (t,), (jnp.ones_like(t),))
    ours = jax.jit(jax.vmap(both))
    tensors, target = torch.tensor(u), np.empty_like(u)

    def theirs(clips=slice(0, 1)):
        results = []
        for clip, value, slope in zip(tensors[clips], values[clips], slopes[clips]):
            c = public(clip)[-1]  # (channels, order), of the whole clip
            results.append(torch.stack([c @ torch.tensor(value), c @ torch.tensor(slope)]))
        return torch.stack(results).numpy()

    with torch.no_grad():
        expected, found = theirs(slice(None)), np.stack(ours(frames, times), 1)
        difference = float(np.abs(expected - found).max() / np.abs(expected).max())
        if difference > 1e-3:
            raise ValueError(f"not the same computation: the results differ by {difference}, relative to the largest")
        seconds = in_turn(
            dict(ours=lambda: jax.block_until_ready(ours(frames, times)), copy=lambda: np.copyto(target, u)), ROUNDS
        )
        slow = in_turn(dict(recurrence=theirs), 3)["recurrence"] * CLIPS
    read = u.nbytes / seconds["ours"]
    copied = 2 * u.nbytes / seconds["copy"]
    write(
        "mean",
        dict(
            times_faster_than_the_recurrence=slow / seconds["ours"],
            part_of_the_bandwidth_of_a_copy=read / copied,
            gigabytes_per_second=dict(ours=read / 1e9, copy=copied / 1e9),
            seconds=dict(seconds, recurrence=slow),
            difference=difference,
            protocol=dict(
                clips=CLIPS,
                frames=FRAMES,
                order=ORDER,
                channels=CHANNELS,
                rounds=ROUNDS,
                rule="bilinear",
                recurrence="seconds of one clip, times the number of clips",
                bytes="ours reads the frames once, a copy reads and writes them",
            ),
        ),
    )
    print(f"{slow / seconds['ours']:.0f} times faster than the recurrence, {read / copied:.2f} of a copy's bandwidth")


def _public(checkout: str):
    """Imports `HiPPO_LegS` from the checkout."""
    sys.path.insert(0, checkout)
    sys.modules.setdefault("nengo", types.ModuleType("nengo"))  # only HiPPO's data sets need it
    from model.hippo import HiPPO_LegS

    return HiPPO_LegS


if __name__ == "__main__":
    cli.run(main)
