"""Settings by the logs: what they are, and that flags and presets come before them."""

from __future__ import annotations

import pytest

from qsft_robot.cli import main
from qsft_robot.config.train import TrainConfig
from qsft_robot.presets.look_up import with_settings
from qsft_robot.training.by_logs import LogSizes, settings_by_logs, sizes_of
from qsft_robot.verbs.train_flags import defaults_for, train_config


def sizes(steps: int, longest: int = 50) -> LogSizes:
    return LogSizes(steps // longest, steps, longest)


@pytest.mark.parametrize("longest", [20, 45, 200, 1000])
def test_the_start_of_the_longest_log_sees_three_tenths_of_its_end(longest):
    found = settings_by_logs(TrainConfig(), sizes(10_000, longest))
    assert found["discount"] ** longest == pytest.approx(0.3, rel=0.1)


def test_the_longest_training_is_that_of_the_most_decisions_and_is_bounded():
    updates = []
    for steps in (50, 5_000, 50_000, 500_000, 50_000_000):
        found = settings_by_logs(TrainConfig(), sizes(steps))
        updates.append(found["optim.behavior_steps"] + found["optim.value_steps"])
    assert updates == sorted(updates)
    assert len(set(updates)) >= 4
    assert updates[0] >= 300
    assert updates[-1] <= 60_000


@pytest.mark.parametrize(
    "seen",
    [
        {"data.cameras": ("front_image",)},
        {"data.text_keys": ("said",)},
        {"tokenizer.kind": "commands"},
        {"model.pretrained": "some/model"},
    ],
)
def test_what_is_more_than_states_takes_the_discount_alone(seen):
    config = with_settings(TrainConfig(), seen)
    assert set(settings_by_logs(config, sizes(9_000))) == {"discount"}


def test_flags_come_before_the_logs_and_a_preset_takes_their_place(logs, capsys):
    words = ("--data.path", str(logs), "--data.state-keys", "proprio", "target")
    config = train_config(words)
    found = settings_by_logs(config, sizes_of(config))
    assert config == with_settings(defaults_for(words, ()), found | {
        "data.path": logs, "data.state_keys": ("proprio", "target"),
    })  # fmt: skip
    told = capsys.readouterr().err
    assert all(name in told for name in found)
    flags = ("--model.dropout", "0.25", "--discount", "0.9")
    flagged = train_config((*words, *flags))
    assert (flagged.model.dropout, flagged.discount) == (0.25, 0.9)
    assert flagged.optim == config.optim
    fixed = train_config((*words, "--preset", "fixed"))
    assert (fixed.model, fixed.optim) == (TrainConfig().model, TrainConfig().optim)
    named = train_config((*words, "--model.name", "rt_tiny"))
    assert (named.optim, named.discount) == (TrainConfig().optim, config.discount)


def test_the_median_is_taken_only_of_ordered_tokens_of_which_one_is_drawn(logs, tmp_path):
    words = ("--data.path", str(logs))
    assert train_config(words).acting.draw == "median"
    several = ("--critic.updates", "5", "--acting.candidates", "4")
    assert train_config((*words, *several)).acting.draw == "sample"
    assert train_config((*words, "--tokenizer.kind", "fast")).acting.draw == "sample"
    # The file's kind counts, not that of the flag that it stands in for.
    for kind, draw in (("fast", "sample"), ("spline", "median")):
        code = tmp_path / f"{kind}.json"
        fit = [str(logs), "--kind", kind, "--horizon", "6", "--short-logs", "drop"]
        assert main(["fit-tokenizer", *fit, "--out", str(code)]) == 0
        assert train_config((*words, "--tokenizer.from", str(code))).acting.draw == draw


def test_logs_that_are_held_out_or_not_picked_do_not_count(logs):
    def count(*words: str) -> int:
        return sizes_of(train_config(("--data.path", str(logs), *words))).logs

    everything = count()
    assert count("--data.filter-key", "valid") == 2
    assert count("--data.valid-key", "valid") == everything - 2
    assert count("--data.max-episodes", "3") == 3
