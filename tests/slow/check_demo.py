"""Checks the paper's effect on the figures of a demo run (`make demo`).

python tests/slow/check_demo.py out/demo
"""

import json
import sys
from pathlib import Path


def main(folder: Path) -> int:
    record = json.loads((folder / "metrics.json").read_text())
    flow, biflow, condiff = (record["methods"][name] for name in ("flow", "biflow", "condiff"))
    controls = record["controls"]
    last = "distance_last_window"
    checks = {
        "BI-FLOW's NFE over CONDIFF's, at most 0.7": (biflow["nfe_per_frame"] / condiff["nfe_per_frame"], 0.0, 0.7),
        "FLOW's last distance over BI-FLOW's, at least 2": (flow[last] / biflow[last], 2.0, float("inf")),
        "BI-FLOW's last distance over its first, at most 1.5": (
            biflow[last] / biflow["distance_first_window"],
            0.0,
            1.5,
        ),
        "BI-FLOW's motion over real, between 0.5 and 2": (biflow["motion_last_window"], 0.5, 2.0),
        "BI-FLOW's last distance over the frozen control, below 1": (biflow[last] / controls["frozen"], 0.0, 1.0),
        "BI-FLOW's last distance over the noise control, below 1": (biflow[last] / controls["noise"], 0.0, 1.0),
    }
    outcomes = {f"{text}: {value:.3f}": low <= value <= high for text, (value, low, high) in checks.items()}
    page = folder / "report.html"
    outcomes[str(page)] = page.exists() and page.stat().st_size > 100_000
    for text, met in outcomes.items():
        print(f"{'met   ' if met else 'MISSED'} {text}")
    failed = sum(not met for met in outcomes.values())
    print(f"{len(outcomes) - failed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
