"""The revision of jvflow in records: of checkouts, of installed packages, and where git is missing."""

import subprocess
import sys

import pytest

from jvflow.metrics import record


def git(folder, *arguments):
    identity = ["-c", "user.name=name", "-c", "user.email=name@example.org"]
    done = subprocess.run(["git", "-C", str(folder), *identity, *arguments], capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.fixture
def checkout(tmp_path):
    """Returns the package folder of a checkout."""
    package = tmp_path / "checkout" / "jvflow"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package.parent / "notes.txt").write_text("")
    git(package.parent, "init")
    git(package.parent, "add", ".")
    git(package.parent, "commit", "-m", "first")
    return package


@pytest.fixture
def installed(tmp_path):
    """Returns the package folder of a wheel."""
    package = tmp_path / "site-packages" / "jvflow"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    return package


def test_a_checkout_has_its_revision(checkout, monkeypatch):
    head = git(checkout.parent, "rev-parse", "HEAD")
    assert record.revision(checkout) == head and len(head) == 40
    (checkout.parent / "notes.txt").write_text("not part of the package")
    assert record.revision(checkout) == head
    (checkout / "new.py").write_text("")
    assert record.revision(checkout) == f"{head} with changes"
    (checkout / "new.py").unlink()
    (checkout / "__init__.py").write_text("changed = True")
    assert record.revision(checkout) == f"{head} with changes"
    monkeypatch.setenv("GIT_DIR", str(checkout / "elsewhere"))  # as inside a hook of another repository
    assert record.revision(checkout) == f"{head} with changes"


def test_a_wheel_has_its_version_and_starts_no_program(installed, monkeypatch):
    git(installed.parents[1], "init")  # a virtual environment inside a repository of the user
    monkeypatch.setattr(record.subprocess, "run", lambda *_, **__: pytest.fail("started a program"))
    assert record.revision(installed) == record.versions()["jvflow"]


def test_files_that_git_does_not_track_are_no_checkout(installed):
    git(installed.parent, "init")  # installed with pip --target into a repository of the user
    (installed.parent / "own.py").write_text("")
    git(installed.parent, "add", "own.py")
    git(installed.parent, "commit", "-m", "first")
    assert record.revision(installed) == record.versions()["jvflow"]


@pytest.mark.parametrize("program", [None, "exit 128", "sleep 60"])
def test_git_may_be_missing_fail_or_hang(checkout, monkeypatch, tmp_path, program):
    folder = tmp_path / "bin"
    folder.mkdir()
    if program:
        (folder / "git").write_text(f"#!/bin/sh\nPATH=/usr/bin:/bin\n{program}\n")
        (folder / "git").chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setattr(record, "TIMEOUT", 0.3)
    assert record.revision(checkout) == record.versions()["jvflow"]


def test_an_unborn_branch_has_the_version(installed):
    git(installed.parent, "init")
    git(installed.parent, "add", ".")
    assert record.revision(installed) == record.versions()["jvflow"]


def test_this_package_has_a_revision_or_a_version():
    found = record.revision()
    assert found == record.versions()["jvflow"] or len(found.split()[0]) == 40
    assert sys.modules["jvflow"].__path__[0] == str(record.PACKAGE)
