"""Keys of a real pseudo-terminal, and signals."""

from __future__ import annotations

import os
import pty
import signal
import sys
import termios
import threading
import time

import pytest

from qsft_robot.control.operator_input import OperatorInput


@pytest.fixture
def keyboard(monkeypatch):
    """A terminal as stdin; the end to type into."""
    ours, theirs = pty.openpty()
    with os.fdopen(theirs) as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        yield ours
    os.close(ours)


def typed(keyboard: int, operator: OperatorInput, keys: str) -> str | None:
    os.write(keyboard, keys.encode())
    for _ in range(10_000):
        found = operator.request()
        if found is not None:
            return found
    return None


@pytest.mark.parametrize(
    ("key", "means"), [("s", "stop"), ("q", "quit"), ("y", "done"), ("n", "failed"), ("S", "stop")]
)
def test_a_key_ends_the_episode_without_enter(keyboard, key, means):
    with OperatorInput() as operator:
        assert operator.has_keys
        assert operator.request() is None
        assert typed(keyboard, operator, key) == means
        assert operator.quits == (means == "quit")
        operator.begin_episode()
        assert operator.request() == ("quit" if means == "quit" else None)


def test_other_keys_mean_nothing(keyboard):
    with OperatorInput() as operator:
        assert typed(keyboard, operator, "x!\ns") == "stop"


def test_the_terminal_is_given_back_as_it_was(keyboard):
    before = termios.tcgetattr(sys.stdin.fileno())
    with OperatorInput():
        assert termios.tcgetattr(sys.stdin.fileno()) != before
    assert termios.tcgetattr(sys.stdin.fileno()) == before


def typed_later(keyboard: int, keys: bytes) -> threading.Thread:
    """Type when the person is being asked."""
    thread = threading.Timer(0.2, lambda: os.write(keyboard, keys))
    thread.start()
    return thread


def test_a_key_of_the_episode_before_does_not_begin_the_next(keyboard):
    with OperatorInput() as operator:
        os.write(keyboard, b"q")
        typing = typed_later(keyboard, b" ")
        operator.wait_for_start("episode 2 of 5")
        assert not typing.is_alive() or operator.request() is None
        assert not operator.quits
        typing.join()


def test_any_key_begins_an_episode_and_q_quits(keyboard, capsys):
    with OperatorInput() as operator:
        typing = typed_later(keyboard, b" ")
        operator.wait_for_start("episode 1 of 2")
        assert not operator.quits
        typing.join()
        typing = typed_later(keyboard, b"q")
        operator.wait_for_start("episode 2 of 2")
        assert operator.quits
        typing.join()
    assert "any key begins" in capsys.readouterr().out


def test_without_a_terminal_there_are_no_keys_and_nobody_waits(monkeypatch, tmp_path):
    with (tmp_path / "nothing").open("w+") as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        with OperatorInput() as operator:
            assert not operator.has_keys
            operator.wait_for_start("episode 1")
            assert operator.request() is None


def test_every_signal_that_would_end_or_suspend_the_process_asks_for_an_orderly_end():
    names = ["INT", "TERM", "HUP", "TSTP", "QUIT", "USR1", "USR2", "ALRM", "VTALRM", "XCPU"]
    for name in names:
        number = getattr(signal, f"SIG{name}")
        before = signal.signal(number, signal.SIG_DFL)  # pytest's own time limit uses SIGALRM
        try:
            with OperatorInput() as operator:
                os.kill(os.getpid(), number)
                assert operator.request() == "quit", name
                for _ in range(50):  # a key that is held down
                    os.kill(os.getpid(), number)
                assert operator.signals == [f"SIG{name}"] * 51
            assert signal.getsignal(number) is signal.SIG_DFL
        finally:
            signal.signal(number, before)


def test_signals_interrupt_again_once_the_arm_was_left_and_the_key_is_up(monkeypatch):
    with OperatorInput() as operator:
        operator.release()
        os.kill(os.getpid(), signal.SIGINT)
        monkeypatch.setattr("time.monotonic", lambda now=time.monotonic: now() + 10)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_a_signal_is_passed_on_while_the_main_thread_is_in_a_call(tmp_path):
    heard = threading.Event()
    with OperatorInput(heard.set):
        main = threading.get_ident()
        threading.Timer(0.05, lambda: signal.pthread_kill(main, signal.SIGTERM)).start()
        # The lock is waited for inside of one call; the handler itself runs after it.
        assert heard.wait(10)


def test_what_was_ignored_before_stays_so_as_under_nohup():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with OperatorInput() as operator:
            os.kill(os.getpid(), signal.SIGHUP)
            assert operator.request() is None
    finally:
        signal.signal(signal.SIGHUP, before)
