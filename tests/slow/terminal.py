"""Draws what a person sees in a terminal of 80 columns: help, errors, a progress bar, an interrupted run.

    python tests/slow/terminal.py OUT

Runs the commands in a pseudo-terminal and writes one picture of each into the folder OUT. Fails if a line is wider than
the terminal, so that it wraps, or if a command ends with another status than expected. pytest does not collect this
file.
"""

import os
import pty
import select
import signal
import struct
import subprocess
import sys
import tempfile
import termios
import time
from fcntl import ioctl
from pathlib import Path

import matplotlib
import pyte
from PIL import Image, ImageDraw, ImageFont

ROOT = Path(__file__).resolve().parents[2]
COLUMNS, ROWS = 80, 120
COMMANDS = "train sample evaluate encode compare export dryrun demo score report".split()
DEBUG = "--config=configs/biflow/procedural.py:debug"
ERRORS = {
    "unknown_key": ["train", DEBUG, "--config.train.step=5", "--workdir=WORK/a"],
    "wrong_type": ["train", DEBUG, "--config.train.steps=many", "--workdir=WORK/a"],
    "wrong_value": ["train", DEBUG, "--config.train.batch_size=0", "--workdir=WORK/a"],
    "no_such_file": ["train", "--config=configs/biflow/missing.py", "--workdir=WORK/a"],
    "no_workdir": ["sample", "--workdir=WORK/none", "--out=WORK/b"],
    "no_such_model": ["sample", "--workdir=jvflow:labyrinth", "--out=WORK/b"],
    "missing_flag": ["sample", "--workdir=WORK/none"],
    "unknown_command": ["tarin"],
}
"""Mistakes that end with one paragraph and status 1."""
COLOURS = dict(red="#c0392b", green="#2e8b57", brown="#b8860b", blue="#2a6fbb", magenta="#8e44ad", cyan="#1a8a8a")


def run(arguments: list[str], work: Path, *, interrupt_after: str = "") -> tuple[pyte.Screen, int, int]:
    """Runs a jvflow command in a terminal; returns the screen, the exit status, and the longest line it printed.

    Sends Ctrl-C two seconds after `interrupt_after` is on the screen.
    """
    screen = pyte.Screen(COLUMNS, ROWS)
    stream, text = pyte.ByteStream(screen), b""
    command = [Path(sys.executable).with_name("jvflow"), *(a.replace("WORK", str(work)) for a in arguments)]
    leader, follower = pty.openpty()
    ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 24, COLUMNS, 0, 0))
    environment = os.environ | dict(JAX_PLATFORMS="cpu", TERM="xterm-256color", COLUMNS=str(COLUMNS))
    process = subprocess.Popen(
        command, cwd=ROOT, stdin=follower, stdout=follower, stderr=follower, env=environment, start_new_session=True
    )
    os.close(follower)
    stop = float("inf")
    while True:
        ready, _, _ = select.select([leader], [], [], 0.2)
        if ready:
            try:
                data = os.read(leader, 65536)
            except OSError:  # the process closed the terminal
                break
            text += data
            stream.feed(data)
        elif process.poll() is not None:
            break
        if interrupt_after and stop == float("inf") and interrupt_after.encode() in text:
            stop = time.monotonic() + 2
        if time.monotonic() > stop:
            stop, interrupt_after = float("inf"), ""
            os.killpg(process.pid, signal.SIGINT)
    os.close(leader)
    return screen, process.wait(), max((len(line) for line in _printed(text)), default=0)


def _printed(text: bytes) -> list[str]:
    """Returns the lines of the output, without what a progress bar overwrites."""
    return [line.rsplit("\r", 1)[-1] for line in text.decode().replace("\r\n", "\n").split("\n") if "\x1b" not in line]


def draw(screen: pyte.Screen, prompt: str, file: Path) -> None:
    """Writes the used rows of a screen as a picture, below the command."""
    font = ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSansMono.ttf"), 14)
    width, height = font.getlength("M"), 19
    used = max((i for i, line in enumerate(screen.display) if line.strip()), default=0) + 1
    first = [prompt[i : i + COLUMNS] for i in range(0, len(prompt), COLUMNS)]
    image = Image.new("RGB", (round(width * COLUMNS) + 20, height * (used + len(first)) + 20), "#fbfbf8")
    pen = ImageDraw.Draw(image)
    for row, text in enumerate(first):
        pen.text((10, 10 + row * height), text, "#8a8a8a", font)
    for row in range(used):
        for column in range(COLUMNS):
            cell = screen.buffer[row][column]
            if cell.data.strip():
                place = (10 + column * width, 10 + (row + len(first)) * height)
                pen.text(place, cell.data, COLOURS.get(cell.fg, "#1d2733"), font)
    file.parent.mkdir(parents=True, exist_ok=True)
    image.save(file)


def main(out: Path) -> int:
    shows = [(f"help_{name}", [name, "--help"], 0, "") for name in COMMANDS]
    shows += [("help", ["--help"], 0, "")]
    shows += [(f"error_{name}", arguments, 1, "") for name, arguments in ERRORS.items()]
    train = ["train", DEBUG, "--config.train.steps=2000", "--workdir=WORK/run"]
    shows += [("interrupted", train, 143, "train:"), ("resumed", train, 0, "")]
    wrong = []
    with tempfile.TemporaryDirectory() as folder:
        for name, arguments, status, interrupt in shows:
            screen, ended, longest = run(arguments, Path(folder), interrupt_after=interrupt)
            draw(screen, "$ jvflow " + " ".join(arguments).replace("WORK", "out"), out / f"{name}.png")
            problems = [f"status {ended}, not {status}"] if ended != status else []
            problems += [f"a line of {longest} characters"] if longest > COLUMNS and name.startswith("help") else []
            print(f"{name}: {'; '.join(problems) or 'as expected'}", flush=True)
            wrong += problems
    print(f"{len(shows)} pictures in {out}, {len(wrong)} problems")
    return 1 if wrong else 0


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    sys.exit(main(Path(sys.argv[1])))
