"""Configuration of the models of our own: transformers, perceptrons, whole commands."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vlm.words import ASCII_WORDS, SCHEMES

TRUNKS = TRANSFORMER, PERCEPTRON, DECISION, COMMANDS = (
    "transformer",
    "perceptron",
    "decision_transformer",
    "whole_commands",
)


@dataclass(frozen=True)
class RTConfig:
    """Everything that decides the shapes of a model of our own."""

    # Action tokens that exist: the tokenizer's vocab_size.
    vocab_size: int
    # Action tokens of one decision (n).
    n_tokens: int
    # Width of the state vector of one frame (s); 0 for a model that sees images only.
    state_dim: int
    # Camera keys, in the order in which their tokens stand; () for a model that sees state only.
    cameras: tuple[str, ...] = ()
    # Height and width of every camera's images, in pixels.
    image_size: tuple[int, int] = (64, 64)
    # The image encoder reads means over squares of so many pixels a side: both sides are multiples.
    image_shrink: int = 1
    # Frames that the decoder sees (k), the current one included.
    history: int = 1
    # Channels of every token (c).
    width: int = 128
    # Transformer blocks of the decoder.
    depth: int = 3
    # Attention heads of each block.
    heads: int = 4
    # Inner width of a block's perceptron, in units of `width`.
    mlp_ratio: float = 2.0
    # "small" (ours, trained from scratch), "timm:<name>" or "open_clip:<name>".
    image_encoder: str = "small"
    # A local safetensors file, "hub" or "hub:<tag>", or None: what the name brings, else random.
    image_weights: str | None = None
    # Train the pretrained towers too; False leaves them as they are, in every mode.
    fine_tune_towers: bool = False
    # What rebuilds the tower without its source; filled in from it.
    image_tower: Mapping[str, Any] | None = None
    # "words" (hashed, trained from scratch) or "open_clip:<name>", whose text half then embeds the
    # instructions; its weights as above, and what rebuilds it.
    text_encoder: str = "words"
    text_weights: str | None = None
    text_tower: Mapping[str, Any] | None = None
    # Channels of the image encoder's last map.
    image_channels: int = 48
    # Tokens that the token learner makes of each camera.
    image_tokens: int = 8
    # Probability of dropping an activation in the decoder's blocks.
    dropout: float = 0.0
    # Words that an instruction may have (l), and rows of the word embeddings: see hash_words.
    text_length: int = 16
    text_buckets: int = 4096
    # How words are told apart: see words.SCHEMES. A model that does not name it has the first.
    word_scheme: int = ASCII_WORDS
    # Steps whose commands and texts the decoder sees (j), the current one included; 0: none.
    text_history: int = 0
    # Words of a step's command, and of its texts: see frame_words.
    command_length: int = 0
    frame_text_length: int = 0
    # The word of each action token as an id of hash_words, 0 for none, where commands copy words of
    # what the model reads; () for actions that are no words.
    action_words: tuple[int, ...] = ()
    # What predicts the action tokens: "transformer" (an RTModel), "perceptron" (a PerceptronModel,
    # whose `depth` counts its residual perceptrons and which has no heads), "decision_transformer"
    # (a DecisionTransformer) or "whole_commands" (perceptrons on a closed list of commands).
    trunk: str = TRANSFORMER
    # Entries of a DecisionTransformer's own DecisionConfig.
    decision: Mapping[str, Any] | None = None
    # Token ids [w][n] of the commands that there are, and distributions over them that are mixed;
    # of whole_commands alone.
    commands: tuple[tuple[int, ...], ...] = ()
    mixture: int = 1

    def __post_init__(self) -> None:
        # JSON has lists where Python has tuples.
        object.__setattr__(self, "cameras", tuple(self.cameras))
        object.__setattr__(self, "image_size", tuple(self.image_size))
        object.__setattr__(self, "action_words", tuple(self.action_words))
        object.__setattr__(self, "commands", tuple(map(tuple, self.commands)))
        if not self.cameras and self.state_dim == 0 and self.text_history == 0:
            raise ValueError(
                "the model would see nothing: give it cameras, a state_dim, or a text_history."
            )
        if self.trunk not in TRUNKS:
            raise ValueError(f"trunk is {self.trunk!r}; there are: {', '.join(TRUNKS)}.")
        if (self.trunk == COMMANDS) != bool(self.commands):
            raise ValueError("commands belong to whole_commands, which needs them.")
        if any(len(ids) != self.n_tokens for ids in self.commands):
            raise ValueError(f"each of the commands has {self.n_tokens} token ids.")
        if self.trunk in (PERCEPTRON, COMMANDS) and self.text_history:
            raise ValueError("a perceptron reads no texts of steps: use the transformer for them.")
        if (self.trunk == DECISION) != (self.decision is not None):
            raise ValueError("decision belongs to the decision_transformer, which needs it.")
        if self.trunk == DECISION and self.text_history:
            raise ValueError("a decision_transformer reads no texts of steps: use the transformer.")
        if self.text_history and not self.command_length + self.frame_text_length:
            raise ValueError("a text_history needs a command_length or a frame_text_length.")
        if self.action_words and not (
            self.command_length and len(self.action_words) == self.vocab_size
        ):
            raise ValueError(
                f"{len(self.action_words)} action_words for {self.vocab_size} tokens and a "
                f"command_length of {self.command_length}: words are copied by commands that the "
                "model reads, one word a token."
            )
        if self.word_scheme not in SCHEMES:
            raise ValueError(
                f"word_scheme is {self.word_scheme}; this version reads words by "
                f"{' and '.join(map(str, SCHEMES))}."
            )
        if self.text_history and self.text_encoder != "words":
            raise ValueError(
                f"text_encoder {self.text_encoder!r} has other words than those of a step's texts: "
                "a model with a text_history reads its instruction as 'words'."
            )
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of heads {self.heads}.")
        for name in ("vocab_size", "n_tokens", "history", "depth", "image_tokens", "mixture"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1.")
        if self.image_shrink < 1 or any(side % self.image_shrink for side in self.image_size):
            raise ValueError(
                f"images of {self.image_size[0]} x {self.image_size[1]} pixels can't be shrunk "
                f"{self.image_shrink}-fold: take a divisor of both sides."
            )
        if len(set(self.cameras)) < len(self.cameras):
            raise ValueError(f"a camera is named twice: {list(self.cameras)}.")

    @property
    def frame_image_tokens(self) -> int:
        """Image tokens of one frame (m), all cameras together."""
        return len(self.cameras) * self.image_tokens

    @property
    def context_length(self) -> int:
        """Tokens before the first action token: the task, the frames, the texts, and a readout if
        needed."""
        frames = self.history * (self.frame_image_tokens + (self.state_dim > 0))
        return 1 + frames + self.text_history + self.has_readout

    @property
    def slots(self) -> int:
        """Tokens of the longest sequence: the context and all action tokens but the last."""
        return self.context_length + self.n_tokens - 1

    @property
    def has_readout(self) -> bool:
        """Whether a learned token stands last, where no state and no text does."""
        return self.state_dim == 0 and self.text_history == 0
