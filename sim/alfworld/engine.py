"""The child process that runs ALFWorld's text engine, TextWorld's PDDL environment, on request."""

from __future__ import annotations

import ast
import gc
import json
import os
import re
import sys
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fast_downward
import textworld
import textworld.envs.pddl.logic as pddl_logic
import textworld.envs.pddl.textgen as pddl_words
from alfworld.agents.environment.alfred_tw_env import AlfredDemangler
from textworld.core import GameState
from textworld.envs import PddlEnv

from sim.alfworld.adviser import Adviser
from sim.alfworld.folders import TRAJ_DATA
from sim.alfworld.process import answer_requests
from sim.alfworld.solving import make_game

# What the games' grammars say where no task has been filled in; the package's own words.
_NO_TASK = "UNKNOWN GOAL"
_TASK = re.compile(r"Your task is to: ([^\"\\]*?)\.\"")
# A list over a query whose variables an action binds all has one entry: "[{r.name | ...}]" is r.
_BOUND_LIST = re.compile(r"\[\{(\w+)\.name \|[^}]*\}\]")
_PLACEHOLDER = re.compile(r"\{(\w+)\}")
# What an entity says of itself.
_WORDS = ("name", "id", "type", "definite", "indefinite", "desc", "adj", "noun")
_MEND = "delete the game's folder, then generate or download it again"


def _evaluated(
    symbol: pddl_words.EvalSymbol, context: Mapping[str, Any] | None = None
) -> list[pddl_words.TerminalSymbol]:
    """In place of EvalSymbol.derive, which evaluates whatever Python the game's file holds."""
    variables = (context or symbol.context)["variables"]
    return [pddl_words.TerminalSymbol(looked_up(symbol.expression, variables))]


def looked_up(expression: str, variables: Mapping[str, Any]) -> Any:
    """The value of "r.name or r.id" or "o.indefinite + ' ' + o.name" for entities, which is all
    that the games' grammars ask.

    ValueError on any other expression: a game is a file that others may have made, and data.
    """
    try:
        return _value(ast.parse(expression.strip(), mode="eval").body, variables)
    except (SyntaxError, KeyError, TypeError, MemoryError, RecursionError, ValueError):
        raise ValueError(
            f"the game's grammar asks for {expression[:80]!r}, which is no word for an entity; "
            f"entities: {', '.join(variables)}; words: {', '.join(_WORDS)}."
        ) from None


def filled_command(template: str, names: Mapping[str, str]) -> str:
    """A game's command with its {placeholders} filled in; ValueError on any other field, because
    str.format would look into objects, and pad a word to gigabytes, for a stranger."""
    command = _PLACEHOLDER.sub(lambda found: names.get(found[1], found[0]), template)
    if "{" in command or "}" in command:
        raise ValueError(
            f"the game's grammar has the command {template[:80]!r}; its fields are written {{name}}"
            f" and named {', '.join(names)}."
        )
    return command


def _value(node: ast.AST, variables: Mapping[str, Any]) -> Any:
    if isinstance(node, ast.BoolOp) and isinstance(node.op, ast.Or):
        values = [_value(part, variables) for part in node.values]
        return next((value for value in values if value), values[-1])
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return _value(node.left, variables) + _value(node.right, variables)
    if isinstance(node, ast.Attribute) and node.attr in _WORDS:
        return getattr(_value(node.value, variables), node.attr, None)
    if isinstance(node, ast.Name):
        return variables[node.id]
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    raise ValueError(type(node).__name__)


pddl_words.EvalSymbol.derive = _evaluated


@lru_cache(maxsize=4)
def _read_logic(domain: str, grammar: str) -> pddl_logic.GameLogic:
    return pddl_logic.GameLogic(domain=domain, grammar=grammar)


@contextmanager
def _one_translation() -> Iterator[None]:
    """Inside, a problem is translated to the planner's form once. The engine asks for a second
    form, for planning alone, which takes as long; nothing here plans."""
    last: list[Any] = []

    def translate(domain: str, problem: str, verbose: bool = False, optimize: bool = False) -> Any:
        if not (optimize and last):
            last[:] = [fast_downward.pddl2sas(domain, problem, verbose=verbose)]
        return last[0]

    names = {**vars(fast_downward), "pddl2sas": translate}
    pddl_logic.fast_downward = SimpleNamespace(**names)
    try:
        yield
    finally:
        pddl_logic.fast_downward = fast_downward


class AlfworldPddlEnv(PddlEnv):
    """TextWorld's engine with what takes its time done once: the grammar is read once for all
    games, a problem translated once a reset, a command's words worked out without the grammar."""

    def load(self, filename_or_data: str) -> None:
        """Read a game.tw-pddl; ValueError names the file when it is no game."""
        self._game_data, self.instruction = read_game(filename_or_data)
        self._game_file = filename_or_data
        self.walkthrough = self._game_data.get("walkthrough")
        self._logic = _read_logic(self._game_data["pddl_domain"], self._game_data["grammar"])
        self._pddl_state = self._fresh_state()
        self._is_fresh = True
        self._entity_infos = self._get_entity_infos()

    def reset(self) -> GameState:
        """The first state of the game, its task filled into the words that greet the player."""
        if not self._is_fresh:
            self._pddl_state = self._fresh_state()
        self._is_fresh = False
        self.prev_state = None
        self.state = GameState()
        self._last_action, self._moves = None, 0
        context = {
            "state": self._pddl_state,
            "facts": list(self._pddl_state.facts),
            "variables": {},
            "mapping": {},
            "entity_infos": self._entity_infos,
        }
        greeting = self._logic.grammar.derive("#intro#", context)
        self.state.feedback = greeting.replace(_NO_TASK, self.instruction)
        self._gather_infos()
        return self.state

    def _fresh_state(self) -> Any:
        with _one_translation():
            return pddl_logic.PddlState(
                self.downward_lib, self._game_data["pddl_problem"], self._logic
            )

    def _gather_infos(self) -> None:
        state, names = self.state, {k: info.name for k, info in self._entity_infos.items()}
        state["won"], state["lost"] = self._pddl_state.check_goal(), False
        state["_facts"] = list(self._pddl_state.facts)
        state["_valid_actions"] = list(self._pddl_state.all_applicable_actions())
        commands = []
        for action in state["_valid_actions"]:
            bound = {placeholder.name: names[v.name] for placeholder, v in action.mapping.items()}
            template = _BOUND_LIST.sub(r"{\1}", action.command_template)
            commands.append(filled_command(template, bound))
        state["_valid_commands"] = commands
        state["admissible_commands"] = sorted(set(commands))


def read_game(path: str | Path) -> tuple[dict[str, Any], str]:
    """A game.tw-pddl and its instruction, the latter taken out of the grammar; ValueError names
    the file when it is cut, is no game or is known to be unsolvable."""
    try:
        game = json.loads(Path(path).read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not valid JSON ({error}); {_MEND}.") from None
    except OSError as error:
        raise ValueError(f"{path}: can't be read ({error.strerror}); {_MEND}.") from None
    needed = ("pddl_domain", "grammar", "pddl_problem")
    missing = [key for key in needed if not isinstance(game, dict) or key not in game]
    if missing:
        raise ValueError(f"{path}: no {', '.join(missing)} in it, so it is no game; {_MEND}.")
    if game.get("solvable") is False:
        raise ValueError(f"{path}: marked as unsolvable, so it can't be played.")
    task = _TASK.search(game["grammar"])
    if task is None:
        raise ValueError(f"{path}: its grammar says no 'Your task is to: ...'; {_MEND}.")
    grammar = game["grammar"]
    return {**game, "grammar": f"{grammar[: task.start(1)]}{_NO_TASK}{grammar[task.end(1) :]}"}, (
        task[1]
    )


class _Session:
    def __init__(self) -> None:
        infos = textworld.EnvInfos(admissible_commands=True, won=True)
        self.env = AlfredDemangler(AlfworldPddlEnv(infos), shuffle=False)
        self.adviser: Adviser | None = None

    def answer(self, request: Mapping[str, Any]) -> dict[str, Any]:
        if "make" in request:
            self.adviser = None
            return make_game(
                self.env, **{**request["make"], "folder": Path(request["make"]["folder"])}
            )
        if "game" in request:
            self.adviser = None
            self.game = Path(request["game"])
            state = self._start(str(self.game))
            self.last_command = "look"
        elif "command" in request:
            state, _, _ = self.env.step(request["command"])
            self.last_command = request["command"]
        else:
            self.adviser = self._adviser(request["task"], request["seed"])
            return {"advice": self.adviser.advise(self.env, self.last_command)}
        told = {
            "feedback": state.feedback,
            "admissible_commands": state["admissible_commands"],
            "won": bool(state["won"]),
            "facts": [
                [fact.name, *(v.name for v in fact.arguments)]
                for fact in state["_facts"]
                if not fact.name.startswith("new-axiom")
            ],
        }
        if "game" in request:
            told["instruction"] = self.env.unwrapped.instruction
        if self.adviser is not None:
            told["advice"] = self.adviser.advise(self.env, self.last_command)
        return told

    def _start(self, file: str) -> GameState:
        try:
            self.env.load(file)
            return self.env.reset()
        except MemoryError:
            raise
        except (Exception, SystemExit) as error:  # the planner's translator leaves by sys.exit
            if isinstance(error, ValueError) and file in str(error):
                raise  # read_game's own
            print(traceback.format_exc(), file=sys.stderr)
            why = f"{type(error).__name__}: {error}"
            raise ValueError(f"{file}: the engine can't start it ({why}); {_MEND}.") from None

    def _adviser(self, task: Mapping[str, str], seed: int) -> Adviser:
        file = self.game.parent / TRAJ_DATA
        try:
            return Adviser(json.loads(file.read_text()), task, seed)
        except Exception as error:  # what the package raises on a task that it does not know
            why = f"{type(error).__name__}: {error}"
            raise ValueError(f"{file}: it tells the expert no task ({why}); {_MEND}.") from None


def serve(connection: int) -> None:
    """Answer JSON requests over an inherited file descriptor until it is closed.

    {"game": path} starts a game, {"command": words} plays a step, {"task": {...}, "seed": n} asks
    the handcoded expert, who then advises after every step; {"make": {...}} makes a game
    (`alfworld_solving.make_game`). A mistake comes back as {"error"}.
    """
    # The planner prints; nothing of it may reach the output of the program.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    session = _Session()
    # Translating a game makes millions of small objects that die by themselves; looking for
    # circles among them took a third of the time (.28 s a game, .19 s like this).
    gc.freeze()
    gc.set_threshold(100_000, 50, 50)
    answer_requests(connection, session.answer)
