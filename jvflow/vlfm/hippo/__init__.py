"""HiPPO-LegS: a polynomial in time that summarises a clip.

legs           the equation and its rules; the polynomial of a clip as a weighted sum of its frames
coefficients   its coefficients, from whole clips or frame by frame
order          how many coefficients a clip needs, by cross-validation
"""

from jvflow.vlfm.hippo.coefficients import State, init, project, reconstruct, update
from jvflow.vlfm.hippo.legs import HOLDS, MAX_ORDER, RECURRENCES, RULES, default_order, kernel, transitions, weights
from jvflow.vlfm.hippo.order import cross_validation, select_order, select_orders

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
