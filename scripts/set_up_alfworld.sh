#!/usr/bin/env bash
# Adds ALFWorld's text engine to .venv; exit status 1, and what is missing, where it can't be compiled.
set -uo pipefail
cd "$(dirname "$0")/.."

echo "Installing ALFWorld's engine into .venv (its planner is compiled, which takes some minutes)"
if ! .venv/bin/python -m pip install --quiet --no-deps -r requirements-alfworld.lock; then
    echo "ALFWorld's engine could not be built. It needs a C++ compiler, make and cmake" >&2
    echo "(Debian: sudo apt-get install build-essential cmake), then: make alfworld" >&2
    exit 1
fi
