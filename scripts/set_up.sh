#!/usr/bin/env bash
# Makes .venv from requirements.lock and sees to what Python alone can't bring: venv and EGL.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}

# Installs Debian packages when that is allowed here, else says what to install.
system_packages() {
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        echo "Installing $*"
        apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@"
    else
        echo "$reason. Install: $* (Debian: sudo apt-get install $*), then run make again." >&2
        return 1
    fi
}

# One off-screen context, made and freed: what every simulator process will do.
opens_gl() {
    .venv/bin/python -c 'import mujoco; c = mujoco.GLContext(64, 64); c.make_current(); c.free()' 2>/dev/null
}

if ! "$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))'; then
    echo "$python is $("$python" --version 2>&1); Python 3.11, 3.12 or 3.13 is needed: make PYTHON=python3.12 ..." >&2
    exit 1
fi
if [ ! -x .venv/bin/pip ]; then
    if ! "$python" -m venv .venv 2>/dev/null; then
        reason="$python can't make virtual environments"
        system_packages python3-venv
        "$python" -m venv --clear .venv
    fi
fi
echo "Installing the locked packages into .venv (about 3 GB to fetch, torch's CUDA build included)"
.venv/bin/python -m pip install --quiet --no-deps --use-pep517 -r requirements.lock
# hatchling comes with the lock, so building the project itself fetches nothing.
.venv/bin/python -m pip install --quiet --no-deps --no-build-isolation -e .

if [ "${MUJOCO_GL:-egl}" = egl ] && ! opens_gl; then
    reason="no off-screen OpenGL (EGL) context can be made"
    system_packages libegl1 libopengl0 libgl1 libgl1-mesa-dri
    opens_gl || { echo "$reason, even with Mesa installed; on a machine with an NVIDIA GPU its driver's EGL is needed." >&2; exit 1; }
fi
