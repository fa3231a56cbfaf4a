"""The page on files from others names tests that exist."""

from __future__ import annotations

import ast
import re


def test_every_promise_of_the_page_is_held_by_a_test_that_exists(repository):
    page = (repository / "docs" / "security.md").read_text()
    named = re.findall(r"(tests/[\w/]+\.py)(?:::(\w+))?", page)
    for file, test in named:
        tree = ast.parse((repository / file).read_text())
        defined = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
        assert not test or test in defined, f"{file}::{test}"
    # Each row of verbs stands on attacks that have a row of their own, and no row stands alone.
    rows = set(re.findall(r"^\| (A\d+) \|", page, re.MULTILINE))
    held = page[page.index("## What each verb") : page.index("## Attacks")]
    used = set(re.findall(r"\bA\d+\b", held))
    for first, last in re.findall(r"A(\d+) to A(\d+)", held):
        used |= {f"A{i}" for i in range(int(first), int(last) + 1)}
    assert rows == used
    assert all(re.search(rf"^\| {row} \|.*::", page, re.MULTILINE) for row in rows)
