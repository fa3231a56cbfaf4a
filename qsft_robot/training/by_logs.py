"""Settings by the logs: what `train` takes where no preset and no flag says otherwise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import h5py

from qsft_robot.config.tokenizer import TokenizerConfig
from qsft_robot.config.train import TrainConfig
from qsft_robot.logs.checks import demo_group, open_demonstrations, select_demos
from qsft_robot.logs.hdf5_members import member
from qsft_robot.token_data.tokenizer_file import read_tokenizer

# A preset of this name takes nothing from the logs: the settings that `train --help` lists.
FIXED = "fixed"
# A perceptron sees each decision about so often, and no less than so many updates are made.
_PASSES = 40.0
_FEWEST_UPDATES, _MOST_UPDATES = 400, 30_000
# Share of the updates that the behavior stage gets.
_BEHAVIOR = 0.25
# Kinds of tokens whose ids are in the order of the actions, and how they are drawn: logged actions
# are noisy, and their median is not.
_ORDERED = ("quantile_bins", "uniform_bins", "spline")
_MEDIAN = {"acting.draw": "median", "acting.min_p": 0.0}
# The start of the longest log sees this share of a reward at its end.
_SEEN = 0.3


@dataclass(frozen=True)
class LogSizes:
    """Counts of the logs that a run trains on."""

    logs: int
    steps: int
    longest: int

    def __str__(self) -> str:
        return f"{self.logs} of {self.steps} steps, the longest of {self.longest}"


def sizes_of(config: TrainConfig) -> LogSizes:
    """The logs that the config picks, counted without reading or checking them, which training
    does; ValueError where the file holds none of them."""
    data = config.data
    with open_demonstrations(data.path) as file:
        away = set(select_demos(file, data.valid_key)) if data.valid_key else set()
        names = [name for name in select_demos(file, data.filter_key) if name not in away]
        lengths = [_length(demo_group(file, name)) for name in names[: data.max_episodes]]
    return LogSizes(len(lengths), sum(lengths), max(lengths, default=0))


def _length(demo: h5py.Group) -> int:
    actions = member(demo, "actions")
    shape = actions.shape if isinstance(actions, h5py.Dataset) else None
    return int(shape[0]) if shape else 0


def _kind(tokenizer: TokenizerConfig) -> str:
    if tokenizer.from_file is None:
        return tokenizer.kind
    return read_tokenizer(tokenizer.from_file)[0].to_json()["kind"]


def settings_by_logs(
    config: TrainConfig, sizes: LogSizes, model_named: bool = False
) -> dict[str, Any]:
    """Dotted names and values of the settings that fit logs of these sizes.

    The discount is that of the longest log. States alone, and actions that are numbers, are read by
    a perceptron, which learns few logs by heart soon: its dropout and its number of updates go by
    the number of decisions. Whoever names a model (`model_named`) chooses its length of training.
    """
    found: dict[str, Any] = {}
    data, model = config.data, config.model
    if sizes.longest:
        found["discount"] = round(min(max(_SEEN ** (1 / sizes.longest), 0.9), 0.999), 4)
    texts = data.text_keys or config.tokenizer.kind == "commands"
    own = model.pretrained is not None or config.traits.model is not None
    if data.cameras or texts or own or model_named:
        return found
    # A critic chooses among decisions that are drawn.
    median = config.acting.candidates == 1 and _kind(config.tokenizer) in _ORDERED
    updates = round(_PASSES * sizes.steps / config.optim.batch_size)
    updates = min(max(updates, _FEWEST_UPDATES), _MOST_UPDATES)
    return found | {
        "model.name": "perceptron",
        "model.width": 128,
        "model.depth": 2,
        "model.dropout": 0.4 if sizes.steps < 50_000 else 0.1,
        "optim.behavior_steps": round(_BEHAVIOR * updates),
        "optim.value_steps": updates - round(_BEHAVIOR * updates),
        "optim.learning_rate": 2e-3,
        "optim.value_learning_rate": 2e-3,
        **(_MEDIAN if median else {}),
    }
