"""Tests of the scripts that start jobs, with fake commands of the schedulers."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import kubernetes_validate
import pytest
import yaml
from conftest import ROOT, config_flag

LAUNCH = ROOT / "launch"
PYTHON = Path(sys.executable).parent
SHELLCHECK = shutil.which("shellcheck", path=f"{PYTHON}:{os.environ['PATH']}")


def run(command, **environment):
    env = dict(os.environ, **environment)
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=240, cwd=ROOT)


def stand_ins(folder, **scripts):
    """Writes fake commands into a folder, and returns an environment that finds them first."""
    for name, text in scripts.items():
        (folder / name).write_text(f"#!/usr/bin/env bash\n{text}\n")
        (folder / name).chmod(0o755)
    return dict(PATH=f"{folder}:{PYTHON}:{os.environ['PATH']}")


@pytest.mark.parametrize("script", ["local.sh", "slurm.sh", "tpu_vm.sh"])
def test_scripts_pass_shellcheck_and_show_their_usage(script):
    assert SHELLCHECK, "shellcheck comes with the extra `test`"
    assert "\nset -euo pipefail\n" in (LAUNCH / script).read_text()
    checked = run([SHELLCHECK, str(LAUNCH / script)])
    assert checked.returncode == 0, checked.stdout
    shown = run([str(LAUNCH / script)])
    assert shown.returncode == 2 and shown.stderr.startswith("usage: ")


# fake srun and gcloud: both start the given command on this machine, as two processes of one job
SRUN = """
[[ $1 == --kill-on-bad-exit=1 ]] && shift
export SLURM_NTASKS=2 SLURM_STEP_NUM_TASKS=2 SLURM_STEP_NODELIST=localhost
SLURM_PROCID=0 SLURM_LOCALID=0 "$@" &
SLURM_PROCID=1 SLURM_LOCALID=1 "$@" &
wait %1 && wait %2"""
GCLOUD = """
[[ "$*" == "compute tpus tpu-vm ssh pod --zone=zone-a --worker=all --command="* ]] || exit 64
command=${8#--command=}
export JVFLOW_COORDINATOR=localhost:PORT JVFLOW_PROCESSES=2
HOME=FOLDER/worker0 JVFLOW_PROCESS=0 bash -c "$command" &
HOME=FOLDER/worker1 JVFLOW_PROCESS=1 bash -c "$command" &
wait %1 && wait %2"""


def worker(folder):
    """Makes the home folder of a TPU machine: the checkout in ~/jvflow, with an environment in .venv."""
    activate = folder / "jvflow" / ".venv" / "bin" / "activate"
    activate.parent.mkdir(parents=True)
    activate.write_text(f"PATH={PYTHON}:$PATH")
    for name in ("jvflow", "launch", "configs"):
        (folder / "jvflow" / name).symlink_to(ROOT / name)


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return free.getsockname()[1]


def local_job(folder):
    return ["local.sh", "2"], stand_ins(folder)


def slurm_job(folder):
    job = str(free_port())  # JAX derives the coordinator's port from it
    return ["slurm.sh"], stand_ins(folder, srun=SRUN) | dict(SLURM_JOB_ID=job, SLURM_RESTART_COUNT="20")


def tpu_vm_job(folder):
    for name in ("worker0", "worker1"):
        worker(folder / name)
    gcloud = GCLOUD.replace("PORT", str(free_port())).replace("FOLDER", str(folder))
    return ["tpu_vm.sh", "pod", "zone-a"], stand_ins(folder, gcloud=gcloud) | dict(RESTARTS="0")


@pytest.mark.integration
@pytest.mark.parametrize("job", [local_job, slurm_job, tpu_vm_job])
def test_each_launcher_trains_with_two_processes(tmp_path, job):
    (script, *arguments), environment = job(tmp_path)
    done = run(
        [
            *(str(LAUNCH / script), *arguments, "python", "-m", "launch.train"),
            *(config_flag("biflow/procedural.py", "debug"), f"--workdir={tmp_path / 'a run'}"),
            *(f"--config.data.cache={tmp_path / 'data'}", "--config.train.steps=2", "--config.run.log_every=1"),
            *("--config.run.progress=False", "--config.run.tensorboard=False"),
        ],
        **environment,
        JAX_PLATFORMS="cpu",
        XLA_FLAGS="",  # one device for each process
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "on 2 CPU devices, data 2" in done.stderr
    assert len((tmp_path / "a run" / "metrics.jsonl").read_text().splitlines()) == 2  # only one process writes


SHOW = 'echo "$JVFLOW_PROCESS of $JVFLOW_PROCESSES at ${JVFLOW_COORDINATOR%:*}" "$@"'


def test_local_passes_process_numbers_and_arguments():
    done = run([str(LAUNCH / "local.sh"), "3", "bash", "-c", SHOW, "x", "a b", "c"])
    assert done.returncode == 0
    assert sorted(done.stdout.splitlines()) == [f"{i} of 3 at localhost a b c" for i in range(3)]


def test_local_ends_all_when_one_fails_and_starts_again(tmp_path):
    code = f'echo x >> {tmp_path}/starts; [ "$JVFLOW_PROCESS" = 1 ] && sleep 0.5 && exit 7; sleep 60'
    begin = time.time()
    done = run([str(LAUNCH / "local.sh"), "2", "bash", "-c", code], RESTARTS="2")
    assert done.returncode == 7 and time.time() - begin < 30
    assert len((tmp_path / "starts").read_text().split()) == 6 and "restart 2 of 2" in done.stderr


def test_local_passes_sigterm_on_and_does_not_start_again(tmp_path):
    code = (
        f"trap 'echo asked >> {tmp_path}/asked; exit 143' TERM; touch {tmp_path}/up.$JVFLOW_PROCESS; "
        "while :; do sleep 0.1; done"
    )
    job = subprocess.Popen([str(LAUNCH / "local.sh"), "2", "bash", "-c", code], env=dict(os.environ, RESTARTS="3"))
    while len(list(tmp_path.glob("up.*"))) < 2:
        time.sleep(0.05)
    job.send_signal(signal.SIGTERM)
    assert job.wait(30) == 143
    assert (tmp_path / "asked").read_text().split() == ["asked", "asked"]


@pytest.mark.parametrize("restarts, queued", [("0", True), ("3", False)])
def test_slurm_queues_a_stopped_job_again(tmp_path, restarts, queued):
    commands = stand_ins(tmp_path, srun="exit 143", scontrol=f'echo "$@" >> {tmp_path}/asked')
    job = dict(SLURM_JOB_ID="7", SLURM_RESTART_COUNT=restarts, MAX_RESTARTS="3")
    done = run([str(LAUNCH / "slurm.sh"), "true"], **commands, **job)
    assert done.returncode == 143
    assert (tmp_path / "asked").exists() == queued
    assert not queued or (tmp_path / "asked").read_text() == "requeue 7\n"


def test_slurm_reports_the_status_of_a_job_that_cannot_be_queued_again(tmp_path):
    commands = stand_ins(tmp_path, srun="exit 3", scontrol="exit 1")
    done = run([str(LAUNCH / "slurm.sh"), "true"], **commands, SLURM_JOB_ID="7")
    assert done.returncode == 3 and "cannot be queued again" in done.stderr


def test_tpu_vm_starts_again_on_all_workers(tmp_path):
    code = f'echo "$@" >> {tmp_path}/asked; [[ $* == *kill* || $(wc -l < {tmp_path}/asked) -gt 2 ]]'
    commands = stand_ins(tmp_path, gcloud=code)
    command = ["python", "-m", "launch.train", "--workdir=/a b"]
    done = run([str(LAUNCH / "tpu_vm.sh"), "pod", "zone-a", *command], **commands)
    first, stop, second = (tmp_path / "asked").read_text().splitlines()
    assert done.returncode == 0 and first == second
    assert "ssh pod --zone=zone-a --worker=all" in first and "ssh pod --zone=zone-a --worker=all" in stop
    assert r"JVFLOW_DISTRIBUTED=1 && exec python -m launch.train --workdir=/a\ b" in first


def test_tpu_vm_stops_what_still_runs_on_the_other_workers(tmp_path):
    """Checks that worker 0 gets SIGTERM before the second start, because it goes on after worker 1 fails."""
    for name in ("worker0", "worker1"):
        worker(tmp_path / name)
    gcloud = (
        GCLOUD.replace("PORT", "1").replace("FOLDER", str(tmp_path)).replace("wait %1 && wait %2", "wait -n && wait")
    )
    commands = stand_ins(tmp_path, gcloud=gcloud, sleep="exec /bin/sleep 2")  # instead of 30 s
    code = (
        f"trap 'echo asked >> {tmp_path}/asked; exit 143' TERM; "
        f"[[ -e {tmp_path}/asked ]] && exit 0; "
        "[[ $JVFLOW_PROCESS == 1 ]] && /bin/sleep 0.5 && exit 7; while :; do /bin/sleep 0.1; done"
    )
    done = run([str(LAUNCH / "tpu_vm.sh"), "pod", "zone-a", "bash", "-c", code], **commands, RESTARTS="1")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "asked").read_text() == "asked\n" and "ended with 7, restart 1" in done.stderr


def lost(given, kept, path="") -> list[str]:
    """Returns the paths of values in `given` that are not in `kept`."""
    if isinstance(given, dict):
        return [x for key in given for x in lost(given[key], (kept or {}).get(key), f"{path}.{key}")]
    if isinstance(given, list):
        pairs = zip(given, kept or [None] * len(given), strict=True)
        return [x for i, (a, b) in enumerate(pairs) for x in lost(a, b, f"{path}[{i}]")]
    return [] if given == kept else [path]


def check_schema(job: dict) -> None:
    """Raises an error if a JobSet has fields or types that its schemas do not allow.

    The models of JobSet check its own fields; Kubernetes' schema of a Job checks its parts and allows no unknown field.
    """
    from kubeflow_trainer_api.models import JobsetV1alpha2JobSet  # takes seconds

    if unknown := lost(job, JobsetV1alpha2JobSet.from_dict(job).to_dict()):
        raise ValueError(f"JobSet does not have {unknown}")
    for replicated in job["spec"]["replicatedJobs"]:
        part = dict(apiVersion="batch/v1", kind="Job", **replicated["template"])
        kubernetes_validate.validate(part, kubernetes_validate.latest_version(), strict=True)


def gke_job() -> dict:
    return yaml.safe_load((LAUNCH / "gke.yaml").read_text())


def test_the_jobset_passes_the_schemas_of_kubernetes():
    check_schema(gke_job())


def misspell_restarts(job):
    job["spec"]["failurePolicy"]["maxRestart"] = 3


def leave_out_template(job):
    del job["spec"]["replicatedJobs"][0]["template"]


def misspell_grace(job):
    job["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]["terminationGracePeriod"] = 120


def write_parallelism_as_text(job):
    job["spec"]["replicatedJobs"][0]["template"]["spec"]["parallelism"] = "four"


@pytest.mark.parametrize("damage", [misspell_restarts, leave_out_template, misspell_grace, write_parallelism_as_text])
def test_the_schemas_refuse_a_damaged_jobset(damage):
    job = gke_job()
    damage(job)
    with pytest.raises((ValueError, kubernetes_validate.ValidationError)):
        check_schema(job)


def test_the_numbers_of_the_jobset_belong_together():
    job = gke_job()
    assert (job["apiVersion"], job["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    (replicated,) = job["spec"]["replicatedJobs"]
    spec = replicated["template"]["spec"]
    pod = spec["template"]["spec"]
    (container,) = pod["containers"]
    chips = int(container["resources"]["limits"]["google.com/tpu"])
    rows, columns = map(int, pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"].split("x"))
    assert spec["parallelism"] == spec["completions"] == rows * columns / chips
    assert container["resources"]["requests"] == container["resources"]["limits"]
    assert pod["restartPolicy"] == "Never" and spec["backoffLimit"] == 0  # one failure restarts the whole JobSet
    assert dict(name="JVFLOW_DISTRIBUTED", value="1") in container["env"]
    assert {m["name"] for m in container["volumeMounts"]} == {v["name"] for v in pod["volumes"]}
