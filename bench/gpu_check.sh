#!/usr/bin/env bash
# The CUDA backend on the card of this machine: tests, compute-sanitizer, agreement with the processor, speed.
#
# usage: bench/gpu_check.sh [PROGRAMS [OUT]]
# PROGRAMS: the folder of nibble, kernels_test, model_test and quant_test (default build/cuda: cmake --preset cuda, then
# cmake --build --preset cuda). OUT: a folder for the checkpoints of random weights, 9 GB (default /dev/shm/nibble-gpu).
# Needs python3 with numpy; without compute-sanitizer on the PATH that part is left out, and says so.
# shellcheck disable=SC2317  # the stages are called by name
set -uo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
programs=$(cd "${1:-$root/build/cuda}" && pwd) || exit 1
out=${2:-/dev/shm/nibble-gpu}
failed=0
export NIBBLE_DATA=${NIBBLE_DATA:-$root/data/mini}
mkdir -p "$out"

stage() {  # WHAT COMMAND...
  printf '\n=== %s\n' "$1"
  shift
  "$@" || { printf 'FAILED: %s\n' "$*"; failed=1; }
}
tests() {  # PROGRAM FILTER [PREFIX...]: the test program's summary, and what failed
  local log=$out/tests.log status=0
  "${@:3}" "$1" --gtest_brief=1 --gtest_filter="$2" >"$log" 2>&1 || status=$?
  grep -vE '^(Note|$)' "$log" | tail -n 25
  return "$status"
}
sanitized() {  # TOOL PROGRAM FILTER
  command -v compute-sanitizer >/dev/null || { echo "no compute-sanitizer here: left out"; return 0; }
  tests "$2" "$3" timeout 200 compute-sanitizer --tool "$1" --error-exitcode 9
}
agree() {  # MODEL: scores on the made-up tasks, from the card and from the processor
  local device
  for device in cpu cuda; do
    "$programs/nibble" eval "$1" --tasks boolq,msmarco,gsm8k,wikitext --limit 40 --dtype float32 --device "$device" \
      2>/dev/null | grep -E ' \* ' | sed "s/^/$device  /" || return 1
  done
}

nvidia-smi -L
stage "operations against float64" tests "$programs/kernels_test" 'Cuda*'
stage "models against the golden ones and the processor" tests "$programs/model_test" '*Cuda*'
small='*Fused*:*Order*:*Norms*:*Embed*:*Logits*'
stage "quantization against the processor" tests "$programs/quant_test" 'Cuda*'
stage "a packed parallel block, its steps in one kernel" tests "$programs/quant_test" 'CudaQuantize.APacked*' env NIBBLE_CUDA_STEP=one
stage "memcheck, operations" sanitized memcheck "$programs/kernels_test" "CudaOps.*:CudaStep.Layers*"
stage "memcheck, models" sanitized memcheck "$programs/model_test" '*CudaModel*/gptq_act*:*CudaModel*/phi*'
stage "memcheck, quantization" sanitized memcheck "$programs/quant_test" 'CudaQuantize.Factor*:CudaQuantize.Loop*'
stage "racecheck, operations" sanitized racecheck "$programs/kernels_test" "$small"
stage "racecheck, models" sanitized racecheck "$programs/model_test" '*CudaModel.Greedy*/qwen2*'
for model in llama-mini qwen2-mini phi-mini; do stage "evaluation of $model" agree $model; done
for shape in llama-3.2-1b qwen2-0.5b phi-1.5; do
  python3 "$root/bench/random_checkpoint.py" $shape "$out/$shape"
  python3 "$root/bench/random_checkpoint.py" $shape "$out/$shape-4bit" --bits 4
  for variant in $shape $shape-4bit; do
    stage "speed of $variant" "$programs/nibble" bench "$out/$variant" --device cuda -p 512 -n 128 -b 1,8
  done
done
for group in 16 32 128 0; do
  python3 "$root/bench/random_checkpoint.py" qwen2-0.5b "$out/group" --bits 4 --group-size $group
  stage "speed and memory with groups of $group" "$programs/nibble" bench "$out/group" --device cuda -p 2048 -n 128 -r 3
done
stage "memory of the baseline" "$programs/nibble" bench "$out/qwen2-0.5b" --device cuda -p 2048 -n 128 -r 3
stage "memory below the baseline's, every group size" python3 "$root/bench/gpu_memory.py" --nibble "$programs/nibble" --work "$out"
model=$out/to-quantize
python3 "$root/bench/random_checkpoint.py" qwen2-0.5b "$model" --tokenizer "$root/data/mini/models/qwen2-mini/tokenizer.json"
stage "GPTQ of 128 samples of 512 tokens" "$programs/nibble" quantize "$model" "$model-4bit" --force --method gptq --device cuda \
  --samples 128 --seqlen 512 --calibration "$NIBBLE_DATA"/data/{wikitext.train.txt,{boolq,gsm8k,msmarco}.train.jsonl}
exit $failed
