import json
import subprocess
import sys
from types import SimpleNamespace

import pytest
from conftest import ROOT, load_config

import launch


def run(*arguments, cwd):
    return subprocess.run([sys.executable, "-m", *arguments], cwd=cwd, capture_output=True, text=True, timeout=120)


def test_configs_are_found_from_any_folder_and_a_mistake_is_one_line(tmp_path):
    done = run(
        "launch.train", "--config=configs/biflow/procedural.py:debug", "--config.objective=flwo", "--workdir=run", cwd=tmp_path
    )
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1] == "error: unknown objective 'flwo': use one of flow, biflow, condiff, vlfm, direct, flowframes, conventional, text_to_video"
    assert not (tmp_path / "run").exists()


def test_unknown_config_keys_are_said(tmp_path):
    done = run(
        "launch.train", "--config=configs/biflow/procedural.py", "--config.optimizer.learning_rat=1", "--workdir=run", cwd=tmp_path
    )
    assert done.returncode == 1 and done.stderr.strip().splitlines()[-1].startswith("error: the config has no key 'learning_rat'")
    assert "learning_rate" in done.stderr and "Traceback" not in done.stderr


def test_a_run_of_an_earlier_version_is_refused_in_one_line(tmp_path):
    config = load_config("biflow/procedural.py", "debug").to_dict()
    del config["prediction"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    done = run("launch.sample", f"--workdir={tmp_path}", f"--out={tmp_path / 'out'}", cwd=tmp_path)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert done.stderr.strip().splitlines()[-1].startswith("error: the config has no key 'prediction': give a config of your own")
    assert not (tmp_path / "out").exists()


def test_entries_are_literals_or_strings_and_half_an_entry_is_refused():
    flag = lambda *texts: SimpleNamespace(name="sample", value=list(texts))
    read = lambda *texts: launch.entries(flag(*texts), "epsilon=0.1")
    assert read("epsilon=0.1", "steps=None", "curve=backward", "per_sample=False") == dict(
        epsilon=0.1, steps=None, curve="backward", per_sample=False
    )
    for half in ("epsilon", "epsilon=", "=0.1"):
        with pytest.raises(ValueError, match=f"--sample={half}: write NAME=VALUE, for example --sample=epsilon=0.1"):
            read(half)


@pytest.mark.parametrize("module, out", [("sample", "out"), ("evaluate", "o.json")])
def test_a_mistake_on_the_command_line_is_one_line(tmp_path, module, out):
    done = run(f"launch.{module}", f"--workdir={tmp_path}", f"--out={tmp_path / out}", "--sample=epsilon", cwd=tmp_path)
    assert done.returncode == 1 and done.stderr.strip().splitlines()[-1].startswith("error: --sample=epsilon: write NAME=VALUE")
    assert not (tmp_path / out).exists()


def test_no_tensorflow_is_imported():
    code = "import sys, jvflow.training.loop, jvflow.biflow.evaluate, jvflow.demo; assert 'tensorflow' not in sys.modules; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_a_full_disk_is_one_line_with_its_cure(tmp_path):
    code = "import launch; launch.run(lambda: open('/dev/full', 'w').write('x' * 99999))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1] == "error: [Errno 28] No space left on device: make room and give the same command again, it continues after what is whole"
