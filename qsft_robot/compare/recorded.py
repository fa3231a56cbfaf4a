"""Evaluations as `evaluate` writes them, read back with one outcome an episode seed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qsft_robot.hub.ids import hub_id
from qsft_robot.hub.repository import EVALUATION_FILES, local_folder
from qsft_robot.json_kinds import check_kinds
from qsft_robot.report.data import EPISODES, EVALUATION, read_evaluation

_SUMMARY = "summary.json"


@dataclass(frozen=True)
class Recorded:
    """One evaluation of one trained policy."""

    folder: Path
    summary: dict[str, Any]
    episodes: dict[int, dict[str, Any]]  # seed -> its line of episodes.jsonl
    at_last_step: bool  # whether success at the last step counts, or at any

    def succeeded(self, seed: int) -> bool:
        """Whether the episode of a seed succeeded; one that broke off did not."""
        return bool(self.episodes[seed]["success_last" if self.at_last_step else "success_any"])


def find_evaluation(path: Path, name: str = "policy") -> Path:
    """The folder of an evaluation: `path` itself, or <path>/evaluation/<name> of a run, or
    <path>.evaluation/<name> of an exported policy; of a Hub id the one that was made here, else the
    one that the repository holds. FileNotFoundError says what there is."""
    if (wanted := hub_id(path)) is not None:
        here = Path(f"{wanted.file_name}.{EVALUATION}") / name
        asked, path = path, here
        if not (here / _SUMMARY).is_file():
            path = local_folder(asked, files=EVALUATION_FILES)
    if path.name == _SUMMARY and path.is_file():
        return path.parent
    beside = path.resolve().with_name(f"{path.resolve().name}.{EVALUATION}")
    for folder in (path, path / EVALUATION / name, beside / name):
        if (folder / _SUMMARY).is_file():
            return folder
        if (folder / f"partial_{EPISODES}").is_file():
            raise FileNotFoundError(
                f"{folder}: this evaluation was interrupted (partial_{EPISODES} alone): evaluate "
                "again."
            )
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such folder.")
    there = sorted(f.parent for f in (path / EVALUATION).glob(f"*/{_SUMMARY}"))
    there += sorted(f.parent for f in beside.glob(f"*/{_SUMMARY}"))
    if there:
        what = f"it has {', '.join(map(str, there))}: name one of them, or all with --name"
    else:
        what = f"make one: qsft-robot evaluate {path}"
    raise FileNotFoundError(f"{path}: no evaluation {name!r} in it; {what}.")


def read_recorded(path: Path, name: str = "policy", at_last_step: bool = False) -> Recorded:
    """Read an evaluation (see `find_evaluation`). ValueError, naming file and entry, on what is no
    evaluation, and where the environment told no success."""
    folder = find_evaluation(path, name)
    read = read_evaluation(folder, folder.name, folder)
    file = folder / EPISODES
    if not read.episodes:
        raise ValueError(f"{folder}: no {EPISODES}, or an empty one; evaluate again.")
    if read.summary["success_rate"] is None:
        raise ValueError(f"{folder}: its environment tells no success, so nothing can be compared.")
    episodes: dict[int, dict[str, Any]] = {}
    for number, line in enumerate(read.episodes, 1):
        where = f"{file}, line {number}"
        check_kinds(line, _LINE, where)
        if line["seed"] in episodes:
            raise ValueError(f"{where}: seed {line['seed']} stands twice; evaluate again.")
        episodes[line["seed"]] = line
    if len(episodes) != read.summary["n"]:
        raise ValueError(
            f"{folder}: {len(episodes)} episodes in {EPISODES}, but {_SUMMARY} counts "
            f"{read.summary['n']}; evaluate again."
        )
    return Recorded(folder, read.summary, episodes, at_last_step)


_LINE = {
    "seed": int, "success_any": (bool, None), "success_last": (bool, None), "steps?": int,
    "instruction?": (str, None), "value_at_start?": (float, None), "video?": (str, None),
    "failure_reason?": (str, None),
}  # fmt: skip
