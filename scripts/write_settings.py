"""Writes docs/settings.md: every flag of every verb, from the same text as `--help`."""

from __future__ import annotations

import re
import warnings
from argparse import SUPPRESS, Action
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import tyro

from qsft_robot.cli import VERBS
from qsft_robot.config.methods import METHODS
from qsft_robot.config.train import TrainConfig

PAGE = Path(__file__).resolve().parent.parent / "docs" / "settings.md"
INTRO = """# Settings

Every flag of every verb, as `qsft-robot <verb> --help` shows it (`python scripts/write_settings.py`
writes this page). A flag's value stands in capitals (STR a word, INT, FLOAT, PATH), `...` after it
means that any number may follow. A flag without a value is switched on by naming it, and off by
`--no-` before its name (`--model.no-frozen-features`). `required` stands where there is no default,
`-` where the default is empty. Presets of `train` start from other values (`qsft-robot info
presets`), and without one the logs decide some ([qsft.md](qsft.md)); `--preset` and `--resume` are
explained by `qsft-robot train --help`.
"""
# What the groups of `train` set, in the order of the page; those of other methods come after them.
GROUPS = {
    "": "The run",
    "data": "What is read from the logs ([datasets.md](datasets.md))",
    "tokenizer": "How actions become tokens ([tokens.md](tokens.md))",
    "model": "The model ([vlm.md](vlm.md))",
    "optim": "The optimizer",
    "qsft": "`--method qsft` ([qsft.md](qsft.md))",
    "acting": "How the trained policy chooses ([qsft.md](qsft.md))",
    "critic": "A critic of whole decisions ([tokens.md](tokens.md))",
}


def actions_of(verb: Callable[..., Any], **start: Any) -> list[Action]:
    """The flags and positional words of a verb, as its parser knows them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        parser = tyro.extras.get_parser(verb, **start)
    return [action for action in parser._actions if action.default != SUPPRESS]


def row(action: Action) -> str:
    """A line of the table: name, value, default, meaning."""
    name = action.option_strings[0] if action.option_strings else action.dest.split(".")[-1].upper()
    text = re.sub(r"\s+", " ", action.help or "").replace("%%", "%").strip()
    text, _, ending = text.rpartition(" (")
    default = ending.removesuffix(")").removeprefix("default: ").strip() or "-"
    value = str(action.metavar or "").replace("{None}|", "").replace("[STR]", "STR")
    value = re.sub(r"\[(.+?) \[\1 \.\.\.\]\]", r"\1 ...", value)
    value = re.sub(r"\{(None,)?(.+)\}", lambda found: found[2].replace(",", ", "), value)
    if action.option_strings and len(action.option_strings) == 2:
        value, default = "", {"False": "off", "True": "on"}.get(default, default)
    cells = (
        f"`{name}`",
        value,
        f"`{default}`" if default not in ("-", "required") else default,
        text,
    )
    escaped = (re.sub("<(?=[^`]*$)", "&lt;", cell.replace("|", "/")) for cell in cells)
    return f"| {' | '.join(escaped)} |"


def table(actions: Sequence[Action]) -> str:
    """The flags as Markdown."""
    return "\n".join(["| flag | value | default | |", "|---|---|---|---|", *map(row, actions)])


def page() -> str:
    """The whole page."""
    parts = [INTRO]
    for name, verb in VERBS.items():
        summary = (verb.__doc__ or "").splitlines()[0]
        parts.append(f"## {name}\n\n{summary}\n")
        if name != "train":
            parts.append(f"{table(actions_of(verb))}\n")
            continue
        grouped: dict[str, list[Action]] = {}
        for action in actions_of(TrainConfig, default=TrainConfig()):
            group, dot, _ = action.option_strings[0].removeprefix("--").partition(".")
            grouped.setdefault(group if dot else "", []).append(action)
        named = {method.settings: f"`--method {name}`" for name, method in METHODS.items()}
        for group in dict.fromkeys([*GROUPS, *grouped]):
            title = GROUPS.get(group) or named[group.replace("-", "_")]
            parts.append(f"### {title}\n\n{table(grouped[group])}\n")
    return "\n".join(parts)


if __name__ == "__main__":
    PAGE.write_text(page())
