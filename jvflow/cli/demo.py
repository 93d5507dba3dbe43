"""Shows the shipped models, then compares Bi-flow's methods.

    jvflow demo
    jvflow demo --quick                       the first act alone
    jvflow demo --out=DIR --config.seed=2

The first act generates videos with each shipped model, and shows them in out/demo/report.html after about a minute.
The second act trains FLOW, BI-FLOW and CONDIFF into out/demo/flow, out/demo/biflow and out/demo/condiff, and adds their
videos to the report and their figures to out/demo/metrics.json; about 8 minutes on two CPU cores. Run the same command
again to continue after an interruption.
"""

import os
import sys
import webbrowser
from pathlib import Path

from absl import flags
from ml_collections import config_flags

from jvflow.cli import DEMO_CONFIG, configs, find_config

CONFIG = config_flags.DEFINE_config_file(
    "config",
    find_config(DEMO_CONFIG),
    "The experiment of the second act; the demo sets config.objective for each method.",
    lock_config=True,
)
OUT = flags.DEFINE_string("out", "out/demo", "Folder for the videos, the runs, metrics.json and report.html.")
QUICK = flags.DEFINE_bool("quick", False, "Show the shipped models, and train nothing.")
OPEN = flags.DEFINE_bool("open", True, "Open the report in a browser when it is first written, if there is a desktop.")
configs.define_show()


def main():
    from jvflow.commands import demo

    opened = []

    def show(report: Path) -> None:
        if OPEN.value and not opened and _has_desktop():
            opened.append(webbrowser.open(report.absolute().as_uri()))

    demo(CONFIG.value, OUT.value, command=" ".join(sys.argv), quick=QUICK.value, show=show)
    print(f"{OUT.value}/report.html")


def _has_desktop() -> bool:
    """Returns whether a person sits before a desktop: elsewhere a browser would take over the terminal."""
    graphical = sys.platform in ("darwin", "win32") or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    return bool(graphical) and sys.stdout.isatty()
