"""Command line: each module parses flags and calls one function of `jvflow`."""

import ast
import errno
import logging
import sys
from pathlib import Path

from absl import app
from absl import logging as absl_logging


def found(path: str) -> str:
    """A config file from the working directory, else from beside this package: configs/... works anywhere."""
    file = path.partition(":")[0]
    here = Path(__file__).resolve().parent
    for root in (Path(), here.parent, here):
        if (root / file).exists():
            return str(root / path)
    return path


def _with_found_config(argv: list[str]) -> list[str]:
    argv = [f"--config={found(a.split('=', 1)[1])}" if a.startswith("--config=") else a for a in argv]
    return [found(a) if i and argv[i - 1] == "--config" else a for i, a in enumerate(argv)]


def entries(flag, example: str) -> dict:
    """What a repeated flag NAME=VALUE says, such as videos=64; a value is a Python literal, else a string."""
    pairs = {}
    for text in flag.value:
        name, equals, value = text.partition("=")
        if not (name and equals and value):
            raise ValueError(f"--{flag.name}={text}: write NAME=VALUE, for example --{flag.name}={example}")
        try:
            pairs[name] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            pairs[name] = value
    return pairs


def run(command):
    """Runs `command()` as a program: a user's mistake is one line and exit 1, a stop by signal exit 143."""

    def main(argv):
        if len(argv) > 1:
            raise app.UsageError(f"unexpected arguments: {' '.join(argv[1:])}")
        # absl's level is everybody's; ours alone speaks at INFO.
        absl_logging.set_verbosity(absl_logging.WARNING)
        ours = logging.getLogger("jvflow")
        ours.setLevel(logging.INFO)
        ours.propagate = False
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
        ours.addHandler(handler)

        from jvflow.parallel import processes
        from jvflow.training.loop import Stopped

        try:
            processes.start()
            ours.setLevel(logging.INFO if processes.is_primary() else logging.WARNING)
            command()
            processes.barrier("the end")
        except Stopped as stopped:
            ours.info("%s", stopped)
            sys.exit(143)  # what a shell reports for SIGTERM: a scheduler that restarts on failure restarts
        except (ValueError, FloatingPointError, OSError) as error:
            full = getattr(error, "errno", None) == errno.ENOSPC
            sys.exit(f"error: {error}" + ": make room and give the same command again, it continues after what is whole" * full)
        except AttributeError as error:
            if not (error.args and isinstance(error.args[0], KeyError)):  # what ml_collections wraps; any other is our own mistake
                raise
            sys.exit(
                f"error: the config has no key {error.args[0].args[0]}: give a config of your own every key of the one it "
                "follows; a run of an earlier version has to be trained anew, or continued with that version"
            )

    app.run(main, argv=_with_found_config(sys.argv), flags_parser=_flags)


def _flags(argv: list[str]) -> list[str]:
    """Parses the flags; what is wrong with a config is one line too."""
    try:
        return app.parse_flags_with_usage(argv)
    except AttributeError as error:  # of ml_collections, which has looked for the nearest key
        given = ", ".join(a for a in argv if a.startswith("--config."))
        sys.exit("error: the config has no key " + str(error).strip("'\"").replace("\\'", "'").replace("\\n", ". ") + f" (given: {given})")
    except (ValueError, OSError, TypeError) as error:
        sys.exit(f"error: {error}")
