"""Settings of a prompted language model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from qsft_robot.config.require import require


@dataclass(frozen=True)
class PromptConfig:
    """Which model is prompted, what it is shown, and how its commands are read."""

    # Folder, GGUF file or Hub id of a language model that runs here; with --prompt.url the name
    # that the address knows its model by.
    model: str | None = None
    # Address of an OpenAI-compatible server, e.g. http://127.0.0.1:8000/v1.
    url: str | None = None
    # File with the token that the address asks for; sent over https, or to this machine alone.
    token_file: Path | None = None
    # Seconds that an answer of the address may take.
    timeout_s: float = 60.0
    # Logs of which the best are shown before the episode begins.
    examples: Path | None = None
    # How many of them.
    shots: int = 2
    # ReAct: a thought before each command, and a worked example with thoughts where there is one.
    thoughts: bool = False
    # score: the likeliest command of a closed list (those that the observation lists, else
    # --prompt.commands, else all of --prompt.examples). write: whatever the model writes. auto:
    # score where there is such a list and the model runs here.
    answer: Literal["auto", "score", "write"] = "auto"
    # File with the commands of a closed list, one a line.
    commands: Path | None = None
    # Text keys of the observation that are told; all but the list of commands when not given.
    text_keys: tuple[str, ...] = ()
    # Tokens that a thought or a written command may have.
    tokens: int = 48
    # Randomness of what is written; 0 is the likeliest token each time.
    temperature: float = 0.0
    # Latest steps of the episode that are told.
    history: int = 20

    def __post_init__(self) -> None:
        require(
            self.model is not None,
            "--prompt.model names the language model: a folder, a GGUF file or a Hub id, or with "
            "--prompt.url the name that the address knows it by.",
        )
        require(
            self.token_file is None or self.url is not None,
            "--prompt.token-file is for an address: --prompt.url.",
        )
        require(
            self.url is None or self.answer != "score",
            "--prompt.answer score needs probabilities, which --prompt.url does not give: use "
            "--prompt.answer write.",
        )
        require(0 < self.timeout_s <= 3600, "--prompt.timeout-s must lie in (0, 3600].")
        require(self.shots >= 0, "--prompt.shots must not be negative.")
        require(1 <= self.tokens <= 4096, "--prompt.tokens must lie in [1, 4096].")
        require(0 <= self.temperature <= 10, "--prompt.temperature must lie in [0, 10].")
        require(self.history >= 1, "--prompt.history must be at least 1.")
