"""Methods: the traits by which training, acting and the command line treat each, and its settings.

A new method is a file in `algorithms/` with its stage, and one entry here; a method of another
package is a `Method` that it registers under the entry points `qsft_robot.methods`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from qsft_robot.config.critic import CriticConfig
from qsft_robot.config.require import require
from qsft_robot.names import unknown
from qsft_robot.parts.plugins import METHODS as GROUP
from qsft_robot.parts.plugins import load_plugin, plugin_names

# Rules that need at most the distributions of phi and theta, and V.
RATIO_RULES = ("power", "ratio", "paper", "behavior")


@dataclass(frozen=True)
class Method:
    """Traits of a method, without torch."""

    # One line for people.
    summary: str
    # "module:class" of its last stage, built as class(networks, data, device, settings). None:
    # supervised fine-tuning of the behavior alone.
    stage: str | None = None
    # Whether that stage trains theta, a copy of the trained phi; else it trains phi itself.
    value_stage: bool = False
    # Group of settings that the stage gets, by its name in TrainConfig. None: those of
    # --method-settings, as a dict.
    settings: str | None = None
    # Head on theta's hidden states, a name of `algorithms.networks.HEADS`, where the settings do
    # not say it themselves (`settings.head`).
    head: str | None = None
    # Acting rules that its networks can serve.
    rules: tuple[str, ...] = RATIO_RULES
    # What it changes of the acting settings' defaults.
    acting: Mapping[str, Any] = field(default_factory=dict)
    # Logs that supervised fine-tuning draws from: all, those that succeeded, or those that are no
    # known failure (successes, and logs cut before their outcome).
    logs: Literal["all", "successful", "not_failed"] = "all"
    # Whether the policy is told the return that it is asked for.
    conditions_on_return: bool = False
    # Model of its own, in place of the one that --model.name names.
    model: str | None = None
    # What it changes of the model settings' defaults.
    model_settings: Mapping[str, Any] = field(default_factory=dict)
    # Whether each frame also tells the actions before it and the return to go.
    reads_past: bool = False


METHODS: dict[str, Method] = {
    "qsft": Method(
        "Q-SFT: offline Q-learning as weighted supervised fine-tuning",
        stage="qsft_robot.algorithms.qsft_stage:QSFTStage",
        value_stage=True,
        settings="qsft",
    ),
    "sft": Method("supervised fine-tuning on all logs"),
    "filtered_sft": Method("supervised fine-tuning on successful logs", logs="successful"),
    "nonfailing_sft": Method(
        "supervised fine-tuning on logs that are no known failure", logs="not_failed"
    ),
    "return_conditioned": Method(
        "supervised fine-tuning told the return of each log", conditions_on_return=True
    ),
    "filtered_sft_by_value": Method(
        "supervised fine-tuning on successful logs and on logs cut in a promising state",
        stage="qsft_robot.algorithms.filtered_by_value:FilteredByValueStage",
        value_stage=True,
        settings="filtered_by_value",
        rules=("power", "behavior"),
    ),
    "advantage_weighted": Method(
        "imitation weighted by exp(advantage), the extraction of AWR and IQL",
        stage="qsft_robot.algorithms.advantage_weighted:AdvantageWeightedStage",
        value_stage=True,
        settings="advantage_weighted",
        rules=("power", "behavior"),
    ),
    "advantage_conditioned": Method(
        "imitation told which decisions are among the best, the extraction of RECAP",
        stage="qsft_robot.algorithms.advantage_conditioned:AdvantageConditionedStage",
        value_stage=True,
        settings="advantage_conditioned",
        rules=("power",),
        conditions_on_return=True,
    ),
    "cql": Method(
        "conservative Q-learning, token by token",
        stage="qsft_robot.algorithms.cql:CQLStage",
        value_stage=True,
        settings="cql",
        head="token_values",
        rules=("value", "advantage", "behavior"),
        acting={"rule": "value", "beta": 50.0},
    ),
    "q_transformer": Method(
        "autoregressive Q-learning with the other tokens' Q pulled to 0",
        stage="qsft_robot.algorithms.q_transformer:QTransformerStage",
        value_stage=True,
        settings="q_transformer",
        head="token_values",
        rules=("value", "advantage", "behavior"),
        acting={"rule": "value", "beta": 50.0},
    ),
    "ilql": Method(
        "implicit language Q-learning: value heads that shift the behavior",
        stage="qsft_robot.algorithms.ilql:ILQLStage",
        value_stage=True,
        settings="ilql",
        head="heads",
        rules=("advantage", "behavior"),
        acting={"rule": "advantage", "beta": 8.0},
    ),
    "monte_carlo": Method(
        "Monte-Carlo value heads that shift the behavior, the baseline MC of LMRL-Gym",
        stage="qsft_robot.algorithms.monte_carlo:MonteCarloStage",
        value_stage=True,
        settings="monte_carlo",
        head="heads",
        rules=("advantage", "behavior"),
        acting={"rule": "advantage", "beta": 8.0},
    ),
    "lamo": Method(
        "a Decision Transformer, on the layers of a language model or from scratch",
        stage="qsft_robot.algorithms.decision_transformer:DecisionTransformerStage",
        settings="lamo",
        model="decision_transformer",
        model_settings={"history": 20},
        reads_past=True,
    ),
}


def method_names() -> list[str]:
    """Every method that can be trained."""
    return [*METHODS, *plugin_names(GROUP)]


def find_method(name: str) -> Method:
    """A method by name; ValueError with the nearest name where there is none."""
    if name in METHODS:
        return METHODS[name]
    found = load_plugin(GROUP, name)
    if found is None:
        raise unknown("method", name, method_names())
    if not isinstance(found, Method):
        raise ValueError(f"{name!r} is registered in {GROUP}, but is no Method: {found!r}.")
    return found


@dataclass(frozen=True)
class QSFTConfig:
    """The value stage of Q-SFT."""

    # 1: the log's own return (bootstrapped only where a log was cut); 0: one-step targets.
    lam: float = 1.0
    # Value that a state hands back to the step before it: value (of the behavior), soft
    # (log-mean-exp), max (the paper).
    backup: Literal["value", "soft", "max"] = "value"
    # Sharpness of the soft backup.
    softness: float = 4.0
    # Support of the soft and max backups: pi_phi(a|s) >= this share of the likeliest token's.
    backup_support: float = 0.05
    # How the policy term favors what succeeds; w is a row's target, the return to come in [0, 1].
    # proportional: a share of each batch drawn in proportion to w. weighted: uniform batches, each
    # row's term weighted by w.
    balance: Literal["proportional", "weighted"] = "proportional"
    # Share of a batch that is drawn in proportion to w; the rest is uniform, for the value term.
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
        require(
            not (self.targets == "ema" and self.backup == "value"),
            "--qsft.targets ema backs up token by token: use --qsft.backup max or soft.",
        )

    @property
    def head(self) -> str | None:
        """The void outcome, where the residual goes there."""
        return "void" if self.residual == "void" else None


@dataclass(frozen=True)
class _BesideCritic:
    group: ClassVar[str]
    # Perceptrons of the critic that is trained beside the policy.
    members: int = 2
    # V is this expectile of Q: .5 is the behavior's value, towards 1 that of its best decisions.
    expectile: float = 0.7
    # Dropout of the critic.
    dropout: float = 0.1
    # 0: one-step targets, r + discount ** h V(s'); 1: the log's own return.
    lam: float = 0.0
    # Step of the slow copy of Q, which targets and V are read from, at each update.
    ema_rate: float = 0.005

    @property
    def critic(self) -> CriticConfig:
        """Settings of that critic."""
        return CriticConfig(
            members=self.members,
            expectile=self.expectile,
            dropout=self.dropout,
            lam=self.lam,
            ema_rate=self.ema_rate,
        )

    def __post_init__(self) -> None:
        require(0 <= self.dropout < 1, f"--{self.group}.dropout must lie in [0, 1).")
        require(self.members >= 1, f"--{self.group}.members must be at least 1.")
        require(0.5 <= self.expectile < 1, f"--{self.group}.expectile must lie in [0.5, 1).")
        require(0 <= self.lam <= 1, f"--{self.group}.lam must lie in [0, 1].")
        require(0 < self.ema_rate <= 1, f"--{self.group}.ema-rate must lie in (0, 1].")


@dataclass(frozen=True)
class FilteredByValueConfig(_BesideCritic):
    """Filtered SFT that keeps cut logs by V."""

    group = "filtered-by-value"


@dataclass(frozen=True)
class AdvantageWeightedConfig(_BesideCritic):
    """Advantage-weighted imitation."""

    group = "advantage-weighted"
    # A decision weighs exp(advantage / temperature); advantages are differences of probabilities.
    temperature: float = 0.1
    # The most that a decision weighs.
    largest_weight: float = 20.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.temperature > 0, "--advantage-weighted.temperature must be positive.")
        require(self.largest_weight > 0, "--advantage-weighted.largest-weight must be positive.")


@dataclass(frozen=True)
class AdvantageConditionedConfig(_BesideCritic):
    """Advantage-conditioned imitation."""

    group = "advantage-conditioned"
    # Share of the decisions, those of the highest advantage, under the condition that acts.
    share: float = 0.3

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 < self.share < 1, "--advantage-conditioned.share must lie between 0 and 1.")


@dataclass(frozen=True)
class TokenQConfig:
    """Q-learning token by token."""

    group: ClassVar[str] = "q-transformer"
    # Weight of the term that holds down the tokens not taken.
    conservatism: float = 0.5
    # Targets are no less than the log's own return from there on.
    floor: bool = True
    # Step of the slow copy of the Q head at each update.
    ema_rate: float = 0.005

    def __post_init__(self) -> None:
        require(self.conservatism >= 0, f"--{self.group}.conservatism must not be negative.")
        require(0 < self.ema_rate <= 1, f"--{self.group}.ema-rate must lie in (0, 1].")


@dataclass(frozen=True)
class CQLConfig(TokenQConfig):
    """CQL, whose targets have no floor."""

    group = "cql"
    # Weight of the term that holds down the tokens not taken.
    conservatism: float = 0.05
    # Targets are no less than the log's own return from there on.
    floor: bool = False


@dataclass(frozen=True)
class ILQLConfig:
    """The value-head baseline."""

    # Expectile of the value regression.
    expectile: float = 0.7
    # Weight of the conservative term.
    conservatism: float = 0.01
    # Step of the slow copy of the Q head at each update.
    ema_rate: float = 0.005

    def __post_init__(self) -> None:
        require(0.5 <= self.expectile < 1, "--ilql.expectile must lie in [0.5, 1).")


@dataclass(frozen=True)
class MonteCarloConfig:
    """Value heads on the logs' own returns."""

    # Weight of the conservative term.
    conservatism: float = 0.01

    def __post_init__(self) -> None:
        require(self.conservatism >= 0, "--monte-carlo.conservatism must not be negative.")
