"""The console script `jvflow`: `jvflow COMMAND --flag=value ...`."""

import difflib
import importlib
import re
import sys
import textwrap
from types import ModuleType

from absl import flags

from jvflow import cli

COMMANDS = {
    "train": "Trains a model, or continues a run.",
    "sample": "Samples videos from a trained run.",
    "evaluate": "Computes the metrics of a trained run.",
    "score": "Scores a folder of generated videos against a folder of real ones.",
    "encode": "Encodes a data set into latents, to train on them.",
    "compare": "Compares the cost and quality of Bi-flow runs on one data set.",
    "report": "Sets the metrics of runs next to each other and to published ones.",
    "export": "Exports a trained run for other packages, or as a small folder.",
    "dryrun": "Compiles a config for accelerators that this machine lacks.",
    "demo": "Shows the shipped models, then compares Bi-flow's methods.",
}

EXIT_STATUS = """\
Exit status: 0 if the work is done; 1 after a mistake or if the work failed,
with one line "error: ..."; 143 if a signal stopped the command: the same
command continues."""
COLUMNS = 79


def main() -> None:
    """Runs the command that `sys.argv` names."""
    name, *arguments = sys.argv[1:] or [""]
    if name in ("", "help", "--help", "-h"):
        lines = [f"    {command:10}{line}" for command, line in COMMANDS.items()]
        help_line = "jvflow COMMAND --help explains its flags, with examples."
        print("\n".join(["usage: jvflow COMMAND --flag=value ...", "", *lines, "", help_line, "", EXIT_STATUS]))
        sys.exit(0 if name else 1)
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, n=2)
        hint = f"did you mean {' or '.join(near)}?" if near else f"use one of {', '.join(COMMANDS)}"
        sys.exit(cli.fitted(f"error: unknown command {name!r}: {hint}"))
    run_command(name, arguments, program=f"jvflow {name}")


def run_command(name: str, arguments: list[str], *, program: str) -> None:
    """Runs one command with its flags; `program` is the part of the command line before the flags."""
    module = importlib.import_module(f"jvflow.cli.{name}")
    if "--help" in arguments or "-h" in arguments:
        print(f"{wrapped(module.__doc__)}\n{flags_of(module)}\n\n{EXIT_STATUS}")
        return
    sys.argv = [program, *arguments]
    before_jax = module.simulate_devices if name == "dryrun" else None
    cli.run(module.main, before_jax=before_jax, positional=name == "report")


def wrapped(text: str) -> str:
    """Returns a text for a terminal of 80 columns: fills its paragraphs, and keeps indented lines as they are."""
    parts = []
    for paragraph in text.strip().split("\n\n"):
        parts.append(
            paragraph if paragraph.startswith(" ") else textwrap.fill(paragraph, COLUMNS, break_on_hyphens=False)
        )
    return "\n\n".join(parts)


def flags_of(module: ModuleType) -> str:
    """Returns the flags of a command with their defaults, where these are values."""
    text = flags.FLAGS.module_help(module.__name__)
    text = text.replace(";\n    repeat this option to specify a list of values", "\n    (may be repeated)")
    return re.sub(r"\n    \(default: '(None|\[\])'\)", "", text)
