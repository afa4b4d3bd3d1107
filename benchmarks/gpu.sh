#!/usr/bin/env bash
# Everything that needs a GPU, in one command: benchmarks/gpu.sh [FOLDER]. Tables go to benchmarks/results/.
# FOLDER holds what is trained (the published experiment's model alone takes 14 GB), and is gone on with.
set -euo pipefail
cd "$(dirname "$0")/.."
folder=${1:-artifacts/gpu}
python=${PYTHON:-.venv/bin/python}
export HF_HUB_OFFLINE=1
TEST_TRAINER=gpu "$python" -m pytest -q
"$python" benchmarks/gpu.py --folder "$folder"
"$python" benchmarks/crossover.py --device cuda --name crossover_gpu
make -C benchmarks .venv/.installed
for shape in "--d-in 768 --d-sae 24576 --l0 32" "--d-in 3200 --d-sae 50000 --l0 1024 --batch 4096"; do
    # shellcheck disable=SC2086
    PYTHONPATH=src benchmarks/.venv/bin/python benchmarks/sae_step.py --device cuda --families topk $shape \
        --name "sae_step_gpu_$(echo "$shape" | tr -cd '0-9 ' | xargs | tr ' ' '_')"
done
