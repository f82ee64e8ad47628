#!/bin/sh
# What waits for a GPU, in at most eight minutes: benchmarks/gpu_check.py says what, and what it writes.
#
#     benchmarks/gpu_check.sh OUT [--data FOLDER]
#
# PYTHON names the Python that has the packages (python3); no virtual environment is needed.
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
PYTHONPATH="$root/src:$root${PYTHONPATH:+:$PYTHONPATH}" exec "${PYTHON:-python3}" "$root/benchmarks/gpu_check.py" "$@"
