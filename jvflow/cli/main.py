"""The console script `jvflow`: `jvflow COMMAND --flag=value ...`."""

import difflib
import importlib
import sys

from absl import flags

from jvflow import cli

COMMANDS = {
    "train": "Trains a model, or continues a run.",
    "sample": "Samples videos from a trained run.",
    "evaluate": "Computes the metrics of a trained run.",
    "score": "Scores a folder of generated videos against a folder of real ones.",
    "encode": "Encodes a data set into latents, to train on them.",
    "compare": "Compares the cost and quality of Bi-flow runs on one data set.",
    "report": "Sets the metrics of runs next to each other, with the published values of their paper.",
    "export": "Exports a trained run in diffusers' format, so that other packages can load it.",
    "dryrun": "Compiles a config for accelerators that this machine does not have.",
    "demo": "Trains Bi-flow's three methods on synthetic video and compares their videos in a report.",
}


def main() -> None:
    """Runs the command that `sys.argv` names."""
    name, *arguments = sys.argv[1:] or [""]
    if name in ("", "help", "--help", "-h"):
        lines = [f"    {command:10}{line}" for command, line in COMMANDS.items()]
        print(
            "\n".join(
                ["usage: jvflow COMMAND --flag=value ...", "", *lines, "", "jvflow COMMAND --help explains its flags"]
            )
        )
        sys.exit(0 if name else 1)
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, n=2)
        hint = f"did you mean {' or '.join(near)}?" if near else f"use one of {', '.join(COMMANDS)}"
        sys.exit(f"error: unknown command {name!r}: {hint}")
    run_command(name, arguments, program=f"jvflow {name}")


def run_command(name: str, arguments: list[str], *, program: str) -> None:
    """Runs one command with its flags; `program` is the part of the command line before the flags."""
    module = importlib.import_module(f"jvflow.cli.{name}")
    if "--help" in arguments or "-h" in arguments:
        print(f"{module.__doc__}{flags.FLAGS.module_help(module.__name__)}")
        return
    sys.argv = [program, *arguments]
    before_jax = module.simulate_devices if name == "dryrun" else None
    cli.run(module.main, before_jax=before_jax, positional=name == "report")
