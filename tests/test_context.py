"""A log replayed through a policy shows it what training showed its model, for every preset."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from run_fixtures import tiny_folder  # noqa: F401
from served_description import served

from qsft_robot.algorithms.networks import PolicyNetworks, context_of
from qsft_robot.config.data import DataConfig
from qsft_robot.config.train import TrainConfig
from qsft_robot.context import History, rows_seen
from qsft_robot.export.export import export_policy
from qsft_robot.logs.writer import write_demonstrations
from qsft_robot.parts.models import describe_model
from qsft_robot.policy.checkpoint import write_checkpoint
from qsft_robot.policy.description import PolicyDescription
from qsft_robot.policy.onnx_policy import load_onnx_policy
from qsft_robot.policy.token_policy import TokenPolicy
from qsft_robot.presets.look_up import PRESETS, apply_presets, with_settings
from qsft_robot.token_data.run_data import RunData, read_run_data
from qsft_robot.training.describing import describe
from qsft_robot.training.run_model import build_run_model
from qsft_robot.types import ADMISSIBLE, Episode, Observation

STEPS = (7, 4)
WORDS = ("look", "take cup", "go to shelf 1")


def test_a_window_holds_decisions_a_chunk_apart_and_stays_in_its_log() -> None:
    window, seen = rows_seen(np.array([4, 6, 9]), np.array([0, 6, 6]), 3, 2)
    np.testing.assert_array_equal(window, [[0, 2, 4], [6, 6, 6], [9, 7, 9]])
    np.testing.assert_array_equal(seen, [[1, 1, 1], [0, 0, 1], [0, 1, 1]])


def test_a_played_episode_fills_the_window_of_a_log() -> None:
    history: History[int] = History(3)
    for row in range(0, 10, 2):
        history.push(row)
        window, seen = rows_seen(np.array([row]), np.array([0]), 3, 2)
        np.testing.assert_array_equal(history.window(), window[0])
        np.testing.assert_array_equal(history.seen(), seen[0])


@pytest.mark.parametrize("executed", [1, 2, 3, 4, 6])
def test_any_number_of_executed_actions_sees_the_rows_of_training_or_the_nearest(executed) -> None:
    length, stride = 3, 6
    history: History[int] = History(length, stride)
    for row in range(0, 40, executed):
        history.push(row, row)
        rows, seen = rows_seen(np.array([row]), np.array([0]), length, stride)
        np.testing.assert_array_equal(history.seen(), seen[0])
        off = np.abs(np.array(history.window()) - rows[0])[seen[0]]
        assert off.max() <= (0 if stride % executed == 0 else executed / 2)
        assert len(history._entries) <= (length - 1) * stride / executed + 2


def test_a_step_that_comes_again_replaces_and_an_earlier_one_begins_anew() -> None:
    history: History[str] = History(2, 3)
    for entry, step in (("a", 0), ("b", 3), ("c", 3)):
        history.push(entry, step)
    assert history.window() == ["a", "c"]
    history.push("d", 1)
    assert history.entries() == ["d"]
    assert history.seen().tolist() == [False, True]


def test_a_policy_says_where_its_windows_are_not_those_of_training() -> None:
    def note(history: int, stride: int, executed: int | None) -> str | None:
        description = served(action={"horizon": 8, "history_stride": stride})
        model = {"kind": "rt", "config": {"history": history}}
        return replace(description, model=model).window_note(executed)

    assert note(1, 8, 3) is None
    assert note(2, 8, 4) is None
    assert note(2, 8, None) is None
    assert "frames lie 8 steps apart; executing 3" in str(note(2, 8, 3))
    assert "executing 8" in str(note(2, 4, None))


def episode(i: int, config: TrainConfig) -> Episode:
    """A random log with the keys that a config names."""
    rng, steps = np.random.default_rng(i), STEPS[i]
    data, texts = config.data, {}
    keys = (*data.state_keys, *data.auxiliary_keys)
    observations: dict[str, Any] = {
        key: rng.normal(size=(steps + 1, 3)).astype(np.float32) for key in keys
    }
    for camera in data.cameras:
        observations[camera] = rng.integers(0, 256, (steps + 1, 32, 32, 3), dtype=np.uint8)
    actions: np.ndarray = rng.uniform(-1, 1, (steps, 3)).astype(np.float32)
    for key in data.text_keys:
        texts[key] = np.array([f"row {t} of log {i}" for t in range(steps + 1)], object)
    if config.tokenizer.kind == "commands":
        actions = np.array([WORDS[t % 3] for t in range(steps)], object)
        some = ["\n".join(WORDS), "\n".join(WORDS[:2])]
        listed = [some[t % 3 == 0] if t % 3 < 2 else some[0] for t in range(steps + 1)]
        texts[ADMISSIBLE] = np.array(listed, object)
    rewards = np.full(steps, data.return_low / steps, np.float32)
    rewards[-1] += data.return_high
    return Episode(
        f"demo_{i}",
        observations,
        actions,
        rewards,
        True,
        False,
        True,
        f"do the task {i}",
        {},
        texts,
    )


def config_of(preset: str, folder: Path, base: Path, **changes: Any) -> TrainConfig:
    """A small run of a preset, with histories and chunks where its actions have them."""
    whole = "data.state_keys" in PRESETS[preset]
    names = [preset] if whole else ["tabletop/low_dim", preset]
    config = apply_presets(TrainConfig(data=DataConfig(state_keys=("q",))), names)
    settings: dict[str, Any] = {
        "data.path": folder / "logs.hdf5", "out": folder / "run", "model.history": 3,
        "optim.behavior_steps": 1, "optim.value_steps": 1,
    }  # fmt: skip
    if config.tokenizer.kind != "commands":
        settings |= {"tokenizer.horizon": 2, "tokenizer.n_bins": 8, "acting.execute": 2}
        if config.tokenizer.points is not None:
            settings |= {"tokenizer.points": 2}
    if preset == "tabletop/vlm":
        settings |= {"model.pretrained": str(base)}
    else:
        settings |= {"model.width": 32, "model.depth": 1}
    config = with_settings(config, settings | changes)
    write_demonstrations(
        config.data.path, [episode(i, config) for i in range(2)], {"env_name": "none"}
    )
    return config


def prepared(config: TrainConfig) -> tuple[RunData, PolicyNetworks, PolicyDescription]:
    data = read_run_data(config)
    torch.manual_seed(0)
    networks = PolicyNetworks(build_run_model(config, data)).eval()
    assert networks.behavior is not None
    description = describe(config, data, describe_model(networks.behavior))
    acting = replace(description.acting, rule="behavior", candidates=1)
    return data, networks, replace(description, networks=("behavior",), acting=acting)


def seen_at(log: Episode, t: int) -> Observation:
    arrays = {key: x[t] for key, x in log.observations.items()}
    images = {key: x for key, x in arrays.items() if x.dtype == np.uint8}
    state = {key: x for key, x in arrays.items() if key not in images}
    return Observation(images, state, log.instruction, {key: x[t] for key, x in log.texts.items()})


def same(found: Any, wanted: torch.Tensor | None) -> None:
    if wanted is None:
        assert found is None
        return
    torch.testing.assert_close(torch.as_tensor(found), wanted, atol=2e-5, rtol=0, check_dtype=False)


CASES: dict[str, dict[str, Any]] = {name: {} for name in PRESETS}
# What no preset has: texts beside the actions of an arm, read along windows of chunks.
# It has no graph, whose export takes a time with each token: part of a longer chunk is executed.
CASES["tabletop/low_dim with texts"] = {
    "data.text_keys": ("said",), "model.text_history": 4, "tokenizer.horizon": 4,
}  # fmt: skip
CASES["tabletop/low_dim by perceptrons"] = {"model.name": "perceptron"}


@pytest.mark.parametrize("name", CASES)
def test_both_policies_see_what_training_showed(name, tmp_path, monkeypatch, tiny_folder):  # noqa: F811
    monkeypatch.setenv("QSFT_CACHE", str(tmp_path / "cache"))
    config = config_of(name.split(" ")[0], tmp_path, tiny_folder("paligemma"), **CASES[name])
    data, networks, description = prepared(config)
    policy, tokens = TokenPolicy(description, networks), data.train
    # Texts, commands and the tower of a VLM have no ONNX form.
    speaks = policy.text_history or config.tokenizer.kind == "commands"
    has_graphs = not speaks and config.model.pretrained is None
    graphs = exported(description, networks, tmp_path) if has_graphs else None
    for i in range(2):
        log, memory = episode(i, config), policy.begin_episode(0)
        other = None if graphs is None else graphs.begin_episode(0)
        for t in range(0, len(log), tokens.stride):
            observation = seen_at(log, t)
            (context,) = policy.contexts([observation], [memory])
            memory.command = log.actions[t] if log.has_commands else ""
            row = tokens.first_row[i] + t
            with torch.no_grad():
                wanted = context_of(policy.decider.trunks[0], tokens.context(row[None]))
            visible = wanted.frame_mask[..., None]
            for field in ("frame_mask", "text_ids", "words"):
                same(getattr(context, field), getattr(wanted, field))
            same(context.state * visible, wanted.state * visible)
            if wanted.features is not None:
                hidden = visible[..., None]
                same(context.features * hidden, wanted.features * hidden)
            if graphs is not None:
                given = graphs.inputs([observation], [other])
                same(given["frame_mask"], wanted.frame_mask)
                same(given["text_ids"], wanted.text_ids)
                same(torch.as_tensor(given["state"]) * visible, wanted.state * visible)
                if wanted.features is not None:
                    made = torch.as_tensor(given["features_0"])
                    same(made * hidden, wanted.features * hidden)


def exported(description: PolicyDescription, networks: PolicyNetworks, folder: Path) -> Any:
    """The same policy on its ONNX graphs."""
    write_checkpoint(folder / "checkpoint", description, networks)
    from policy_fixtures import without_checks

    with without_checks():
        export_policy(folder / "checkpoint", folder / "policy", onnx=True)
    return load_onnx_policy(folder / "policy")
