"""The settings of `qsft-robot train`: presets, what the logs decide, and flags over both."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

from qsft_robot.config.earlier import check_flags
from qsft_robot.config.methods import find_method
from qsft_robot.config.train import TrainConfig
from qsft_robot.presets.look_up import PRESETS, apply_presets, with_settings
from qsft_robot.printed_text import say
from qsft_robot.training.by_logs import FIXED, settings_by_logs, sizes_of
from qsft_robot.verbs.parsing import parsed


def train_config(arguments: Sequence[str]) -> TrainConfig:
    """The settings that the words after `qsft-robot train` ask for.

    Without a preset the logs that they name decide some (`settings_by_logs`), which is said.
    """
    check_flags(arguments)
    names, arguments = _take_presets(list(arguments))
    start = defaults_for(arguments, [name for name in names if name != FIXED])
    config = _parsed(arguments, start)
    if names:
        return config
    # A missing package is said before the logs are read, which would be in vain.
    import qsft_robot.training.train  # noqa: F401

    sizes = sizes_of(config)
    model_named = any(word.split("=")[0] == "--model.name" for word in arguments)
    found = settings_by_logs(config, sizes, model_named)
    config = _parsed(arguments, with_settings(start, found))
    told = ", ".join(f"{name} {value}" for name, value in found.items())
    if os.environ.get("RANK", "0") == "0":  # of several processes one says it
        say(
            f"by the logs ({sizes}): {told}. A flag changes one of these; --preset {FIXED} takes "
            "none.",
            sys.stderr,
        )
    return config


def defaults_for(arguments: Sequence[str], presets: Sequence[str]) -> TrainConfig:
    """The config that flags change: the presets' values over the defaults. Value heads have their
    own acting rule, and a pretrained model its own sizes."""
    config = TrainConfig()
    named = [word.removeprefix("--method=") for word in arguments if word.startswith("--method=")]
    named += [name for flag, name in pairwise(arguments) if flag == "--method"]
    if named:
        method = find_method(named[-1])
        acting = replace(config.acting, **method.acting)
        model = replace(config.model, **method.model_settings)
        config = replace(config, method=named[-1], acting=acting, model=model)
    config = apply_presets(config, presets)
    if any(word.split("=")[0] in ("--model.pretrained", "--model.trunk") for word in arguments):
        own = {"model.width": None, "model.depth": None, "model.image_shrink": 1}
        config = with_settings(config, {**own, "data.auxiliary_commands": False})
    return config


def _parsed(arguments: Sequence[str], start: TrainConfig) -> TrainConfig:
    """The config `start` with the flags' changes."""
    return parsed(
        TrainConfig,
        arguments,
        "qsft-robot train",
        default=start,
        description=(
            "Train on logs and export the policy to OUT/policy.\n\n"
            "E.g. qsft-robot train --data.path logs.hdf5 --data.state-keys proprio --out runs/my; "
            "qsft-robot inspect logs.hdf5 lists the keys that there are.\n\n"
            "--preset NAME (repeatable) starts from named settings, which other flags change:\n"
            f"{', '.join(PRESETS)}.\n"
            "Without a preset the logs decide the discount and, where policies see states alone, "
            f"the model and how long it learns; --preset {FIXED} leaves all as listed below.\n\n"
            "--resume RUN goes on with an interrupted run, to the bit. What its config.json "
            "can't decide stands beside it: --trust-remote-code, --allow-downloads."
        ),
    )


def _take_presets(arguments: list[str]) -> tuple[list[str], list[str]]:
    """Split `--preset NAME` (or --preset=NAME) off the other arguments."""
    names, rest = [], []
    words = iter(arguments)
    for word in words:
        if word == "--preset":
            names.append(next(words, ""))
        elif word.startswith("--preset="):
            names.append(word.removeprefix("--preset="))
        else:
            rest.append(word)
    return names, rest
