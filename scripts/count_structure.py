"""Counts of the shipped code's structure, for a before and an after: `count_structure.py [ROOT]`.

A room is a file at the top of `qsft_robot/`, a folder there, or another package as a whole. Imports
inside functions count; those for types alone (`if TYPE_CHECKING`) don't.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

PACKAGES = ("qsft_robot", "vlm", "tokenizers_action", "sim")
LONG = 60
# The files that name this method are those that one more method would touch.
METHOD = "ilql"

Graph = Mapping[str, set[str]]


def sources(root: Path) -> dict[str, Path]:
    """Module name -> file, of everything that the wheel holds."""
    found = {}
    for package in PACKAGES:
        for path in sorted((root / package).rglob("*.py")):
            parts = path.relative_to(root).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imported(module: str, tree: ast.Module, modules: Mapping[str, Path]) -> Iterator[str]:
    """The modules of ours that a module imports."""
    is_package = modules[module].name == "__init__.py"
    todo: list[ast.AST] = [tree]
    while todo:
        node = todo.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            todo.extend(node.orelse)
            continue
        if isinstance(node, ast.Import):
            yield from (each.name for each in node.names if each.name in modules)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = module.split(".")
                above = above[: len(above) - node.level + is_package]
                base = ".".join([*above, *filter(None, [base])])
            inner = {f"{base}.{each.name}" for each in node.names} & modules.keys()
            yield from inner or {base} & modules.keys()
        todo.extend(ast.iter_child_nodes(node))


def room(module: str) -> str:
    """The room that a module lies in."""
    package, *inner = module.split(".")
    return ".".join([package, *inner[:1]]) if package == "qsft_robot" else package


def circles(graph: Graph) -> list[set[str]]:
    """The groups of nodes that reach each other."""

    @cache
    def reached(start: str) -> frozenset[str]:
        seen, todo = set[str](), [start]
        while todo:
            new = graph[todo.pop()] - seen
            seen |= new
            todo += new
        return frozenset(seen)

    groups = {frozenset(x for x in reached(n) if n in reached(x)) for n in graph}
    return [set(group) for group in groups if len(group) > 1]


def floors(graph: Graph) -> int:
    """Nodes on the longest chain of imports; those of one circle stand on one floor."""
    together = {node: min(group) for group in circles(graph) for node in group}
    merged: dict[str, set[str]] = {}
    for node, uses in graph.items():
        at = together.get(node, node)
        merged.setdefault(at, set()).update({together.get(x, x) for x in uses} - {at})

    @cache
    def height(node: str) -> int:
        return 1 + max((height(below) for below in merged[node]), default=0)

    return max(map(height, merged))


def functions(tree: ast.Module) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Every function and method."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def counts(root: Path) -> dict[str, int]:
    """Everything that is counted, by its name."""
    modules = sources(root)
    texts = {name: path.read_text() for name, path in modules.items()}
    trees = {name: ast.parse(text) for name, text in texts.items()}
    files = {name: set(imported(name, tree, modules)) - {name} for name, tree in trees.items()}
    rooms: dict[str, set[str]] = {room(name): set() for name in modules if name != "qsft_robot"}
    for name, uses in files.items():
        if name != "qsft_robot":
            rooms[room(name)] |= {room(x) for x in uses if x != "qsft_robot"} - {room(name)}
    names = [n for tree in trees.values() for n in ast.walk(tree) if isinstance(n, ast.Name)]
    long = [
        f
        for tree in trees.values()
        for f in functions(tree)
        if f.end_lineno is not None and f.end_lineno - f.lineno >= LONG
    ]
    top = [x for x in (root / "qsft_robot").iterdir() if x.name != "__pycache__"]
    return {
        "entries at the top of qsft_robot/": len(top),
        "rooms": len(rooms),
        "floors of rooms": floors(rooms),
        "arrows between rooms": sum(map(len, rooms.values())),
        "circles of rooms": len(circles(rooms)),
        "floors of files": floors(files),
        "circles of files": len(circles(files)),
        f"files that name the method {METHOD}": sum(METHOD in x.lower() for x in texts.values()),
        "shipped files": len(modules),
        "shipped lines": sum(len(text.splitlines()) for text in texts.values()),
        "uses of Any": sum(n.id == "Any" for n in names),
        f"functions over {LONG} lines": len(long),
    }


def main() -> None:
    """Print the counts of a checkout as a table; this one's where none is named."""
    root = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).resolve().parents[1]
    for name, count in counts(root).items():
        print(f"| {name} | {count:,} |")


if __name__ == "__main__":
    main()
