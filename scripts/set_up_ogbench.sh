#!/usr/bin/env bash
# Adds OGBench to .venv; exit status 1 where its packages can't be installed.
set -uo pipefail
cd "$(dirname "$0")/.."

echo "Installing OGBench into .venv"
if ! .venv/bin/python -m pip install --quiet --no-deps -r requirements-ogbench.lock; then
    echo "OGBench could not be installed (see above), then again: make ogbench" >&2
    exit 1
fi
