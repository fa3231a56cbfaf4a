#!/usr/bin/env bash
# Adds ALFWorld's text engine to .venv; where it can't be compiled, says what is missing and goes on.
set -uo pipefail
cd "$(dirname "$0")/.."

echo "Installing ALFWorld's engine into .venv (its planner is compiled, which takes some minutes)"
if ! .venv/bin/python -m pip install --quiet --no-deps -r requirements-alfworld.lock; then
    echo "ALFWorld's engine could not be built; its tests are skipped, the rest works. It needs a C++" >&2
    echo "compiler, make and cmake (Debian: sudo apt-get install build-essential cmake), then: make -B .venv/.alfworld" >&2
fi
