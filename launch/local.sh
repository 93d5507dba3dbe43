#!/usr/bin/env bash
# Runs a command as N processes on this machine, with the distributed runtime of a pod:
#
#     launch/local.sh 2 python -m launch.train --config=configs/biflow/procedural.py --workdir=out/two
#
# When a process fails, the script ends the others and starts the job again, up to RESTARTS times (default 0): training
# continues from its last checkpoint. The script passes SIGTERM and SIGINT to every process; training saves, and the job
# ends with exit status 143. PORT is the coordinator's port (default: any free port). With GPUS=1 process i uses GPU i.
set -euo pipefail

usage() {
    echo "usage: [RESTARTS=0] [PORT=...] [GPUS=1] launch/local.sh N COMMAND [ARGUMENT...]" >&2
    exit 2
}
[[ $# -ge 2 && $1 =~ ^[1-9][0-9]*$ ]] || usage
count=$1
shift
grace=20 # seconds between SIGTERM and SIGKILL
pids=()
stopping=

signal_all() {
    for pid in "${pids[@]}"; do kill "-$1" "$pid" 2>/dev/null || true; done
}
trap 'stopping=1; signal_all TERM' TERM INT

free_port() {
    python3 -c 'import socket; s = socket.socket(); s.bind(("", 0)); print(s.getsockname()[1])'
}

end_all() { # SIGTERM first, then SIGKILL: a process that waits for a dead one does not answer SIGTERM
    signal_all TERM
    for ((t = 0; t < grace * 10; t++)); do
        [[ -n $(jobs -rp) ]] || return 0
        sleep 0.1
    done
    signal_all KILL
}

start_all() {
    local port i
    port=${PORT:-$(free_port)}
    pids=()
    for ((i = 0; i < count; i++)); do
        (
            export JVFLOW_COORDINATOR=localhost:$port JVFLOW_PROCESSES=$count JVFLOW_PROCESS=$i
            if [[ ${GPUS:-} == 1 ]]; then export CUDA_VISIBLE_DEVICES=$i; fi
            exec "$@"
        ) &
        pids+=($!)
    done
}

wait_all() { # returns the status of the first process that fails
    local left status code=0
    for ((left = count; left; left--)); do
        status=0
        wait -n || status=$?
        if [[ -n $stopping ]]; then # a trapped signal ends `wait` early: wait for each process
            for pid in "${pids[@]}"; do wait "$pid" || code=$?; done
            return "$code"
        fi
        if ((status)); then
            if ((left > 1)); then end_all; fi
            wait || true
            return "$status"
        fi
    done
}

for ((attempt = 0; ; attempt++)); do
    code=0
    start_all "$@"
    wait_all || code=$?
    if ((code == 0)) || [[ -n $stopping ]] || ((attempt >= ${RESTARTS:-0})); then exit "$code"; fi
    echo "local.sh: a process ended with $code, restart $((attempt + 1)) of $RESTARTS" >&2
done
