#!/usr/bin/env bash
# Make .venv-tflite, the environment of tflite-runtime 2.14, where a Python up to 3.11 exists.
# edgeseq works without it, so whatever is missing here is said and is no failure.
set -uo pipefail
cd "$(dirname "$0")/.."

skip() {
    echo "skipped: $1; TFLite files are then not checked in tflite-runtime 2.14"
    exit 0
}

fits='import sys; sys.exit(not (3, 9) <= sys.version_info[:2] <= (3, 11))'
for python in "$@" python3.11 python3.10 python3.9 python3; do
    if command -v "$python" >/dev/null && "$python" -c "$fits" 2>/dev/null; then
        rm -rf .venv-tflite
        bash scripts/setup_env.sh "$python" .venv-tflite \
            --only-binary :all: --constraint constraints-tflite.txt tflite-runtime \
            || { rm -rf .venv-tflite; skip "tflite-runtime 2.14 could not be installed"; }
        exit 0
    fi
done
skip "no Python from 3.9 to 3.11 found"
