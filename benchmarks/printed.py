"""The items in which `configs/vlfm/overfit.py` deviates from the letter of the VLFM paper, each as printed."""

from collections.abc import Iterable

from ml_collections import ConfigDict

ITEMS = dict(
    hold=dict(path=dict(rule="forward_euler", allow_divergence=True)),
    basis=dict(path=dict(basis="paper")),
    ramp=dict(path=dict(ramp=False)),
    sigma=dict(path=dict(sigma="paper", alpha=10.0)),
    noise=dict(path=dict(sigma_min=0.01)),
    times=dict(times=dict(start=0.0)),
    output=dict(prediction="velocity", mean_weight=0.0, sample=dict(readout="none"), path=dict(velocity_scale=0.0)),
    optimizer=dict(optimizer=dict(name="grams", eps=1e-6)),
)
"""What the paper prints for each item; together they turn overfit.py into as_printed.py, up to the order."""


def as_printed(base: ConfigDict, printed: Iterable[str], order: int) -> ConfigDict:
    """Returns a config of overfit.py with some items as printed, and with this order."""
    config = base.copy_and_resolve_references()
    config.path.order = order
    for name in printed:
        config.update(ITEMS[name])
    return config
