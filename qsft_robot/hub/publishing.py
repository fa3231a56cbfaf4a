"""A policy folder as a repository of the Hub: with its evaluation, and a card that tells both."""

from __future__ import annotations

import shlex
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qsft_robot.compare.recorded import find_evaluation, read_recorded
from qsft_robot.files import check_sums, write_json, write_sums
from qsft_robot.hub.ids import HubId
from qsft_robot.hub.repository import push
from qsft_robot.policy.folder import POLICY
from qsft_robot.report.data import EPISODES

_CARD, _SUMMARY = "README.md", "summary.json"
# Read by the Hub: how a model is found there.
_FRONT = """---
library_name: qsft-robot
pipeline_tag: robotics
tags:
- qsft-robot
- robotics
- offline-reinforcement-learning
---
"""


def evaluation_of(run: Path, source: Path) -> tuple[Path | None, str]:
    """The evaluation `policy` of a run that tells of the policy which `source` (its checkpoint)
    holds, else None and why there is none."""
    try:
        folder = find_evaluation(run)
        recorded = read_recorded(folder)
    except (FileNotFoundError, ValueError) as error:
        return None, str(error)
    if "--acting" in shlex.split(str(recorded.summary.get("command", ""))):
        return None, f"{folder}: of other --acting settings than the policy's own"
    if (folder / _SUMMARY).stat().st_mtime < (source / POLICY).stat().st_mtime:
        return None, f"{folder}: older than the policy; evaluate again"
    return folder, ""


def publish(folder: Path, wanted: HubId, private: bool, evaluation: Path | None) -> str:
    """Push an exported policy folder with its card and, where given, its evaluation; the address
    and commit. The folder itself stays as it is."""
    check_sums(folder)
    with tempfile.TemporaryDirectory(prefix="qsft-push-") as name:
        whole = Path(shutil.copytree(folder, Path(name) / "policy"))
        summary = None
        if evaluation is not None:
            recorded = read_recorded(evaluation)
            # The command holds paths of this machine.
            summary = {key: x for key, x in recorded.summary.items() if key != "command"}
            (whole / "evaluation" / "policy").mkdir(parents=True)
            write_json(whole / "evaluation" / "policy" / _SUMMARY, summary)
            shutil.copyfile(evaluation / EPISODES, whole / "evaluation" / "policy" / EPISODES)
        card = (whole / _CARD).read_text(encoding="utf-8")
        (whole / _CARD).write_text(card_on_hub(card, wanted, summary), encoding="utf-8")
        write_sums(whole)
        return push(whole, wanted, private)


def card_on_hub(card: str, wanted: HubId, summary: Mapping[str, Any] | None) -> str:
    """The model card of a folder with what the Hub reads, how to open it by its id, and its
    evaluation."""
    lines = [
        "## From the Hub",
        "",
        "```sh",
        f"qsft-robot info {wanted}",
        f"qsft-robot evaluate {wanted}",
        f"qsft-robot serve {wanted}",
        "```",
        "",
        f'In Python: `from qsft_robot import open_policy`, then `open_policy("{wanted}")`.',
        "",
    ]
    if summary is not None:
        env, seeds = summary.get("env_args", {}).get("env_name"), summary.get("seeds") or []
        of = f", seeds {seeds[0]} to {seeds[-1]}" if seeds else ""
        lines += [
            "## Evaluation",
            "",
            f"Closed loop in {env}: success {summary['success_rate']:.3f} (95 % Wilson interval "
            f"{summary['low']:.3f} to {summary['high']:.3f}; n = {summary['n']}{of}). Every "
            f"episode stands in `evaluation/policy/{EPISODES}`.",
            "",
        ]
    return f"{_FRONT}\n{card.rstrip()}\n\n" + "\n".join(lines)
