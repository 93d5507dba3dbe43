"""HiPPO-LegS: a polynomial in time that summarises a clip.

legs      the equation and its rules; coefficients of whole clips, and the polynomial at any time
stream    the same coefficients for frames that arrive one by one
order     how many coefficients a clip needs, by cross-validation
"""

from jvflow.vlfm.hippo.legs import (
    HOLDS,
    RECURRENCES,
    RULES,
    kernel,
    project,
    reconstruct,
    transitions,
    weights,
)
from jvflow.vlfm.hippo.order import MAX_ORDER, cross_validation, default_order, select_order, select_orders
from jvflow.vlfm.hippo.stream import State, init, update

__all__ = [
    "HOLDS",
    "MAX_ORDER",
    "RECURRENCES",
    "RULES",
    "State",
    "cross_validation",
    "default_order",
    "init",
    "kernel",
    "project",
    "reconstruct",
    "select_order",
    "select_orders",
    "transitions",
    "update",
    "weights",
]
