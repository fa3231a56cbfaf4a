"""A recording as a robot: shows what was seen, keeps what the policy would have done."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from qsft_robot.control.loop import EpisodeEnd
from qsft_robot.control.robot import Outcome, RobotSpec, image_sizes
from qsft_robot.files import atomic_file
from qsft_robot.logs.checks import ANY_SCALE
from qsft_robot.logs.reader import iter_episodes, read_env_args
from qsft_robot.printed_text import cell
from qsft_robot.types import Episode, Observation


class ReplayRobot:
    """Feeds one log after the other, one row a tick; nothing moves. `begin_episode(i)` takes the
    i-th log of the file (or of the mask `filter_key`), beginning again after the last one.

    FileNotFoundError and ValueError are the reader's.
    """

    def __init__(
        self, path: str | Path, filter_key: str | None = None, keys: tuple[str, ...] | None = None
    ) -> None:
        self.path = Path(path)
        self._filter_key, self._keys = filter_key, keys
        self.demos: list[str] = []
        # demo -> recorded and proposed actions, [t, d]
        self.recorded: dict[str, np.ndarray] = {}
        self.proposed: dict[str, list[np.ndarray]] = {}
        # demo -> steps at which the loop held for want of a decision
        self.held: dict[str, list[int]] = {}

    @property
    def spec(self) -> RobotSpec:
        """Known once connected."""
        if not self.demos:
            raise RuntimeError("the recording is not open: call connect() first.")
        return self._spec

    def connect(self) -> None:
        """Open the file and read its first log."""
        from qsft_robot.logs.checks import env_args_of, open_demonstrations, select_demos
        from qsft_robot.logs.image_convention import image_convention, upside_down_note

        with open_demonstrations(self.path) as file:
            self.demos = list(select_demos(file, self._filter_key))
            note = upside_down_note(image_convention(file, env_args_of(file)))
        env_args = read_env_args(self.path)
        hz = env_args.get("env_kwargs", {}).get("control_freq", env_args.get("control_hz"))
        self._load(self.demos[0])
        first, d = self._row(0), self._episode.actions.shape[1]
        if note and first.images:
            warnings.warn(f"{self.path}: {note}", stacklevel=2)
        self._spec = RobotSpec(
            name=f"recording {self.path.name}",
            cameras=image_sizes(first),
            state={key: int(x.size) for key, x in first.state.items()},
            action_low=np.full(d, -np.inf),
            action_high=np.full(d, np.inf),
            control_hz=None if hz is None else float(hz),
            stepped=True,
            env_args=env_args,
        )

    def begin_episode(self, seed: int) -> None:
        """Begin log number `seed`."""
        self._load(self.demos[seed % len(self.demos)])
        self.proposed[self._episode.name], self.held[self._episode.name] = [], []

    def outcome(self) -> Outcome:
        """Over at the end of the log; nothing tells whether what was asked instead succeeds."""
        return Outcome(None, self._at >= len(self._episode))

    def get_observation(self) -> Observation:
        """The row that was seen before the action at hand."""
        return self._row(min(self._at, len(self._episode)))

    def send_action(self, action: np.ndarray) -> None:
        """Keep what the policy would have done, float32 [d], and go to the next row."""
        if self._at < len(self._episode):
            self.proposed[self._episode.name].append(np.array(action, np.float32))
            self._at += 1

    def step(self, observation: Observation, action: np.ndarray, held: bool) -> None:
        """As the loop's recorder: a held tick is no decision of the policy."""
        if held:
            self.held[self._episode.name].append(self._at - 1)

    def finish(self, observation: Observation, end: EpisodeEnd) -> None:
        """As the loop's recorder: nothing is left to do."""

    def disconnect(self) -> None:
        """Nothing is held open."""

    def differences(self) -> dict[str, Any]:
        """Proposed minus recorded actions, in the robot's units: per log and over all. Steps at
        which the loop held are left out."""
        logs = {}
        for name, rows in self.proposed.items():
            decided = np.setdiff1d(np.arange(len(rows)), self.held[name])
            if len(decided):
                logs[name] = np.abs(np.stack(rows) - self.recorded[name][: len(rows)])[decided]
        if not logs:
            return {"logs": {}}
        every = np.concatenate(list(logs.values()))
        return {
            "file": self.path.name,
            "logs": {name: _summary(gap) for name, gap in logs.items()},
            "all": _summary(every),
            "by_dimension": [_summary(every[:, i : i + 1]) for i in range(every.shape[1])],
        }

    def save(self, path: Path) -> Path:
        """Write recorded and proposed actions, <demo>/recorded and <demo>/proposed, as one npz."""
        arrays = {}
        for name, rows in self.proposed.items():
            if rows:
                arrays[f"{name}/proposed"] = np.stack(rows)
                arrays[f"{name}/recorded"] = self.recorded[name][: len(rows)]
        with atomic_file(path) as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
        return path

    def _load(self, name: str) -> None:
        read = iter_episodes(self.path, keys=self._keys, names=[name], action_scale=ANY_SCALE)
        self._episode: Episode = next(read)
        self.recorded[name] = self._episode.actions
        self._at = 0

    def _row(self, i: int) -> Observation:
        rows = {key: x[i] for key, x in self._episode.observations.items()}
        return Observation.from_env(rows, self._episode.instruction)


def difference_table(differences: dict[str, Any]) -> Table:
    """The differences for a terminal."""
    table = Table(title="policy minus recording, absolute, in action units", title_justify="left")
    for column in ("log", "steps", "mean", "p95", "max"):
        table.add_column(column, justify="left" if column == "log" else "right")
    rows = [*differences["logs"].items()][:20]
    if "all" in differences:
        rows.append(("all", differences["all"]))
        rows += [(f"dimension {i}", x) for i, x in enumerate(differences["by_dimension"])]
    for name, row in rows:
        numbers = [f"{row[key]:.4f}" for key in ("mean", "p95", "max")]
        table.add_row(cell(name), str(row["steps"]), *numbers)
    return table


def _summary(gap: np.ndarray) -> dict[str, Any]:
    return {
        "steps": len(gap),
        "mean": float(gap.mean()),
        "p95": float(np.percentile(gap, 95)),
        "max": float(gap.max()),
    }
