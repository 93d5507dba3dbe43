#!/usr/bin/env bash
# One job over GPU nodes under Slurm, one process for each GPU:
#
#     sbatch --nodes=4 --gpus-per-node=8 launch/slurm.sh python -m launch.train --config=configs/biflow/paper.py --workdir=/shared/run
#
# Workdir, data and the environment are on a file system that all nodes see. Before its time is up Slurm sends SIGTERM:
# training saves, the job ends with 143 and is queued again (--requeue), and continues. A node that fails ends the whole
# step within seconds (--kill-on-bad-exit), and the job is queued again too. At most MAX_RESTARTS times, 20 when not set.
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
set -uo pipefail

[[ $# -ge 1 ]] || { echo "usage: sbatch launch/slurm.sh COMMAND [ARGUMENT...]" >&2; exit 2; }
export JVFLOW_DISTRIBUTED=1  # addresses and numbers come from Slurm

srun --kill-on-bad-exit=1 "$@"
code=$?
if ((code != 0)) && ((${SLURM_RESTART_COUNT:-0} < ${MAX_RESTARTS:-20})); then
    echo "slurm.sh: ended with $code, queued again (restart $((${SLURM_RESTART_COUNT:-0} + 1)))" >&2
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
