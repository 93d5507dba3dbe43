"""The structure of the package: the files that a batch passes, who may import whom, and who may name a paper."""

import ast
import importlib
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import jax
import pytest
from conftest import ROOT, load_config

import jvflow

PAPERS = ("biflow", "vlfm", "flowframes")
LIMITS = {"biflow": (16, 2600), "vlfm": (18, 3000), "flowframes": (18, 3000)}
"""Files, and lines of those files, that a reader of one batch has to follow."""
APART = (
    "jvflow/training/checkpoint.py",
    "jvflow/training/workdir.py",
    "jvflow/parallel/processes.py",
    "jvflow/parallel/progress.py",
    "jvflow/report/",
)
APART += ("jvflow/cli/", "jvflow/commands.py", "jvflow/files.py")
"""What writes, and the command line: not part of the way of a batch."""


def entered(function) -> list[str]:
    """Returns the project files whose functions run while `function()` runs, in the order of their first call.

    Leaves out the files that only the report calls.
    """
    found, done = {}, set()
    report = str(ROOT / "jvflow" / "report")

    def record(frame, event, argument):
        name = frame.f_code.co_filename
        if name in done or frame.f_code.co_name == "<module>":
            return
        if not name.startswith(str(ROOT)):
            done.add(name)
            return
        caller = frame
        while caller := caller.f_back:
            if caller.f_code.co_filename.startswith(report):
                return
        done.add(name)
        found.setdefault(str(Path(name).relative_to(ROOT)))

    sys.settrace(record)  # with no local trace function, only the beginning of a call costs time
    try:
        function()
    finally:
        sys.settrace(None)
    return [file for file in found if not file.startswith((*APART, "tests/", ".venv/"))]


def one_step_and_one_sample(name: str, folder: Path):
    from jvflow.data import dataset, pipeline
    from jvflow.experiment import assemble
    from jvflow.method import SampleRequest
    from jvflow.run import Run
    from jvflow.training import step as steps

    def adapted():
        config = load_config(f"{name}/procedural.py", "debug")
        config.data.cache = str(folder / "data")
        if name == "flowframes":
            config.inversion.rho = 0.0  # its data set needs a pretrained model
        return config

    data = dataset.prepare(adapted().data, folder)

    def run():
        config = adapted()
        experiment = assemble(config)
        tokenize = experiment.text and experiment.text.tokenize
        options = dict(windows=experiment.windows, batch_size=config.train.batch_size, seed=config.seed, threads=0)
        batch = next(pipeline.batches(data, tokenize=tokenize, **options))
        key = jax.random.key(config.seed)
        state = steps.create(key, experiment.network, experiment.optimizer, ema=True, tuning=experiment.tuning)
        step = lambda state, batch: steps.train_step(state, batch, key, experiment=experiment, ema=config.optimizer.ema)
        state, _ = jax.jit(step)(state, batch)
        trained = Run(config, experiment, state.ema, folder, 1)
        length = 3 if name == "biflow" else None
        request = SampleRequest(data=lambda: data, count=2, length=length)
        experiment.method.sample(trained, folder / "out", request)

    return run


@pytest.mark.integration
@pytest.mark.parametrize("name", PAPERS)
def test_a_batch_passes_few_files_which_the_documentation_lists(name, tmp_path):
    for module in pkgutil.walk_packages(jvflow.__path__, "jvflow."):
        if not module.name.startswith("jvflow.cli."):  # commands are programs: they share names of flags
            importlib.import_module(module.name)
    passed = entered(one_step_and_one_sample(name, tmp_path))
    text = (ROOT / "docs" / "architecture.md").read_text()
    section = re.search(rf"<!-- path: {name} -->\n(.*?)\n\n", text, flags=re.S)[1]
    listed = re.findall(r"^\d+\. `([^`]+)`", section, flags=re.M)
    assert sorted(listed) == sorted(passed)
    lines = sum(len((ROOT / file).read_text().splitlines()) for file in passed)
    most_files, most_lines = LIMITS[name]
    assert len(passed) <= most_files and lines <= most_lines, f"{len(passed)} files, {lines} lines"


def test_imports_point_one_way():
    command = [Path(sys.executable).with_name("lint-imports"), "--config", ROOT / "pyproject.toml", "--no-cache"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]


def code_of(file: Path) -> list[str]:
    """Returns the names, imports and strings of a file, without its docstrings."""
    tree = ast.parse(file.read_text())
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef)
    prose = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, documented) and node.body and isinstance(node.body[0], ast.Expr)
    }
    prose |= {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}  # texts after constants
    words = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in prose:
            words.append(node.value)
        words += [node.id] if isinstance(node, ast.Name) else [node.attr] if isinstance(node, ast.Attribute) else []
        words += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        words += [alias.name for alias in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else []
    return words


def test_no_module_outside_a_paper_names_one():
    for file in (ROOT / "jvflow").rglob("*.py"):
        place = file.relative_to(ROOT / "jvflow")
        if place.parts[0] in PAPERS or str(place) == "experiment.py":
            continue
        if str(place) == "cli/__init__.py":  # the config of the demo
            continue
        named = [word for word in code_of(file) if re.search(rf"\b({'|'.join(PAPERS)})\b", word)]
        assert not named, f"{place}: {named}"


def test_settings_are_not_read_out_of_partials():
    for file in (ROOT / "jvflow").rglob("*.py"):
        assert ".keywords" not in file.read_text(), file


def test_few_modules_lie_at_the_top():
    assert len([file for file in (ROOT / "jvflow").glob("*.py") if file.name != "__init__.py"]) <= 8


def test_files_stay_short():
    long = {str(file): n for file in (ROOT / "jvflow").rglob("*.py") if (n := len(file.read_text().splitlines())) > 400}
    assert not long
