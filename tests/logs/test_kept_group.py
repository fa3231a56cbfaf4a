"""Groups of logs that keep what was opened answer as plain groups do, and ask the file once."""

from __future__ import annotations

from collections import Counter

import h5py
import numpy as np
import pytest

from qsft_robot.logs.alike import AlikeLogs
from qsft_robot.logs.checks import open_demonstrations
from qsft_robot.logs.doctor.hdf5_logs import iter_hdf5_logs
from qsft_robot.logs.hdf5_members import (
    KeptGroup,
    arrays,
    attribute,
    attribute_names,
    has,
    inside,
    member,
    members,
    place,
)
from qsft_robot.logs.reader import read_episodes
from qsft_robot.logs.writer import write_demonstrations
from qsft_robot.types import Episode

STEPS = 4


def short_logs(path, count=3):
    """Logs with texts, states and text commands."""
    rows = np.arange((STEPS + 1) * 3, dtype=np.float32).reshape(-1, 3)
    said = np.array([f"line {i}" for i in range(STEPS + 1)], object)
    logs = [
        Episode(
            name=f"demo_{i}",
            observations={"board": rows + i, "goal": -rows},
            actions=said[:-1],
            rewards=np.eye(STEPS, dtype=np.float32)[-1],
            terminated=True,
            truncated=False,
            success=True,
            instruction="say it",
            attributes={"seed": i, "reset_options": {"word": "raise"}},
            texts={"feedback": said},
        )
        for i in range(count)
    ]
    write_demonstrations(path, logs, {"env_name": "wordle"})
    return path


@pytest.fixture
def short(tmp_path):
    return short_logs(tmp_path / "a.hdf5")


@pytest.fixture
def opened(short, monkeypatch):
    """How often each array was opened, by name, and each attribute read."""
    seen = Counter()
    begin, read = h5py.Dataset.__init__, h5py.AttributeManager.__getitem__

    def opening(self, bind, **kwargs):
        seen[h5py.h5i.get_name(bind).decode()] += 1
        begin(self, bind, **kwargs)

    def reading(self, name):
        seen[f"{h5py.h5i.get_name(self._id).decode()} {name}"] += 1
        return read(self, name)

    monkeypatch.setattr(h5py.Dataset, "__init__", opening)
    monkeypatch.setattr(h5py.AttributeManager, "__getitem__", reading)
    return seen


def inspected(path):
    return [episode for episode, _ in iter_hdf5_logs(path)]


def refusals(path):
    return [log.refusal for _, log in iter_hdf5_logs(path)]


@pytest.mark.parametrize("read", [read_episodes, inspected])
def test_an_array_of_a_log_is_opened_once_and_an_attribute_read_once(
    short, opened, read, monkeypatch
):
    monkeypatch.setattr(AlikeLogs, "of", lambda *_: None)
    read(short)
    # The first log is opened before, for its keys.
    of_others = {name: n for name, n in opened.items() if "demo_0" not in name}
    assert {"/data/demo_1/actions", "/data/demo_2/next_obs/feedback"} <= of_others.keys()
    assert {"/data/demo_1 seed", "/data/demo_2 success"} <= of_others.keys()
    assert set(of_others.values()) == {1}


@pytest.mark.parametrize("read", [read_episodes, inspected])
def test_logs_that_look_alike_are_read_as_one_by_one(short, opened, read, monkeypatch):
    alike = read(short)
    assert not [name for name in opened if "demo_1" in name or "demo_2" in name]
    monkeypatch.setattr(AlikeLogs, "of", lambda *_: None)
    assert [plain(log) for log in alike] == [plain(log) for log in read(short)]


def zoo(path):
    """Links of every kind, sound and broken."""
    with h5py.File(path.with_name("other.hdf5"), "w") as other:
        other["x"] = np.arange(3)
        other.create_group("demo").create_dataset("y", data=np.arange(2))
    with h5py.File(path, "w") as file:
        log = file.create_group("data/demo_0")
        log["hard"] = np.arange(4)
        log["obs/inner/deep"] = np.arange(4)
        log["obs/text"] = np.array(["a", "b"], object)
        log["named_type"] = np.dtype("f4")
        log["soft"] = h5py.SoftLink("hard")
        log["soft_group"] = h5py.SoftLink("/data/demo_0/obs")
        log["soft_away"] = h5py.SoftLink("/nowhere")
        log["circle"] = h5py.SoftLink("circle_2")
        log["circle_2"] = h5py.SoftLink("circle")
        log["itself"] = log
        log["external"] = h5py.ExternalLink("other.hdf5", "x")
        log["external_group"] = h5py.ExternalLink("other.hdf5", "demo")
        log["external_away"] = h5py.ExternalLink("none.hdf5", "x")
        log["external_empty"] = h5py.ExternalLink("other.hdf5", "nothing")
        log["words"] = np.arange(2)
        odd = file.create_group("odd")
        odd.id.links.create_soft(b"no\xb5utf8", b"/data/demo_0/hard")
        log.attrs.update({"seed": 3, "words": "so", "empty": h5py.Empty("f"), "row": [1, 2]})
    return path


def answer(ask):
    """What a question gives, as plain values: an error is its text."""
    try:
        found = ask()
    except ValueError as error:
        return str(error)
    if isinstance(found, dict):
        return {key: answer(lambda x=x: x) for key, x in found.items()}
    if isinstance(found, h5py.Group | h5py.Dataset):
        kind = "array" if isinstance(found, h5py.Dataset) else "group"
        return kind, place(found), h5py.h5o.get_info(found.id).addr
    return repr(found)


def test_a_kept_group_answers_as_a_plain_one(tmp_path):
    with h5py.File(zoo(tmp_path / "zoo.hdf5"), "r") as file:
        plain = file["data/demo_0"]
        kept = KeptGroup(plain)
        names = [*plain, "none", "obs/text", "obs/inner", "obs/inner/deep", "soft_group/text"]
        assert len(names) == 19
        for name in [*names, *names]:  # the second time from what is kept
            assert answer(lambda name=name: member(kept, name)) == answer(
                lambda name=name: member(plain, name)
            )
            assert has(kept, name) or not has(plain, name)
            assert inside(kept, name) == inside(plain, name)
        odd = file["odd"]
        assert answer(lambda: members(KeptGroup(odd))) == answer(lambda: members(odd)) != {}
        for name in ("obs", "soft_group", "external_group", "hard", "none", "itself"):
            assert answer(lambda name=name: arrays(kept, name)) == answer(
                lambda name=name: arrays(plain, name)
            )
        assert attribute_names(kept) == attribute_names(plain) == {"seed", "words", "empty", "row"}
        for name in (*attribute_names(plain), "none"):
            for _ in range(2):
                assert answer(lambda name=name: attribute(kept, name, 5)) == answer(
                    lambda name=name: attribute(plain, name, 5)
                )
        assert kept.parent == plain.parent


def test_the_group_of_all_logs_keeps_none_of_them(short):
    with open_demonstrations(short) as file:
        log = member(file.data, "demo_1")
        assert log.parent is file.data
        assert place(log) == f"{short}: data/demo_1"
        assert not file.data.members
        assert member(log, "obs/board") is member(log, "obs/board")


def put(file, path, rows):
    del file[path]
    file[path] = rows


def link(target):
    def edit(file):
        del file["data/demo_2/obs/board"]
        file["data/demo_2/obs/board"] = target

    return edit


def virtual(file):
    layout = h5py.VirtualLayout((STEPS, 3), np.float32)
    layout[:] = h5py.VirtualSource("none.hdf5", "x", shape=(STEPS, 3))
    del file["data/demo_2/obs/board"]
    file["data/demo_2/obs"].create_virtual_dataset("board", layout)


def elsewhere(file):
    del file["data/demo_2/obs/board"]
    file["data/demo_2/obs"].create_dataset(
        "board", (STEPS, 3), np.float32, external=[("/etc/hostname", 0, 12 * STEPS)]
    )


def chunked(file):
    rows = file["data/demo_2/obs/board"][()]
    del file["data/demo_2/obs/board"]
    file["data/demo_2/obs"].create_dataset("board", data=rows, chunks=(1, 3), compression="gzip")


def bad_text(file):
    del file["data/demo_2/obs/feedback"]
    texts = np.array([b"\xb5\xff"] * STEPS, object)
    file["data/demo_2/obs"].create_dataset("feedback", data=texts, dtype=h5py.string_dtype())


BOARD = "data/demo_2/obs/board"
DIFFERENT = {
    "wider": lambda f: put(f, BOARD, np.zeros((STEPS, 4), np.float32)),
    "longer": lambda f: put(f, BOARD, np.zeros((STEPS + 1, 3), np.float32)),
    "unread longer": lambda f: put(f, "data/demo_2/next_obs/goal", np.zeros((9, 3), np.float32)),
    "doubles": lambda f: put(f, BOARD, np.ones((STEPS, 3))),
    "text": lambda f: put(f, BOARD, np.array(["a"] * STEPS, object)),
    "a group": lambda f: (f.pop(BOARD), f.create_group(BOARD)),
    "nothing": lambda f: f.pop(BOARD),
    "no next": lambda f: f.pop("data/demo_2/next_obs"),
    "more": lambda f: f.create_dataset("data/demo_2/obs/more", data=np.zeros((9, 2))),
    "NaN": lambda f: f[BOARD].write_direct(np.full((STEPS, 3), np.nan, np.float32)),
    "NaN after": lambda f: put(
        f, "data/demo_2/next_obs/board", np.full((STEPS, 3), np.inf, np.float32)
    ),
    "rewards NaN": lambda f: put(f, "data/demo_2/rewards", np.full(STEPS, np.nan, np.float32)),
    "marks of 2": lambda f: put(f, "data/demo_2/dones", np.full(STEPS, 2)),
    "an early end": lambda f: put(f, "data/demo_2/terminated", np.ones(STEPS, bool)),
    "success per step": lambda f: f.create_dataset("data/demo_2/success", data=[0, 1, 1, 1]),
    "no rewards": lambda f: f.pop("data/demo_2/rewards"),
    "no steps": lambda f: put(f, "data/demo_2/actions", np.zeros(0, "S4")),
    "more samples": lambda f: f["data/demo_2"].attrs.update(num_samples=7),
    "a word": lambda f: f["data/demo_2"].attrs.update(success="no"),
    "another attribute": lambda f: f["data/demo_2"].attrs.update(note="so", lang="another"),
    "no attribute": lambda f: f["data/demo_2"].attrs.pop("seed"),
    "an empty one": lambda f: f["data/demo_2"].attrs.update(seed=h5py.Empty("i8")),
    "soft": link(h5py.SoftLink("/data/demo_1/obs/board")),
    "soft away": link(h5py.SoftLink("/nowhere")),
    "external away": link(h5py.ExternalLink("none.hdf5", "x")),
    "virtual": virtual,
    "elsewhere": elsewhere,
    "chunked": chunked,
    "no UTF-8": bad_text,
    "the whole log": lambda f: (
        f.move("data/demo_2", "kept"),
        f["data"].__setitem__("demo_2", h5py.SoftLink("/kept")),
    ),
}


@pytest.mark.parametrize("name", DIFFERENT)
def test_a_log_that_differs_is_read_or_refused_as_without_its_fellows(short, name, monkeypatch):
    with h5py.File(short, "a") as file:
        DIFFERENT[name](file)

    def found(**settings):
        try:
            return [plain(log) for log in read_episodes(short, **settings)]
        except ValueError as error:
            return str(error).replace(str(short), "FILE")

    asked = ({}, {"keys": ["board"]}, {"keys": ["feedback"], "success_reward": True})
    together = [found(**settings) for settings in asked]
    refused = refusals(short)
    monkeypatch.setattr(AlikeLogs, "of", lambda *_: None)
    assert together == [found(**settings) for settings in asked]
    assert refused == refusals(short)


def plain(log):
    """A log as values that compare."""
    rows = {**log.observations, **log.texts, "actions": log.actions, "rewards": log.rewards}
    told = {key: (x.dtype.str, x.tolist()) for key, x in rows.items()}
    simple = ("name", "terminated", "truncated", "success", "instruction", "attributes")
    return told, [getattr(log, x) for x in simple]
