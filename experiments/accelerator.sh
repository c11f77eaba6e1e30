#!/usr/bin/env bash
# What wants an accelerator, on one GPU or a TPU VM, in some 25 minutes: is it right there, how fast, and what do three
# programs in SmolLM2-135M reach with exchange training and with fine-tuning, and which variables are then used.
#
#   bash experiments/accelerator.sh [--small] [OUT]
#
# Parts of under ten minutes, each of which is skipped where it is done and goes on where it was stopped: call it again
# until it says that all is done. --small tries all of it on a CPU, with the bundled model and a few steps. OUT, by
# default experiments/accelerator, gets results.json with the device's name; PYTHON, the interpreter.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
lm=smollm2-135m-instruct tasks="dyck int_sum count" seeds="0 1 2" shapes="gpt2 gpt2-large"
limit=540 # seconds of a part, then Ctrl-C: a run saves first
run_options=(--steps 600 --eval-items 300 --batch 16 --domain-items 16 --domain-supervised 16 --text-batch 8)
read_options=(--prompts 500 --pairs 60 --items 100)
step_options=(--batches 16 128 --dtype bfloat16 --repetitions 5)
if [ "${1:-}" = --small ]; then
  shift
  lm=tiny tasks=dyck seeds=0 shapes=small
  run_options=(--steps 2 --eval-items 2 --batch 2 --domain-items 2 --domain-supervised 2 --text-batch 1)
  read_options=() # minutes on a CPU whatever is asked: left to the tests
  step_options=(--small --repetitions 1)
fi
out=${1:-experiments/accelerator}
mkdir -p "$out"

part() { # NAME COMMAND...: once, unless it is done
  local name=$1
  shift
  if [ -e "$out/$name.done" ]; then return; fi
  echo "+ $name: $*"
  timeout --foreground --signal INT --kill-after 60 "$limit" "$@" || { echo "$name: stopped with status $?; call again"; exit 1; }
  touch "$out/$name.done"
}

run() { # TASK METHOD SEED
  local folder=$out/$1-$2-seed$3
  if [ -e "$folder/config.json" ]; then
    part "$1-$2-seed$3" "$python" -m tracr_jax resume "$folder"
  else
    part "$1-$2-seed$3" "$python" -m tracr_jax inject "$1" --lm "$lm" --preset "$2" --seed "$3" \
      --folder "$folder" "${run_options[@]}"
  fi
}

part parity "$python" -m experiments.accelerator parity "$out" --lm "$lm"
for shape in $shapes; do
  torch=()
  if "$python" -c "import torch" 2>/dev/null && [ "$shape" != small ]; then torch=(--torch); fi
  part "step-$shape" "$python" -m experiments.benchmarks.step --shapes "$shape" "${step_options[@]}" \
    ${torch[@]+"${torch[@]}"} --out "$out/step-$shape.json"
done
for seed in $seeds; do # outermost: one seed of everything first
  for task in $tasks; do
    for method in exchange finetune; do run "$task" "$method" "$seed"; done
    folder=$out/$task-exchange-seed$seed
    if [ ${#read_options[@]} -gt 0 ]; then
      part "$task-used-seed$seed" "$python" -m tracr_jax interpret "$folder" "${read_options[@]}"
    fi
  done
done
"$python" -m experiments.accelerator collect "$out"
echo "all done: $out/results.json"
