#!/usr/bin/env bash
# A whole experiment on easy-VQA, from nothing to a table: data, a new tiny model, a supervised warm
# start, GRPO, and the test split before and after, greedy and sampled. Every step is an ordinary
# command of grpo-rt, printed before it runs; the seed is fixed, so a second run gives the same table.
#
#   tools/easy_vqa/run.sh [--data DIR] [--out DIR] [--bin PROGRAM]
#
# --data  a folder with train.jsonl and test.jsonl as tools/data/easy_vqa.py writes them, or the
#         unpacked easy-vqa wheel; without it the data is fetched with pip
# --out   folder for everything (default outputs/easy_vqa); a step that was done with the same options,
#         after the same steps, is not redone
# --bin   the program (default: built with cargo)
#
# Every variable below can be set in the environment: SFT_STEPS=2 GRPO_STEPS=2 tools/easy_vqa/run.sh
set -euo pipefail
shopt -s inherit_errexit # a command that fails inside $(...) ends the script too

# --- data -----------------------------------------------------------------------------------------
: "${SEED:=7}"
: "${TRAIN_ROWS:=}" # first rows of train.jsonl; empty is all 38,575
: "${TEST_ROWS:=1000}" # first rows of test.jsonl; empty is all 9,673
: "${PROMPT_PIXELS:=}" # --max_pixels; empty is the model's own limit

# --- model ----------------------------------------------------------------------------------------
: "${PRESET:=tiny}"
: "${VOCAB_SIZE:=384}"
: "${TUNED:=--tune_mm_llm --tune_mm_vision --tune_mm_mlp}"

# --- supervised warm start: often right when it samples, far from always --------------------------
: "${SFT_STEPS:=500}"
: "${SFT_BATCH:=32}"
: "${SFT_RATE:=3e-4}"
: "${SFT_WARMUP:=20}"

# --- GRPO -----------------------------------------------------------------------------------------
: "${GRPO_STEPS:=1300}"
: "${GRPO_BATCH:=256}" # completions per step: 32 questions with 8 tries each
: "${NUM_GENERATIONS:=8}"
: "${GRPO_RATE:=1e-4}" # falls to 0 in a straight line: a rate that stays high makes a tiny policy sway
: "${GRPO_WARMUP:=10}"
: "${BETA:=0.01}"
: "${EPSILON:=0.2}"
: "${NUM_ITERATIONS:=2}" # two updates per rollout, so that clipping has something to clip
: "${SCALE_REWARDS:=none}"
: "${TEMPERATURE:=1.0}"
: "${SAVE_STEPS:=325}"

# --- measuring ------------------------------------------------------------------------------------
: "${REWARD:=exact}" # the model answers with one word and no tags
: "${MAX_COMPLETION_LENGTH:=8}"
: "${EVAL_SAMPLES:=4}"
: "${EVAL_BATCH:=256}"
: "${LAST_CHECKPOINTS:=3}" # how many checkpoints are measured beside the result

cd "$(dirname "${BASH_SOURCE[0]}")/../.."
source_dir="" out=outputs/easy_vqa bin=""
while [ $# -gt 0 ]; do
    case "$1" in
    --data | --out | --bin)
        [ $# -ge 2 ] || { echo "$1 needs a value" >&2; exit 2; }
        ;;&
    --data) source_dir=$2 ;;
    --out) out=$2 ;;
    --bin) bin=$2 ;;
    --help | -h)
        sed -n '2,/^set /{/^#/s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}"
        exit 0
        ;;
    *)
        echo "unknown argument $1 (see --help)" >&2
        exit 2
        ;;
    esac
    shift 2
done

if [ -z "$bin" ]; then
    cargo build --locked --release
    bin=${CARGO_TARGET_DIR:-target}/release/grpo-rt
fi
command -v "$bin" >/dev/null || { echo "$bin is no program" >&2; exit 2; }

# once NAME COMMAND...: runs a command of grpo-rt and keeps its output in done/NAME.txt, unless that
# was done with the same words after the same commands ($so_far). Shows the command first.
so_far=""
once() {
    local name=$1
    shift
    if [ "$(cat "$out/done/$name.cmd" 2>/dev/null)" != "$so_far$*" ]; then
        rm -f "$out/done/$name.cmd"
        printf '\n$ grpo-rt %s\n' "$*" >&2
        "$bin" "$@" | tee "$out/done/$name.txt" >&2
        printf '%s' "$so_far$*" >"$out/done/$name.cmd"
    fi
}

mkdir -p "$out/done"
data=$out/data
if [ -n "$source_dir" ] && [ -f "$source_dir/train.jsonl" ]; then
    data=$source_dir
elif [ ! -f "$data/test.jsonl" ]; then
    python3 tools/data/easy_vqa.py --output_dir "$data" ${source_dir:+--source "$source_dir"}
fi
for split in train test; do
    [ -f "$data/$split.jsonl" ] || { echo "$data has no $split.jsonl" >&2; exit 2; }
done

# The same rows, images and parts of the model in every step.
pixels=() train_rows=() test_rows=()
[ -z "$PROMPT_PIXELS" ] || pixels=(--max_pixels "$PROMPT_PIXELS")
[ -z "$TRAIN_ROWS" ] || train_rows=(--max_rows "$TRAIN_ROWS")
[ -z "$TEST_ROWS" ] || test_rows=(--max_rows "$TEST_ROWS")
read -r -a tuned <<<"$TUNED"

init=(init --preset "$PRESET" --vocab_size "$VOCAB_SIZE" --dataset_name "$data/train.jsonl"
    --seed "$SEED" --overwrite_output_dir --output_dir "$out/model")
once init "${init[@]}"
so_far="${init[*]}; "

sft=(sft --model_name_or_path "$out/model"
    --dataset_name "$data/train.jsonl" "${train_rows[@]}" "${pixels[@]}" "${tuned[@]}"
    --max_steps "$SFT_STEPS" --per_device_train_batch_size "$SFT_BATCH"
    --learning_rate "$SFT_RATE" --lr_scheduler_type constant_with_warmup
    --warmup_steps "$((SFT_WARMUP < SFT_STEPS ? SFT_WARMUP : SFT_STEPS))" --logging_steps 20
    --save_steps 0 --seed "$SEED" --overwrite_output_dir --output_dir "$out/sft")
once sft "${sft[@]}"
so_far+="${sft[*]}; "

# measure NAME MODEL: prints its mean reward on the test rows, greedy and sampled.
measure() {
    local name=$1 model=$2 mode more
    for mode in greedy sampled; do
        more=()
        if [ "$mode" = sampled ]; then
            more=(--do_sample --num_samples "$EVAL_SAMPLES" --temperature "$TEMPERATURE")
        fi
        once "$name-$mode" eval --model_name_or_path "$model" --dataset_name "$data/test.jsonl" \
            "${test_rows[@]}" "${pixels[@]}" --reward_funcs "$REWARD" --seed "$SEED" \
            --max_completion_length "$MAX_COMPLETION_LENGTH" --eval_batch_size "$EVAL_BATCH" \
            "${more[@]}" --out "$out/eval/$name-$mode.jsonl"
    done
    for mode in greedy sampled; do
        awk -v reward="$REWARD" '$1 == reward { printf "%s ", $2 }' "$out/done/$name-$mode.txt"
    done
}
mkdir -p "$out/eval"

before=$(measure before "$out/sft")

train=(train --model_name_or_path "$out/sft"
    --dataset_name "$data/train.jsonl" "${train_rows[@]}" "${pixels[@]}" "${tuned[@]}"
    --reward_funcs "$REWARD" --max_completion_length "$MAX_COMPLETION_LENGTH"
    --max_steps "$GRPO_STEPS" --per_device_train_batch_size "$GRPO_BATCH"
    --num_generations "$NUM_GENERATIONS" --num_iterations "$NUM_ITERATIONS" --beta "$BETA"
    --epsilon "$EPSILON" --scale_rewards "$SCALE_REWARDS" --temperature "$TEMPERATURE"
    --learning_rate "$GRPO_RATE" --lr_scheduler_type linear
    --warmup_steps "$((GRPO_WARMUP < GRPO_STEPS ? GRPO_WARMUP : GRPO_STEPS))" --logging_steps 5
    --save_steps "$SAVE_STEPS" --seed "$SEED" --overwrite_output_dir --output_dir "$out/grpo")
once train "${train[@]}"
so_far+="${train[*]}; "

after=$(measure after "$out/grpo")

# The last checkpoints, so that a collapse near the end would show.
names=() figures=()
for checkpoint in $(find "$out/grpo" -maxdepth 1 -name 'checkpoint-*' | sort -V |
    tail -n "$LAST_CHECKPOINTS"); do
    names+=("$(basename "$checkpoint")")
    figure=$(measure "${names[-1]}" "$checkpoint")
    figures+=("$figure")
done

printf '\neasy-VQA, rows of the test split: %s, reward: %s\n\n' "${TEST_ROWS:-all}" "$REWARD"
line() { printf '%-18s %10s %22s\n' "$@"; }
line model greedy "sampled ($EVAL_SAMPLES per row)"
# shellcheck disable=SC2086 # figures are two words
{
    line "before (sft)" $before
    line "after (grpo)" $after
    for i in "${!names[@]}"; do
        line "${names[$i]}" ${figures[$i]}
    done
}
printf '\nthe run as a page: %s\n' "$out/grpo/report.html"
