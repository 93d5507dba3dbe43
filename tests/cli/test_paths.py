"""Paths that users give: home folders are expanded, and addresses are refused before anything runs."""

import getpass
import json
import os
import pwd
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, debug_config, load_config

from jvflow import commands
from jvflow.cli import find_config
from jvflow.files import local_path, readable, run_path, with_local_paths
from jvflow.load import load
from jvflow.training import export
from jvflow.training.dryrun import report
from jvflow.training.loop import train
from jvflow.training.workdir import recorded

BUCKET = "gs://bucket/run"


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch) -> Path:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.mark.parametrize(
    "path",
    [BUCKET, "GS://b", "s3://b/x", "hdfs://n:9000/x", "http://a/b.mp4", "https://a", "abfss://c@a/x", " gs://b"]
    + [Path("gs://b/x"), "file:///tmp/x", "file:/tmp/x"],
)
def test_an_address_is_refused(path):
    with pytest.raises(
        ValueError, match=r"^--out=.*(?i:gs|s3|hdfs|https?|abfss|file):/.* is an address, and jvflow reads"
    ):
        local_path(path, "--out")


def test_the_cure_for_an_address():
    with pytest.raises(ValueError, match=r"local paths: mount the bucket \(for example with gcsfuse\), or copy it$"):
        local_path("s3://b/x", "--out")
    with pytest.raises(ValueError, match="local paths: leave out file://$"):
        local_path("file:///tmp/x", "--out")


def test_home_folders_are_expanded(home):
    user = getpass.getuser()
    assert local_path("~/runs/x", "--out") == f"{home}/runs/x"
    assert local_path(f"~{user}/x", "--out") == f"{pwd.getpwnam(user).pw_dir}/x"
    assert find_config("~/my.py:debug") == f"{home}/my.py:debug"
    with pytest.raises(ValueError, match=r"--out=~nobodyhere/x begins with an unknown user: .* or ./~nobodyhere/x$"):
        local_path("~nobodyhere/x", "--out")
    assert local_path("./~/x", "--out") == os.path.abspath("./~/x")  # a folder that is named so


@pytest.mark.parametrize(
    "path", ["2026-01-01T12:30/x", "-x", "a b", "a\nb", "%d[*?]{}'\"", "ü", "u\u0308", "x" * 250, "procedural:comets"]
)
def test_other_names_stay_as_they_are(path):
    assert local_path(path, "--out") == path == local_path(Path(path), "--out")


def test_names_that_libraries_do_not_take():
    with pytest.raises(
        ValueError, match=r"^--workdir=caf\\xe9 is not UTF-8 \(its whole path is /.*/caf\\xe9\): rename"
    ):
        local_path(os.fsdecode(b"caf\xe9"), "--workdir")
    with pytest.raises(ValueError, match="^--workdir is empty"):
        local_path(" ", "--workdir")
    with pytest.raises(ValueError, match="--workdir=/gs/b is the path of a bucket .* mount it elsewhere"):
        local_path("/gs/b", "--workdir")
    for name in ("a*", "b?", "c[1]"):
        with pytest.raises(
            ValueError, match=r"because of \* \? or \[ in it: rename that folder, or give a symbolic link"
        ):
            run_path(f"{name}/run", "--workdir")


def test_readable_names():
    assert readable(os.fsdecode(b"caf\xe9")) == r"caf\xe9" and readable("café\n") == "café\n"
    with pytest.raises(ValueError, match=r"^--out=~nobodyhere\\n\\xe9\\t begins .* or ./~nobodyhere\\n\\xe9\\t$"):
        local_path(os.fsdecode(b"~nobodyhere\n\xe9\t"), "--out")


@pytest.mark.parametrize("entry", ["data.path", "data.cache", "data.captions", "pretrained", "codec", "text"])
def test_paths_in_a_config(entry, home):
    config = load_config("vlfm/procedural.py", "debug")
    section, _, key = (f"{entry}.checkpoint" if entry in ("codec", "text") else entry).rpartition(".")
    part = config[section] if section else config
    give = lambda *paths: paths if key == "checkpoint" else ",".join(paths) if key == "pretrained" else paths[0]
    with config.unlocked():
        part[key] = give("~/a", "~/b")
    expanded = with_local_paths(config)
    assert (expanded[section] if section else expanded)[key] == give(f"{home}/a", f"{home}/b")
    assert part[key] == give("~/a", "~/b")
    with config.unlocked():
        part[key] = give(BUCKET)
    with pytest.raises(ValueError, match=f"^config.{section and section + '.'}{key}={BUCKET} is an address"):
        with_local_paths(config)


def test_both_spellings_of_a_path_have_one_record(home):
    as_recorded = lambda config: json.loads(recorded(with_local_paths(config)).to_json())
    config = debug_config("~/runs")
    other = debug_config(home / "runs")
    assert config.data.cache == "~/runs/data" and as_recorded(config) == as_recorded(other)
    assert as_recorded(other) == json.loads(recorded(other).to_json())


def config():
    return debug_config(None)


@pytest.mark.parametrize(
    "call",
    [
        lambda: train(config(), BUCKET),
        lambda: load(BUCKET),
        lambda: commands.sample("run", BUCKET),
        lambda: commands.sample("run", "out", first_frame=BUCKET),
        lambda: commands.sample(BUCKET, "out"),
        lambda: commands.evaluate(BUCKET),
        lambda: commands.encode(config(), BUCKET),
        lambda: commands.compare([BUCKET], "out"),
        lambda: commands.demo(config(), BUCKET, command=""),
        lambda: export.export(BUCKET, "out"),
        lambda: export.export("run", BUCKET),
        lambda: export.export("run", "out", like=[BUCKET]),
    ],
)
def test_every_command_refuses_an_address_and_writes_nothing(call):
    with pytest.raises(ValueError, match=f"={BUCKET} is an address"):
        call()
    assert not list(Path().iterdir())


@pytest.mark.integration
def test_a_command_refuses_an_address_in_one_line():
    script = "import sys; from jvflow.cli.main import main; main()"
    command = [sys.executable, "-c", script, "evaluate", "--workdir=run", f"--out={BUCKET}"]
    done = subprocess.run(command, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    assert done.returncode == 1 and not list(Path().iterdir())
    assert done.stderr.startswith(f"error: --out={BUCKET} is an address") and len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    "call",
    [
        lambda config: train(config, "run"),
        lambda config: commands.encode(config, "out"),
        lambda config: commands.demo(config, "out", command=""),
        lambda config: report(config, "h100:1"),
    ],
)
def test_every_command_refuses_an_address_in_its_config_and_writes_nothing(call):
    config = debug_config(None)
    config.data.captions = BUCKET
    with pytest.raises(ValueError, match=f"config.data.captions={BUCKET} is an address"):
        call(config)
    assert not list(Path().iterdir())
