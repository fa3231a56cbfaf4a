"""Stockfish by UCI: one process of its own, asked for a move with a limit of nodes."""

from __future__ import annotations

import os
import selectors
import shutil
import subprocess
import time
from contextlib import suppress
from pathlib import Path

# Names the program where it is not on the PATH. No argument of the environment does: those stand in
# logs and policies, and a file that somebody else made must not say what is run here.
PROGRAM_VARIABLE = "QSFT_STOCKFISH"
_DEBIAN = "/usr/games/stockfish"
_START_S = 30.0


class EngineError(RuntimeError):
    """The engine hung, died or said what is no move; the game is lost, and the next one starts a
    fresh process."""


def stockfish_program() -> str:
    """The program's path; FileNotFoundError with the install line where there is none."""
    named = os.environ.get(PROGRAM_VARIABLE)
    found = shutil.which(named or "stockfish") or (None if named else shutil.which(_DEBIAN))
    if found is None:
        where = f"{PROGRAM_VARIABLE}={named} is no program" if named else "it is not on the PATH"
        raise FileNotFoundError(
            f"Stockfish is not installed ({where}): sudo apt-get install stockfish, or name the "
            f"program in {PROGRAM_VARIABLE}."
        )
    return found


class Stockfish:
    """One process, started by the first game and again after a failure.

    `nodes` limits each move, not time, so that the same game gets the same replies on every
    machine. `elo` plays weaker, as Stockfish draws its own errors: games then do not repeat.
    """

    def __init__(self, nodes: int, elo: int | None = None, answer_s: float = 20.0) -> None:
        self.program = stockfish_program()
        self.nodes, self.elo, self.answer_s = nodes, elo, answer_s
        self.name = ""
        self._process: subprocess.Popen[bytes] | None = None
        self._unread = b""

    @property
    def pid(self) -> int | None:
        """The process id, None when no engine runs."""
        return None if self._process is None else self._process.pid

    def new_game(self) -> None:
        """Forget the last game. EngineError where the program doesn't answer as an engine does,
        ValueError on an `elo` that it doesn't play."""
        if self._process is None:
            self._start()
        self._say("ucinewgame", "isready")
        self._wait_for("readyok", self.answer_s)

    def best_move(self, fen: str) -> str:
        """The engine's move in a position, e.g. "a1a7"."""
        if self._process is None:
            self.new_game()
        self._say(f"position fen {fen}", f"go nodes {self.nodes}")
        words = self._wait_for("bestmove", self.answer_s)[-1].split()
        if len(words) < 2:
            raise self.failed(f"said {' '.join(words)!r}")
        return words[1]

    def failed(self, what: str) -> EngineError:
        """Ends the process; the error to raise."""
        self.close()
        return EngineError(f"Stockfish ({self.program}) {what}; the game is lost.")

    def close(self) -> None:
        """End the process, whatever it is doing."""
        process, self._process, self._unread = self._process, None, b""
        if process is not None:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    with suppress(OSError):
                        pipe.close()

    def __del__(self) -> None:
        with suppress(Exception):  # at the interpreter's end modules may be gone
            self.close()

    def _start(self) -> None:
        try:
            self._process = subprocess.Popen(
                [self.program],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                cwd=Path(self.program).resolve().parent,
            )
        except OSError as error:
            raise EngineError(f"{self.program} could not be started: {error}") from error
        self._say("uci")
        told = self._wait_for("uciok", _START_S)
        self.name = next((x.removeprefix("id name ") for x in told if x.startswith("id name ")), "")
        options = {"Threads": "1", "Hash": "16"}
        if self.elo is not None:
            low, high = self._elo_range(told)
            if not low <= self.elo <= high:
                self.close()
                raise ValueError(
                    f"elo {self.elo}: {self.name} plays {low} to {high} "
                    "(what is below is its weakest play, whatever the number says)."
                )
            options |= {"UCI_LimitStrength": "true", "UCI_Elo": str(self.elo)}
        self._say(*(f"setoption name {name} value {value}" for name, value in options.items()))

    def _elo_range(self, told: list[str]) -> tuple[int, int]:
        words = next((x.split() for x in told if x.startswith("option name UCI_Elo ")), [])
        try:
            return int(words[words.index("min") + 1]), int(words[words.index("max") + 1])
        except (ValueError, IndexError):
            self.close()
            raise ValueError(f"{self.name} has no option UCI_Elo, so leave elo out.") from None

    def _say(self, *lines: str) -> None:
        assert self._process is not None and self._process.stdin is not None  # noqa: PT018
        try:
            self._process.stdin.write("".join(f"{line}\n" for line in lines).encode())
            self._process.stdin.flush()
        except OSError:
            raise self.failed("died") from None

    def _wait_for(self, word: str, limit_s: float) -> list[str]:
        """The lines up to the one that begins with a word."""
        assert self._process is not None and self._process.stdout is not None  # noqa: PT018
        pipe, lines, until = self._process.stdout, list[str](), time.monotonic() + limit_s
        with selectors.DefaultSelector() as selector:
            selector.register(pipe, selectors.EVENT_READ)
            while True:
                while b"\n" in self._unread:
                    line, self._unread = self._unread.split(b"\n", 1)
                    lines.append(line.decode(errors="replace").strip())
                    if lines[-1].split(" ", 1)[0] == word:
                        return lines
                if not selector.select(max(0.0, until - time.monotonic())):
                    raise self.failed(f"said no {word} in {limit_s:g} s")
                chunk = os.read(pipe.fileno(), 65536)
                if not chunk:
                    raise self.failed("died")
                self._unread += chunk
