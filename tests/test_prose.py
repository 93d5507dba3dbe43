"""The English of the project: plain words in docstrings, comments, messages and documents."""

import ast
import io
import re
import tokenize
from pathlib import Path

import pytest
from conftest import ROOT

FOLDERS = ("jvflow", "configs", "tests", "benchmarks", "notebooks", "launch", "docs")
BANNED = {
    r"\bbesides?\b": "next to, in addition to, with",
    r"\b(is|are|was|were|be|been) said\b": "jvflow reports it, raises ValueError",
    r"\bsaid\b": "name who reports what",
    r"\btold\b": "name who passes what",
    r"\bworth\b": "name the measurement",
    r"\bheld against\b": "compared with",
    r"\bas one batch\b": "exceed the memory",
    r"\bnothing true\b": "meaningless",
    r"\bno other is ever\b": "only these",
    r"\blook(s)? frames ahead\b": "look-ahead",
    r"\bOf each\b": "name the noun first",
    r"\bon the way\b": "during",
    r"\ball that decides\b": "everything that determines",
}
"""Turns that readers had to read twice, and what to write instead."""
EXEMPT = ("tests/test_prose.py",)


def python_files() -> list[Path]:
    files = [file for folder in FOLDERS for file in (ROOT / folder).rglob("*.py")]
    return [file for file in files if str(file.relative_to(ROOT)) not in EXEMPT]


def documents() -> list[Path]:
    scripts = [file for folder in FOLDERS for file in (ROOT / folder).rglob("*") if file.suffix in (".md", ".sh")]
    return [*scripts, ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "Makefile", ROOT / ".ci" / "run"]


def prose_of(file: Path) -> list[tuple[int, str]]:
    """Returns the comments and strings of a Python file, or the lines of a document outside code, with line numbers."""
    text = file.read_text()
    if file.suffix != ".py":
        return list(enumerate(text.splitlines(), 1))
    kinds = (tokenize.COMMENT, tokenize.STRING, getattr(tokenize, "FSTRING_MIDDLE", -1))
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    return [
        (token.start[0] + i, line)
        for token in tokens
        if token.type in kinds
        for i, line in enumerate(token.string.splitlines())
    ]


def paragraphs(lines: list[tuple[int, str]]) -> list[tuple[int, str]]:
    """Joins each line with the one after it, so that a turn which a line break divides is found."""
    following = [text for _, text in lines[1:]] + [""]
    return [(number, f"{text.strip()} {after.strip(' #')}") for (number, text), after in zip(lines, following)]


def found(files: list[Path]) -> list[str]:
    return [
        f"{file.relative_to(ROOT)}:{number}: {match[0]!r}: {instead}"
        for file in files
        for number, text in paragraphs(prose_of(file))
        for turn, instead in BANNED.items()
        if (match := re.search(turn, text))
    ]


def test_no_turn_that_readers_stumbled_over():
    problems = found(python_files() + documents())
    assert not problems, "\n".join(problems)


@pytest.mark.parametrize("sentence", ["a mesh that does not fit is said", "x stands beside y", "what it is worth"])
def test_the_search_finds_such_a_turn(sentence, monkeypatch, tmp_path):
    monkeypatch.setattr("test_prose.ROOT", tmp_path)
    for name, text in (("a.py", f'"""{sentence}."""\n'), ("b.md", f"{sentence}\n"), ("c.py", f"x = 1  # {sentence}\n")):
        (tmp_path / name).write_text(text)
        assert found([tmp_path / name])


def test_docstrings_begin_with_what_the_code_does():
    problems = []
    for file in python_files():
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                begin = (ast.get_docstring(node) or "").partition(" ")[0]
                if begin in ("Of", "What", "Where", "Whether"):
                    problems.append(f"{file.relative_to(ROOT)}:{getattr(node, 'name', 'module')}: {begin}")
    assert not problems, "\n".join(problems)


def test_no_line_of_prose_is_wider_than_120_columns():
    wide = [
        f"{file.relative_to(ROOT)}:{number}"
        for file in documents()
        for number, line in enumerate(file.read_text().splitlines(), 1)
        if len(line) > 120 and not line.startswith(("|", "    ", "!["))
    ]
    assert not wide, "\n".join(wide)


def test_the_readme_is_short():
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= 150 and len(text.split()) <= 1300
