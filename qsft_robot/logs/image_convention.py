"""The image convention of a file: which way up its images stand, where the file tells it.

robosuite hands images out with the bottom row first (its macro IMAGE_CONVENTION, "opengl") unless
told "opencv"; LIBERO's files keep the macro as an attribute of `data`. robomimic's converter turns
images upright, and so are those of our simulators and of a camera's driver.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import h5py

from qsft_robot.logs.hdf5_members import attribute, member

ATTRIBUTE, ENTRY = "macros_image_convention", "image_convention"
# Bottom row first.
OPENGL = "opengl"


def image_convention(file: h5py.File, env_args: Mapping[str, Any]) -> str | None:
    """ "opengl", "opencv" or what else a file tells; None where it tells nothing."""
    inside = env_args.get("env_kwargs") or {}
    told = [env_args.get(ENTRY), inside.get(ENTRY), attribute(member(file, "data"), ATTRIBUTE)]  # type: ignore[arg-type]
    return next((words.lower() for words in told if isinstance(words, str)), None)


def upside_down_note(convention: str | None) -> str | None:
    """The note on images whose first row is the bottom; None where nothing tells that."""
    if convention != OPENGL:
        return None
    return (
        "the images are upside down (image convention opengl: the first row is the bottom), where "
        "simulators here and cameras show them upright: a policy that learns from them needs the "
        "same at work, or turn them before training (rows in reverse order)."
    )
