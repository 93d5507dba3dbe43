"""Runs one of the slower checks and records its outcome in benchmarks/results/checks.json.

python tests/slow/record.py NAME COMMAND ...
"""

import datetime
import json
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FILE = ROOT / "benchmarks" / "results" / "checks.json"


def main(name: str, *command: str) -> int:
    began = time.time()
    status = subprocess.run(command, cwd=ROOT).returncode
    git = lambda *arguments: subprocess.run(
        ["git", *arguments], cwd=ROOT, capture_output=True, text=True
    ).stdout.strip()
    changed = bool(git("status", "--porcelain", "--untracked-files=no"))
    checks = json.loads(FILE.read_text()) if FILE.exists() else {}
    checks[name] = dict(
        passed=status == 0,
        seconds=round(time.time() - began),
        date=datetime.date.today().isoformat(),
        commit=git("rev-parse", "--short", "HEAD") + " with changes" * changed,
        command=" ".join(command),
    )
    FILE.write_text(json.dumps(dict(sorted(checks.items())), indent=1) + "\n")
    return status


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    sys.exit(main(*sys.argv[1:]))
