"""Every flag of every verb is told, each in words of its own."""

from __future__ import annotations

import re
import warnings
from collections import defaultdict

import pytest
import tyro

from qsft_robot.cli import VERBS
from qsft_robot.config.train import TrainConfig

_ENDS = re.compile(r"\s*\((default|required|repeatable|optional)[^()]*\)\s*$")


@pytest.mark.parametrize("verb", VERBS)
def test_a_flag_is_told_in_words_of_its_own(verb: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        parser = tyro.extras.get_parser(TrainConfig if verb == "train" else VERBS[verb])
    told = defaultdict(list)
    for action in parser._actions:
        flag = (action.option_strings or [action.dest])[0]
        words = _ENDS.sub("", re.sub(r"\x1b\[[\d;]*m", "", str(action.help))).strip()
        assert words, f"{verb} {flag} has no help"
        told[flag.rpartition(".")[0], words].append(flag)
    assert [flags for flags in told.values() if len(flags) > 1] == []
