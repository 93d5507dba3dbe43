"""Checks tensors that are read: quantised weights, values that are not finite, and copies that differ."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from jvflow.pretrained.layout import Model

SCALES = (
    r"(.*\.)?scaled_fp8",
    r".*\.(scale_weight|scale_input|weight_scale|weight_scale_2|input_scale|weight_scale_inv)",
    r".*\.(comfy_quant|SCB|qweight|qzeros|scales|g_idx|wscales|smooth_factor)",
    r".*\.weight\.(absmax|quant_map|nested_absmax|nested_quant_map|quant_state\..*)",
    r".*\.(weight\._data|weight\._scale|weight_qmap|quantization_type)",
)
"""Names of the tensors that the common methods of quantisation store with the weights."""


def check_not_scaled(kind: str, names: Iterable[str]) -> None:
    """Raises ValueError if tensors hold the scales of quantised weights."""
    scales = [name for name in names if any(re.fullmatch(pattern, name) for pattern in SCALES)]
    if scales:
        more = f" and {len(scales) - 1} more" if len(scales) > 1 else ""
        raise ValueError(
            f"the weights of this {kind} are quantised, {scales[0]}{more} hold their scales: "
            "take the files that are not quantised"
        )


def check_values(name: str, tensor: np.ndarray) -> np.ndarray:
    """Returns a tensor; raises ValueError if it holds no floats, or a value that is not finite."""
    if not jnp.issubdtype(tensor.dtype, jnp.floating):
        raise ValueError(f"{name} holds {tensor.dtype}, weights are floats: take files that are not quantised")
    finite = np.isfinite(tensor)
    if not finite.all():
        raise ValueError(
            f"{name} holds {finite.size - np.count_nonzero(finite)} of {finite.size} values that are not finite: "
            "the file is damaged or comes from a failed training, take another one"
        )
    return tensor


def check_copies(model: Model, tensors: Mapping[str, Any]) -> None:
    """Raises ValueError if a tensor that must equal another one differs from it."""
    for copy, name in model.copies.items():
        if copy in tensors and name in tensors and not np.array_equal(tensors[copy], tensors[name]):
            raise ValueError(
                f"{copy} and {name} differ, and the model has one such tensor: remove the wrong one from the files"
            )
