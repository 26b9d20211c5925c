#!/usr/bin/env bash
# Makes docs/images/runs.png: three small runs, compared on the page of `grpo-rt runs serve`, as a headless
# Chromium shows them. Needs chromium on the PATH and a built program.
#
#   tools/web/screenshot.sh [PROGRAM]        (default: target/release/grpo-rt)
#
# KEEP=DIR keeps the runs in DIR and reuses what is there; PAGE=TAB photographs another tab (curves, samples,
# time, settings, log), RUNS=N that many of the runs; OUT=FILE writes elsewhere.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
program="$(realpath "${1:-target/release/grpo-rt}")"
browser="$(command -v chromium || command -v chromium-browser || command -v google-chrome)"
out="$(realpath -m "${OUT:-docs/images/runs.png}")"
port="${PORT:-7391}"
dir="${KEEP:-$(mktemp -d)}"
mkdir -p "$dir"
server=
finish() {
    [ -z "$server" ] || kill "$server"
    [ -n "${KEEP:-}" ] || rm -rf "$dir"
}
trap finish EXIT
cd "$dir"

if [ ! -d shapes ]; then
    "$program" data make-shapes --output_dir shapes --num_rows 512 --seed 1 --image_size 56 --quiet
    "$program" init --preset tiny --vocab_size 512 --dataset_name shapes/warmup.jsonl --seed 1 --output_dir new --quiet
    "$program" sft --model_name_or_path new --dataset_name shapes/warmup.jsonl --output_dir runs/warm-up \
        --tune_mm_vision --tune_mm_mlp --max_steps "${WARM:-160}" --per_device_train_batch_size 16 --learning_rate 1e-3 \
        --logging_steps 4 --save_steps 0 --quiet
fi
common=(--model_name_or_path runs/warm-up --dataset_name shapes/train.jsonl --tune_mm_vision --tune_mm_mlp
    --reward_funcs accuracy format --num_generations 8 --per_device_train_batch_size 32
    --max_completion_length 16 --max_steps "${STEPS:-120}" --save_steps 60 --output_dir runs --quiet)
[ -d runs/lr-1e-4 ] || "$program" train "${common[@]}" --run_id lr-1e-4 --learning_rate 1e-4
[ -d runs/lr-3e-4 ] || "$program" train "${common[@]}" --run_id lr-3e-4 --learning_rate 3e-4

"$program" runs serve --output_dir runs --port "$port" &
server=$!
for _ in $(seq 100); do
    curl -sf "http://127.0.0.1:$port/api/runs" >all.json && break
    sleep 0.1
done
keys="$(python3 - "${RUNS:-2}" <<'PY'
import json, sys
runs = {r["run_id"]: r["key"] for r in json.load(open("all.json"))["runs"]}
print(",".join([runs["lr-1e-4"], runs["lr-3e-4"]][: int(sys.argv[1])]))
PY
)"
"$browser" --headless=new --no-sandbox --disable-gpu --disable-dev-shm-usage --hide-scrollbars \
    --user-data-dir="$dir/profile" --window-size="${SIZE:-1480,900}" --virtual-time-budget=8000 ${DARK:+--force-dark-mode} \
    --screenshot="$out" "http://127.0.0.1:$port/#/$keys/${PAGE:-curves}" 2>/dev/null
# Few colours need few bytes; without Pillow the picture stays as it is.
"${PYTHON:-python3}" - "$out" <<'PY' 2>/dev/null || true
import sys
from PIL import Image
picture = Image.open(sys.argv[1]).convert("RGB")
picture.quantize(256, dither=Image.Dither.NONE).save(sys.argv[1], optimize=True)
PY
ls -l "$out"
