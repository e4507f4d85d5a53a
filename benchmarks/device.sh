#!/usr/bin/env bash
# Everything that only an accelerator can answer, in order of worth, within about 12 minutes on one GPU.
#
#     pip install -e '.[cuda,bench,dev]' && bash benchmarks/device.sh OUT
#
# OUT gets one file for each part, written while it runs: whatever is done when the time is over is kept. A part that
# fails, or that takes longer than its limit, is named at the end, and the next one begins.
set -uo pipefail
cd "$(dirname "$0")/.."
out=${1:?the folder for the lines}
mkdir -p "$out"
failed=()

part() { # part NAME SECONDS COMMAND...
  local name=$1 seconds=$2
  shift 2
  echo "$name: $*"
  timeout "$seconds" "$@" > "$out/$name.jsonl" 2> "$out/$name.txt" || failed+=("$name (exit code $?)")
}

export XLA_PYTHON_CLIENT_MEM_FRACTION=.45 # the PyTorch side of train_step.py needs the other half
part attention 120 python -m pytest -q -n 0 tests/test_accelerator.py -k fused
part step_20M 120 python benchmarks/train_step.py --compute bfloat16 --rows 512 --bodies 20M --catalogues 1000000
part step_20M_fused 90 python benchmarks/train_step.py --compute bfloat16 --rows 512 --bodies 20M --catalogues 1000000 \
  --attention fused
part step_75M 120 python benchmarks/train_step.py --compute bfloat16 --rows 512 --bodies 75M --catalogues 1000000
part step_300M 120 python benchmarks/train_step.py --compute bfloat16 --rows 256 --bodies 300M --catalogues 1000000
part together 90 python benchmarks/runs_together.py --sizes xxs xs --together 8
part segment_op 60 python benchmarks/segment_op.py --users 4096 --compute bfloat16
part fresh 60 python benchmarks/fresh.py --widths 8 32
part accelerator 150 python -m pytest -q -n 0 tests/test_accelerator.py
echo "${#failed[@]} parts failed: ${failed[*]:-none}"
[ ${#failed[@]} = 0 ]
