#!/usr/bin/env bash
# Trains with as many processes as the launcher says, and goes on with the run where it exists already:
#
#   train.sh RUN_DIR OPTIONS_OF_A_NEW_RUN...
#   train.sh work_dirs/gta2citys --preset gta2citys
#
# Once on every node. Nodes, processes and where they meet come in torchrun's own variables (PET_NNODES,
# PET_NPROC_PER_NODE, PET_RDZV_ENDPOINT, ...), as train.sbatch and Kubeflow set them; REIN_OPTIONS holds options for new
# and resumed runs alike. RUN_DIR must be one folder that all nodes can reach.
set -euo pipefail

if [ $# -lt 2 ]; then
  echo "usage: train.sh RUN_DIR OPTIONS_OF_A_NEW_RUN..., for example: train.sh work_dirs/mine --preset gta2citys" >&2
  exit 2
fi
run=$1
shift
read -r -a options <<< "${REIN_OPTIONS:-}"

if [ -e "$run/last.pth" ]; then
  what=(--resume "$run")
else
  # killed before its first checkpoint: nothing is lost, but a new run wants a new folder. The nodes' processes start
  # when all of them have met, so that this has been done by then
  if [ -e "$run/settings.toml" ] && [ "${PET_NODE_RANK:-${SLURM_NODEID:-0}}" = 0 ]; then
    mv "$run" "$run.without-checkpoint.$(date +%Y%m%d-%H%M%S)"
  fi
  what=(--work-dir "$run" "$@")
fi
# torchrun takes the place of this shell, so that SIGTERM comes to it, and from there to every process
exec torchrun -m reincli train "${what[@]}" ${options[@]+"${options[@]}"}
