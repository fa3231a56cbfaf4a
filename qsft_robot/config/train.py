"""Frozen settings of a training run, their contradictions refused; the flags derive from it."""

from __future__ import annotations

import dataclasses
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from qsft_robot.config.data import DataConfig
from qsft_robot.config.model import ModelConfig, require

Method = Literal["qsft", "sft", "filtered_sft", "return_conditioned", "ilql"]


@dataclass(frozen=True)
class TokenizerConfig:
    """How actions become tokens."""

    # "quantile" (bins between the 1st and 99th percentile), "uniform" (bins over [-1, 1]) or
    # "commands" (actions are text: one token a word, and an end).
    kind: Literal["quantile", "uniform", "commands"] = "quantile"
    # Commands are decoded word by word as they come, not only those that the environment lists as
    # admissible.
    free: bool = False
    # Bins of each action dimension; one number for all dimensions.
    n_bins: int = 256
    # Actions of one decision (chunk length), executed one after the other.
    horizon: int = 1

    def __post_init__(self) -> None:
        require(self.n_bins >= 2, "--tokenizer.n-bins must be at least 2.")
        require(self.horizon >= 1, "--tokenizer.horizon must be at least 1.")
        require(
            self.kind != "commands" or self.horizon == 1,
            "--tokenizer.horizon is for the actions of an arm: a text command is decided alone.",
        )
        require(
            self.kind == "commands" or not self.free,
            "--tokenizer.free says how text commands are decoded: use --tokenizer.kind commands.",
        )


@dataclass(frozen=True)
class QSFTConfig:
    """The value stage of Q-SFT."""

    # Discount of one control step. Choose it so that gamma ** (longest log) is at least .3.
    gamma: float = 0.99
    # 1: the log's own return (bootstrapped only where a log was cut); 0: one-step targets.
    lam: float = 1.0
    # What a state hands back: value (of the behavior), soft (log-mean-exp), max (the paper).
    backup: Literal["value", "soft", "max"] = "value"
    # Sharpness of the soft backup.
    softness: float = 4.0
    # Support of the soft and max backups: pi_phi(a|s) >= this share of the likeliest token's.
    backup_support: float = 0.05
    # proportional: a share of each batch drawn in proportion to w, for the policy term.
    # weighted: uniform batches, each row's policy term weighted by w.
    balance: Literal["proportional", "weighted"] = "proportional"
    # That share; the rest is uniform and for the value term.
    policy_share: float = 0.75
    # Weight of the value term. Give it more where V is bootstrapped (lam below 1, many cut logs).
    value_weight: float = 0.1
    # Updates between two refreshes of the table of targets.
    refresh_every: int = 200
    # Where 1 - w goes: the void outcome, or evenly over the other tokens (the paper's Eq. 3).
    residual: Literal["void", "uniform"] = "void"
    # table: lambda-returns refreshed by inference passes. ema: targets from a slow copy of theta,
    # computed for each batch (the paper's target network).
    targets: Literal["table", "ema"] = "table"
    # Step of the slow copy towards theta at each update.
    ema_rate: float = 0.005

    def __post_init__(self) -> None:
        require(0 < self.gamma <= 1, "--qsft.gamma must lie in (0, 1].")
        require(0 <= self.lam <= 1, "--qsft.lam must lie in [0, 1].")
        require(0 < self.policy_share < 1, "--qsft.policy-share must lie between 0 and 1.")
        require(self.value_weight > 0, "--qsft.value-weight must be positive.")
        require(
            self.policy_share == 0.75 or self.balance == "proportional",
            "--qsft.policy-share needs --qsft.balance proportional.",
        )
        require(
            self.value_weight == 0.1 or self.residual == "void",
            "--qsft.value-weight needs --qsft.residual void: Eq. 3 has no separate value term.",
        )
        require(self.refresh_every >= 1, "--qsft.refresh-every must be at least 1.")
        require(self.softness > 0, "--qsft.softness must be positive.")
        require(
            not (self.residual == "uniform" and self.balance == "proportional"),
            "--qsft.residual uniform needs --qsft.balance weighted: Eq. 3 has no separate value "
            "term that uniform rows could train.",
        )
        require(
            not (self.residual == "uniform" and self.backup == "value"),
            "--qsft.residual uniform has no V(s): use --qsft.backup max or soft.",
        )
        require(
            not (self.targets == "ema" and self.lam > 0),
            "--qsft.targets ema makes one-step targets: use --qsft.lam 0.",
        )
        require(
            not (self.targets == "ema" and self.balance == "proportional"),
            "--qsft.targets ema keeps no table to draw from: use --qsft.balance weighted.",
        )


@dataclass(frozen=True)
class ILQLConfig:
    """The value-head rival."""

    # Expectile of the value regression.
    expectile: float = 0.7
    # Weight of the conservative term.
    conservatism: float = 0.01
    # Step of the slow copy of the Q head at each update.
    ema_rate: float = 0.005

    def __post_init__(self) -> None:
        require(0.5 <= self.expectile < 1, "--ilql.expectile must lie in [0.5, 1).")


@dataclass(frozen=True)
class ActingConfig:
    """How a trained model chooses; saved with the checkpoint, changeable at evaluation."""

    # power: log pi = log pi_phi + k (log p~ - log pi_phi); ratio: pi_phi exp(beta Q);
    # paper: pi_phi exp(beta p_theta); advantage: pi_phi exp(beta (Q - V)) (value heads);
    # behavior: pi_phi itself.
    rule: Literal["power", "ratio", "paper", "advantage", "behavior"] = "power"
    # Strength of the improvement of rule power. 1 is p~ alone: one network, one forward pass.
    k: float = 1.0
    # Inverse temperature of the rules ratio, paper and advantage.
    beta: float = 8.0
    # Support: tokens with pi_phi(a|s) >= support * max pi_phi. Not used where pi_phi isn't run.
    support: float = 0.05
    # Tokens less likely than this share of the likeliest one are cut.
    min_p: float = 0.3
    # 1 samples from what is left; 0 takes the likeliest token.
    temperature: float = 1.0
    # Return that the return-conditioned baseline is asked for, in [0, 1].
    target_return: float = 1.0

    def __post_init__(self) -> None:
        rules = typing.get_args(typing.get_type_hints(ActingConfig)["rule"])
        require(
            self.rule in rules,
            f"unknown acting rule {self.rule!r}. There are: {', '.join(rules)}.",
        )
        require(self.k >= 0, "--acting.k must not be negative.")
        require(self.temperature >= 0, "--acting.temperature must not be negative.")
        require(0 <= self.min_p <= 1, "--acting.min-p must lie in [0, 1].")
        require(0 <= self.support <= 1, "--acting.support must lie in [0, 1].")


@dataclass(frozen=True)
class OptimConfig:
    """The optimizer of both stages: AdamW, warm-up, cosine to a tenth."""

    # Decisions of one update.
    batch_size: int = 256
    # Updates of the behavior stage. Methods with one stage take both numbers together.
    behavior_steps: int = 2000
    # Updates of the value stage.
    value_steps: int = 2000
    # Peak learning rate of the behavior stage.
    learning_rate: float = 1e-3
    # Peak learning rate of the value stage.
    value_learning_rate: float = 5e-4
    # Updates of linear warm-up.
    warmup_steps: int = 100
    # AdamW's decay of matrices; vectors are not decayed.
    weight_decay: float = 0.05
    # Largest norm of the gradient.
    clip_norm: float = 1.0
    # Train in bfloat16 autocast.
    bf16: bool = False
    # Parts that each batch is cut into on every process, one after the other, to save memory: the
    # gradients add up to those of the whole batch.
    accumulate: int = 1
    # Compile the models with torch.compile: minutes of start-up, faster updates on a GPU.
    compile: bool = False
    # Spread parameters, gradients and optimizer state over the processes (FSDP) instead of a copy
    # on each; needs accelerate launch or torchrun.
    shard: bool = False

    def __post_init__(self) -> None:
        require(self.batch_size >= 2, "--optim.batch-size must be at least 2.")
        require(self.behavior_steps >= 1, "--optim.behavior-steps must be at least 1.")
        require(self.value_steps >= 1, "--optim.value-steps must be at least 1.")
        require(self.accumulate >= 1, "--optim.accumulate must be at least 1.")


@dataclass(frozen=True)
class TrainConfig:
    """One training run: logs in, a folder with a policy out."""

    # Run folder; it gets config.json, metrics.jsonl, checkpoint/ and, at the end, policy/.
    out: Path = Path("runs/train")
    # qsft, or a baseline on the same batch, model and budget.
    method: Method = "qsft"
    # What is read from the logs.
    data: DataConfig = field(default_factory=lambda: DataConfig(state_keys=("proprio",)))
    # The RT-style transformer, or the pretrained model that is fine-tuned.
    model: ModelConfig = field(default_factory=ModelConfig)
    # How actions become tokens.
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    # The value stage of Q-SFT.
    qsft: QSFTConfig = field(default_factory=QSFTConfig)
    # The value-head rival.
    ilql: ILQLConfig = field(default_factory=ILQLConfig)
    # How the trained model chooses; changeable at evaluation.
    acting: ActingConfig = field(default_factory=ActingConfig)
    # The optimizer of both stages.
    optim: OptimConfig = field(default_factory=OptimConfig)
    # The same seed, data and settings give the same weights, to the bit, on one machine.
    seed: int = 0
    # Where to train: cpu, cuda, cuda:1, ...
    device: str = "cpu"
    # Take the behavior stage of this run folder (same data, model, seed) instead of training it.
    # A method of one stage then goes on from it for --optim.value-steps updates.
    behavior_from: Path | None = None
    # Take the image encoder of this run folder (same cameras and model), frozen: both stages train
    # on its image features, computed once per frame.
    features_from: Path | None = None
    # Updates between two lines of metrics.
    log_every: int = 50
    # Updates between two checkpoints (the last one of each stage is always written).
    checkpoint_every: int = 1000

    def __post_init__(self) -> None:
        require(self.log_every >= 1, "--log-every must be at least 1.")
        require(self.checkpoint_every >= 1, "--checkpoint-every must be at least 1.")
        require(
            self.qsft.balance == "weighted" or self.optim.batch_size * self.qsft.policy_share >= 1,
            f"--qsft.policy-share {self.qsft.policy_share} of --optim.batch-size "
            f"{self.optim.batch_size} is less than one decision: raise one of the two.",
        )
        require(
            self.model.train_images
            or not (self.data.auxiliary_keys or self.data.auxiliary_commands),
            "--data.auxiliary-keys teaches an image encoder, but a pretrained one is frozen: use "
            "--model.no-frozen-features to train it, or leave the keys out.",
        )
        require(
            self.tokenizer.kind == "commands" or not self.data.auxiliary_commands,
            "--data.auxiliary-commands is for logs of text commands: use --tokenizer.kind commands "
            "or leave it out.",
        )
        if self.features_from is not None:
            require(bool(self.data.cameras), "--features-from needs --data.cameras.")
            require(
                self.model.frozen_features,
                "--features-from trains on frozen image features: not with "
                "--model.no-frozen-features.",
            )
            require(
                self.behavior_from is None,
                "--features-from and --behavior-from exclude each other: a behavior stage brings "
                "its own image encoder.",
            )
        require(
            not (self.optim.shard and self.qsft.targets == "ema"),
            "--optim.shard spreads theta over processes, which the slow copy of --qsft.targets ema "
            "can't follow: use --qsft.targets table.",
        )
        rule = self.acting.rule
        require(
            (rule == "advantage") == (self.method == "ilql") or rule == "behavior",
            f"--acting.rule {rule} doesn't fit --method {self.method}: value heads (ilql) act by "
            "advantage, every other method by power, ratio, paper or behavior.",
        )

    @property
    def two_stages(self) -> bool:
        """Whether a value stage follows the behavior stage."""
        return self.method in ("qsft", "ilql")


def to_json(config: Any) -> dict[str, Any]:
    """A config as JSON types (paths as strings, tuples as lists)."""

    def plain(value: Any) -> Any:
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
        if isinstance(value, Path):
            return str(value)
        if isinstance(value, tuple | list):
            return [plain(x) for x in value]
        return value

    return plain(config)


def from_json(kind: type, values: dict[str, Any]) -> Any:
    """Rebuild a config from `to_json`; an unknown entry is an error that names it."""
    hints = typing.get_type_hints(kind)
    for name in values:
        if name not in hints:
            raise ValueError(f"{kind.__name__} has no setting {name!r}. There are: {list(hints)}.")

    def typed(hint: Any, value: Any) -> Any:
        if dataclasses.is_dataclass(hint):
            return from_json(typing.cast(type, hint), value)
        if typing.get_origin(hint) is tuple:
            return tuple(value)
        if typing.get_origin(hint) in (types.UnionType, typing.Union):
            inner = next(a for a in typing.get_args(hint) if a is not type(None))
            return None if value is None else typed(inner, value)
        return hint(value) if hint in (Path, float) else value

    return kind(**{name: typed(hints[name], value) for name, value in values.items()})
