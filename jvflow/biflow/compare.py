"""Comparison of trained runs, after Bi-flow, section 3.

NFE is a mean over samples under diffrax's controller. The paper's steps are torchode's count of the slowest of eight
videos, and are not comparable with it.

equal accuracy    adaptive Heun, both tolerances 1e-2: the cost of each method at the same tolerances
equal budget      Euler with steps of 0.05: the quality of each method at 20 evaluations
epsilon           BI-FLOW at several noise levels: cost against distance
gain              BI-FLOW with a noise level for each frame, at most the highest of `epsilon`
backward          BI-FLOW solved into the past of held-out clips, compared with the true frames
"""

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from jvflow.biflow import comparison_page
from jvflow.biflow.evaluate import Reference, controls, describe, evaluate_streams
from jvflow.biflow.legend import LEGEND
from jvflow.files import read_json, write_text
from jvflow.run import explained
from jvflow.training.rules import NOT_NEGATIVE, check, many

LOG = logging.getLogger(__name__)
PLOT = "pareto.png"
NEEDED = {"nfe_per_frame", "distance_first_window", "distance_last_window", "distance_mean", "motion_last_window"}
"""Figures that every result has."""
SOLVERS = {
    "equal accuracy": dict(method="heun", rtol=1e-2, atol=1e-2, steps=None),
    "equal budget": dict(method="euler", steps=20),
}
EPSILONS = (0.0, 0.1, 0.2, 0.3)
"""The paper's noise levels."""
GAINS = (1.0, 2.0)
"""Gains of the noise level per frame (`jvflow.biflow.method`, eq. 5)."""


def compare(
    configs: Mapping,
    load: Callable,
    out: str | Path,
    *,
    epsilons: Sequence[float] = EPSILONS,
    gains: Sequence[float] = GAINS,
    overrides: dict | None = None,
) -> dict:
    """Runs all these evaluations for runs with one data set; writes `compare.json` and `pareto.png` into `out`.

    Writes each evaluation as soon as it ends, and continues an interrupted comparison. After a change of runs, noise
    levels, gains or protocol, repeats only the affected evaluations.

    Args:
      configs: workdir -> config, one run for each objective.
      load: `(workdir, sampling, overrides) -> (run, data)`: loads a run with replaced entries of `config.sample` and
        `config.evaluate`, and returns the folder of its data set too.
      out: a folder.
      epsilons: noise levels of BI-FLOW.
      gains: gains of BI-FLOW with a noise level for each frame, which is at most the highest of `epsilons`.
      overrides: entries of `config.evaluate` to replace, such as {"videos": 64, "frames": 512}.

    Returns:
      The content of `compare.json`: `controls`, `results`, a list of figures with their protocols, and `legend`.

    Raises:
      ValueError: if the runs differ in data or protocol, which makes their figures not comparable; or if a noise level
        or a gain is not allowed.
    """
    levels = many(NOT_NEGATIVE, "numbers of 0 or more, such as 0,0.1,0.2")
    check([("--epsilon", list(epsilons), levels), ("--gain", list(gains), levels)])
    if not any(epsilons):
        if any(gains):
            LOG.warning("warning: no gain is evaluated, because it needs a noise level (--epsilon) above 0")
        gains = ()
    if overrides and "fvd" in overrides:
        raise ValueError("a comparison has no FVD: use jvflow evaluate --fvd=... for each run")
    _check(configs)
    file = Path(out) / "compare.json"
    before = _results(file) if file.exists() else []
    (file.parent / PLOT).unlink(missing_ok=True)  # until all results are there
    record: dict = dict(controls=None, results=[])
    reference = None
    for objective, kind, path, sampling in _evaluations(configs, epsilons, gains):
        run, data = load(path, sampling, overrides or {})
        if reference is None:
            reference = Reference.from_dataset(run.config.evaluate, data, run.asked)
            record["controls"] = controls(reference, data)
        named = _as_read(dict(method=objective, kind=kind, protocol=describe(run, reference)))
        done = next((r for r in before if all(r.get(key) == value for key, value in named.items())), None)
        record["results"].append(done or named | _as_read(evaluate_streams(run, reference, data)[0]))
        numbered = dict(controls=record["controls"], results=dict(enumerate(record["results"])))
        record["legend"] = explained(numbered, LEGEND)["legend"]
        file.parent.mkdir(parents=True, exist_ok=True)
        write_text(file, json.dumps(record, indent=1) + "\n")
        figures = record["results"][-1]
        LOG.info(
            "%s, %s: NFE %.1f, distance %.2f -> %.2f, motion %.2f",
            objective,
            kind,
            figures["nfe_per_frame"],
            figures["distance_first_window"],
            figures["distance_last_window"],
            figures["motion_last_window"],
        )
    comparison_page.write_pareto(Path(out) / PLOT, _fronts(record["results"]))
    return record


def _results(file: Path) -> list[dict]:
    """Returns the complete results of an earlier comparison."""
    results = read_json(file, "remove it, and the comparison starts anew", keys=dict(results=list))["results"]
    return [result for result in results if isinstance(result, dict) and result.keys() >= NEEDED]


def _as_read(figures: dict) -> dict:
    """Returns figures as JSON reads them: tuples as lists, keys as strings."""
    return json.loads(json.dumps(figures))


def _check(configs: Mapping) -> None:
    first, *others = configs
    for path in others:
        for section, ignored in (("data", ("cache",)), ("evaluate", ("fvd",))):
            a, b = (configs[p][section].to_dict() for p in (first, path))
            differing = [key for key in a if a[key] != b.get(key) and key not in ignored]
            if differing:
                differences = ", ".join(f"config.{section}.{key} is {a[key]!r} and {b.get(key)!r}" for key in differing)
                raise ValueError(f"the figures of {first} and {path} are not comparable: {differences}")


def _evaluations(configs: Mapping, epsilons, gains):
    """Yields (objective, kind, workdir, sampling) of every evaluation."""
    for kind, solver in SOLVERS.items():
        for path, config in configs.items():
            yield config.objective, kind, path, solver
    for path, config in configs.items():
        if config.objective != "biflow":
            continue
        joint = SOLVERS["equal accuracy"] | dict(curve="joint")
        for epsilon in epsilons:
            yield "biflow", "epsilon", path, joint | dict(epsilon=float(epsilon), gain=0.0)
        for gain in gains:
            yield "biflow", "gain", path, joint | dict(epsilon=float(max(epsilons)), gain=float(gain))
        if config.context.frames == 1:
            yield "biflow", "backward", path, SOLVERS["equal accuracy"] | dict(curve="backward")


def _fronts(results: list) -> dict[str, list]:
    """Returns (NFE, mean distance, label) of each method at equal accuracy, and of BI-FLOW by noise level and gain."""
    swept = dict(epsilon=("biflow", "eps"), gain=("biflow, eps per frame", "gain"))
    fronts = {}
    for r in results:
        if r["kind"] in swept:
            name, symbol = swept[r["kind"]]
            label = f"{symbol} {r['protocol'][r['kind']]:g}"
        elif r["kind"] == "equal accuracy" and r["method"] != "biflow":
            name, label = r["method"], ""
        else:
            continue
        fronts.setdefault(name, []).append((r["nfe_per_frame"], r["distance_mean"], label))
    return fronts
