"""Configurations of vla-eval with what our policies have to know of them, shipped and of files."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from qsft_robot.harness.key_map import TURNS, KeyMap, read_yaml
from qsft_robot.harness.observations import Shown
from qsft_robot.json_kinds import check_kinds
from qsft_robot.names import unknown

FOLDER = Path(__file__).parent / "benchmarks"
# The name of our own simulators as a benchmark of the harness.
SIMULATOR = "simulator"
# The word for --harness-image that runs the benchmark in this process.
HERE = "here"
# Ours beside vla-eval's entries: not handed on to it.
_OURS: dict[str, Any] = {
    "image?": str,
    "tasks?": int,
    "shows?": {
        "images?": {"": object},
        "numbers?": {"": int},
        "action_dim?": int,
    },
    "keys?": {"": object},
    "raw_images?": str,
}
_ENTRY = {"benchmark": str, "subname?": (str, None), "params?": ({"": object}, None)}
_THEIRS = {"benchmarks": [_ENTRY], "docker?": ({"": object}, None)}
_PATIENCE_S = 60.0


@dataclass(frozen=True)
class Configuration:
    """A benchmark, or several that are run one after the other, in a container or here."""

    name: str
    # Of vla-eval: `benchmarks` and what else the file says.
    harness: Mapping[str, Any]
    # None where nobody tells it before the benchmark runs.
    shown: Shown | None = None
    keys: KeyMap = field(default_factory=KeyMap)
    # The turn by which an image as it was rendered is made of one that is shown.
    raw_images: str | None = None
    # The end of the name of the container that it runs in.
    image: str | None = None
    # Of each entry, as far as it is known: a benchmark itself tells them when it runs.
    tasks: int = 1

    @property
    def entries(self) -> Sequence[Mapping[str, Any]]:
        return self.harness["benchmarks"]

    def episodes(self, of_each: int | None) -> int:
        """How many episodes there are, as far as the tasks are known."""
        count = sum(of_each or int(each.get("episodes_per_task", 1)) for each in self.entries)
        return count * self.tasks

    def only(self, subname: str) -> Configuration:
        """One entry of several; ValueError names all where there is no such."""
        found = [each for each in self.entries if each.get("subname") == subname]
        if not found:
            there = [str(each["subname"]) for each in self.entries if each.get("subname")]
            raise unknown(f"benchmark of {self.name}", subname, there)
        harness = {**self.harness, "benchmarks": found}
        return replace(self, name=f"{self.name}/{subname}", harness=harness)

    def in_image(self, asked: str | None) -> Configuration:
        """The configuration in the container that was asked for, else in the one of this machine
        that its file tells; HERE: in this process. FileNotFoundError where there is none."""
        docker = dict(self.harness.get("docker") or {})
        if asked == HERE:
            return replace(self, harness={k: x for k, x in self.harness.items() if k != "docker"})
        if asked is None and self.image is None:
            charlie = "charliecloud" in (docker.get("runtime"), os.environ.get("VLA_EVAL_RUNTIME"))
            if docker.get("image") and not charlie and shutil.which("docker") is None:
                raise FileNotFoundError(
                    f"{self.name} runs in the container {docker['image']}, and docker is not "
                    f"installed here: install it, or run the benchmark where its simulator is "
                    f"installed (--harness-image {HERE})."
                )
            return self
        docker["image"] = asked or local_image(str(self.image), self.name)
        return replace(self, harness={**self.harness, "docker": docker})


def configuration_names() -> list[str]:
    """The names of the shipped configurations, and that of our simulators."""
    return [SIMULATOR, *sorted(path.stem for path in FOLDER.glob("*.yaml"))]


def find_configuration(name: str) -> Configuration:
    """A shipped configuration (`libero`, or one entry of it: `libero/spatial`), or that of a YAML
    file of vla-eval's. ValueError with the nearest name where there is none."""
    if name.endswith((".yaml", ".yml")):
        return _read(Path(name), name, theirs=True)
    family, slash, subname = name.partition("/")
    if family not in configuration_names() or family == SIMULATOR:
        raise unknown("harness", name, [*configuration_names(), "<file of vla-eval's>.yaml"])
    found = _read(FOLDER / f"{family}.yaml", family, theirs=False)
    return found.only(subname) if slash else found


def _read(path: Path, name: str, theirs: bool) -> Configuration:
    value = read_yaml(path)
    if theirs and isinstance(value, Mapping):
        from vla_eval.cli.config_loader import load_config

        try:  # what it extends, and variables
            value = load_config(str(path))
        except Exception as error:
            raise ValueError(f"{path}: {error}") from error
    check_kinds(value, {**_OURS, **_THEIRS}, str(path))
    if not value["benchmarks"]:
        raise ValueError(f"{path}: its list of benchmarks is empty.")
    shows = value.get("shows")
    turn = value.get("raw_images")
    if turn is not None and turn not in TURNS:
        raise unknown(f"raw_images of {path}", turn, TURNS)
    return Configuration(
        name=name,
        harness={key: x for key, x in value.items() if f"{key}?" not in _OURS},
        shown=None if shows is None else _shown(shows, path),
        keys=KeyMap.from_json(value.get("keys"), f"{path}: keys"),
        raw_images=turn,
        image=value.get("image"),
        tasks=value.get("tasks", 1),
    )


def _shown(value: Mapping[str, Any], path: Path) -> Shown:
    images: dict[str, tuple[int, int] | None] = {}
    for name, size in value.get("images", {}).items():
        if size is not None:
            check_kinds(size, [int], str(path), f"shows.images.{name}")
        images[name] = None if size is None else (size[0], size[1])
    return Shown(images, value.get("numbers", {}), value.get("action_dim"))


def local_image(ending: str, name: str) -> str:
    """The container of this machine whose repository ends so; nothing is fetched."""
    docker = shutil.which("docker")
    how = (
        f"fetch it as vla-eval's documentation says (tens of GB), name another one "
        f"(--harness-image NAME), or run {name} where its simulator is installed "
        f"(--harness-image {HERE})"
    )
    if docker is None:
        raise FileNotFoundError(
            f"{name} runs in a container, {ending}, and docker is not installed here: install "
            f"docker, then {how}."
        )
    asked = [docker, "image", "ls", "--format", "{{.Repository}}:{{.Tag}}"]
    try:
        told = subprocess.run(
            asked, capture_output=True, text=True, check=True, timeout=_PATIENCE_S
        )
    except (OSError, subprocess.SubprocessError) as error:
        said = getattr(error, "stderr", None) or error
        raise RuntimeError(f"docker does not answer (docker image ls): {said}") from error
    for line in told.stdout.splitlines():
        repository = line.rpartition(":")[0]
        if repository == ending or repository.endswith(f"/{ending}"):
            return line
    raise FileNotFoundError(f"{name} runs in the container {ending}, which is not here: {how}.")
