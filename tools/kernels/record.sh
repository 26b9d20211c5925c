#!/usr/bin/env bash
# Writes kernels/resources.tsv: registers, shared memory, local memory and instructions of every kernel
# on every target, from the machine code. Needs the compilers of tools/setup/kernel_compilers.sh.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
GRPO_RT_KERNELS=require GRPO_RT_TEST_UPDATE=1 cargo test --test kernels_static "$@"
git --no-pager diff --stat -- kernels/resources.tsv
