#!/usr/bin/env bash
# Runs one job on GPU nodes under Slurm, with one process per GPU:
#
#     sbatch --nodes=4 --gpus-per-node=8 launch/slurm.sh \
#         python -m launch.train --config=configs/biflow/paper.py --workdir=/shared/run
#
# Workdir, data and the environment must be on a file system that all nodes see. Before the time limit Slurm sends
# SIGTERM: training saves and ends with exit status 143. When a node fails, all processes end within seconds
# (--kill-on-bad-exit). In both cases the script queues the job again, at most MAX_RESTARTS times (default 20), and
# training continues.
#SBATCH --job-name=jvflow
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-task=1
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=TERM@120
#SBATCH --output=%x-%j.log
set -euo pipefail

if [[ $# -lt 1 ]]; then
    echo "usage: sbatch launch/slurm.sh COMMAND [ARGUMENT...]" >&2
    exit 2
fi
export JVFLOW_DISTRIBUTED=1 # addresses and process numbers come from Slurm

code=0
srun --kill-on-bad-exit=1 "$@" || code=$?
restarts=${SLURM_RESTART_COUNT:-0}
if ((code != 0)) && ((restarts < ${MAX_RESTARTS:-20})); then
    echo "slurm.sh: ended with $code, queued again (restart $((restarts + 1)))" >&2
    scontrol requeue "${SLURM_JOB_ID:?is set by Slurm: start this script with sbatch}" ||
        echo "slurm.sh: the job cannot be queued again" >&2
fi
exit "$code"
