#!/usr/bin/env bash
# Runs one command on all workers of a TPU slice of virtual machines, from a machine with gcloud:
#
#     launch/tpu_vm.sh NAME ZONE python -m launch.train --config=configs/biflow/paper.py --workdir=/mnt/bucket/run
#
# Each worker needs this repository in ~/jvflow, its environment in ~/jvflow/.venv (SETUP=1 installs it), and a file
# system that all workers see, such as a mounted bucket. When a worker fails, the script stops all workers and starts
# the command again, up to RESTARTS times (default 20).
set -euo pipefail

if [[ $# -lt 3 ]]; then
    echo "usage: [SETUP=1] [RESTARTS=20] launch/tpu_vm.sh NAME ZONE COMMAND [ARGUMENT...]" >&2
    exit 2
fi
name=$1 zone=$2
shift 2

on_all_workers() {
    gcloud compute tpus tpu-vm ssh "$name" --zone="$zone" --worker=all --command="$1"
}

if [[ ${SETUP:-} == 1 ]]; then
    on_all_workers "cd ~/jvflow && python3 -m venv .venv && .venv/bin/pip install --quiet --editable '.[tpu]'"
fi

# each worker writes down its process id, so that a later call can stop the process
# shellcheck disable=SC2016  # the workers expand these
enter='cd ~/jvflow && . .venv/bin/activate && echo $$ > ~/.jvflow.pid && export JVFLOW_DISTRIBUTED=1'
# shellcheck disable=SC2016
stop='pid=$(cat ~/.jvflow.pid); kill -TERM $pid && sleep 30 && kill -KILL $pid; true'
printf -v command '%q ' "$@"
for ((attempt = 0; ; attempt++)); do
    code=0
    on_all_workers "$enter && exec $command" || code=$?
    if ((code == 0 || code == 143 || attempt >= ${RESTARTS:-20})); then exit "$code"; fi
    on_all_workers "$stop" || true
    echo "tpu_vm.sh: ended with $code, restart $((attempt + 1))" >&2
done
