r"""VLFM to the letter of the paper on one video; the other commands of overfit.py work too.

    python -m launch.train    --config=configs/vlfm/as_printed.py --config.codec.checkpoint="('ENCODER', 'DECODER')" \
                              --config.data.path=out/latents --workdir=out/as_printed

As printed: forward Euler for the coefficients (Definition D.3), the basis of Definition D.4 with t in seconds, sigma of
Definition D.6, mu without a ramp, t uniform in [0, T], the plain objective (D.9), Grams, and the state as the frame.
Each entry goes back to overfit.py's value by itself, for example --config.path.ramp=True: `benchmarks/deviations.py`
does so. The paper states neither the order nor the learning rate: 16 here, because forward Euler diverges above N.

The paper's polynomial does not pass through the frames, and it explodes after the first second. Expect: no clip is
learned. Cost: as overfit.py.
"""

from ml_collections import ConfigDict

from jvflow import defaults


def get_config(mode: str = "") -> ConfigDict:
    """Returns overfit.py's config of the same mode, with the paper's choices."""
    config = defaults.derive(__file__, "overfit.py", mode)
    config.path.update(order=16, rule="forward_euler", allow_divergence=True, basis="paper", ramp=False)
    config.path.update(sigma="paper", alpha=10.0, sigma_min=0.01, velocity_scale=0.0)
    config.times.start = 0.0
    config.update(prediction="velocity", mean_weight=0.0)
    config.optimizer.update(name="grams", eps=1e-6)
    config.sample.readout = "none"
    return config
