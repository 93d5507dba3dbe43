"""Tests of the command line as a person meets it: help in 80 columns, shorthands, listed configs, one-line errors."""

import json
import logging
import subprocess
import sys

import pytest
from conftest import ROOT, config_flag, load_config
from ml_collections import ConfigDict

from jvflow import cli
from jvflow.cli import configs
from jvflow.cli.main import COMMANDS, EXIT_STATUS, wrapped

SCRIPT = "import sys; from jvflow.cli.main import main; sys.argv[0] = 'jvflow'; main()"
HELP = f"""
import sys
from jvflow.cli.main import main
from absl import flags
for name in {tuple(COMMANDS)}:
    sys.argv = ["jvflow", name, "--help"]
    main()
    print("-----")
    for flag in list(flags.FLAGS):  # commands are programs: they share names of flags
        if name in flags.FLAGS.find_module_defining_flag(flag, ""):
            delattr(flags.FLAGS, flag)
"""


def biflow() -> str:
    """Returns the flag of Bi-flow's debug config; skips the test if the paper was removed."""
    return config_flag("biflow/procedural.py", "debug")


def jvflow(*arguments, cwd=ROOT):
    """Runs the console script."""
    command = [sys.executable, "-c", SCRIPT, *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=120)


def test_help_fits_80_columns_with_two_examples_and_the_exit_status():
    done = subprocess.run([sys.executable, "-c", HELP], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    texts = dict(zip(COMMANDS, done.stdout.split("-----\n")[:-1], strict=True))
    for name, text in texts.items():
        wide = [line for line in text.splitlines() if len(line) > 80]
        assert not wide, wide
        assert len([line for line in text.splitlines() if line.startswith(f"    jvflow {name}")]) >= 2, name
        assert EXIT_STATUS in text and "(default: 'None')" not in text
    assert "(default: '8')" in texts["score"]
    shows = [name for name, text in texts.items() if "--[no]show" in text]
    assert shows == ["train", "encode", "dryrun", "demo"]  # the commands that take --config


def test_the_list_of_commands_fits_80_columns_and_documents_the_exit_status():
    done = jvflow("--help")
    assert EXIT_STATUS in done.stdout and max(map(len, done.stdout.splitlines())) <= 80
    for status in ("0 if", "1 after", "143 if"):
        assert status in EXIT_STATUS


def test_long_paragraphs_are_filled_and_examples_stay():
    text = "A sentence.\n\n    jvflow train     --show\n\n" + "word " * 40
    filled = wrapped(text).split("\n\n")
    assert filled[:2] == ["A sentence.", "    jvflow train     --show"]
    assert max(map(len, filled[2].splitlines())) <= 79 and filled[2].split() == ["word"] * 40


def test_show_lists_the_config_in_its_order_after_overrides_and_does_nothing_else(tmp_path):
    code = SCRIPT.replace("main()", "\ntry:\n main()\nfinally:\n assert 'jax' not in sys.modules")
    overrides = ["--config.data.size=64", "--config.network=large", "--config.network.depth=3"]
    command = [sys.executable, "-c", code, "train", biflow(), "--show", *overrides]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and not done.stderr and not list(tmp_path.iterdir())
    lines = done.stdout.splitlines()
    found = dict(line.removeprefix("config.").split(" = ", 1) for line in lines)
    assert found["data.size"] == "(64, 64)" and found["sample.steps"] == "None"
    assert [found[f"network.{key}"] for key in ("width", "depth", "heads")] == ["1024", "3", "16"]
    sections = list(dict.fromkeys(name.split(".")[0] for name in found))
    assert sections[:5] == ["seed", "method", "objective", "pretrained", "pretrained_state"]
    assert sections.index("data") < sections.index("network") < sections.index("evaluate")


def test_show_needs_the_config_and_other_flags_stay_required():
    for arguments, missing in (["--show"], "config"), ([biflow()], "workdir"):
        done = jvflow("train", *arguments)
        assert done.returncode == 1
        assert done.stderr == f"error: --{missing} is missing: give --{missing}=VALUE (--help lists the flags)\n"


def test_every_entry_of_a_config_is_listed():
    config = load_config("vlfm/procedural.py")
    lines = configs.listed(config).splitlines()
    flat = lambda section, prefix: [
        name
        for key in section
        for name in (
            flat(section[key], f"{prefix}.{key}")
            if isinstance(section[key], ConfigDict) and len(section[key])
            else [f"{prefix}.{key}"]
        )
    ]
    assert sorted(line.split(" = ")[0] for line in lines) == sorted(flat(config, "config"))
    assert configs.listed(ConfigDict(dict(b=1, a=dict(z=(), y={})))).splitlines() == [
        "config.b = 1",
        "config.a.z = ()",
        "config.a.y = {}",
    ]


def test_the_sizes_of_a_network_are_those_of_dit():
    widths = dict(small=(384, 12, 6), base=(768, 12, 12), large=(1024, 24, 16), xlarge=(1152, 28, 16))
    assert {name: (s["width"], s["depth"], s["heads"]) for name, s in configs.SIZES.items()} == widths
    given = ["jvflow train", "--config=a.py", "--config.network=small", "--config.network.depth=3", "--x=large"]
    expanded = configs.expand_sizes(given)
    assert expanded[2:5] == ["--config.network.width=384", "--config.network.depth=12", "--config.network.heads=6"]
    assert expanded[:2] + expanded[5:] == given[:2] + given[3:]  # what comes later takes precedence
    literal = ["--config.network={'width': 3}"]
    assert configs.expand_sizes(literal) == literal


def test_a_message_breaks_between_words_in_a_terminal_and_nowhere_else(monkeypatch):
    message = "error: " + "word " * 30 + "/a/very-long" + "/path" * 20 + "\nsecond line"
    assert cli.fitted(message) == message
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "40")
    lines = cli.fitted(message).split("\n")
    assert all(len(line) <= 40 for line in lines if "/" not in line) and lines[-1] == "second line"
    assert " ".join(lines) == message.replace("\n", " ")  # no word is broken


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--config.network=huge"], "--config.network=huge is no size: use one of small, base, large, xlarge, or set"),
        (["--config.data.clips=8"], "config.data.clips has the entries train, test: set them one by one, such as"),
        (["--config.nothing.x=3"], "the config has no key 'nothing' (given: --config.nothing.x=3)"),
        (["--config.train.steps=many"], "--config.train.steps=many: give a whole number (--help lists the flags)"),
        (["--config.data.fps=fast"], "--config.data.fps=fast: give a number (--help lists the flags)"),
        (["--config.data.size=(64,64"], "Error while parsing string: (64,64 as tuple"),
    ],
)
def test_a_mistake_in_an_override_is_one_line(arguments, message, tmp_path):
    done = jvflow("train", biflow(), "--workdir=run", *arguments, cwd=tmp_path)
    assert done.returncode == 1 and message in done.stderr
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_named_size_for_another_network_is_an_error_with_its_cure(tmp_path):
    done = jvflow("train", config_flag("biflow/unet.py"), "--workdir=run", "--config.network=large", cwd=tmp_path)
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert "--config.network=large sets width, depth and heads of a DiT: leave it out" in done.stderr


@pytest.mark.parametrize(
    "text, message",
    [
        (None, "a.py is no file: give FILE.py or FILE.py:MODE"),
        ("def get_config(:", "a.py cannot be read: SyntaxError: invalid syntax (a.py, line 1)"),
        (
            "import absent_module",
            "a.py cannot be read: ModuleNotFoundError: No module named 'absent_module' (a.py, line",
        ),
        ("def get_config(): return {}['x']", "a.py cannot be read: KeyError: 'x' (a.py, line 1)"),
        ("def get_config(): return int('x')", "a.py: ValueError: invalid literal for int()"),
        ("x = 1", "a.py has no function get_config: let it return a ConfigDict"),
        ("def get_config(): return 3", "the config is a int: let get_config return a ConfigDict"),
    ],
)
def test_a_broken_config_is_one_line(text, message, tmp_path):
    if text is not None:
        (tmp_path / "a.py").write_text(text)
    done = jvflow("train", "--config", "a.py", "--workdir=run", cwd=tmp_path)
    assert done.returncode == 1 and message in done.stderr
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "raised, status",
    [
        (KeyboardInterrupt(), 143),
        (MemoryError("1 TiB"), "error: out of memory (1 TiB): use a smaller batch"),
        (RuntimeError("RESOURCE_EXHAUSTED: 1 TiB\nmore"), "error: out of memory (RESOURCE_EXHAUSTED: 1 TiB): use a"),
    ],
)
def test_a_stop_and_a_full_memory_end_in_one_line(raised, status, monkeypatch, caplog):
    def work():
        raise raised

    monkeypatch.setattr(cli.app, "run", lambda main, argv, flags_parser: main(argv))
    monkeypatch.setattr(cli, "_start_log", lambda: logging.getLogger("jvflow"))
    with caplog.at_level(logging.INFO, "jvflow"), pytest.raises(SystemExit) as ended:
        cli.run(work)
    if status == 143:
        assert ended.value.code == 143
        assert caplog.messages == [
            "stopped by Ctrl-C: the same command starts again, and keeps the files that are complete"
        ]
    else:
        assert ended.value.code.startswith(status) and "\n" not in ended.value.code


def test_another_error_of_the_runtime_stays_a_traceback(monkeypatch):
    def work():
        raise RuntimeError("a bug")

    monkeypatch.setattr(cli.app, "run", lambda main, argv, flags_parser: main(argv))
    monkeypatch.setattr(cli, "_start_log", lambda: logging.getLogger("jvflow"))
    with pytest.raises(RuntimeError, match="a bug"):
        cli.run(work)


STUBS = """
import json, sys, types
from pathlib import Path
import jvflow.commands, jvflow.data.records, jvflow.report.run_page, jvflow.training.loop
jvflow.training.loop.train = lambda config, workdir: types.SimpleNamespace(path=Path(workdir), read_config=dict)
jvflow.report.run_page.training = lambda *arguments: None
manifest = dict(key="k", splits={}, settings=dict(dtype="float32"))
jvflow.commands.encode = lambda config, out: (manifest, "")
jvflow.data.records.report = lambda out: dict(bytes=0, latents={})
jvflow.commands.evaluate = lambda workdir, **options: dict(distance=1.0, protocol={})
sample = dict(frames=8, nfe_per_frame=4.0, seconds_per_frame=0.5, file="sample_000.mp4")
jvflow.commands.sample = lambda workdir, out, **options: dict(samples=[sample])
sys.argv[0] = "jvflow"
from jvflow.cli.main import main
main()
"""


@pytest.mark.integration
@pytest.mark.parametrize(
    "arguments, where, lines",
    [
        (
            ["train", "CONFIG", "--workdir=my run"],
            "stderr",
            [
                "open my run/report.html: it shows videos, curves and settings",
                "next: jvflow sample '--workdir=my run' '--out=my run/videos'",
                "next: jvflow evaluate '--workdir=my run' '--out=my run/metrics.json'",
            ],
        ),
        (
            ["encode", "CONFIG", "--out=e", "--config.data.size=64", "--config.data.path=F"],
            "stderr",
            ["'--config.data.size=(64, 64)' --config.data.path=e --workdir=DIR"],
        ),
        (["evaluate", "--workdir=w", "--out=m.json"], "stderr", ["next: jvflow report m.json"]),
        (
            ["sample", "--workdir=w", "--out=s"],
            "stdout",
            ["open s/sheet.png, or s/sample_000.mp4 and the other videos"],
        ),
    ],
)
def test_the_end_of_a_command_names_the_next_step(arguments, where, lines, tmp_path):
    arguments = [biflow() if each == "CONFIG" else each for each in arguments]
    command = [sys.executable, "-c", STUBS, *arguments]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    printed = getattr(done, where)
    assert all(line in printed for line in lines), printed
    other = done.stdout if where == "stderr" else done.stderr
    assert "next:" not in other and "open " not in other
    if arguments[0] == "evaluate":
        assert json.loads(done.stdout) == dict(distance=1.0)  # programs read it
