"""Sets the metrics of runs next to each other, with a paper's published values in columns of their own.

Metrics of two runs are comparable only under one protocol: every entry of their protocols must be equal, except those
that describe the model and its sampling (`OF_A_RUN`).
"""

from collections.abc import Mapping, Sequence

from jvflow.metrics.published import Table

OF_A_RUN = (
    *("objective", "step", "parameters", "config_changes", "pretrained", "trained_frames", "rho", "coupling"),
    *("past_frames", "curve", "epsilon", "gain", "context_noise", "guidance", "warp", "readout"),
    *("order", "rule", "sigma", "sigma_min", "method", "rtol", "atol", "fixed_steps", "per_sample"),
)
"""Entries of a protocol that describe the model and its sampling: what a comparison is about."""
NOT_COMPARED = (*OF_A_RUN, "adapted")
"""`adapted` repeats entries with the values that the config asked for."""
ABSENT = "absent"


def differences(first: Mapping, second: Mapping) -> list[str]:
    """Returns a line for each entry in which two protocols disagree."""
    first, second = _compared(first), _compared(second)
    lines = []
    for key in sorted(first | second):
        a, b = (protocol.get(key, ABSENT) for protocol in (first, second))
        if a != b:
            lines.append(f"{key}: {a!r} and {b!r}")
    return lines


def _compared(protocol: Mapping) -> dict:
    # with a fixed number of steps there is no step size to control
    unused = ("controller",) if protocol.get("fixed_steps") is not None else ()
    return {key: value for key, value in protocol.items() if key not in (*NOT_COMPARED, *unused)}


def check_comparable(protocols: Mapping[str, Mapping]) -> None:
    """Raises ValueError with all differences if a protocol disagrees with the first one; `protocols` is by run."""
    (name, first), *others = protocols.items()
    for other, protocol in others:
        if found := differences(first, protocol):
            scores = "metric" in first and "metric" in protocol
            again = "score --protocol=NAME" if scores else "evaluate --protocol=NAME=VALUE"
            raise ValueError(
                "\n".join(
                    [
                        f"{name} and {other} were evaluated under different protocols:",
                        *(f"  {line}" for line in found),
                        f"compute both under one protocol: jvflow {again}",
                    ]
                )
            )


def table(figures: Mapping[str, Mapping], protocols: Mapping[str, Mapping], published: Sequence[Table]) -> str:
    """Returns Markdown: a table with a column for each run and one for each row of the published tables, and notes.

    Args:
      figures: run -> figures, numbers in nested dicts.
      protocols: run -> protocol; raises ValueError if they disagree, see `check_comparable`.
      published: tables of a paper.
    """
    check_comparable(protocols)
    flat = {name: _flat(tree) for name, tree in figures.items()}
    papers = list(dict.fromkeys(row for each in published for row in each.rows))
    lines = _row("", list(figures), [f"published: {row}" for row in papers])
    lines += _row("---", ["---"] * len(figures), ["---"] * len(papers))
    for key in OF_A_RUN:
        if any(key in protocol for protocol in protocols.values()):
            lines += _row(key, [_text(protocol.get(key)) for protocol in protocols.values()], [""] * len(papers))
    for key in dict.fromkeys(key for tree in flat.values() for key in tree):
        lines += _row(key, [_text(tree.get(key)) for tree in flat.values()], [""] * len(papers))
    for number, each in enumerate(published, 1):
        for data in each.data_sets:
            for figure in each.figures:
                cells = [_text(each.rows.get(row, {}).get(data, {}).get(figure)) for row in papers]
                lines += _row(f"{data}, {figure} [{number}]", [""] * len(figures), cells)
    agreed = _compared(next(iter(protocols.values())))
    lines += ["", "Protocol of the runs: " + "; ".join(f"{key} {value}" for key, value in sorted(agreed.items())), ""]
    for number, each in enumerate(published, 1):
        meaning = "; ".join(f"{figure}: {text}" for figure, text in each.figures.items())
        lines += [f"[{number}] {each.source}: {each.about}. {meaning}.", ""]
    if published:
        lines += [
            "Published values have data, features and protocols of their own, which differ from those of the runs."
        ]
    return "\n".join(lines).rstrip() + "\n"


def _row(name: str, runs: Sequence[str], papers: Sequence[str]) -> list[str]:
    return ["| " + " | ".join([name, *runs, *papers]) + " |"]


def _flat(tree: Mapping, prefix: str = "") -> dict:
    found = {}
    for key, value in tree.items():
        found |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return found


def _text(value) -> str:
    """Formats a value; an absent one is an empty cell."""
    if value is None:
        return ""
    return f"{value:.5g}" if isinstance(value, float) else str(value).replace("|", "/")
