"""The Runge-Kutta methods of `solver.solve`, by name, and the number of evaluations in their steps.

    method      order   evaluations of the field (NFE)      step size
    euler       1       n                                   fixed
    midpoint    2       2 n                                 fixed or adaptive
    heun        2       2 n                                 fixed or adaptive
    rf_solver   2       2 n                                 fixed; RF-Solver (Wang et al., arXiv 2411.04746): its second
                        order expansion, with a difference quotient as derivative, is the midpoint rule
                        x <- x + D v(x + D/2 v(x, t), t + D/2)
    rk4         4       4 n                                 fixed
    bosh3       3       3 n + 1                             fixed or adaptive
    tsit5       5       6 n + 1                             fixed or adaptive
    dopri5      5       6 n + 1                             fixed or adaptive
    ...         the other explicit Runge-Kutta methods of diffrax, by their name in lower case

n counts the attempted steps: a rejected step costs as much as an accepted one.
"""

import diffrax
import numpy as np


class RK4(diffrax.AbstractERK):
    """The classical Runge-Kutta method of order 4. It has no error estimate: fixed steps only."""

    tableau = diffrax.ButcherTableau(
        c=np.array([0.5, 0.5, 1.0]),
        b_sol=np.array([1 / 6, 1 / 3, 1 / 3, 1 / 6]),
        b_error=np.zeros(4),
        a_lower=(np.array([0.5]), np.array([0.0, 0.5]), np.array([0.0, 0.0, 1.0])),
    )
    interpolation_cls = diffrax.ThirdOrderHermitePolynomialInterpolation.from_k

    def order(self, terms):
        del terms
        return 4


METHODS = {
    "euler": diffrax.Euler,
    "heun": diffrax.Heun,
    "midpoint": diffrax.Midpoint,
    "ralston": diffrax.Ralston,
    "rf_solver": diffrax.Midpoint,
    "rk4": RK4,
    "bosh3": diffrax.Bosh3,
    "tsit5": diffrax.Tsit5,
    "dopri5": diffrax.Dopri5,
    "dopri8": diffrax.Dopri8,
}
FIXED_ONLY = ("euler", "rk4", "rf_solver")
"""Methods that have no error estimate here and take fixed steps only."""
