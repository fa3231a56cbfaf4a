"""Files and folders as no recorder writes them: sound ones, changed at random in a few places."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np

# What a page must never contain unescaped, and a terminal never receive.
TAG = "<fuzz-tag onclick=1>"
TEXTS = (
    "", " ", "put the [red] cube", "pick [/b] up", "[link=file:///x]y[/link]", ":smile:", TAG,
    "\x1b]0;title\x07",
    "\x1b[2J\x1b[31mred", "a\nb", "a\r\nerror: forged", "tab\tbell\x07", "nul\x00byte", "\x9b31m",
    "\u202egnirts", "\u2028", "把红色方块放好", "кубик", "e\u0301", "👩‍🔬", "../../etc", "/",
    ".", "..", "a/b", "%s {0} {x}",
    "NaN", "inf", "1", "True", "null", "{", "[1, 2", '{"lang": "x"}', "x" * 300, "'\"`$(id)",
    "\ufeff", "-1", "--out",
)  # fmt: skip
NUMBERS = (
    0, 1, -1, 2, 7, 10**6, 2**31, 2**63, -(2**63), 2**64, 10**400, 0.0, 0.5, -0.5, 1e-300, 1e300,
    1e9,
    float("nan"), float("inf"), float("-inf"), True, False,
)  # fmt: skip


def word(rng: random.Random) -> str:
    """Text of any kind, mostly of the kinds that break something."""
    if rng.random() < 0.8:
        return rng.choice(TEXTS)
    return "".join(chr(rng.choice((rng.randrange(0x250), rng.randrange(0xD7FF)))) for _ in range(6))


def file_name(rng: random.Random) -> str:
    """A name that a file system takes, markup, control characters and bytes beyond UTF-8
    included."""
    if rng.random() < 0.6:
        return "logs"
    name = word(rng).replace("/", "_").replace("\x00", "_").strip(".")[:60]
    if rng.random() < 0.1:
        name += os.fsdecode(b"\xff\xfe")
    return name if name and not name.startswith("-") else "logs"


def json_value(rng: random.Random, depth: int = 2) -> Any:
    """A value of any type of JSON, and of what Python adds to it."""
    kind = rng.randrange(8 if depth else 5)
    if kind < 2:
        return rng.choice(NUMBERS)
    if kind < 4:
        return word(rng)
    if kind == 4:
        return rng.choice((None, [], {}, [[]], "x"))
    if kind < 7:
        return [json_value(rng, depth - 1) for _ in range(rng.randrange(4))]
    return {word(rng): json_value(rng, depth - 1) for _ in range(rng.randrange(4))}


def changed_json(value: Any, rng: random.Random) -> Any:
    """A JSON value with one place of it taken out, replaced, doubled or joined by another."""
    if isinstance(value, dict) and value and rng.random() < 0.9:
        key = rng.choice(list(value))
        change = rng.randrange(10)
        if change == 0:
            return {k: x for k, x in value.items() if k != key}
        if change == 1:
            return {**value, word(rng): json_value(rng)}
        if change == 2:
            return {(word(rng) if k == key else k): x for k, x in value.items()}
        return {**value, key: changed_json(value[key], rng)}
    if isinstance(value, list) and value and rng.random() < 0.7:
        at = rng.randrange(len(value))
        change = rng.randrange(5)
        if change == 0:
            return value[:at] + value[at + 1 :]
        if change == 1:
            return [*value, value[at]]
        return [*value[:at], changed_json(value[at], rng), *value[at + 1 :]]
    return json_value(rng)


def change_json_file(path: Path, rng: random.Random) -> None:
    """One change in a JSON file, most often one that leaves it JSON."""
    text = path.read_text()
    if rng.random() < 0.85:
        lines = (
            [json.loads(line) for line in text.splitlines()] if path.suffix == ".jsonl" else None
        )
        if lines:
            at = rng.randrange(len(lines))
            lines[at] = changed_json(lines[at], rng)
            path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        else:
            path.write_text(json.dumps(changed_json(json.loads(text or "{}"), rng)))
    else:
        change_bytes(path, rng)


def change_bytes(path: Path, rng: random.Random) -> None:
    """Cut, flip or replace bytes of a file, or put something else in its place."""
    content = path.read_bytes()
    change = rng.randrange(7)
    if change == 0:
        path.write_bytes(content[: rng.randrange(len(content) + 1)])
    elif change == 1:
        path.write_bytes(b"")
    elif change == 2:
        path.unlink()
    elif change == 3:
        path.write_bytes(
            rng.choice((b"[" * 100_000, b"\xff\xfe{}", b"null", b"[]", b"1e999", b'"x'))
        )
    elif change == 4:
        path.unlink()
        path.mkdir()
    elif content:
        spoiled = bytearray(content)
        for _ in range(rng.randrange(1, 9)):
            spoiled[rng.randrange(len(spoiled))] = rng.randrange(256)
        path.write_bytes(bytes(spoiled))


def write_logs(path: Path, rng: random.Random, images: bool) -> None:
    """A sound file of three logs, which `change_logs` spoils: of the small arm that is embedded."""
    numbers = np.random.default_rng(rng.randrange(2**32))
    env_args = {"env_name": "tabletop", "env_kwargs": {"cameras": []}, "control_hz": 10.0}
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        data.attrs["env_args"] = json.dumps(env_args)
        for i in range(3):
            demo, steps = data.create_group(f"demo_{i}"), 5 + i
            last = np.arange(steps) == steps - 1
            demo.attrs.update(num_samples=steps, lang=f"task {i % 2}", seed=i)
            demo["actions"] = numbers.uniform(-1, 1, (steps, 4)).astype(np.float32)
            demo["rewards"] = (last * (i > 0)).astype(np.float32)
            demo["dones"] = last.astype(np.int64)
            for group in ("obs", "next_obs"):
                demo[f"{group}/proprio"] = numbers.normal(size=(steps, 8)).astype(np.float32)
                if images:
                    pixels = numbers.integers(0, 256, (steps, 16, 16, 3), dtype=np.uint8)
                    demo[f"{group}/front_image"] = pixels
        file["mask/train"] = np.array(["demo_1", "demo_2"], dtype="S")


def change_logs(path: Path, rng: random.Random) -> list[str]:
    """Change a file of logs in one to three places; the names of the places."""
    changed: list[str] = []
    with h5py.File(path, "r+") as file:
        for _ in range(rng.choice((1, 1, 1, 2, 3))):
            places: list[str] = []
            file.visit(places.append)
            at = rng.choice(places)
            change = rng.choice(_CHANGES)
            try:
                changed.append(f"{change.__name__} {change(file, at, rng)}")
            except (KeyError, ValueError, TypeError, OSError, RuntimeError, OverflowError):
                continue  # HDF5 itself refuses this one
    if rng.random() < 0.05:
        change_bytes(path, rng)
        changed.append("bytes")
    return changed


def _take_out(file: h5py.File, at: str, rng: random.Random) -> str:
    del file[at]
    return at


def _other_array(file: h5py.File, at: str, rng: random.Random) -> str:
    del file[at]
    _write_array(file, at, rng)
    return at


def _other_shape(file: h5py.File, at: str, rng: random.Random) -> str:
    if isinstance(file[at], h5py.Group):
        return _surplus(file, at, rng)
    rows = np.asarray(file[at][()])
    del file[at]
    shapes: list[Callable[[], Any]] = [
        lambda: rows[:-1], lambda: rows[:0], lambda: rows[None], lambda: rows[..., None],
        rows.ravel,
        lambda: rows[:1].repeat(len(rows), 0), lambda: rows.T, lambda: np.concatenate([rows,
        rows]),
        lambda: rows.astype(rng.choice(("f2", ">f8", "i1", "u8", "bool", "c8", "S3"))),
        lambda: np.where(rng.random() < 0.5, rows, rng.choice((np.nan, np.inf, -7e5, 1e300))),
    ]  # fmt: skip
    file[at] = rng.choice(shapes)()
    return at


def _group_for_array(file: h5py.File, at: str, rng: random.Random) -> str:
    del file[at]
    file.create_group(at)
    return at


def _link(file: h5py.File, at: str, rng: random.Random) -> str:
    folder = Path(file.filename).parent
    names = ("gone.hdf5", "text.txt", "pipe", ".", Path(file.filename).name, "/dev/zero")
    (folder / "text.txt").write_text("no HDF5")
    if not (folder / "pipe").exists():
        os.mkfifo(folder / "pipe")
    targets = ["/nowhere", at, "..", "/", "/data", f"/{at}/x", "data/demo_0", "/data/demo_0/obs"]
    kept = rng.random() < 0.3
    where = f"{at}_2" if kept else at
    if not kept:
        del file[at]
    if rng.random() < 0.5:
        file[where] = h5py.SoftLink(rng.choice(targets))
    else:
        file[where] = h5py.ExternalLink(rng.choice(names), rng.choice(targets))
    return where


def _hard_circle(file: h5py.File, at: str, rng: random.Random) -> str:
    group = file[at] if isinstance(file[at], h5py.Group) else file[at].parent
    name = rng.choice(("loop", "obs", "x"))
    group[name] = rng.choice((group, group.parent))
    return f"{group.name}/{name}"


def _surplus(file: h5py.File, at: str, rng: random.Random) -> str:
    group = file[at] if isinstance(file[at], h5py.Group) else file[at].parent
    name = rng.choice(
        (word(rng), "demo_3", "demo_²", "demo_" + "9" * 5000, "obs_mean", "left_image")
    )
    if rng.random() < 0.5:
        _write_array(file, f"{group.name}/{name}", rng)
    else:
        group.create_group(name)
    return f"{group.name}/{name}"


def _rename(file: h5py.File, at: str, rng: random.Random) -> str:
    parent = at.rpartition("/")[0]
    new = f"{parent}/{rng.choice((word(rng), 'demo_7', 'images/front', 'front_image', 'success'))}"
    file.move(at, new)
    return at


def _attribute(file: h5py.File, at: str, rng: random.Random) -> str:
    names = (
        "num_samples",
        "lang",
        "success",
        "seed",
        "reset_options",
        "ep_meta",
        "model_file",
        word(rng),
    )
    values: tuple[Callable[[], Any], ...] = (
        lambda: word(rng), lambda: rng.choice(NUMBERS), lambda: word(rng).encode(),
        lambda: b"\xff\xfe",
        lambda: h5py.Empty("f"), lambda: np.arange(3), lambda: np.array(["a", "b"], "S"),
        lambda: file.ref,
        lambda: np.void(b"\x80\x04x"), lambda: np.zeros(2, [("a", "f4")]),
        lambda: json.dumps(json_value(rng)),
        lambda: np.bool_(True), lambda: 1j, lambda: np.zeros((0,)), lambda: "x" * 60_000,
    )  # fmt: skip
    name = rng.choice(names)
    demo = "/".join(at.split("/")[:2]) if rng.random() < 0.7 else at
    file[demo].attrs[name] = rng.choice(values)()
    return f"{demo} {name}"


def _env_args(file: h5py.File, at: str, rng: random.Random) -> str:
    value = json.loads(file["data"].attrs["env_args"])
    value = changed_json(value, rng) if rng.random() < 0.7 else json_value(rng)
    text = json.dumps(value)
    if rng.random() < 0.2:
        text = rng.choice((text[: len(text) // 2], "[" * 20_000, "{name: x}", "", '"\\ud800"'))
    file["data"].attrs["env_args"] = text
    return "env_args"


def _mask(file: h5py.File, at: str, rng: random.Random) -> str:
    name = rng.choice(("train", "valid", word(rng)))
    if f"mask/{name}" in file:
        del file[f"mask/{name}"]
    values: list[Any] = [
        np.array([], "S"), np.arange(3), np.array(["demo_9"], "S"), np.array(["demo_0"] * 2, "S"),
        np.array([word(rng)], object), np.array([["demo_0"]], "S"), np.zeros(()), h5py.Empty("S"),
    ]  # fmt: skip
    file.create_dataset(f"mask/{name}", data=rng.choice(values))
    return f"mask/{name}"


def _write_array(file: h5py.File, at: str, rng: random.Random) -> None:
    steps = rng.choice((5, 6, 7))
    shape = rng.choice(
        ((steps,), (steps, 8), (steps, 4), (steps, 8, 8, 3), (), (0, 3), (steps, 2, 2))
    )
    kind = rng.randrange(12)
    if kind == 0:
        file.create_dataset(at, data=h5py.Empty(rng.choice(("f", "S1"))))
    elif kind == 1:
        file.create_dataset(at, shape or (1,), np.dtype([("a", "f4"), ("b", "S2")]))
    elif kind == 2:
        file.create_dataset(at, shape, h5py.ref_dtype)
    elif kind == 3:
        file.create_dataset(at, shape or (1,), h5py.vlen_dtype(np.float32))
    elif kind == 4:
        file.create_dataset(at, shape, h5py.string_dtype())
    elif kind == 5:
        file.create_dataset(
            at, data=np.full(shape, rng.choice((b"\xff\xfe", b"demo_0", b"\x1b[31m")))
        )
    elif kind == 6:  # far larger than the file
        huge = rng.choice(((2**40, 4), (steps, 40_000, 40_000, 3), (2**33,)))
        file.create_dataset(at, huge, rng.choice(("u1", "f4")), chunks=True, compression="gzip")
    elif kind == 7:
        source = rng.choice(("gone.hdf5", Path(file.filename).name, "pipe"))
        layout = h5py.VirtualLayout(shape or (1,), "f4")
        layout[...] = h5py.VirtualSource(source, "data/demo_0/rewards", shape or (1,))
        file.create_virtual_dataset(at, layout)
    elif kind == 8:
        source = rng.choice(("gone.bin", "pipe", "/dev/zero", "/etc/hostname"))
        file.create_dataset(at, shape or (1,), "u1", external=[(source, 0, h5py.h5f.UNLIMITED)])
    elif kind == 9:  # a type that numpy lacks
        parent, _, name = at.rpartition("/")
        space = h5py.h5s.create_simple(shape or (1,))
        group = file.require_group(parent or "/")
        h5py.h5d.create(group.id, name.encode(), h5py.h5t.STD_B8LE, space)
    elif kind == 10:
        file[at] = np.dtype("f4")  # a type of its own in the file
    else:
        file[at] = np.full(shape, rng.choice((0, 1, -3, 0.25, np.nan, np.inf)))


_CHANGES = (
    _take_out, _other_array, _other_array, _other_shape, _other_shape, _group_for_array, _link,
    _link, _hard_circle,
    _surplus, _surplus, _rename, _attribute, _attribute, _attribute, _env_args, _env_args, _mask,
)  # fmt: skip
