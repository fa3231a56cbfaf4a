"""The software versions that stand beside every result."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

PACKAGES = (
    "qsft-robot",
    "numpy",
    "torch",
    "gymnasium",
    "mujoco",
    "robosuite",
    "timm",
    "h5py",
    "pillow",
    "imageio-ffmpeg",
)


def software_versions() -> dict[str, str | None]:
    """Version of Python, of the platform and of each package in PACKAGES; None where absent.

    Read from the installed metadata: nothing is imported.
    """
    found: dict[str, str | None] = {
        "python": platform.python_version(),
        "platform": platform.platform(),
    }
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    return found
