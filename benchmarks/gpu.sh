#!/usr/bin/env bash
# Everything that needs a GPU, in one command: benchmarks/gpu.sh [FOLDER]. Tables go to benchmarks/results/.
# FOLDER holds what is trained (the published experiment's model alone takes 7 GB), and is gone on with.
# PYTHON and PEERS_PYTHON are the interpreters of the project and of the peers, where they are not the usual ones.
set -euo pipefail
cd "$(dirname "$0")/.."
folder=${1:-artifacts/gpu}
python=${PYTHON:-.venv/bin/python}
export HF_HUB_OFFLINE=1
"$python" benchmarks/gpu.py --folder "$folder"
for multiply in float32 TF32 bfloat16; do
    "$python" benchmarks/crossover.py --device cuda --batch 4096 --d-sae 24576 --multiply $multiply \
        --shares 768 384 192 96 48 24 12 --name "crossover_gpu_$multiply"
done
[ -n "${PEERS_PYTHON:-}" ] || make -C benchmarks .venv/.installed
step() {
    PYTHONPATH=src${PYTHONPATH:+:$PYTHONPATH} "${PEERS_PYTHON:-benchmarks/.venv/bin/python}" \
        benchmarks/sae_step.py --device cuda --families topk --d-in 768 --d-sae 24576 --l0 32 --batch 16384 "$@"
}
step --bf16 --name sae_step_gpu
step --name sae_step_gpu_float32
step --bf16 --d-in 3200 --d-sae 50000 --l0 1024 --batch 4096 --name sae_step_gpu_3200
TEST_TRAINER=gpu "$python" -m pytest -q --numprocesses auto --dist loadfile
