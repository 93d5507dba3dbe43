"""Command line of jvflow: each module here parses the flags of one command and calls one function of the package."""

import ast
import errno
import logging
import shlex
import shutil
import sys
import textwrap
from collections.abc import Callable
from functools import partial

from absl import app, flags
from absl import logging as absl_logging
from tqdm import tqdm

from jvflow.cli import configs, programs
from jvflow.cli.configs import find_config as find_config
from jvflow.files import readable

DEMO_CONFIG = "configs/biflow/procedural.py"
"""The config of `jvflow demo`."""
STOPPED = 143
"""The exit status of SIGTERM: schedulers restart such a job."""
LESS_MEMORY = (
    "a smaller batch (--config.train.batch_size, --protocol=batch=1, --count), or in training more microbatches "
    "(--config.run.microbatches), --config.run.remat or more devices"
)


def parse_overrides(flag: flags.FlagHolder, example: str) -> dict:
    """Returns the entries of a repeated flag NAME=VALUE, such as videos=64.

    A value that is not a Python literal becomes a string.

    Raises:
      ValueError: if a name or a value is missing; the message shows `example`.
    """
    entries = {}
    for text in flag.value:
        name, equals, value = text.partition("=")
        if not (name and equals and value):
            raise ValueError(f"--{flag.name}={text}: write NAME=VALUE, for example --{flag.name}={example}")
        try:
            entries[name] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            entries[name] = value
    return entries


def parse_numbers(flag: flags.FlagHolder) -> list[float]:
    """Returns the numbers of a flag that lists them; raises ValueError if an entry is no number."""
    try:
        return [float(text) for text in flag.value]
    except ValueError as error:
        raise ValueError(
            f"--{flag.name}={','.join(flag.value)}: write numbers, such as {','.join(flag.default)}"
        ) from error


def run(command: Callable, *, before_jax: Callable[[], None] | None = None, positional: bool = False) -> None:
    """Parses the flags in `sys.argv` and runs `command()` as one process of its job.

    A user's mistake ends the program with one line on stderr and exit status 1. A signal ends it with status 143.
    Calls `before_jax` after it parses the flags and before it imports JAX. With `positional`, calls `command` with the
    list of the arguments that are no flags; otherwise such an argument is a mistake.
    """

    def main(argv: list[str]) -> None:
        if "show" in flags.FLAGS and flags.FLAGS["show"].value:
            print(configs.listed(flags.FLAGS["config"].value))
            return
        if before_jax is not None:
            before_jax()
        if status := _work(partial(command, argv[1:]) if positional else command):
            sys.exit(fitted(status) if isinstance(status, str) else status)

    given = sys.argv
    try:
        sys.argv = configs.expand_sizes(given)  # where ml_collections finds overrides
    except ValueError as error:
        sys.exit(fitted(f"error: {error}"))
    app.run(
        main,
        argv=configs.with_found_file(sys.argv),
        flags_parser=partial(_parse_flags, given=given, positional=positional),
    )


def fitted(message: str) -> str:
    """Returns a message with line breaks between its words where the terminal of stderr is narrower.

    Elsewhere, such as in a file, a message keeps its lines, so that programs find it.
    """
    if not sys.stderr.isatty():
        return message
    width = shutil.get_terminal_size().columns
    fill = partial(textwrap.fill, width=width, break_long_words=False, break_on_hyphens=False)
    return "\n".join(fill(line) if len(line) > width else line for line in message.splitlines())


def _work(command: Callable[[], None]) -> str | int | None:
    """Runs `command()` as one process of its job; returns the status of the program, or the message of an error."""
    log = _start_log()
    programs.keep()
    # late imports: --help and errors in the flags do not wait for JAX
    from jvflow.parallel import processes
    from jvflow.training.loop import Stopped

    try:
        processes.start()
        log.setLevel(logging.INFO if processes.is_primary() else logging.WARNING)
        command()
        processes.barrier("the end")
    except Stopped as stopped:
        log.info("%s", stopped)
        return STOPPED
    except KeyboardInterrupt:
        log.info("stopped by Ctrl-C: the same command starts again, and keeps the files that are complete")
        return STOPPED
    except OSError as error:
        full = ": free some space and run the same command again; it continues after the complete files"
        return f"error: {readable(str(error))}{full if error.errno == errno.ENOSPC else ''}"
    except (ValueError, FloatingPointError) as error:
        return f"error: {readable(str(error))}"
    except AttributeError as error:
        # ml_collections wraps a KeyError; any other AttributeError is a bug of jvflow
        if not (error.args and isinstance(error.args[0], KeyError)):
            raise
        return (
            f"error: the config has no key {error.args[0].args[0]}: copy the missing keys from the config that "
            "yours follows; for a run of an earlier version of jvflow, install that version or train again"
        )
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and "RESOURCE_EXHAUSTED" not in str(error):
            raise
        first = (readable(str(error)).strip().splitlines() or ["no room"])[0]
        return f"error: out of memory ({first}): use {LESS_MEMORY}"
    return None


def advise(command: str, **flags_of_command: object) -> None:
    """Logs the command to run next, with its flags, on the primary process."""
    given = [f"--{name}={value}" for name, value in flags_of_command.items()]
    logging.getLogger("jvflow").info("next: jvflow %s %s", command, shlex.join(given))  # primary: others log warnings


def _start_log() -> logging.Logger:
    """Returns jvflow's logger, which writes to stderr. Other packages log warnings and errors only."""
    absl_logging.set_verbosity(absl_logging.WARNING)  # for all other packages
    log = logging.getLogger("jvflow")
    log.setLevel(logging.INFO)
    log.propagate = False
    handler = _AboveBars(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    log.addHandler(handler)
    return log


class _AboveBars(logging.StreamHandler):
    """Writes records above the progress bars of a terminal."""

    def emit(self, record: logging.LogRecord) -> None:
        tqdm.write(self.format(record), file=self.stream)


def _flags_of(argv: list[str], given: list[str]) -> list[str]:
    """Parses the flags and reads the config; returns the arguments that are no flags."""
    try:
        return flags.FLAGS(argv)
    except Exception as error:  # the file of a config may raise any
        raise ValueError(configs.explain(error, given)) from error


def _parse_flags(argv: list[str], given: list[str], positional: bool) -> list[str]:
    """Parses the flags; a mistake in them or in the config ends the program with one line.

    `given` holds the arguments before `configs.expand_sizes`.
    """
    try:
        configs.check_file(argv)
        rest = _flags_of(argv, given)
        configs.check_type()
        configs.square_size()
    except ValueError as error:
        sys.exit(fitted(f"error: {error}"))
    if len(rest) > 1 and not positional:
        sys.exit(fitted(f"error: unexpected arguments: {' '.join(rest[1:])}; flags are written --NAME=VALUE"))
    return rest
