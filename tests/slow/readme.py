"""Follows README.md as a newcomer does: runs its commands and its Python, as printed, in a fresh clone of HEAD.

    python tests/slow/readme.py [--until="Your own videos"] [--videos=FOLDER] [--list]

Installs into an empty virtual environment. Prints each command with its seconds, and ends at the first that fails;
of the demo also the seconds to the first generated videos.
`--until` stops before a heading, `--list` only prints the commands. FOLDER takes the place of README's FOLDER; without
it, eight procedural videos are rendered. All of it takes about 40 minutes on two cores, so pytest does not collect it.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS = ("python", "python3", "pip", "jvflow", "make")
OTHER_DEVICE = ("[cuda]", "[tpu]")
FIRST = """
first=$(find out/demo/models -name samples.json -printf '%T@\\n' | sort -n | head -n 1 | cut -d. -f1)
echo "  first generated videos after $((first - began)) s"
"""
RENDER = """
from pathlib import Path
import numpy as np
from jvflow.data import procedural
from jvflow.report import videos
for seed in range(8):
    video = procedural.scene("comets", seed).render(np.arange(96) / 8.0, (64, 64))
    videos.write(Path("FOLDER") / f"{seed}.mp4", video, 8.0, min_side=64)
"""


def commands(text: str) -> list[tuple[str, str]]:
    """Returns (heading, command) for every command of README in order; a block of Python is one command."""
    found, heading, python = [], "", None
    lines = iter(text.splitlines())
    for line in lines:
        if python is not None:
            if line.startswith("```"):
                found.append((heading, "\n".join(["python - <<'END'", *python, "END"])))
                python = None
            else:
                python.append(line)
        elif line.startswith("## "):
            heading = line[3:]
        elif line.startswith("```python"):
            python = []
        elif re.match(rf" {{4}}({'|'.join(PROGRAMS)}) ", line):
            while line.endswith("\\"):
                line = f"{line[:-1].rstrip()} {next(lines).strip()}"
            command = re.sub(r"\s+#.*$", "", line.strip())
            if any(extra in command for extra in OTHER_DEVICE):
                command = command.replace("pip install", "pip install --quiet --dry-run")
            found.append((heading, command))
    return found


def script(found: list[tuple[str, str]], videos: str) -> str:
    """Returns a bash script that runs the commands and prints the seconds of each."""
    parts = ["set -e -o pipefail"]
    for number, (_, command) in enumerate(found):
        parts += [f"echo {_quoted('$ ' + command)}", "began=$(date +%s)", command]
        parts += ['echo "  $(($(date +%s) - began)) s"']
        if command.startswith("jvflow demo"):
            parts += [FIRST]
        if number == 1:  # jvflow is installed
            parts.append(f"ln -s {_quoted(videos)} FOLDER" if videos else f"python - <<'END'\n{RENDER}END")
    return "\n".join(parts) + "\n"


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--until", default="", help="a heading of README at which to stop")
    parser.add_argument("--videos", default="", help="a folder of videos")
    parser.add_argument("--list", action="store_true", help="print the commands and run nothing")
    options = parser.parse_args()
    found = commands((ROOT / "README.md").read_text())
    headings = [heading for heading, _ in found]
    if options.until:
        if options.until not in headings:
            sys.exit(f"error: no commands below {options.until!r}: use one of {', '.join(dict.fromkeys(headings))}")
        found = found[: headings.index(options.until)]
    if options.list:
        print("\n".join(command for _, command in found))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        clone = Path(folder) / "jvflow"
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
        videos = str(Path(options.videos).resolve()) if options.videos else ""
        apart = ("PYTHONPATH", "VIRTUAL_ENV", "JAX_COMPILATION_CACHE_DIR")
        environment = {key: value for key, value in os.environ.items() if key not in apart}
        run = subprocess.run(["bash", "-c", script(found, videos)], cwd=clone, env=environment)
    print(f"{len(found)} commands, exit status {run.returncode}")
    return run.returncode


if __name__ == "__main__":
    sys.exit(main())
