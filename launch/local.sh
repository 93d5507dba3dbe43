#!/usr/bin/env bash
# Runs a command as N processes on this machine, with the distributed runtime of a pod:
#
#     launch/local.sh 2 python -m launch.train --config=configs/biflow/procedural.py --workdir=out/two
#
# When a process fails the others are ended and the job is started again, RESTARTS times (0 when not set): training
# continues from its last checkpoint. SIGTERM and SIGINT go to every process, training saves, and the job ends with
# 143. PORT is the coordinator's, any free one when not set. Of N GPUs process i sees GPU i with GPUS=1.
set -uo pipefail

usage() { echo "usage: [RESTARTS=0] [PORT=...] [GPUS=1] launch/local.sh N COMMAND [ARGUMENT...]" >&2; exit 2; }
[[ $# -ge 2 && $1 =~ ^[1-9][0-9]*$ ]] || usage
count=$1; shift
grace=20
pids=()
stopping=

signal_all() { for pid in "${pids[@]}"; do kill "-$1" "$pid" 2>/dev/null; done; }
trap 'stopping=1; signal_all TERM' TERM INT

free_port() { python3 -c 'import socket; s = socket.socket(); s.bind(("", 0)); print(s.getsockname()[1])'; }

end_all() {  # first asked, then made to: a process that waits for a dead one never answers
    signal_all TERM
    for ((t = 0; t < grace * 10; t++)); do
        [[ -z $(jobs -rp) ]] && return
        sleep 0.1
    done
    signal_all KILL
}

run_once() {
    local port=${PORT:-$(free_port)} code=0 i
    pids=()
    for ((i = 0; i < count; i++)); do
        (
            export JVFLOW_COORDINATOR=localhost:$port JVFLOW_PROCESSES=$count JVFLOW_PROCESS=$i
            [[ ${GPUS:-} == 1 ]] && export CUDA_VISIBLE_DEVICES=$i
            exec "$@"
        ) &
        pids+=($!)
    done
    local left=$count
    while ((left)); do
        wait -n
        local one=$?
        if [[ -n $stopping ]]; then  # a trapped signal ends `wait` too
            for pid in "${pids[@]}"; do wait "$pid"; one=$?; ((one)) && code=$one; done
            return "$code"
        fi
        ((left--))
        if ((one)); then
            ((left)) && end_all
            wait
            return "$one"
        fi
    done
}

for ((attempt = 0; ; attempt++)); do
    run_once "$@"
    code=$?
    if ((code == 0)) || [[ -n $stopping ]] || ((attempt >= ${RESTARTS:-0})); then exit "$code"; fi
    echo "local.sh: a process ended with $code, restart $((attempt + 1)) of $RESTARTS" >&2
done
