"""The error that a failed solve raises."""

import numpy as np


class SolveError(ValueError):
    """A solve that hit `max_steps` or returned values that are not finite."""

    @classmethod
    def of(cls, solution, what: str) -> "SolveError":
        """Describes a `solver.Solution` that is not ok: which samples failed, at which times, and the cure."""
        ok, steps, t_end = (np.asarray(a) for a in (solution.ok, solution.steps, solution.t_end))
        stopped = [
            f"row {i} at t = {t_end[i]:.4g} after {steps[i]} steps" for i in np.flatnonzero(~ok & ~np.isnan(t_end))
        ]
        not_finite = np.flatnonzero(~ok & np.isnan(t_end)).tolist()
        message = f"{what}: the solve failed for {(~ok).sum()} of {len(ok)} samples."
        if stopped:
            message += (
                f" max_steps was reached by {', '.join(stopped)}: use looser rtol and atol, a larger max_steps, or "
                "fixed steps; if the field is not finite there, a lower learning rate or more training."
            )
        if not_finite:
            message += (
                f" The result is not finite in rows {not_finite}: use a lower learning rate or more training, "
                "or more steps if they are fixed."
            )
        return cls(message)
