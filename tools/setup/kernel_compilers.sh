#!/usr/bin/env bash
# Installs the compilers of the kernels on Debian or Ubuntu, without CUDA and without ROCm: clang 19 with
# its linker and tools from apt, nvcc 13.0 with the tools that read its output from PyPI wheels, in a
# folder of their own. Needs no GPU. Run again, it installs what is missing and nothing else.
#
#   tools/setup/kernel_compilers.sh [--check] [--only nvcc|clang]
#
# --check    prints what is there and installs nothing; fails if something is missing
# --only     one of the two
# PYTHON     the interpreter that makes the folder of wheels (default python3)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
: "${PYTHON:=python3}"
# build.rs looks there.
wheels="${XDG_DATA_HOME:-$HOME/.local/share}/grpo-rt/nvcc"
# One release of CUDA: the driver that it needs is 580, and kernels were measured with it.
packages=(nvidia-cuda-nvcc==13.0.* nvidia-cuda-crt==13.0.* nvidia-nvvm==13.0.* nvidia-cuda-runtime==13.0.*
    nvidia-cuda-cuobjdump==13.* nvidia-cuda-nvdisasm==13.*)

check="" only=""
while [ $# -gt 0 ]; do
    case "$1" in
    --check) check=1 ;;
    --only)
        only=${2:-}
        [ "$only" = nvcc ] || [ "$only" = clang ] || { echo "--only needs nvcc or clang" >&2; exit 2; }
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

say() { printf '== %s\n' "$*"; }

as_root() {
    if [ "$(id -u)" -eq 0 ]; then "$@"; else sudo -n "$@"; fi
}

# Installs those of the named Debian packages that are not there.
debian() {
    local missing=() package
    for package in "$@"; do
        dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q "install ok" || missing+=("$package")
    done
    [ "${#missing[@]}" -gt 0 ] || return 0
    say "installing ${missing[*]}"
    command -v apt-get >/dev/null || { echo "apt-get is missing: install ${missing[*]} by hand" >&2; return 1; }
    as_root apt-get update -qq
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}"
}

# Prints the path of a program of the wheels.
of_wheels() {
    local file
    for file in "$wheels"/lib/python3*/site-packages/nvidia/cu13/bin/"$1"; do
        [ -x "$file" ] && echo "$file" && return 0
    done
    return 1
}

# Prints the version of each part of a compiler, or that it is missing; fails if one is.
parts() {
    local name path missing=0
    for name in "$@"; do
        if path=$(command -v "$name" || of_wheels "$name"); then
            printf '%-18s %s\n' "$name" "$("$path" --version 2>&1 | grep -oE '[0-9]+\.[0-9]+\.[0-9]+' | head -n 1)"
        else
            printf '%-18s missing\n' "$name"
            missing=1
        fi
    done
    return "$missing"
}

clang_parts=(clang++-19 ld.lld-19 llvm-readelf-19 llvm-objdump-19)
nvcc_parts=(g++ nvcc ptxas cuobjdump nvdisasm)

there() {
    local all=0
    if [ "$only" != nvcc ]; then parts "${clang_parts[@]}" || all=1; fi
    if [ "$only" != clang ]; then parts "${nvcc_parts[@]}" || all=1; fi
    return "$all"
}

if [ -n "$check" ]; then
    there || { echo "something is missing: run tools/setup/kernel_compilers.sh" >&2; exit 1; }
    exit 0
fi

if [ "$only" != nvcc ]; then
    debian clang-19 lld-19 llvm-19
fi
if [ "$only" != clang ]; then
    # nvcc preprocesses with the host's compiler.
    debian g++
    if ! (of_wheels nvcc && of_wheels cuobjdump && of_wheels nvdisasm) >/dev/null; then
        say "installing nvcc into $wheels"
        if ! "$PYTHON" -m venv "$wheels" >/dev/null 2>&1; then
            # Debian keeps what venv needs in a package of its own.
            debian python3-venv
            /usr/bin/python3 -m venv --clear "$wheels"
        fi
        "$wheels/bin/python" -m pip install --quiet --disable-pip-version-check "${packages[@]}" ||
            { echo "the wheels of nvcc could not be installed: ${packages[*]}" >&2; exit 1; }
    fi
fi
there
# Cargo does not notice a new compiler by itself.
touch build.rs
say "done: build again, with GRPO_RT_KERNELS=require to be sure"
