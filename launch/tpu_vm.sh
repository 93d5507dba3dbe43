#!/usr/bin/env bash
# One command on all workers of a TPU slice of virtual machines, from a machine with gcloud:
#
#     launch/tpu_vm.sh NAME ZONE python -m launch.train --config=configs/biflow/paper.py --workdir=/mnt/bucket/run
#
# Each worker has this repository in ~/jvflow and its environment in ~/jvflow/.venv (pip install -e '.[tpu]' there, once:
# SETUP=1 does it), and a file system that all see, such as a mounted bucket. When a worker fails all are stopped and the command is started again, RESTARTS times (20 when not set).
set -uo pipefail

[[ $# -ge 3 ]] || { echo "usage: [SETUP=1] [RESTARTS=20] launch/tpu_vm.sh NAME ZONE COMMAND [ARGUMENT...]" >&2; exit 2; }
name=$1 zone=$2
shift 2

everywhere() { gcloud compute tpus tpu-vm ssh "$name" --zone="$zone" --worker=all --command="$1"; }

if [[ ${SETUP:-} == 1 ]]; then
    everywhere "cd ~/jvflow && python3 -m venv .venv && .venv/bin/pip install --quiet --editable '.[tpu]'" || exit
fi
printf -v command '%q ' "$@"
for ((attempt = 0; ; attempt++)); do
    everywhere "cd ~/jvflow && . .venv/bin/activate && JVFLOW_DISTRIBUTED=1 $command"
    code=$?
    if ((code == 0)) || ((code == 143)) || ((attempt >= ${RESTARTS:-20})); then exit "$code"; fi
    everywhere "pkill -TERM -f launch[.] ; sleep 30; pkill -KILL -f launch[.] ; true"
    echo "tpu_vm.sh: ended with $code, restart $((attempt + 1))" >&2
done
