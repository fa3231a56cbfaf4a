"""Imports go down a floor, never sideways between leaves and never up."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LEAVES = ("tokenizers_action", "vlm", "sim")
PACKAGES = ("qsft_robot", *LEAVES)
# Files of qsft_robot that may name concrete tokenizers, models and simulators.
COMPOSERS = {
    "qsft_robot.parts.simulators",
    "qsft_robot.parts.tokenizers",
    "qsft_robot.parts.models",
}
# Not concrete models: the algorithm's own output rows and critic, the hash of words, and the
# random shift of training images. The files that train and act name these.
HEADS = {"vlm.heads", "vlm.critic", "vlm.words", "vlm.rt.images", "vlm.decision", "vlm.model"}
PROTOCOLS = {"tokenizers_action.protocol"}


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {
    module_name(path): path
    for package in PACKAGES
    for path in sorted((ROOT / package).rglob("*.py"))
}
SCRIPTS = sorted((ROOT / "scripts").rglob("*.py"))


def imports(path: Path, for_types: bool = True) -> set[str]:
    """Every module that a file imports, those inside functions and under TYPE_CHECKING included
    unless told; `from package import name` counts as `package.name` where that is a file of ours.
    """
    package = module_name(path) if path.name == "__init__.py" else module_name(path.parent / "x.py")
    package = package.removesuffix(".x")
    found: set[str] = set()
    todo: list[ast.AST] = [ast.parse(path.read_text())]
    while todo:
        node = todo.pop()
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, base]).strip(".")
            for alias in node.names:
                inner = f"{base}.{alias.name}"
                found.add(inner if inner in MODULES else base)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test) and not for_types:
            continue
        todo.extend(ast.iter_child_nodes(node))
    return found


def floor(module: str) -> str:
    return module.split(".", maxsplit=1)[0]


@pytest.mark.parametrize("leaf", LEAVES)
def test_a_leaf_imports_neither_its_siblings_nor_what_stands_above(leaf: str) -> None:
    others = set(PACKAGES) - {leaf}
    bad = {
        (name, imported)
        for name, path in MODULES.items()
        if floor(name) == leaf
        for imported in imports(path)
        if floor(imported) in others
    }
    assert not bad


def test_only_build_names_concrete_tokenizers_models_and_simulators() -> None:
    bad = {
        (name, imported)
        for name, path in MODULES.items()
        if floor(name) == "qsft_robot" and name not in COMPOSERS
        for imported in imports(path, for_types=False)
        if floor(imported) in LEAVES and imported not in HEADS | PROTOCOLS
    }
    assert not bad


@pytest.mark.parametrize(
    "name",
    [
        "rollouts.evaluate", "rollouts.pool", "rollouts.collect", "rollouts.collect_policy",
        "rollouts.playback", "rollouts.video",
    ],
)  # fmt: skip
def test_what_runs_a_policy_knows_the_protocol_and_no_concrete_one(name: str) -> None:
    path = MODULES.get(f"qsft_robot.{name}")
    assert path is not None, f"qsft_robot.{name} is gone; name its successor here"
    concrete = {
        f"qsft_robot.{part}"
        for part in ("policy.token_policy", "policy.checkpoint", "export.export", "training.train")
    }
    assert not imports(path) & concrete
    assert not {imported for imported in imports(path) if floor(imported) in {"vlm", "torch"}}


def test_scripts_import_only_the_top_floor() -> None:
    bad = {(s.name, i) for s in SCRIPTS for i in imports(s) if floor(i) in LEAVES}
    assert not bad


def test_nothing_imports_in_a_circle() -> None:
    graph = {name: {i for i in imports(path) if i in MODULES} for name, path in MODULES.items()}
    done: set[str] = set()

    def walk(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, " -> ".join([*trail[trail.index(name) :], name])
        if name not in done:
            for following in sorted(graph[name]):
                walk(following, (*trail, name))
            done.add(name)

    for name in graph:
        walk(name, ())


def test_no_package_imports_its_own_init() -> None:
    bad = {(name, i) for name, path in MODULES.items() for i in imports(path) if i in PACKAGES}
    assert not bad


def test_every_file_is_named_by_its_noun() -> None:
    vague = {"utils", "util", "common", "helpers", "helper", "misc", "manager", "tools"}
    bad = {n for n in MODULES if set(n.split(".")) & vague or set(n.split("_")) & vague}
    assert not bad


def test_folders_of_data_scripts_and_tests_are_no_packages() -> None:
    for folder in ("datasets", "scripts", "tests"):
        assert not list((ROOT / folder).rglob("__init__.py")), folder
