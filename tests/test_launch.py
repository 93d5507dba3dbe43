import subprocess
import sys


def run(*arguments, cwd):
    return subprocess.run([sys.executable, "-m", *arguments], cwd=cwd, capture_output=True, text=True, timeout=120)


def test_configs_are_found_from_any_folder_and_a_mistake_is_one_line(tmp_path):
    done = run(
        "launch.train", "--config=configs/biflow/procedural.py:debug", "--config.objective=flwo", "--workdir=run", cwd=tmp_path
    )
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1] == "error: unknown objective 'flwo': use one of flow, biflow, condiff"
    assert not (tmp_path / "run").exists()


def test_unknown_config_keys_are_said(tmp_path):
    done = run(
        "launch.train", "--config=configs/biflow/procedural.py", "--config.optimizer.learning_rat=1", "--workdir=run", cwd=tmp_path
    )
    assert done.returncode != 0 and "learning_rate" in done.stderr


def test_evaluate_refuses_half_an_override(tmp_path):
    done = run("launch.evaluate", f"--workdir={tmp_path}", f"--out={tmp_path / 'o.json'}", "--protocol=videos", cwd=tmp_path)
    assert done.returncode == 1 and "--protocol=videos: write NAME=VALUE" in done.stderr


def test_no_tensorflow_is_imported():
    code = "import sys, jvflow.train, jvflow.evaluate, jvflow.demo; assert 'tensorflow' not in sys.modules; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
