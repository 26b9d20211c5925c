#!/usr/bin/env bash
# TRL and grpo-rt on the same model, rows and settings, then torch's kernels and grpo-rt's: makes the
# model and the rows if they are not there, builds the program, runs both in turn and prints tables.
#
#   PYTHON=.../bin/python TOKENIZER=DIR tools/compare/run.sh [--data DIR] [--out DIR] [--bin PROGRAM] [-- OPTION...]
#
# --data     a folder with train.jsonl as tools/data/easy_vqa.py writes it, or the unpacked easy-vqa wheel;
#            without it the data is fetched with pip
# --out      folder for everything (default outputs/compare)
# --bin      the program (default: built with cargo)
# OPTION...  goes to tools/compare/compare.py: --steps 3 --rounds 1 --sides grpo-rt:float32 trl:float32
#
# PYTHON     an interpreter with the packages of tools/compare/requirements.txt (default python3)
# TOKENIZER  a folder with tokenizer.json and tokenizer_config.json of a Qwen2.5 model; needed once
# KERNELS    0 leaves the kernels out
set -euo pipefail
: "${PYTHON:=python3}"
: "${TOKENIZER:=}"
: "${KERNELS:=1}"

cd "$(dirname "${BASH_SOURCE[0]}")/../.."
source_dir="" out=outputs/compare bin=""
while [ $# -gt 0 ]; do
    case "$1" in
    --data | --out | --bin)
        [ $# -ge 2 ] || { echo "$1 needs a value" >&2; exit 2; }
        ;;&
    --data) source_dir=$2 ;;
    --out) out=$2 ;;
    --bin) bin=$2 ;;
    --)
        shift
        break
        ;;
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

if ! "$PYTHON" -c 'import torch, transformers, trl, datasets'; then
    echo "$PYTHON lacks packages: make an environment from tools/compare/requirements.txt and set PYTHON" >&2
    exit 2
fi
if [ -z "$bin" ]; then
    cargo build --locked --release
    bin=${CARGO_TARGET_DIR:-target}/release/grpo-rt
fi
command -v "$bin" >/dev/null || { echo "$bin is no program" >&2; exit 2; }

mkdir -p "$out"
if [ ! -f "$out/model/model.safetensors" ]; then
    [ -n "$TOKENIZER" ] || { echo "set TOKENIZER to a folder with tokenizer.json of a Qwen2.5 model" >&2; exit 2; }
    "$PYTHON" tools/compare/make_model.py --tokenizer "$TOKENIZER" --out "$out/model"
fi
if [ ! -f "$out/data/image/rows.jsonl" ]; then
    rows=$out/easy_vqa
    if [ -n "$source_dir" ] && [ -f "$source_dir/train.jsonl" ]; then
        rows=$source_dir
    elif [ ! -f "$rows/test.jsonl" ]; then
        "$PYTHON" tools/data/easy_vqa.py --output_dir "$rows" ${source_dir:+--source "$source_dir"}
    fi
    "$PYTHON" tools/compare/make_data.py --source "$rows" --out "$out/data"
fi

"$PYTHON" tools/compare/compare.py --bin "$bin" --model "$out/model" --data "$out/data" --out "$out" "$@"
if [ "$KERNELS" != 0 ]; then
    "$PYTHON" tools/compare/torch_kernels.py --out "$out/kernels.json" | tee "$out/kernels.md"
fi
