"""The scripts that start jobs, as far as a machine without a scheduler allows."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from conftest import ROOT

LAUNCH = ROOT / "launch"
SHELLCHECK = shutil.which("shellcheck", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")


def run(command, **environment):
    return subprocess.run(command, env=dict(os.environ, **environment), capture_output=True, text=True, timeout=120, cwd=ROOT)


def scheduler(folder, **scripts):
    """A folder of commands that stand for a scheduler's."""
    for name, text in scripts.items():
        (folder / name).write_text(f"#!/usr/bin/env bash\n{text}\n")
        (folder / name).chmod(0o755)
    return dict(PATH=f"{folder}:{os.environ['PATH']}")


@pytest.mark.parametrize("script", ["local.sh", "slurm.sh", "tpu_vm.sh"])
def test_scripts_pass_shellcheck_and_say_how_they_are_used(script):
    assert SHELLCHECK, "shellcheck comes with the extra `test`"
    checked = run([SHELLCHECK, str(LAUNCH / script)])
    assert checked.returncode == 0, checked.stdout
    told = run([str(LAUNCH / script)])
    assert told.returncode == 2 and told.stderr.startswith("usage: ")


SHOW = 'echo "$JVFLOW_PROCESS of $JVFLOW_PROCESSES at ${JVFLOW_COORDINATOR%:*}" "$@"'


def test_local_starts_processes_with_their_numbers_and_arguments():
    done = run([str(LAUNCH / "local.sh"), "3", "bash", "-c", SHOW, "x", "a b", "c"])
    assert done.returncode == 0 and sorted(done.stdout.splitlines()) == [f"{i} of 3 at localhost a b c" for i in range(3)]


def test_local_ends_all_when_one_fails_and_starts_again(tmp_path):
    code = f'echo x >> {tmp_path}/starts; [ "$JVFLOW_PROCESS" = 1 ] && sleep 0.5 && exit 7; sleep 60'
    begin = time.time()
    done = run([str(LAUNCH / "local.sh"), "2", "bash", "-c", code], RESTARTS="2")
    assert done.returncode == 7 and time.time() - begin < 30
    assert len((tmp_path / "starts").read_text().split()) == 6 and "restart 2 of 2" in done.stderr


def test_local_passes_sigterm_on_and_does_not_start_again(tmp_path):
    code = f"trap 'echo asked >> {tmp_path}/asked; exit 143' TERM; touch {tmp_path}/up.$JVFLOW_PROCESS; while :; do sleep 0.1; done"
    job = subprocess.Popen([str(LAUNCH / "local.sh"), "2", "bash", "-c", code], env=dict(os.environ, RESTARTS="3"))
    while len(list(tmp_path.glob("up.*"))) < 2:
        time.sleep(0.05)
    job.send_signal(signal.SIGTERM)
    assert job.wait(30) == 143
    assert (tmp_path / "asked").read_text().split() == ["asked", "asked"]


def test_slurm_starts_the_command_on_all_tasks(tmp_path):
    """A fake srun starts two processes as Slurm would; JAX finds coordinator, number and rank in Slurm's variables."""
    fake = scheduler(tmp_path, srun='''
[[ $1 == --kill-on-bad-exit=1 ]] && shift
for rank in 0 1; do
    SLURM_PROCID=$rank SLURM_LOCALID=$rank SLURM_NTASKS=2 SLURM_STEP_NODELIST=localhost SLURM_STEP_NUM_TASKS=2 "$@" &
done
wait''')
    code = "from jvflow import processes; processes.start(); import os, jax; os.write(1, f'task {jax.process_index()} of {jax.process_count()}\\n'.encode()); processes.barrier('end')"
    done = run(
        [str(LAUNCH / "slurm.sh"), sys.executable, "-c", code], **fake, SLURM_JOB_ID="4242", JAX_PLATFORMS="cpu", XLA_FLAGS="", PYTHONPATH=str(ROOT),
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert sorted(line for line in done.stdout.splitlines() if line.startswith("task")) == ["task 0 of 2", "task 1 of 2"]


@pytest.mark.parametrize("restarts, queued", [("0", True), ("3", False)])
def test_slurm_queues_a_job_again_that_was_stopped(tmp_path, restarts, queued):
    fake = scheduler(tmp_path, srun="exit 143", scontrol=f'echo "$@" >> {tmp_path}/asked')
    done = run([str(LAUNCH / "slurm.sh"), "true"], **fake, SLURM_JOB_ID="7", SLURM_RESTART_COUNT=restarts, MAX_RESTARTS="3")
    assert done.returncode == 143
    assert (tmp_path / "asked").exists() == queued
    assert not queued or (tmp_path / "asked").read_text() == "requeue 7\n"


def test_tpu_vm_runs_on_all_workers_and_starts_again(tmp_path):
    fake = scheduler(tmp_path, gcloud=f'echo "$@" >> {tmp_path}/asked; [[ $* == *pkill* || $(wc -l < {tmp_path}/asked) -gt 2 ]]', sleep="true")
    done = run([str(LAUNCH / "tpu_vm.sh"), "pod", "zone-a", "python", "-m", "launch.train", "--workdir=/a b"], **fake)
    asked = (tmp_path / "asked").read_text().splitlines()
    assert done.returncode == 0 and len(asked) == 3 and "pkill" in asked[1]
    assert asked[0] == asked[2] and "ssh pod --zone=zone-a --worker=all" in asked[0] and r"JVFLOW_DISTRIBUTED=1 python -m launch.train --workdir=/a\ b" in asked[0]


def test_the_jobset_is_one_that_kubernetes_takes():
    """The fields that its schema asks for, and numbers that belong together."""
    job = yaml.safe_load((LAUNCH / "gke.yaml").read_text())
    assert (job["apiVersion"], job["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    (replicated,) = job["spec"]["replicatedJobs"]
    spec = replicated["template"]["spec"]
    pod = spec["template"]["spec"]
    (container,) = pod["containers"]
    chips = int(container["resources"]["limits"]["google.com/tpu"])
    rows, columns = map(int, pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"].split("x"))
    assert spec["parallelism"] == spec["completions"] == rows * columns / chips
    assert container["resources"]["requests"] == container["resources"]["limits"]
    assert pod["restartPolicy"] == "Never" and spec["backoffLimit"] == 0  # one failure restarts the set
    assert dict(name="JVFLOW_DISTRIBUTED", value="1") in container["env"]
    assert {m["name"] for m in container["volumeMounts"]} == {v["name"] for v in pod["volumes"]}
