"""One strange input after the other: which verb reads it, and whether its answer is a good one."""

from __future__ import annotations

import contextlib
import io
import os
import random
import shutil
import signal
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from strange_files import (
    TAG,
    change_bytes,
    change_logs,
    file_name,
    word,
    write_logs,
)
from strange_folders import change_lerobot, change_policy, change_run

from qsft_robot import cli
from qsft_robot.printed_text import one_line, printable

_TINY = (
    "--optim.behavior-steps", "2", "--optim.value-steps", "1", "--optim.batch-size", "4",
    "--model.width", "16", "--model.depth", "1",
)  # fmt: skip


@dataclass
class Answer:
    """The exit status and the output of a verb."""

    status: int
    out: str
    err: str


class Failure(Exception):
    """An answer that no user should get."""

    def __init__(self, told: dict[str, Any]) -> None:
        super().__init__(str(told))
        self.told = told


@dataclass
class Bases:
    """Sound files and folders, made once, that inputs are changed copies of."""

    folder: Path

    @property
    def run(self) -> Path:
        return self.folder / "run"


def make_bases(folder: Path) -> None:
    """Make them with the verbs themselves; those that are there stay."""
    if (folder / "done").is_file():
        return
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    write_logs(folder / "sound.hdf5", random.Random(0), images=False)
    write_logs(folder / "images.hdf5", random.Random(1), images=True)
    for words in (
        ("train", "--data.path", folder / "sound.hdf5", "--out", folder / "run", *_TINY),
        ("export", folder / "run"),
        ("evaluate", folder / "run", "--episodes", "2", "--max-steps", "3", "--workers", "1"),
        ("export-lerobot", folder / "images.hdf5", "--out", folder / "png", "--codec", "png"),
        ("export-lerobot", folder / "images.hdf5", "--out", folder / "mp4"),
    ):
        answer = call(words)
        if answer.status != 0:
            raise RuntimeError(f"{words}: {answer.err}")
    (folder / "done").touch()


def call(words: tuple[Any, ...]) -> Answer:
    """One verb in this process, as the command line would run it."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = cli.main([str(each) for each in words])
    return Answer(status, out.getvalue(), err.getvalue())


def serve_and_stop(words: tuple[Any, ...]) -> Answer:
    """`serve`, ended by the signal that ends it in life as soon as it listens."""
    out, err, over = io.StringIO(), io.StringIO(), threading.Event()

    def stop() -> None:
        while not over.wait(0.05):
            if "listening on" in out.getvalue():
                time.sleep(0.1)
                os.kill(os.getpid(), signal.SIGTERM)
                return

    # A signal that comes after `serve` has put the old handler back ends nothing.
    before = signal.signal(signal.SIGTERM, lambda *_: None)
    thread = threading.Thread(target=stop)
    thread.start()
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = cli.main([str(each) for each in words])
    finally:
        over.set()
        thread.join()
        signal.signal(signal.SIGTERM, before)
    return Answer(status, out.getvalue(), err.getvalue())


def try_input(
    kind: str, bases: Bases, folder: Path, rng: random.Random, *verbs: Verbs
) -> dict[str, Any]:
    """Make one input in `folder`, run a verb (one of `verbs`) on it, and judge the answer; Failure
    where it is bad."""
    try:
        changed, verb, words, given, check = KINDS[kind](bases, folder, rng, *verbs)
    except (OSError, ValueError) as error:  # a change that its file did not bear
        return {"kind": kind, "verb": "none", "status": "unmade", "said": str(error)}
    told = {"kind": kind, "verb": verb, "changed": changed, "words": [str(w) for w in words]}
    os.environ.pop("QSFT_DEBUG", None)
    os.environ["QSFT_CACHE"] = str(folder / "cache")
    before = {path for path in folder.rglob("*")}
    try:
        answer = (serve_and_stop if verb == "serve" else call)((verb, *words))
        _judge(answer, given, folder, before)
        if answer.status == 0:
            check(answer)
    except Failure as failure:
        raise Failure({**told, "status": "FAILED", **failure.told}) from None
    except BaseException as error:  # whatever leaves a verb is a failure of it
        if isinstance(error, KeyboardInterrupt):
            raise
        where = traceback.format_exc().strip().splitlines()[-12:]
        what = f"{type(error).__name__}: {error}"
        raise Failure({**told, "status": "FAILED", "what": what, "trace": where}) from None
    return {**told, "status": answer.status, "said": answer.err[-400:]}


def _judge(answer: Answer, given: list[Path], folder: Path, before: set[Path]) -> None:
    """Check the promises that every answer keeps."""
    text = answer.out + answer.err
    lines = [line for line in answer.err.splitlines() if line]
    if cli.UNEXPECTED in answer.err:
        raise Failure({"what": answer.err.strip()})
    if "Traceback" in text:
        raise Failure({"what": "traceback printed", "said": text[-2000:]})
    if wrong := sorted({x for x in text if printable(x, keep="\n") != x}):
        raise Failure({"what": f"printed control characters {wrong!r}", "said": text[-2000:]})
    if answer.status not in (0, 1, 2):
        raise Failure({"what": f"exit status {answer.status}", "said": text[-2000:]})
    if answer.status == 2:
        errors = [line for line in lines if line.startswith("error: ")]
        if len(errors) != 1 or lines[-1] != errors[0]:
            raise Failure({"what": "not one line of error", "said": text[-2000:]})
        if not any(one_line(path) in errors[0] for path in given):
            raise Failure({"what": f"names no file: {errors[0][:200]}", "said": errors[0]})
        left = {p for p in folder.rglob("*") if not p.is_relative_to(folder / "cache")} - before
        whole = [p for p in left if p.is_file() and p.name not in ("config.json", ".lock")]
        if whole:
            raise Failure({"what": f"left {[p.name for p in whole]}", "said": errors[0]})
    for path in folder.rglob(".*.tmp"):
        raise Failure({"what": f"left {path.name}", "said": text[-500:]})


def logs_in(path: Path) -> dict[str, np.ndarray]:
    """Actions of every log of a file, read with h5py alone."""
    found = {}
    with h5py.File(path) as file:
        for name in file["data"]:
            item = file["data"].get(name)
            if isinstance(item, h5py.Group) and "actions" in item:
                found[name] = item["actions"][()]
    return found


def _require(true: bool, what: str) -> None:
    if not true:
        raise Failure({"what": f"wrong content: {what}"})


Verbs = tuple[str, ...]
_LOG_VERBS = (
    "inspect", "inspect", "inspect", "merge", "merge", "relabel", "export-lerobot", "playback",
    "train", "run",
)  # fmt: skip
# evaluate is slow: its workers start as processes.
_POLICY_VERBS = ("info",) * 8 + ("export", "run", "serve", "train") * 2 + ("evaluate",)
_RUN_VERBS = ("report",) * 5 + ("train", "export")
Made = tuple[list[str], str, tuple[Any, ...], list[Path], Callable[[Answer], None]]


def _logs(bases: Bases, folder: Path, rng: random.Random, verbs: Verbs = _LOG_VERBS) -> Made:
    """A file of logs, by a verb that reads it."""
    path, out = folder / f"{file_name(rng)}.hdf5", folder / "out"
    write_logs(path, rng, images=rng.random() < 0.3)
    changed = change_logs(path, rng)
    verb = rng.choice(verbs)
    name = rng.choice(("demo_0", "demo_1", "train", word(rng)))
    mask = () if rng.random() < 0.7 else ("--filter-key=" + rng.choice(("train", word(rng))),)

    def inspected(answer: Answer) -> None:
        if not mask:
            steps = sum(map(len, logs_in(path).values()))
            _require(f"{steps} steps" in " ".join(answer.out.split()), f"not {steps} steps")

    def merged(answer: Answer) -> None:
        there, own = logs_in(out), logs_in(path)
        _require(len(there) == len(own) + 3, f"{len(there)} logs of {len(own)} + 3")
        rest = [x.tobytes() for x in there.values()]
        _require(all(x.tobytes() in rest for x in own.values()), "actions changed")
        _require(call(("inspect", out)).status == 0, "what merge wrote can't be inspected")

    def relabeled(answer: Answer) -> None:
        with h5py.File(out) as file:
            _require(bool(file["data/demo_0"].attrs["success"]), "no success")
            _require(file["data/demo_0/rewards"][-1] == 1, "no reward")

    def exported(answer: Answer) -> None:
        again = folder / "again.hdf5"
        back = call(("import-lerobot", out, "--out", again))
        _require(back.status == 0, f"the export can't be imported: {back.err[-300:]}")
        if not mask:
            _require(len(logs_in(again)) == len(logs_in(path)), "logs are missing")

    def trained(answer: Answer) -> None:
        _require(call(("info", out / "policy")).status == 0, "the policy can't be opened")

    def nothing(answer: Answer) -> None:
        pass

    words, check = {
        "inspect": ((path, *mask, *_some(rng, "--success-reward")), inspected),
        "merge": ((path, bases.folder / "sound.hdf5", "--out", out, *_some(rng,
        "--common-keys")), merged),
        "relabel": ((path, "--out", out, "--success", "demo_0", "--failure=" + name), relabeled),
        "export-lerobot": ((path, "--out", out, "--codec", "png", *mask), exported),
        "playback": ((path, f"--demo={name}"), nothing),
        "train": (("--data.path", path, "--out", out, *_TINY), trained),
        "run": ((bases.run, "--robot", "replay", "--log", path, "--out", out, "--seconds", "1"),
        nothing),
    }[verb]  # fmt: skip
    return changed, verb, words, [path], check


def _some(rng: random.Random, *flags: str) -> tuple[str, ...]:
    return flags if rng.random() < 0.3 else ()


def _lerobot(bases: Bases, folder: Path, rng: random.Random) -> Made:
    """A LeRobot data set."""
    path, out = folder / file_name(rng), folder / "out.hdf5"
    shutil.copytree(bases.folder / rng.choice(("png", "png", "mp4")), path)
    changed = change_lerobot(path, rng)
    flags = rng.choice(
        ((), ("--success", "reward"), ("--success", "all"), (f"--task={word(rng)}",))
    )

    def imported(answer: Answer) -> None:
        _require(call(("inspect", out)).status == 0, "what was imported can't be inspected")

    return changed, "import-lerobot", (path, "--out", out, *flags), [path], imported


def _policy(bases: Bases, folder: Path, rng: random.Random, verbs: Verbs = _POLICY_VERBS) -> Made:
    """A policy folder, or a run folder's checkpoint."""
    path, out = folder / file_name(rng), folder / "out"
    shutil.copytree(bases.run / rng.choice(("policy", "policy", "checkpoint")), path)
    changed = change_policy(path, rng)
    verb = rng.choice(verbs)
    log = bases.folder / "sound.hdf5"
    if verb == "train":  # takes a run
        path = path.rename(folder / "checkpoint").parent
    words: dict[str, tuple[Any, ...]] = {
        "info": (path,),
        "export": (path, "--out", out, "--no-onnx"),
        "run": (path, "--robot", "replay", "--log", log, "--out", out, "--seconds", "1"),
        "serve": (path, "--port", "0"),
        "evaluate": (path, "--episodes", "1", "--max-steps", "2", "--workers", "1"),
        "train": ("--data.path", log, "--out", out, "--behavior-from", path, *_TINY),
    }
    return changed, verb, words[verb], [path], lambda answer: None


def _run(bases: Bases, folder: Path, rng: random.Random, verbs: Verbs = _RUN_VERBS) -> Made:
    """A run folder."""
    path = folder / file_name(rng)
    shutil.copytree(bases.run, path)
    changed = change_run(path, rng)
    verb = rng.choice(verbs)

    def reported(answer: Answer) -> None:
        page = (path / "report.html").read_text(encoding="utf-8")
        _require(TAG not in page and "<script" not in page, "unescaped text in the page")

    words: dict[str, tuple[Any, ...]] = {
        "report": (path,),
        "train": ("--resume", path),
        "export": (path, "--out", folder / "out", "--no-onnx"),
    }
    check = reported if verb == "report" else lambda answer: None
    # A run that goes on names the file of logs that its settings name.
    return changed, verb, words[verb], [path, bases.folder / "sound.hdf5"], check


def _bytes(bases: Bases, folder: Path, rng: random.Random) -> Made:
    """Any file in the place of any other."""
    path = folder / file_name(rng)
    sources = [p for p in sorted(bases.folder.rglob("*")) if p.is_file()]
    shutil.copyfile(rng.choice(sources), path)
    if rng.random() < 0.7:
        change_bytes(path, rng)
    verb = rng.choice(("inspect", "info", "report", "import-lerobot", "merge"))
    words = {
        "merge": (path, "--out", folder / "out"),
        "import-lerobot": (path, "--out", folder / "out"),
    }.get(verb, (path,))
    return ["bytes"], verb, words, [path], lambda answer: None


KINDS: dict[str, Callable[..., Made]] = {
    "logs": _logs,
    "lerobot": _lerobot,
    "policy": _policy,
    "run": _run,
    "bytes": _bytes,
}
