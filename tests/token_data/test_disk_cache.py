"""The cache keeps to its limit by what was idle longest, and never takes what a process reads."""

import multiprocessing
import os
import shutil
import time
from types import SimpleNamespace

import pytest

from qsft_robot.files import ABANDONED
from qsft_robot.token_data.disk_cache import (
    GIB,
    InUse,
    found_room,
    in_use,
    make_room,
)

SIZE = 1000


@pytest.fixture
def entries(tmp_path, monkeypatch):
    """Five entries, a used longest ago, and a limit that they fill."""
    monkeypatch.setenv("QSFT_CACHE_GIB", repr(5 * SIZE / GIB))
    for age, name in enumerate("edcba"):
        entry = tmp_path / name
        entry.mkdir()
        (entry / "rows.npy").write_bytes(bytes(SIZE))
        os.utime(entry, (1e9 - age, 1e9 - age))
    return tmp_path


def names(folder):
    return sorted(each.name for each in folder.iterdir())


@pytest.mark.parametrize("need", range(0, 6 * SIZE, 700))
def test_as_few_as_needed_go_and_the_longest_idle_first(entries, need):
    assert found_room(entries, need)
    gone = min(5, -(-need // SIZE))
    assert names(entries) == list("abcde")[gone:]


def test_what_is_used_again_is_idle_no_more(entries):
    assert in_use(entries / "a", "rows.npy") is not None
    assert found_room(entries, 1)
    assert names(entries) == ["a", "c", "d", "e"]


def test_what_a_process_holds_stays_until_it_lets_go(entries):
    held = [InUse(entries / name) for name in "abc"]
    assert found_room(entries, 4 * SIZE)  # past the limit rather than under a reader's feet
    assert names(entries) == ["a", "b", "c"]
    del held
    assert found_room(entries, 4 * SIZE)
    assert len(names(entries)) == 1


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_worker_holds_what_it_was_sent(entries, method):
    context = multiprocessing.get_context(method)
    ready, end = context.Event(), context.Event()
    held = InUse(entries / "a")
    worker = context.Process(target=_hold, args=(held, ready, end))
    worker.start()
    try:
        assert ready.wait(60)
        del held
        found_room(entries, 5 * SIZE)
        assert names(entries) == ["a"]
        worker.kill()  # a lock ends with its process
        worker.join(60)
        found_room(entries, 5 * SIZE)
        assert names(entries) == []
    finally:
        worker.kill()


def _hold(held, ready, end):
    ready.set()
    end.wait(60)


def test_leftovers_of_a_kill_go_after_a_day_and_younger_ones_stay(entries):
    for name, age in ((".f.1.tmp", 1.5 * ABANDONED), (".g.2.tmp", 0.5 * ABANDONED)):
        (entries / name).mkdir()
        os.utime(entries / name, (time.time() - age,) * 2)
    assert found_room(entries, 0)
    assert names(entries) == [".g.2.tmp", *"abcde"]


def test_a_full_disk_takes_idle_entries_then_names_the_variable(entries, monkeypatch):
    monkeypatch.delenv("QSFT_CACHE_GIB")

    def usage(folder):
        return SimpleNamespace(free=(5 - len(names(folder))) * SIZE)

    monkeypatch.setattr(shutil, "disk_usage", usage)
    make_room(entries, 2 * SIZE)
    assert names(entries) == ["c", "d", "e"]
    held = InUse(entries / "d")
    with pytest.raises(ValueError, match=r"set QSFT_CACHE to a folder on a larger disk"):
        make_room(entries, 5 * SIZE)
    assert names(entries) == ["d"]
    del held


def test_what_others_remove_meanwhile_is_no_error(entries, monkeypatch):
    seen = [*entries.iterdir(), entries / "gone", entries / ".half.1.tmp"]
    monkeypatch.setattr(type(entries), "iterdir", lambda folder: iter(seen))
    assert found_room(entries, 5 * SIZE)
    assert os.listdir(entries) == []


def test_an_entry_half_there_is_not_in_use(tmp_path):
    assert in_use(tmp_path / "nothing", "index.json") is None
    (tmp_path / "half").mkdir()
    assert in_use(tmp_path / "half", "index.json") is None


@pytest.mark.parametrize("text", ["", "much", "0", "-3", "nan"])
def test_a_limit_that_is_no_size_is_refused(entries, monkeypatch, text):
    monkeypatch.setenv("QSFT_CACHE_GIB", text)
    with pytest.raises(ValueError, match=r"QSFT_CACHE_GIB is .*a number above 0 \(32 when"):
        found_room(entries, 1)
    assert len(names(entries)) == 5
