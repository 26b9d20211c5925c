#!/usr/bin/env bash
# Takes a built tree to a machine with a device, and asks there whether the device path is right and how
# fast it is. The machine needs no Rust; compute-sanitizer and PyTorch are used if they are there.
#
#   tools/device_check.sh --pack [DIR]            here: builds the program and its tests, puts both into DIR
#   tools/device_check.sh --run [DIR] [OPTION...] there: runs them (DIR: default outputs/device)
#
# --device D   as the program names it (default cuda:0)
# --out DIR    logs and results (default outputs/device_check)
# --only A,B   some of: doctor conformance sft train times memcheck racecheck synccheck
# --op NAME    conformance and the sanitizer on this op alone
# --limit S    most seconds of one step (default 240)
#
# Each step passes, fails or is passed over with its reason; the last lines say which. Results of `times`
# are also written to benches/results/, one file per device, with the rest of the tree.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

mode="" folder=outputs/device device=cuda:0 out=outputs/device_check limit=240 op=""
only=doctor,conformance,sft,train,times,memcheck,racecheck,synccheck
while [ $# -gt 0 ]; do
    case "$1" in
    --pack | --run)
        mode=${1#--}
        if [ $# -ge 2 ] && [ "${2#--}" = "$2" ]; then
            folder=$2
            shift
        fi
        ;;
    --device | --out | --only | --op | --limit)
        [ $# -ge 2 ] || { echo "$1 needs a value" >&2; exit 2; }
        declare "${1#--}=$2"
        shift
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
    shift
done

# Builds with the kernels of all vendors and copies the programs without their debug information.
pack() {
    set -e
    mkdir -p "$folder"
    export GRPO_RT_KERNELS=require
    cargo build --locked --release
    cp target/release/grpo-rt "$folder/grpo-rt"
    local test
    test=$(cargo test --locked --release --no-run --test conformance --message-format json |
        grep -o '"executable":"[^"]*conformance[^"]*"' | cut -d'"' -f4)
    cp "$test" "$folder/conformance"
    strip "$folder/grpo-rt" "$folder/conformance"
    ls -l "$folder"
}

declare -a summary=()
failed=0

# step NAME COMMAND...: runs it with a limit, keeps its output, remembers how it went.
step() {
    local name=$1 code start=$SECONDS
    shift
    printf '\n== %s\n' "$name"
    timeout --kill-after 10 "$limit" "$@" >"$out/$name.log" 2>&1
    code=$?
    tail -n 25 "$out/$name.log"
    if [ "$code" -eq 0 ]; then
        summary+=("passed   $name ($((SECONDS - start)) s)")
    else
        failed=1
        summary+=("FAILED   $name (exit $code after $((SECONDS - start)) s, $out/$name.log)")
    fi
    return "$code"
}

pass_over() {
    summary+=("not run  $1: $2")
}

wanted() {
    case ",$only," in *",$1,"*) return 0 ;; *) return 1 ;; esac
}

# One of compute-sanitizer's tools over the ops' cases. The arena is one allocation: what leaves it is
# found here, what leaves a tensor but not the arena is found by the emulator.
sanitizer() {
    local tool=$1
    if ! command -v compute-sanitizer >/dev/null; then
        pass_over "$tool" "compute-sanitizer is not there"
        return
    fi
    conformance "$tool" compute-sanitizer --tool "$tool" --error-exitcode 9 --print-limit 20
}

# conformance STEP [COMMAND...]: every op's cases on the device, under a command.
conformance() {
    local name=$1
    shift
    step "$name" "$@" "$folder/conformance" --exact devices_of_this_machine_agree --nocapture || return
    # A test of another name would pass without having run.
    if ! grep -q "1 passed" "$out/$name.log"; then
        failed=1
        summary+=("FAILED   $name (no test ran, $out/$name.log)")
    fi
}

# A model and rows to train it on.
model() {
    rm -rf "$out/shapes" "$out/tiny"
    step data "$folder/grpo-rt" data make-shapes --output_dir "$out/shapes" --num_rows 256 || return
    step model "$folder/grpo-rt" init --family qwen2_5_vl --preset tiny --vocab_size 384 \
        --dataset_name "$out/shapes/train.jsonl" --output_dir "$out/tiny"
}

# The same supervised steps on the processor and on the device: losses differ by rounding alone.
sft() {
    local on run
    for on in cpu "$device"; do
        run=sft_${on//[^a-z0-9]/_}
        rm -rf "${out:?}/$run"
        step "$run" "$folder/grpo-rt" sft --model_name_or_path "$out/tiny" --device "$on" \
            --dataset_name "$out/shapes/train.jsonl" --output_dir "$out/$run" --max_steps 10 \
            --per_device_train_batch_size 16 --learning_rate 3e-4 --dtype float32 \
            --tune_mm_vision --tune_mm_mlp || return
    done
    step sft_curves python3 - "$out/sft_cpu/metrics.jsonl" "$out/$run/metrics.jsonl" <<'PYTHON'
import json, sys
cpu, device = ([json.loads(line)["loss"] for line in open(path)] for path in sys.argv[1:])
assert len(cpu) == len(device) == 10, f"{len(cpu)} and {len(device)} steps"
apart = max(abs(a - b) / abs(a) for a, b in zip(cpu, device))
assert apart < 1e-3, f"losses differ by {apart:.1e}: {cpu} on the processor, {device} on the device"
assert device[-1] < device[0], f"nothing was learned: {device}"
print(f"10 steps: loss {device[0]:.3f} to {device[-1]:.3f}, at most {apart:.1e} from the processor's")
PYTHON
}

# A short run of a model that knows nothing, paid for short answers, and what it says of itself: as much
# memory as planned, the same log-probabilities in rollout and training, gradients that are numbers.
train() {
    local run=$out/run
    rm -rf "$run"
    step train "$folder/grpo-rt" train --config configs/shapes_tiny.yaml --device "$device" \
        --model_name_or_path "$out/tiny" --dataset_name "$out/shapes/train.jsonl" --output_dir "$run" \
        --max_steps 6 --save_steps 6 --reward_funcs length --max_completion_length 32 || return
    step plan python3 - "$run/metrics.jsonl" <<'PYTHON'
import json, sys
rows = [json.loads(line) for line in open(sys.argv[1])]
steps = [r for r in rows if "memory/planned_peak" in r]
assert steps, "no step says what memory it took"
wrong = [r for r in steps if r["memory/planned_peak"] != r["memory/actual_peak"]]
assert not wrong, f"planned and actual peak differ: {wrong[0]}"
differences = [r["sampling/logp_diff_max"] for r in steps if "sampling/logp_diff_max" in r]
assert differences and max(differences) == 0, f"rollout and training differ: {differences}"
norms = [r["grad_norm"] for r in steps if "grad_norm" in r]
assert any(0 < n < 1e4 for n in norms) and all(n == n for n in norms), f"norms of gradients: {norms}"
print(f"{len(steps)} steps: memory as planned ({steps[-1]['memory/actual_peak']} bytes), "
      f"log-probabilities equal to the bit")
PYTHON
}

times() {
    if ! python3 -c 'import torch; assert torch.cuda.is_available()' 2>/dev/null; then
        pass_over times "python3 has no torch that sees a device"
        return
    fi
    step times python3 tools/device_check.py --bin "$folder/grpo-rt" --device "$device" || return
    mkdir -p "$out/results"
    find benches/results -name '*.jsonl' -newer "$out/started" -exec cp {} "$out/results/" \;
}

run() {
    mkdir -p "$out"
    touch "$out/started"
    # The tests look on this device and nowhere else.
    export GRPO_RT_TEST_DEVICES=$device
    if [ -n "$op" ]; then export GRPO_RT_TEST_OP=$op; fi
    for name in grpo-rt conformance; do
        [ -x "$folder/$name" ] || { echo "$folder/$name is missing: tools/device_check.sh --pack" >&2; exit 2; }
    done
    wanted doctor && step doctor "$folder/grpo-rt" doctor
    wanted conformance && conformance conformance
    if { wanted sft || wanted train; } && model; then
        wanted sft && sft
        wanted train && train
    fi
    wanted times && times
    for tool in memcheck racecheck synccheck; do
        wanted "$tool" && sanitizer "$tool"
    done
    printf '\n'
    printf '%s\n' "${summary[@]}"
    return "$failed"
}

case "$mode" in
pack) pack ;;
run) run ;;
*)
    echo "--pack or --run is needed (see --help)" >&2
    exit 2
    ;;
esac
