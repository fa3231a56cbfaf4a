"""Software versions beside every result, and whether those of a simulator are those of its logs."""

from __future__ import annotations

import platform
import re
import sys
import warnings
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from typing import Any

PACKAGES = (
    "qsft-robot",
    "numpy",
    "torch",
    "gymnasium",
    "mujoco",
    "robosuite",
    "timm",
    "transformers",
    "peft",
    "open_clip_torch",
    "onnxruntime",
    "alfworld",
    "textworld",
    "ogbench",
    "h5py",
    "pillow",
    "imageio-ffmpeg",
)
# The entry of env_args (of logs, policies and results) that names a simulator's versions.
VERSIONS = "versions"
# Packages that take part in the physics or pixels of every simulator.
_EVERY = ("gymnasium", "numpy")
_ROBOSUITE_TYPE = 1  # robomimic's number for it in env_args["type"]


def software_versions() -> dict[str, str | None]:
    """Version of Python, of the platform and of each package in PACKAGES; None where absent.

    Read from the installed metadata: nothing is imported.
    """
    found: dict[str, str | None] = {
        "python": platform.python_version(),
        "platform": platform.platform(),
    }
    return found | {package: installed(package) for package in PACKAGES}


def installed(package: str) -> str | None:
    """The installed version of a package, None where it is absent."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def refused_format(where: str, told: Any, known: Sequence[str]) -> ValueError:
    """The error for a file whose format is none of `known`, newest first (`<name> <number>`): one
    of a later version says what to upgrade."""
    name, _, newest = known[0].rpartition(" ")
    found = re.fullmatch(rf"{re.escape(name)} (\d+)", str(told))
    if found is not None and int(found[1]) > int(newest):
        return ValueError(
            f"{where}: written by a later qsft-robot: its format is {told!r}, and this version "
            f"({installed('qsft-robot')}) reads up to {known[0]!r}. Upgrade it here: pip install "
            "--upgrade qsft-robot."
        )
    return ValueError(
        f"{where}: format {told!r}, but this version reads {', '.join(map(repr, known))}."
    )


def simulator_versions(env: Any) -> dict[str, str]:
    """Installed versions of what makes the physics and pixels of an environment: the packages that
    its class names, or, of any gymnasium environment, the one that it stands in and MuJoCo."""
    kind = type(env.unwrapped)
    packages = getattr(kind, "packages", None)
    if packages is None:
        packages = packages_distributions().get(kind.__module__.split(".")[0], [])
        packages = [*packages, *(["mujoco"] if "mujoco" in sys.modules else [])]
    names = sorted({*packages, *_EVERY})
    return {name: number for name in names if (number := installed(name)) is not None}


def recorded_versions(env_args: Mapping[str, Any]) -> dict[str, str]:
    """The versions that env_args name: ours, or robomimic's `env_version`; {} where there are none.
    ValueError where they are no versions."""
    told = env_args.get(VERSIONS)
    if told is None:
        number = env_args.get("env_version")
        ours = env_args.get("type") == _ROBOSUITE_TYPE and number
        return {"robosuite": str(number)} if ours else {}
    if not isinstance(told, Mapping) or not all(isinstance(x, str) for x in told.values()):
        raise ValueError(f"env_args: {VERSIONS!r} is {told!r}, no version by package.")
    return dict(told)


def compare_with_installed(recorded: Mapping[str, str], what: str, strict: bool = False) -> None:
    """Warn in one line where the versions that made `what` are not the installed ones; with
    `strict` ValueError instead, also where `what` tells no versions."""
    if strict and not recorded:
        raise ValueError(
            f"{what} tell no versions of their simulator, so --strict-versions can't compare them."
        )
    other = {n: installed(n) for n, number in recorded.items() if installed(n) != number}
    if not other:
        return
    theirs = ", ".join(f"{name} {recorded[name]}" for name in other)
    ours = ", ".join(f"{name} {number or '(absent)'}" for name, number in other.items())
    _say(f"{what} come from {theirs}, but {ours} simulates here", strict)


def compare_files(recorded: Mapping[str, Mapping[str, str]], strict: bool = False) -> None:
    """Warn in one line where files (name -> versions) were made with different ones; with `strict`
    ValueError instead."""
    told = {file: versions for file, versions in recorded.items() if versions}
    for package in sorted({name for versions in told.values() for name in versions}):
        numbers: dict[str, str] = {}
        for file, versions in told.items():
            numbers.setdefault(versions.get(package, "none"), file)
        if len(numbers) > 1:
            each = ", ".join(f"{number} ({file})" for number, file in numbers.items())
            _say(f"the files come from different versions of {package}: {each}", strict)
            return


def joined_versions(recorded: Iterable[Mapping[str, str]]) -> dict[str, str]:
    """The versions of logs that were joined: where they differ, all of them, in words."""
    numbers: dict[str, list[str]] = {}
    for versions in recorded:
        for name, number in versions.items():
            kept = numbers.setdefault(name, [])
            kept += [each for each in number.split(" and ") if each not in kept]
    return {name: " and ".join(each) for name, each in sorted(numbers.items())}


def _say(line: str, strict: bool) -> None:
    if strict:
        raise ValueError(f"{line} (refused by --strict-versions).")
    warnings.warn(f"{line}: physics and images may differ, and results with them.", stacklevel=3)
