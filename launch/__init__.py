"""Command line of a checkout: `python -m launch.NAME` is the command `jvflow NAME`, see jvflow/cli/NAME.py."""

import sys

from jvflow.cli import main


def run_command(name: str) -> None:
    """Runs the command with the flags of `sys.argv`."""
    main.run_command(name, sys.argv[1:], program=f"python -m launch.{name}")
