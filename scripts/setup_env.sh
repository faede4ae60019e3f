#!/usr/bin/env bash
# Make the environment in folder $2 with the interpreter $1; then run pip there with the rest.
# Where Debian's python3-venv is missing, pip of the interpreter itself fills the environment.
set -euo pipefail
python=$1 folder=$2
shift 2

if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 9))' 2>/dev/null; then
    echo "$python is not a usable Python; name one: make PYTHON=/path/to/python3" >&2
    exit 1
fi
if "$python" -c 'import ensurepip' 2>/dev/null; then
    "$python" -m venv "$folder"
elif "$python" -m pip --version >/dev/null 2>&1; then
    "$python" -m venv --without-pip "$folder"
    "$python" -m pip --python "$folder/bin/python" install --quiet pip
else
    echo "$python can make no environment: it has neither ensurepip nor pip." >&2
    echo "  -> install Debian's python3-venv, or name another: make PYTHON=/path/to/python3" >&2
    exit 1
fi
"$folder/bin/python" -m pip install --quiet --disable-pip-version-check "$@"
