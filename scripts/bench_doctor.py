"""Which of 18 recorder faults `inspect`, lerobot-doctor and lerobot-lint name, in one run.

    python scripts/bench_doctor.py --tools ENV/bin --logs clean_a.hdf5 clean_b.hdf5

ENV is an environment of its own with `pip install lerobot-doctor lerobot-lint`. A tool names a
fault where its report on the data set with the fault has a warning or an error that its report on
the clean set lacks, in words that fit (planted_faults.py). What it says of the clean set, and of
the clean logs given by --logs (exported to LeRobot's format), stands in the last rows.
"""

from __future__ import annotations

import copy
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import tyro
from planted_faults import FAULTS, HZ, Recording, record

from qsft_robot.lerobot.exporting import export_lerobot
from qsft_robot.logs.writer import DemonstrationWriter
from qsft_robot.types import Episode

Report = set[str]


def main(tools: Path | None = None, logs: tuple[Path, ...] = (), out: Path | None = None) -> None:
    """Plant the faults, run each tool that is found, print the table.

    Args:
        tools: Folder of the programs lerobot-doctor and lelint; PATH when not given.
        logs: Clean HDF5 files, whose findings are counted too.
        out: Folder for the data sets; a temporary one when not given.
    """
    runs = _runs(tools)
    with tempfile.TemporaryDirectory() as temporary:
        folder = out or Path(temporary)
        clean = record()
        write_set(folder / "clean", clean)
        usual = {name: run(folder / "clean") for name, run in runs.items()}
        print(f"{'fault':<30}" + "".join(f"{name:>26}" for name in runs))
        named, seconds = dict.fromkeys(runs, 0), dict.fromkeys(runs, 0.0)
        for number, fault in enumerate(FAULTS):
            planted = copy.deepcopy(clean)
            fault.plant(planted)
            at = folder / f"fault_{number}"
            write_set(at, planted)
            row = f"{fault.name:<30}"
            for name, run in runs.items():
                began = time.monotonic()
                fresh = run(at) - usual[name]
                seconds[name] += time.monotonic() - began
                hit = any(re.search(fault.words, x, re.IGNORECASE) for x in fresh)
                named[name] += hit
                row += f"{'named' if hit else '-':>26}"
            print(row, flush=True)
            shutil.rmtree(at)
        row = f"{f'named of {len(FAULTS)}':<30}"
        print(row + "".join(f"{named[name]:>26}" for name in runs))
        print(f"{'seconds for all':<30}" + "".join(f"{seconds[name]:>26.0f}" for name in runs))
        print(f"{'said of the clean set':<30}" + "".join(f"{len(usual[n]):>26}" for n in runs))
        for path in logs:
            at = folder / f"clean_{path.stem}"
            export_lerobot(path, at)
            counts = "".join(f"{len(run(at)):>26}" for run in runs.values())
            print(f"{'said of ' + path.stem:<30}{counts}", flush=True)


def write_set(folder: Path, recordings: Sequence[Recording]) -> None:
    """Write recordings as a LeRobot v3 data set, whatever they contradict."""
    with tempfile.TemporaryDirectory() as temporary:
        path = Path(temporary) / "logs.hdf5"
        with DemonstrationWriter(path, {"env_name": "arm", "control_hz": HZ}) as writer:
            for log in recordings:
                writer.append(_episode(log))
        export_lerobot(path, folder)
    # What no log of ours can say goes into the columns themselves.
    (file,) = (folder / "data").rglob("*.parquet")
    table = pq.read_table(file)
    for column, name in {
        "timestamp": "timestamps",
        "next.reward": "rewards",
        "next.done": "done",
        "next.success": "success",
        "next.truncated": "truncated",
    }.items():
        values = np.concatenate([getattr(log, name) for log in recordings])
        at, field = table.column_names.index(column), table.schema.field(column)
        table = table.set_column(at, field, pa.array(values).cast(field.type))
    pq.write_table(table, file)


def _episode(log: Recording) -> Episode:
    rows = {"state": log.state} | {f"{camera}_image": x for camera, x in log.frames.items()}
    return Episode(
        name="",
        observations={key: np.concatenate([x, x[-1:]]) for key, x in rows.items()},
        actions=log.actions,
        rewards=log.rewards,
        terminated=True,
        truncated=False,
        success=bool(log.success.any()),
        instruction=log.task,
    )


def _runs(tools: Path | None) -> dict[str, Callable[[Path], Report]]:
    """Name and version of each tool that is found -> what it says of a data set."""
    runs: dict[str, Callable[[Path], Report]] = {"inspect": _inspect}
    path = str(tools) if tools is not None else None
    for program, flag, run in (
        ("lerobot-doctor", ("--version",), _doctor),
        ("lelint", ("version",), _lint),
    ):
        found = shutil.which(program, path=path)
        if found is None:
            print(f"{program}: not found, left out", file=sys.stderr)
            continue
        told = subprocess.run([found, *flag], capture_output=True, text=True, check=False)
        version = re.search(r"\d+\.\d+\.\d+", told.stdout + told.stderr)
        name = (
            f"{'lerobot-lint' if program == 'lelint' else program} {version[0] if version else ''}"
        )
        runs[name] = lambda folder, found=found, run=run: run(found, folder)
    return runs


def _inspect(folder: Path) -> Report:
    program = [sys.executable, "-m", "qsft_robot.cli", "inspect", str(folder), "--json"]
    found = subprocess.run(program, capture_output=True, text=True, check=False)
    return {
        f"{x['check']}: {x['message']} {sorted(x['logs'])}"
        for x in json.loads(found.stdout)["findings"]
        if x["severity"] != "info"
    }


def _doctor(program: str, folder: Path) -> Report:
    words = [program, "check", str(folder), "--json"]
    found = subprocess.run(words, capture_output=True, text=True, check=False)
    return set(_grave(json.loads(found.stdout)))


def _grave(value: Any) -> list[str]:
    """Every message of a severity above PASS, wherever it stands in the report."""
    if isinstance(value, dict):
        text = value.get("message")
        severity = str(value.get("severity", value.get("level", ""))).upper()
        own = [str(text)] if text and severity in ("WARN", "WARNING", "FAIL", "ERROR") else []
        return own + [x for inner in value.values() for x in _grave(inner)]
    if isinstance(value, list):
        return [x for inner in value for x in _grave(inner)]
    return []


def _lint(program: str, folder: Path) -> Report:
    with tempfile.TemporaryDirectory() as home:
        report = Path(home) / "report.json"
        words = [program, "check", str(folder.resolve()), "--json", str(report)]
        offline = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_DATASETS_CACHE": home}
        told = subprocess.run(words, capture_output=True, text=True, check=False, env=offline)
        if not report.is_file():
            raise RuntimeError(f"lelint: {told.stdout[-500:]} {told.stderr[-500:]}")
        findings = json.loads(report.read_text())["findings"]
    return {
        f"{x['check']} {x['episode']} {x['joint']}: {x['message']}"
        for x in findings
        if x["severity"] != "info"
    }


if __name__ == "__main__":
    tyro.cli(main)
