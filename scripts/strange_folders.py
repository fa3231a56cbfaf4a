"""LeRobot data sets, policy folders and run folders, changed at random in a few places."""

from __future__ import annotations

import contextlib
import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors.numpy import load_file, save_file
from strange_files import change_bytes, change_json_file, word

from qsft_robot.files import SUMS, write_sums


def change_lerobot(folder: Path, rng: random.Random) -> list[str]:
    """Change a data set in one or two files; their names."""
    changed = []
    for _ in range(rng.choice((1, 1, 2))):
        files = [p for p in sorted(folder.rglob("*")) if p.is_file()]
        path = rng.choice(files)
        if rng.random() < 0.5:
            path = rng.choice((folder / "meta/info.json", folder / "meta/qsft_robot.json", path))
        changed.append(path.relative_to(folder).as_posix())
        if not path.is_file():
            continue
        if rng.random() < 0.1:
            change_bytes(path, rng)
        elif path.suffix == ".json":
            change_json_file(path, rng)
        elif path.suffix == ".parquet":
            _change_table(path, rng)
        else:
            change_bytes(path, rng)
    if rng.random() < 0.3:
        (folder / "meta/qsft_robot.json").unlink(missing_ok=True)
    return changed


def _change_table(path: Path, rng: random.Random) -> None:
    """Take out, rename or replace a column, or lose rows."""
    table = pq.read_table(path)
    name = rng.choice(table.column_names)
    at, rows = table.column_names.index(name), table.num_rows
    change = rng.randrange(6)
    if change == 0:
        table = table.drop_columns([name])
    elif change == 1:
        new = word(rng).encode(errors="replace").decode()
        table = table.rename_columns([new if x == name else x for x in table.column_names])
    elif change == 2:
        table = table.slice(rng.randrange(rows + 1))
    elif change == 3:
        table = pa.concat_tables([table, table])
    else:
        columns: list[Callable[[], Any]] = [
            lambda: pa.nulls(rows), lambda: pa.array([word(rng)] * rows),
            lambda: pa.array([rng.choice((-1, 10**6, 2**62))] * rows),
            lambda: pa.array([rng.choice((float("nan"), 1e300, -0.5))] * rows),
            lambda: pa.array([[1.0] * (i % 3) for i in range(rows)]),
            lambda: pa.array([{"a": 1}] * rows),
            lambda: pa.array([b"\xff"] * rows), lambda: pa.array([True] * rows),
            lambda: pa.array([[["x"]]] * rows), lambda: pa.array([{"bytes": b"x",
            "path": "y"}] * rows),
        ]  # fmt: skip
        table = table.set_column(at, name, rng.choice(columns)())
    pq.write_table(table, path)


def change_policy(folder: Path, rng: random.Random) -> list[str]:
    """Change a policy folder in one or two files, most often with its sums made good again."""
    changed = []
    for _ in range(rng.choice((1, 1, 2))):
        files = [p for p in sorted(folder.rglob("*")) if p.is_file()]
        path = folder / "policy.json" if rng.random() < 0.6 else rng.choice(files)
        if not path.is_file():
            continue
        changed.append(path.name)
        if path.suffix == ".json":
            change_json_file(path, rng)
        elif path.suffix == ".safetensors" and rng.random() < 0.8:
            _change_tensors(path, rng)
        else:
            change_bytes(path, rng)
    if rng.random() < 0.8:
        _make_good(folder)
    elif (folder / SUMS).is_file() and rng.random() < 0.5:
        changed.append(SUMS)
        text = (folder / SUMS).read_text()
        rows = ("no sums", f"{'0' * 64}  ../x\n", f"{'0' * 64}  {word(rng)}\n", text[:70], "\n\n")
        (folder / SUMS).write_text(rng.choice(rows), errors="replace")
    return changed


def _make_good(folder: Path) -> None:
    with contextlib.suppress(OSError):  # the sums may have become a folder themselves
        write_sums(folder)


def _change_tensors(path: Path, rng: random.Random) -> None:
    tensors = load_file(path)
    name = rng.choice(list(tensors))
    found = tensors[name]
    change = rng.randrange(6)
    if change == 0:
        del tensors[name]
    elif change == 1:
        tensors[word(rng)] = found
    elif change == 2:
        tensors[name] = found.ravel()[:-1] if found.size > 1 else np.zeros((2, 3), np.float32)
    elif change == 3:
        tensors[name] = found.astype(rng.choice(("f8", "i8", "bool")))
    elif change == 4 and found.dtype.kind == "f":
        tensors[name] = np.full_like(found, rng.choice((np.nan, np.inf, 1e30)))
    else:
        tensors = {}
    save_file(tensors, path)


def change_run(folder: Path, rng: random.Random) -> list[str]:
    """Change a run folder in one or two files, or put strange things into it."""
    changed = []
    for _ in range(rng.choice((1, 1, 2))):
        files = [p for p in sorted(folder.rglob("*")) if p.is_file()]
        told = [p for p in files if p.suffix in (".json", ".jsonl") and "policy" not in p.parts[-2]]
        path = rng.choice(told if rng.random() < 0.85 else files)
        changed.append(path.relative_to(folder).as_posix())
        change = rng.randrange(12)
        if change == 0:
            shutil.copytree(path.parent, folder / _name(rng), dirs_exist_ok=True)
        elif change == 1 and path.parent.name != folder.name:
            shutil.rmtree(path.parent)
        elif path.suffix in (".json", ".jsonl"):
            change_json_file(path, rng)
        else:
            change_bytes(path, rng)
        if path.parent.name == "checkpoint" and path.parent.is_dir():
            _make_good(path.parent)
    episodes = folder / "evaluation/policy/episodes.jsonl"
    if rng.random() < 0.3 and episodes.is_file():
        lines = episodes.read_text(errors="replace").splitlines()
        rows = [{"seed": i, "success_any": i % 2 == 0} for i, _ in enumerate(lines)]
        for row in rows:
            row["video"] = rng.choice(("a.mp4", "../../config.json", "/etc/hostname", word(rng), 7))
        episodes.write_text("".join(json.dumps(row) + "\n" for row in rows))
        (episodes.parent / "videos").mkdir(exist_ok=True)
        (episodes.parent / "videos/a.mp4").write_bytes(b"0" * 100)
    return changed


def _name(rng: random.Random) -> str:
    return word(rng).replace("/", "_").replace("\x00", "_").strip(".")[:60] or "x"
