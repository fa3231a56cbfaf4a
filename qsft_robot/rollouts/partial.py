"""What is finished of long work, on disk as it comes, so that the same command goes on from it."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from qsft_robot.files import atomic_file, read_json, write_json
from qsft_robot.rollouts.array_messages import pack, unpack
from qsft_robot.rollouts.batches import EpisodeResult

EPISODES_FILE = "episodes.jsonl"
PARTIAL_FILE = f"partial_{EPISODES_FILE}"
SETTINGS_FILE = "partial_settings.json"


def write_episodes(path: Path, episodes: Sequence[EpisodeResult]) -> None:
    """Write episodes.jsonl: one line an episode."""
    with atomic_file(path) as temporary:
        temporary.write_text("".join(json.dumps(e.to_json()) + "\n" for e in episodes))


class PartialEvaluation:
    """Outcomes in `folder` of an evaluation under way; nowhere where `folder` is None.

    `found`, seed -> outcome, is what an interrupted evaluation of the same `settings` left there;
    nothing is taken over where these are None.
    """

    def __init__(self, folder: Path | None, settings: Mapping[str, Any] | None) -> None:
        self._folder = folder
        self._file: Any = None
        self.found: dict[int, EpisodeResult] = {}
        if folder is not None and settings is not None:
            self._take_over(folder, json.loads(json.dumps(settings)))
        elif folder is not None:  # what is to come is of nobody known
            (folder / SETTINGS_FILE).unlink(missing_ok=True)

    def _take_over(self, folder: Path, settings: dict[str, Any]) -> None:
        left = folder / SETTINGS_FILE
        if (folder / PARTIAL_FILE).is_file() and left.is_file():
            if read_json(left) == settings:
                self.found = {e.seed: e for e in _read(folder / PARTIAL_FILE)}
            else:
                warnings.warn(
                    f"{folder / PARTIAL_FILE}: of another policy, environment or version, so the "
                    "evaluation begins anew.",
                    stacklevel=4,
                )
        (folder / PARTIAL_FILE).unlink(missing_ok=True)
        folder.mkdir(parents=True, exist_ok=True)
        write_json(left, settings)
        if self.found:
            write_episodes(folder / PARTIAL_FILE, list(self.found.values()))

    def append(self, episode: EpisodeResult) -> None:
        """Add one that ended."""
        if self._folder is None:
            return
        if self._file is None:
            self._folder.mkdir(parents=True, exist_ok=True)
            mode = "a" if self.found else "w"
            self._file = (self._folder / PARTIAL_FILE).open(mode)
        self._file.write(json.dumps(episode.to_json()) + "\n")
        self._file.flush()

    def order(self, episodes: Iterable[EpisodeResult]) -> None:
        """Write them anew in this order: hours of rollouts are not lost to Ctrl-C, nor to a policy
        that raises."""
        self.close()
        if self._folder is not None and (kept := list(episodes)):
            write_episodes(self._folder / PARTIAL_FILE, kept)

    def close(self) -> None:
        """Leave the file for the next time."""
        if self._file is not None:
            self._file.close()

    def remove(self) -> None:
        """Remove what is no longer partial."""
        self.close()
        if self._folder is not None:
            (self._folder / PARTIAL_FILE).unlink(missing_ok=True)
            (self._folder / SETTINGS_FILE).unlink(missing_ok=True)


def _read(path: Path) -> list[EpisodeResult]:
    """The outcomes of a file whose last line may have been cut."""
    found = []
    for line in path.read_text().splitlines():
        try:
            found.append(EpisodeResult.from_json(json.loads(line)))
        except (ValueError, TypeError, AttributeError):
            break
    return found


class PartialLogs:
    """Logs in the folder <out>.parts of a collection under way, one file each, by index."""

    def __init__(self, out: Path, settings: Mapping[str, Any]) -> None:
        """ValueError where the folder holds logs of other settings."""
        self.folder = out.with_name(f"{out.name}.parts")
        self._settings = self.folder / "settings.json"
        wanted = json.loads(json.dumps(settings))
        if self.folder.exists():
            found = read_json(self._settings) if self._settings.exists() else None
            if found != wanted:
                raise ValueError(
                    f"{self.folder}: holds logs of another collection (other settings, policy or "
                    "versions): remove it, or choose another --out."
                )
        else:
            self.folder.mkdir(parents=True)
            write_json(self._settings, wanted)

    def _path(self, index: int) -> Path:
        return self.folder / f"episode_{index:06d}"

    def has(self, index: int) -> bool:
        """Whether a log was put there."""
        return self._path(index).exists()

    def get(self, index: int) -> Any:
        """A log as it was put there."""
        return unpack(self._path(index).read_bytes())

    def put(self, index: int, fields: Mapping[str, Any]) -> None:
        """Keep a log: a tree that `array_messages` takes."""
        with atomic_file(self._path(index)) as temporary:
            temporary.write_bytes(pack(fields))

    def count(self) -> int:
        """How many there are."""
        return sum(1 for _ in self.folder.glob("episode_*"))

    def remove(self) -> None:
        """Remove the folder, once a file was made of it."""
        shutil.rmtree(self.folder)
