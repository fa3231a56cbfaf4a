"""Frozen settings of a training run, their contradictions refused; the flags derive from it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from qsft_robot.config.acting import ActingConfig
from qsft_robot.config.critic import CriticConfig
from qsft_robot.config.data import DataConfig
from qsft_robot.config.lamo import LaMoConfig
from qsft_robot.config.methods import (
    AdvantageConditionedConfig,
    AdvantageWeightedConfig,
    CQLConfig,
    FilteredByValueConfig,
    ILQLConfig,
    Method,
    MonteCarloConfig,
    QSFTConfig,
    TokenQConfig,
    find_method,
)
from qsft_robot.config.model import SCRATCH, ModelConfig
from qsft_robot.config.require import require
from qsft_robot.config.tokenizer import TokenizerConfig


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
    # float32, bfloat16 (autocast), or auto: bfloat16 where this machine computes faster in it. A
    # run keeps what was taken, also where it is resumed on another machine.
    precision: Literal["auto", "float32", "bfloat16"] = "float32"
    # Parts that each batch is cut into on every process, one after the other, to save memory: the
    # gradients add up to those of the whole batch.
    accumulate: int = 1
    # Parts of each batch that are computed at the same time, each by one thread of a CPU. The
    # threads wait for each other once an update instead of inside of every operation, which other
    # programs on the same cores slow down by far less.
    parallel: int = 1
    # Recompute activations in the backward pass: less memory, about a third more time.
    checkpoint_activations: bool = False
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
        require(self.parallel >= 1, "--optim.parallel must be at least 1.")
        require(
            self.precision in ("auto", "float32", "bfloat16"),
            f"--optim.precision {self.precision}: there are auto, float32 and bfloat16.",
        )
        require(
            self.parallel == 1 or not (self.compile or self.shard),
            "--optim.parallel is for a model in one piece on a CPU: not with --optim.compile or "
            "--optim.shard.",
        )


@dataclass(frozen=True)
class TrainConfig:
    """One training run: logs in, a folder with a policy out."""

    # Run folder; it gets config.json, metrics.jsonl, checkpoint/ and, at the end, policy/.
    out: Path = Path("runs/train")
    # qsft, or a baseline on the same batch, model and budget: sft, filtered_sft, nonfailing_sft,
    # filtered_sft_by_value, return_conditioned, advantage_weighted, advantage_conditioned, cql,
    # q_transformer, ilql, monte_carlo, lamo, or a method that an installed package registers.
    method: str = "qsft"
    # Discount of one control step. Choose it so that discount ** (longest log) is at least .3.
    discount: float = 0.99
    # What is read from the logs.
    data: DataConfig = field(default_factory=lambda: DataConfig(state_keys=("proprio",)))
    # The RT-style transformer, or the pretrained model that is fine-tuned.
    model: ModelConfig = field(default_factory=ModelConfig)
    # How actions become tokens.
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    # Of --method qsft: its value stage.
    qsft: QSFTConfig = field(default_factory=QSFTConfig)
    # Of --method ilql, implicit Q-learning with value heads.
    ilql: ILQLConfig = field(default_factory=ILQLConfig)
    # Of --method monte_carlo, value heads on the logs' own returns.
    monte_carlo: MonteCarloConfig = field(default_factory=MonteCarloConfig)
    # Of --method filtered_sft: this share of the logs, those of the highest returns, in place of
    # the successful ones. For logs that tell no success, or where a success tells little.
    filtered_share: float | None = None
    # Of --method filtered_sft_by_value, filtered SFT that keeps cut logs by V.
    filtered_by_value: FilteredByValueConfig = field(default_factory=FilteredByValueConfig)
    # Of --method advantage_weighted, advantage-weighted imitation.
    advantage_weighted: AdvantageWeightedConfig = field(default_factory=AdvantageWeightedConfig)
    # Of --method advantage_conditioned, advantage-conditioned imitation.
    advantage_conditioned: AdvantageConditionedConfig = field(
        default_factory=AdvantageConditionedConfig
    )
    # Of --method cql, conservative Q-learning token by token.
    cql: CQLConfig = field(default_factory=CQLConfig)
    # Of --method q_transformer, Q-learning token by token with a floor.
    q_transformer: TokenQConfig = field(default_factory=TokenQConfig)
    # Of --method lamo, a Decision Transformer.
    lamo: LaMoConfig = field(default_factory=LaMoConfig)
    # Settings of a method from another package, e.g. temperature=0.5.
    method_settings: tuple[str, ...] = ()
    # The critic that chooses among candidates.
    critic: CriticConfig = field(default_factory=CriticConfig)
    # How the trained model chooses; changeable at evaluation.
    acting: ActingConfig = field(default_factory=ActingConfig)
    # The optimizer of both stages.
    optim: OptimConfig = field(default_factory=OptimConfig)
    # The same seed, data and settings give the same weights, to the bit, on one machine (the
    # precision is a setting: config.json names the one that auto took).
    seed: int = 0
    # Where to train: auto (cuda, mps or cpu, the first that is here), cpu, cuda, cuda:1, ...
    device: str = "auto"
    # Weights of --model.pretrained that a run begins with: all; body: all but the rows of the
    # action tokens, which are drawn anew, as new heads have to be; none: its architecture alone.
    pretrained_weights: Literal["all", "body", "none"] = "all"
    # Take the behavior stage of this run folder (same data, model, seed) instead of training it.
    # A method of one stage then goes on from it for --optim.value-steps updates.
    behavior_from: Path | None = None
    # Take the image encoder of this run folder (same cameras and model), frozen: both stages train
    # on its image features, computed once per frame.
    features_from: Path | None = None
    # Updates between two lines of metrics.
    log_every: int = 50
    # Where curves are shown beside metrics.jsonl: tensorboard (in the run folder), trackio (on this
    # machine: `trackio show`) or wandb (its own account and settings).
    track: Literal["tensorboard", "trackio", "wandb"] = "tensorboard"
    # Updates between two checkpoints (the last one of each stage is always written).
    checkpoint_every: int = 1000

    def __post_init__(self) -> None:
        require(self.log_every >= 1, "--log-every must be at least 1.")
        require(self.checkpoint_every >= 1, "--checkpoint-every must be at least 1.")
        share = self.filtered_share
        require(
            share is None or (0 < share <= 1 and self.traits.logs == "successful"),
            f"--filtered-share {share} is a share of the logs above 0 and up to 1, and of --method "
            "filtered_sft alone.",
        )
        require(
            self.optim.parallel == 1
            or (
                self.model.dropout == 0
                and self.model.pretrained is None
                and self.qsft.targets == "table"
            ),
            "--optim.parallel needs what its threads don't share: --model.dropout 0, "
            "--qsft.targets table and no --model.pretrained.",
        )
        own = getattr(self.settings, "dropout", 0.0)  # of a critic beside the policy
        group = self.settings.group if own else "critic"
        require(
            self.optim.parallel == 1 or not (own or (self.critic.updates and self.critic.dropout)),
            "--optim.parallel needs what its threads don't share: a critic without dropout, "
            f"--{group}.dropout 0.",
        )
        require(
            self.qsft.balance == "weighted" or self.optim.batch_size * self.qsft.policy_share >= 1,
            f"--qsft.policy-share {self.qsft.policy_share} of --optim.batch-size "
            f"{self.optim.batch_size} is less than one decision: raise one of the two.",
        )
        require(
            self.trains_images or not (self.data.auxiliary_keys or self.data.auxiliary_commands),
            "--data.auxiliary-keys teaches an image encoder, but a pretrained one is frozen: use "
            "--model.no-frozen-features to train it, or leave the keys out.",
        )
        require(
            self.model.name != "whole_commands" or self.tokenizer.closed,
            "--model.name whole_commands scores the commands of a closed list: add "
            "--tokenizer.kind commands --tokenizer.closed, or take --model.name perceptron.",
        )
        require(
            self.tokenizer.kind == "commands" or not self.data.auxiliary_commands,
            "--data.auxiliary-commands is for logs of text commands: use --tokenizer.kind commands "
            "or leave it out.",
        )
        require(
            self.model.text_history > 0 or not self.data.text_keys,
            "--model.text-history 0 reads no texts, and --data.text-keys names some: leave one of "
            "the two out.",
        )
        require(
            self.trains_images or self.model.random_shift == 0,
            "--model.random-shift teaches an image encoder, but a pretrained one is frozen: use "
            "--model.no-frozen-features to train it.",
        )
        require(
            self.pretrained_weights == "all"
            or self.model.pretrained is not None
            or self.model.trunk != SCRATCH,
            f"--pretrained-weights {self.pretrained_weights} says something of a pretrained model: "
            "name one with --model.pretrained, or a trunk of --method lamo with --model.trunk.",
        )
        require(
            self.pretrained_weights != "none" or self.model.lora_rank == 0,
            "--pretrained-weights none leaves no weights that an adapter could rest on: use "
            "--model.lora-rank 0, which trains all weights.",
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
        require(
            (self.acting.execute or 1) <= self.tokenizer.horizon
            or self.tokenizer.from_file is not None,
            f"--acting.execute {self.acting.execute}: a decision has --tokenizer.horizon "
            f"{self.tokenizer.horizon} actions.",
        )
        require(0 < self.discount <= 1, "--discount must lie in (0, 1].")
        require(
            not self.acting.needs_critic or self.critic.updates > 0,
            f"--acting.candidates {self.acting.candidates} need a critic that chooses among them: "
            "give --critic.updates, or --acting.judge likelihood.",
        )
        self._check_own_model()
        rules = self.traits.rules
        require(
            self.acting.rule in rules,
            f"--acting.rule {self.acting.rule} doesn't fit --method {self.method}, which acts by "
            f"{', '.join(rules)}.",
        )
        require(
            not self.method_settings or self.traits.settings is None,
            f"--method-settings is for methods of other packages; those of {self.method} are "
            f"--{self.traits.settings}.*",
        )
        self.settings  # noqa: B018 (refuses what can't be read)

    def _check_own_model(self) -> None:
        own, model = self.traits.model, self.model
        if own is None:
            require(
                model.trunk == SCRATCH and model.name != "decision_transformer",
                f"--model.trunk and the model decision_transformer are those of --method lamo, not "
                f"of {self.method}.",
            )
            return
        require(
            model.pretrained is None,
            f"--model.pretrained answers with words of its own; --method {self.method} takes a "
            "language model as its trunk: name it with --model.trunk.",
        )
        require(
            not self.data.text_keys and self.tokenizer.kind != "commands",
            f"--method {self.method} reads states and images and answers with actions: not with "
            "--data.text-keys or --tokenizer.kind commands.",
        )
        require(
            not (self.data.auxiliary_keys or self.critic.updates or self.features_from),
            f"--method {self.method} trains one network on its own loss: not with "
            "--data.auxiliary-keys, --critic.updates or --features-from.",
        )
        if model.trunk == SCRATCH:
            require(
                self.lamo.text is None,
                "--lamo.text keeps a language model's language: name one with --model.trunk.",
            )
            return
        require(
            model.width is None and model.depth is None,
            f"--model.width and --model.depth are sizes of a trunk from scratch; --model.trunk "
            f"{model.trunk} has its own (--model.layers keeps the first so many).",
        )
        require(
            self.pretrained_weights != "body",
            "--pretrained-weights body is for rows of action tokens, which a trunk has none of: "
            "use all or none.",
        )
        require(
            self.lamo.text is None or self.pretrained_weights == "all",
            "--lamo.text keeps a language model's language, of which --pretrained-weights none "
            "leaves nothing.",
        )

    @property
    def traits(self) -> Method:
        """The traits of the method: its stages, head, rules and filter."""
        return find_method(self.method)

    @property
    def settings(self) -> Any:
        """The settings that the method's own stage gets."""
        if self.traits.settings is not None:
            return getattr(self, self.traits.settings)
        pairs = dict(word.partition("=")[::2] for word in self.method_settings)
        require(
            all("=" in word for word in self.method_settings),
            f"--method-settings {' '.join(self.method_settings)}: give name=value words.",
        )
        return pairs

    @property
    def head(self) -> str | None:
        """The head of the value stage."""
        return getattr(self.settings, "head", self.traits.head)

    @property
    def trains_images(self) -> bool:
        """Whether the image encoder learns in the behavior stage."""
        own = self.model.pretrained is None or self.pretrained_weights == "none"
        return own or not self.model.frozen_features

    @property
    def two_stages(self) -> bool:
        """Whether a value stage follows the behavior stage."""
        return self.traits.value_stage
