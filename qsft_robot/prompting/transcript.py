"""What a prompted model is told: the task, games to learn from, and the episode so far."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from qsft_robot.logs.checks import ANY_SCALE
from qsft_robot.logs.reader import read_episodes
from qsft_robot.types import ADMISSIBLE, Episode, Observation

TOLD, THOUGHT, COMMAND = ">", "think:", "act:"
# Commands of a list that are told to a model which writes; more would only fill the prompt.
_LISTED = 60
_RULES = {
    "wordle": (
        "Guess a hidden word of five letters in six guesses. Write a guess with spaces between its "
        "letters. Each answer has a color a letter: g the letter stands there, y the word has it "
        "elsewhere, b the word does not have it."
    ),
    "twenty_questions": (
        "Find out which object is hidden. Ask a question that is answered yes or no, or say guess "
        "and the object, in at most twenty turns."
    ),
    "chess_endgames": (
        "You are White. Mate the black king in few moves. You are told the position in "
        "Forsyth-Edwards notation; write a move in algebraic notation, its characters apart."
    ),
    "webshop": (
        "Buy what the goal asks for. Search with search [ words ], click with click [ name ] on "
        "what the page lists: a product, each option that the goal names, then buy now."
    ),
}


@dataclass
class Turn:
    """A step of an episode."""

    told: str
    thought: str = ""
    command: str = ""


def rules_of(env_name: str) -> str:
    """What a model is told of an environment, beside each episode's instruction."""
    return _RULES.get(env_name, "Give one command at a time.")


def told_of(texts: Mapping[str, str], keys: Sequence[str]) -> str:
    """What an observation says, on one line; ValueError where it lacks a key."""
    chosen = keys or [key for key in texts if key not in (ADMISSIBLE, "marks", "pieces")]
    for key in chosen:
        if key not in texts:
            raise ValueError(
                f"--prompt.text-keys {key}: no such text; there are: {', '.join(texts) or 'none'}."
            )
    return " ".join(" ".join(texts[key].split()) for key in chosen)


@dataclass(frozen=True)
class Shown:
    """A game to learn from."""

    instruction: str
    turns: tuple[Turn, ...]


@cache
def _worked() -> dict[str, Any]:
    text = files("qsft_robot.prompting").joinpath("examples.json").read_text(encoding="utf-8")
    return json.loads(text)


def worked_example(env_name: str) -> list[Shown]:
    """A game that was played with a thought before each command, where there is one."""
    if env_name not in _worked():
        return []
    found = _worked()[env_name]
    return [Shown(found["instruction"], tuple(Turn(**turn) for turn in found["turns"]))]


def read_examples(path: Path) -> list[Episode]:
    """Logs of text commands; ValueError where the actions are numbers."""
    logs = read_episodes(path, require_reward=False, action_scale=ANY_SCALE)
    if not logs[0].has_commands:
        raise ValueError(f"--prompt.examples {path}: its actions are numbers, not text commands.")
    return logs


def best_of(logs: Sequence[Episode], count: int, keys: Sequence[str]) -> list[Shown]:
    """The logs with the highest returns, longer ones first among equals: they show more."""
    ranked = sorted(logs, key=lambda log: (-float(log.rewards.sum()), -len(log)))
    return [
        Shown(
            log.instruction,
            tuple(
                Turn(told_of({k: x[i] for k, x in log.texts.items()}, keys), "", str(command))
                for i, command in enumerate(log.actions)
            ),
        )
        for log in ranked[:count]
    ]


def commands_of(logs: Sequence[Episode]) -> list[str]:
    """Every command that was given in logs, each once, sorted."""
    return sorted({str(command) for log in logs for command in log.actions})


def listed(observation: Observation) -> list[str]:
    """The commands that an observation lists."""
    return [line for line in observation.texts.get(ADMISSIBLE, "").split("\n") if line]


def prompt_of(
    rules: str,
    shown: Sequence[Shown],
    instruction: str,
    turns: Sequence[Turn],
    thoughts: bool,
    commands: Sequence[str] = (),
) -> str:
    """The text that ends where the model is to go on: after "think:" or "act:"."""
    parts = [rules, ""]
    for each in shown:
        parts += _lines(each.instruction, each.turns, thoughts)
        parts.append("")
    parts += _lines(instruction, turns[:-1], thoughts)
    parts.append(f"{TOLD} {turns[-1].told}")
    if 0 < len(commands) <= _LISTED:
        parts.append(f"commands: {' | '.join(commands)}")
    return "\n".join([*parts, THOUGHT if thoughts else COMMAND])


def with_thought(prompt: str, thought: str) -> str:
    """The text after a thought, where the command is to follow."""
    return f"{prompt} {thought}\n{COMMAND}"


def _lines(instruction: str, turns: Sequence[Turn], thoughts: bool) -> list[str]:
    found = [f"task: {instruction}"]
    for turn in turns:
        found.append(f"{TOLD} {turn.told}")
        if thoughts and turn.thought:
            found.append(f"{THOUGHT} {turn.thought}")
        found.append(f"{COMMAND} {turn.command}")
    return found


def said_in(answer: str) -> tuple[str, str]:
    """Thought and command of an answer that was written whole: the first line that says "act:",
    else the first line that says anything else than a thought."""
    thought, command = "", ""
    for line in answer.splitlines():
        text = line.strip().strip("`*\"'").strip()
        if text.lower().startswith(THOUGHT):
            thought = thought or text[len(THOUGHT) :].strip()
        elif text.lower().startswith(COMMAND):
            return thought, text[len(COMMAND) :].strip().strip("`*\"'").strip()
        elif text and not command:
            command = text
    return thought, command


def matched(command: str, commands: Sequence[str]) -> str:
    """The command of a list that differs in spaces and case alone; else the command as it is."""
    wanted = "".join(command.lower().split())
    return next((x for x in commands if "".join(x.lower().split()) == wanted), command)
