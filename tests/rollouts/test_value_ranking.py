"""Logs are ranked by V at their end, beside logs of the same outcome, held out where possible."""

import numpy as np
import pytest
from served_description import served

from qsft_robot.logs.writer import DemonstrationWriter
from qsft_robot.rollouts.value_ranking import rank_by_value
from qsft_robot.types import Decision, Episode


class Seer:
    """A policy whose V is what the state shows, and the label of the logs that it learned from."""

    def __init__(self, filter_key=None, remembers=()):
        self.remembers = remembers
        data = {"file": "", "sha256": "", "instructions": [], "filter_key": filter_key}
        state = {"state": {"mean": [0] * 3, "std": [1] * 3}}
        self.description = served(
            1,
            state_keys=["state"],
            norm_stats={"state": state, "actions": {"low": [-1], "high": [1]}},
            data=data,
        )

    def begin_episode(self, seed):
        return None

    def infer_batch(self, observations, memories):
        told = [x.state["state"] for x in observations]
        values = [float(label if i in self.remembers else v) for i, label, v in told]
        return [Decision(np.zeros((1, 1), np.float32), v) for v in values]


WRONG = {"demo_3", "demo_8"}


@pytest.fixture
def logs(tmp_path):
    """Ten logs that rise to their outcome, two of them labeled wrong; one more was cut."""
    path = tmp_path / "logs.hdf5"
    with DemonstrationWriter(path, {"env_name": "x"}) as writer:
        for i in range(11):
            true = i % 2 == 0
            label = true != (f"demo_{i}" in WRONG)
            values = np.linspace(0.3, 0.9 if true else 0.1, 7)
            if i == 5:
                values[4:] -= 0.1
            state = np.stack([np.full(7, i), np.full(7, label), values], 1).astype(np.float32)
            cut = i == 10
            rewards = np.eye(6)[-1] * (label and not cut)
            writer.append(
                Episode(f"demo_{i}", {"state": state}, np.zeros((6, 1)), rewards.astype(np.float32),
                        not cut, cut, label and not cut),
                ["a" if i < 5 else "b"],
            )  # fmt: skip
    return path


def test_wrong_outcomes_come_first_and_cut_logs_have_none(logs):
    ranked = rank_by_value(logs, [Seer("a")])
    assert {x.name for x in ranked[:2]} == WRONG
    assert len(ranked) == 10
    assert {x.name for x in ranked if x.held_out} == {f"demo_{i}" for i in range(5, 10)}


def test_each_log_is_judged_by_the_half_that_never_saw_it(logs):
    halves = [Seer("a", range(5)), Seer("b", range(5, 11))]
    assert {x.name for x in rank_by_value(logs, halves)[:2]} == WRONG
    assert all(x.held_out for x in rank_by_value(logs, halves))
    blind = rank_by_value(logs, [Seer(None, range(11))])
    assert not any(x.held_out or x.suspicion for x in blind)


def test_the_largest_drop_of_v_has_its_step(logs):
    by_name = {x.name: x for x in rank_by_value(logs, [Seer()])}
    assert by_name["demo_5"].drop_step == 4
    assert by_name["demo_5"].drop == pytest.approx(0.2 / 6 + 0.1, abs=1e-5)
    assert by_name["demo_0"].drop == 0


def test_a_policy_without_v_is_refused(logs):
    class Blind(Seer):
        def infer_batch(self, observations, memories):
            return [Decision(np.zeros((1, 1), np.float32)) for _ in observations]

    with pytest.raises(ValueError, match="no V"):
        rank_by_value(logs, [Blind()])
