#!/bin/sh
# Builds the two emulated drivers: libgrt_emu_cuda.so (waves of 32) and libgrt_emu_hip.so (waves of 64),
# each with all kernels of a folder. An object or library whose inputs are unchanged is kept.
#
#   kernels/emu/build.sh [--out DIR] [--only module,...] [--kernels DIR] [--without-symbol NAME]
#
#   --out DIR               where objects and libraries go (target/emu)
#   --only a,b              these modules only (a.cu, b.cu)
#   --kernels DIR           another folder of kernels (kernels/common)
#   --without-symbol NAME   the libraries lack this function of the driver
#
# CXX names the compiler (c++). Prints the paths of the two libraries.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
out=$root/target/emu
kernels=$root/kernels/common
only=
without=
while [ $# -gt 0 ]; do
    [ $# -gt 1 ] || { echo "build.sh: $1 needs a value" >&2; exit 2; }
    case $1 in
        --out) out=$2 ;;
        --only) only=$2 ;;
        --kernels) kernels=$(cd "$2" && pwd) ;;
        --without-symbol) without=$2 ;;
        *) echo "build.sh: unknown option $1; see the top of $0" >&2; exit 2 ;;
    esac
    shift 2
done
mkdir -p "$out"
out=$(cd "$out" && pwd)

cxx=${CXX:-c++}
flags="-std=c++17 -O2 -fPIC -pthread -fvisibility=hidden -fno-strict-aliasing -ffp-contract=off"
flags="$flags -Wall -Wno-unknown-pragmas -DGRT_EMU"
# fmaf as one instruction where the machine has it.
if grep -q '^flags.* fma .*avx2\|^flags.* avx2 .*fma' /proc/cpuinfo 2>/dev/null; then
    flags="$flags -mavx2 -mfma"
fi
case $($cxx --version 2>/dev/null | head -n 1) in
    *clang*) ;;
    *) flags="$flags -fno-gnu-unique" ;;
esac
[ -z "${CXXFLAGS:-}" ] || flags="$flags $CXXFLAGS"

# Kernels may include what lies beside them and in a folder "include" beside theirs.
headers_hash=$({ echo "$flags"; $cxx --version; cat "$here"/*.h "$root"/kernels/include/*.h
    for h in "$kernels"/*.h "$kernels"/../include/*.h; do [ ! -f "$h" ] || cat "$h"; done
} | cksum | tr ' ' '-')

# compile SOURCE OBJECT WAVE: in the background, unless the object is of these inputs.
compile() {
    hash=$headers_hash-$(cksum < "$1" | tr ' ' '-')
    if [ -f "$2" ] && [ "$(cat "$2.of" 2>/dev/null)" = "$hash" ]; then return; fi
    rm -f "$2.of"
    {
        $cxx $flags -DGRT_WAVE="$3" -I"$here" -x c++ -c "$1" -o "$2.new" \
            && mv "$2.new" "$2" && echo "$hash" > "$2.of" || echo "$1" >> "$out/failed"
    } &
    running=$((running + 1))
    if [ $running -ge 2 ]; then
        wait
        running=0
    fi
}

wanted() {
    case ",$only," in
        ,,|*",$1,"*) return 0 ;;
        *) return 1 ;;
    esac
}

rm -f "$out/failed"
running=0
for wave in 32 64; do
    if [ $wave = 32 ]; then vendor=cuda; else vendor=hip; fi
    folder=$out/wave$wave
    mkdir -p "$folder"
    for f in fiber block matrix executor driver driver_$vendor; do
        compile "$here/$f.cpp" "$folder/$f.o" $wave
    done
    for f in "$kernels"/*.cu; do
        [ -f "$f" ] || continue
        name=$(basename "$f" .cu)
        if wanted "$name"; then compile "$f" "$folder/kernel_$name.o" $wave; fi
    done
done
wait
if [ -f "$out/failed" ]; then
    echo "build.sh: could not compile:" >&2
    sort -u "$out/failed" >&2
    exit 1
fi

for wave in 32 64; do
    if [ $wave = 32 ]; then vendor=cuda; else vendor=hip; fi
    folder=$out/wave$wave
    library=$out/libgrt_emu_$vendor.so
    objects=
    for f in fiber block matrix executor driver driver_$vendor; do objects="$objects $folder/$f.o"; done
    for f in "$kernels"/*.cu; do
        [ -f "$f" ] || continue
        name=$(basename "$f" .cu)
        if wanted "$name"; then objects="$objects $folder/kernel_$name.o"; fi
    done
    hash=$({ echo "$without"; for o in $objects; do echo "$o"; cat "$o.of"; done; } | cksum)
    if [ ! -f "$library" ] || [ "$(cat "$library.of" 2>/dev/null)" != "$hash" ]; then
        local=
        [ -z "$without" ] || local="$without;"
        printf '{ global: cu*; hip*; grt_emu_*; local: %s *; };\n' "$local" > "$folder/exports"
        # Threads of the pool outlive a dlclose.
        $cxx -shared -pthread -o "$library.new" $objects \
            -Wl,--version-script="$folder/exports" -Wl,-z,nodelete
        mv "$library.new" "$library"
        echo "$hash" > "$library.of"
    fi
    echo "$library"
done
