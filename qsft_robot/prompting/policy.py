"""A prompted language model as a policy of text commands: nothing is trained."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TextIO

import numpy as np

from qsft_robot.prompting.address import Address
from qsft_robot.prompting.config import PromptConfig
from qsft_robot.prompting.transcript import (
    Turn,
    best_of,
    commands_of,
    listed,
    matched,
    prompt_of,
    read_examples,
    rules_of,
    said_in,
    told_of,
    with_thought,
    worked_example,
)
from qsft_robot.types import Decision, Observation

# Questions to an address at one time.
_AT_ONCE = 8


class LocalModel(Protocol):
    """A language model that runs here."""

    length: int | None

    def count(self, text: str) -> int:
        """Tokens of a text."""
        ...

    def likeliest(self, text: str, lines: Sequence[str]) -> int:
        """The index of the line that most likely follows a text."""
        ...

    def write(
        self, text: str, most: int, temperature: float, generator: np.random.Generator
    ) -> str:
        """The line that a text goes on with."""
        ...


@dataclass
class PromptMemory:
    """One episode."""

    seed: int
    generator: np.random.Generator
    turns: list[Turn] = field(default_factory=list)


class PromptPolicy:
    """A `BatchPolicy` of commands that a language model chooses or writes."""

    def __init__(
        self,
        config: PromptConfig,
        env_name: str,
        model: LocalModel | Address,
        transcript: TextIO | None = None,
    ) -> None:
        """`transcript` gets a line of JSON for each decision. ValueError on examples or commands
        that can't be read."""
        self.config, self.model, self._transcript = config, model, transcript
        self._rules, self._commands = rules_of(env_name), list[str]()
        logs = [] if config.examples is None else read_examples(config.examples)
        if config.commands is not None:
            self._commands = read_commands(config.commands)
        elif logs and config.answer != "write":
            self._commands = commands_of(logs)
        self._shown = worked_example(env_name) if config.thoughts else []
        if not config.thoughts:
            self._shown = best_of(logs, config.shots, config.text_keys)

    def begin_episode(self, seed: int) -> PromptMemory:
        return PromptMemory(seed, np.random.default_rng(seed))

    def infer_batch(
        self, observations: Sequence[Observation], memories: Sequence[PromptMemory]
    ) -> list[Decision]:
        """One command an observation; an address is asked for several at once."""
        decide = self._decide_here
        if isinstance(self.model, Address):
            decide = self._decide_there
            with ThreadPoolExecutor(_AT_ONCE) as pool:
                found = list(pool.map(decide, observations, memories))
        else:
            found = [decide(*each) for each in zip(observations, memories, strict=True)]
        for memory, command in zip(memories, found, strict=True):
            self._keep(memory)
            assert command == memory.turns[-1].command
        return [Decision(np.array([command], object)) for command in found]

    def _keep(self, memory: PromptMemory) -> None:
        if self._transcript is not None:
            told = {"seed": memory.seed, "step": len(memory.turns) - 1, **vars(memory.turns[-1])}
            self._transcript.write(json.dumps(told, ensure_ascii=False) + "\n")
            self._transcript.flush()

    def _begun(self, observation: Observation, memory: PromptMemory) -> Turn:
        memory.turns.append(Turn(told_of(observation.texts, self.config.text_keys)))
        return memory.turns[-1]

    def _decide_here(self, observation: Observation, memory: PromptMemory) -> str:
        config, model = self.config, self.model
        assert not isinstance(model, Address)
        turn, commands = self._begun(observation, memory), listed(observation) or self._commands
        scores = config.answer == "score" or (config.answer == "auto" and bool(commands))
        if scores and not commands:
            raise ValueError(
                "--prompt.answer score: the environment lists no commands; name a list with "
                "--prompt.commands or --prompt.examples, or use --prompt.answer write."
            )
        prompt = self._fitting(observation.instruction, memory.turns)
        write = (config.tokens, config.temperature, memory.generator)
        if config.thoughts:
            turn.thought = model.write(prompt, *write)
            prompt = with_thought(prompt, turn.thought)
        if scores:
            turn.command = commands[model.likeliest(prompt, [f" {x}" for x in commands])]
        else:
            turn.command = matched(model.write(prompt, *write), commands)
        return turn.command

    def _fitting(self, instruction: str, turns: Sequence[Turn]) -> str:
        """The prompt with as much of the examples and of the episode as the model has room for."""
        assert not isinstance(self.model, Address)
        shown, latest = list(self._shown), list(turns[-self.config.history :])
        while True:
            prompt = prompt_of(self._rules, shown, instruction, latest, self.config.thoughts)
            room = self.model.length
            if room is None or self.model.count(prompt) + 2 * self.config.tokens <= room:
                return prompt
            if shown:
                shown.pop()
            elif len(latest) > 1:
                latest.pop(0)
            else:
                raise ValueError(
                    f"one observation is longer than the {room} tokens that the model reads: "
                    "choose fewer of its texts with --prompt.text-keys."
                )

    def _decide_there(self, observation: Observation, memory: PromptMemory) -> str:
        config, model = self.config, self.model
        assert isinstance(model, Address)
        turn, commands = self._begun(observation, memory), listed(observation) or self._commands
        latest = memory.turns[-config.history :]
        prompt = prompt_of(
            self._rules, self._shown, observation.instruction, latest, config.thoughts, commands
        )
        form = 'Answer with one line: "act:" and the next command.'
        if config.thoughts:
            form = 'Answer with two lines: "think:" and a thought, then "act:" and the command.'
        messages = [{"role": "system", "content": form}, {"role": "user", "content": prompt}]
        seed = int(memory.generator.integers(2**31))
        answer = model.ask(messages, config.tokens, config.temperature, seed)
        turn.thought, said = said_in(answer)
        turn.command = matched(said, commands)
        return turn.command


def read_commands(path: Path) -> list[str]:
    """The commands of a file, one a line; ValueError where there is none or one stands twice."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"--prompt.commands {path}: no UTF-8 text ({error}).") from error
    found: dict[str, int] = {}
    for number, line in enumerate(lines, 1):
        if (text := line.strip()) and found.setdefault(text, number) != number:
            raise ValueError(
                f"--prompt.commands {path}, line {number}: {text!r} stands in line {found[text]} "
                "too."
            )
    if not found:
        raise ValueError(f"--prompt.commands {path}: no command; write one a line.")
    return list(found)


def open_prompt_policy(
    config: PromptConfig,
    env_args: Mapping[str, Any],
    stack: ExitStack,
    transcript: Path | None = None,
    *,
    token: str | None = None,
    device: str = "cpu",
    allow_downloads: bool = False,
) -> PromptPolicy:
    """The policy of settings, with its model loaded; errors as the model's and the address's."""
    assert config.model is not None
    model: LocalModel | Address
    if config.url is not None:
        model = Address(config.url, config.model, token, config.timeout_s)
    else:
        from qsft_robot.parts.models import load_language_model

        model = load_language_model(config.model, device, allow_downloads)
    kept = None
    if transcript is not None:
        transcript.parent.mkdir(parents=True, exist_ok=True)
        kept = stack.enter_context(transcript.open("w", encoding="utf-8"))
    return PromptPolicy(config, str(env_args["env_name"]), model, kept)
