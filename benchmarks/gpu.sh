#!/usr/bin/env bash
# Check and measure polyak on the GPU of this machine, from the source tree: in less
# than eight minutes, with the torch and the Triton that are there.
#
#   benchmarks/gpu.sh                 everything
#   benchmarks/gpu.sh --only checks   a part: checks or speed
#   benchmarks/gpu.sh --dry           without a GPU, at toy size: tries out the script
#
# The report and its pictures go to $OUT (benchmarks/out); PYTHON is python3.
set -euo pipefail
cd "$(dirname "$0")/.."
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
exec "${PYTHON:-python3}" -m benchmarks.gpu --out "${OUT:-benchmarks/out}" "$@"
