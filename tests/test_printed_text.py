"""What strangers wrote is printed as it is: shown, never obeyed, in tables, errors and notes."""

from __future__ import annotations

import io
import logging

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from rich.table import Table

from qsft_robot.cli import main
from qsft_robot.printed_text import PrintableLines, cell, one_line, printable

TITLE = "\x1b]0;owned\x07 [red]pick[/b] :smile: \x9b2J"
SHOWN = r"\x1b]0;owned\x07 [red]pick[/b] :smile: \x9b2J"


@given(st.text(st.characters()))
def test_what_is_printed_is_printable_and_words_stay(text):
    shown = printable(text)
    assert printable(shown) == shown
    shown.encode()  # no surrogate is left
    assert not any(ord(c) < 32 or 127 <= ord(c) < 160 for c in shown)
    if text.isprintable() and "\u200e" not in text:
        assert shown == text or "\ufeff" in text
    assert "\n" not in one_line(text)


def test_each_kind_is_shown_as_its_escape():
    assert printable(TITLE) == SHOWN
    assert printable("a\nb\tc\u202ed\udcff\u2028", keep="\n") == "a\nb\\tc\\u202ed\\udcff\\u2028"
    assert printable("把红色 кубик é 👩\u200d🔬") == "把红色 кубик é 👩\u200d🔬"
    assert one_line("Error(s):\n\tMissing key\r\nerror: forged") == (
        "Error(s): Missing key error: forged"
    )
    assert len(one_line("x" * 100_000)) < 5000


def test_tables_read_no_markup_and_no_emoji_codes():
    table = Table(title=cell(TITLE))
    table.add_row(cell(TITLE))
    console = Console(file=io.StringIO(), width=120, force_terminal=False)
    console.print(table)
    assert console.file.getvalue().count(SHOWN) == 2


def test_a_log_of_the_server_shows_what_a_client_sent():
    record = logging.LogRecord("x", logging.INFO, "", 0, "session %s", (TITLE,), None)
    assert PrintableLines("%(message)s").format(record) == f"session {SHOWN}"


@pytest.fixture
def strange(tmp_path):
    """A sound file whose words, keys, masks and name are markup and control sequences."""
    path = tmp_path / f"{TITLE.replace('/', '')}.hdf5"
    with h5py.File(path, "w") as file:
        demo = file.create_group("data/demo_0")
        demo["actions"], demo["rewards"] = np.linspace(0, 0.5, 8).reshape(4, 2), np.eye(4)[-1]
        demo["dones"] = np.eye(4)[-1]
        demo[f"obs/k{TITLE}"] = np.ones((4, 3))
        demo.attrs["lang"] = TITLE
        file["data"].attrs["env_args"] = '{"env_name": "[/b]\\u001b[31m"}'
        file[f"mask/{TITLE.replace('/', '')}"] = np.array(["demo_0"], "S")
        file["data"].create_dataset(TITLE.replace("/", ""), data=1)
    return path


def test_inspect_shows_every_word_of_a_file_and_obeys_none(strange, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")
    assert main(["inspect", str(strange)]) == 0
    out, err = capsys.readouterr()
    assert SHOWN in out
    assert "k" + SHOWN in out
    assert r"[/b]\x1b[31m" in out
    for text in (out, err):
        assert printable(text, keep="\n") == text


@pytest.mark.parametrize(
    "words",
    [
        ("inspect", "{path}", "--filter-key", TITLE),
        ("playback", "{path}", "--demo", TITLE),
        ("merge", "{path}.none", "--out", "{path}.2"),
        ("info", TITLE),
        ("report", "{path}"),
        (TITLE,),
        ("inspect", "{path}", "--log-end", TITLE),
        ("evaluate", TITLE),
        ("inspect", "{path}", f"--{TITLE}"),
        ("view", "{path}", "--out", TITLE),
        ("train", "--data.path", "{path}", "--out", "x", f"--no{TITLE}", "1"),
        ("train", "--data.path", "{path}", "--out", "x", "--optim.batch-size", TITLE),
    ],
)
def test_errors_show_the_words_of_the_command_line(strange, capsys, words):
    assert main([word.format(path=strange) for word in words]) == 2
    out, err = capsys.readouterr()
    assert r"\x1b]0;owned\x07" in err
    assert "Traceback" not in err
    for text in (out, err):
        assert printable(text, keep="\n") == text


def test_an_error_that_nobody_foresaw_is_one_line_with_the_file(monkeypatch, capsys, tmp_path):
    def broken(path):
        raise KeyError("x\ny")

    path = tmp_path / "a.hdf5"
    path.touch()
    monkeypatch.setattr("qsft_robot.logs.doctor.hdf5_logs.hdf5_source", lambda *a, **k: broken(a))
    assert main(["inspect", str(path)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: something unexpected")
    assert str(path) in line
    assert "QSFT_DEBUG=1" in line
    monkeypatch.setenv("QSFT_DEBUG", "1")
    with pytest.raises(KeyError):
        main(["inspect", str(path)])
