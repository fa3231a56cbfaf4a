"""Configuration of a PretrainedModel: the base, and how it reads a robot."""

from __future__ import annotations

from dataclasses import dataclass

STATE_AS = ("token", "text")
ACTION_TOKENS = ("least_used", "added")
DTYPES = ("float32", "bfloat16")


@dataclass(frozen=True)
class PretrainedConfig:
    """A pretrained model and the robot that it is to drive; the last five fields it fills in."""

    # Hub id or local folder of a Hugging Face model with safetensors weights.
    base: str
    # Action tokens that exist: the action tokenizer's vocab_size.
    vocab_size: int
    # Action tokens of one decision (n).
    n_tokens: int
    # Width of the state vector of one frame (s); 0 for a model that sees images only.
    state_dim: int
    # Camera keys, in the order in which their tokens stand; () for a model that sees state only.
    cameras: tuple[str, ...] = ()
    # Height and width of every camera's images, in pixels, before the model's own preprocessing.
    image_size: tuple[int, int] = (64, 64)
    # Frames that the model sees (k), the current one included.
    history: int = 1
    # "token": a small perceptron makes one embedding of a frame's state; "text": numbers in words.
    state_as: str = "token"
    # "least_used" ids of the vocabulary, or tokens "added" to it.
    action_tokens: str = "least_used"
    # Rank of the LoRA adapter on the language model; 0 trains all of its weights.
    lora_rank: int = 16
    # The adapter's output is scaled by lora_alpha / lora_rank.
    lora_alpha: float = 32.0
    # Probability of dropping an input of the adapter while training.
    lora_dropout: float = 0.0
    # Tokens that the text of a prompt may have (l), chat template included.
    text_length: int = 48
    # Steps whose commands and texts stand in the prompt, the current one included; 0: none.
    text_history: int = 0
    # What each action token says, where it says something ("" where not): its row then starts as
    # the mean of the rows of these words.
    action_words: tuple[str, ...] = ()
    # Numeric type of the base's weights; what is trained beside them stays float32.
    dtype: str = "float32"
    # Train the vision tower and the projector too.
    train_images: bool = False
    # Train the embedding and head rows of the action ids under LoRA too.
    train_action_rows: bool = True
    # With lora_rank 0: train the language model. False: nothing but the small modules (an export).
    train_language_model: bool = True
    # For comparison: the base's architecture with random weights, all of them trained.
    random_weights: bool = False
    # For comparison: the action ids' rows start at random, as a new head would.
    random_action_rows: bool = False
    # Texts that will occur: the ids that they produce never become action ids.
    instructions: tuple[str, ...] = ()
    # Run code that the model's repository brings along. Only for sources that you trust.
    trust_remote_code: bool = False
    # Commit of the hub repository; None takes the newest and records it. No meaning for a folder.
    revision: str | None = None
    # Channels of every token (c); filled in from the base.
    width: int = 0
    # Layers of the language model; filled in.
    depth: int = 0
    # Image tokens of one frame (m), all cameras together; filled in.
    frame_image_tokens: int = 0
    # `base_fingerprint` of the base; filled in, and compared when it is there already.
    fingerprint: str = ""

    def __post_init__(self) -> None:
        # JSON has lists where Python has tuples.
        for name in ("cameras", "image_size", "instructions", "action_words"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if self.random_weights:
            if self.lora_rank:
                raise ValueError("random weights can't carry an adapter: set lora_rank to 0.")
            object.__setattr__(self, "train_images", True)
        if not self.base:
            raise ValueError("base is empty: name a Hugging Face model or a local folder of one.")
        if not self.cameras and self.state_dim == 0 and self.text_history == 0:
            raise ValueError(
                "the model would see nothing: give it cameras, a state_dim, or a text_history."
            )
        if self.text_history and self.action_tokens != "added":
            raise ValueError(
                "texts of an environment may produce any id of the vocabulary, so none can stand "
                "for an action token: use action_tokens 'added'."
            )
        if len(set(self.cameras)) < len(self.cameras):
            raise ValueError(f"a camera is named twice: {list(self.cameras)}.")
        for name in ("vocab_size", "n_tokens", "history", "text_length"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1.")
        if self.lora_rank < 0 or not 0 <= self.lora_dropout < 1:
            raise ValueError(
                f"lora_rank {self.lora_rank} must be at least 0 and lora_dropout "
                f"{self.lora_dropout} in [0, 1)."
            )
        for name, known in (
            ("state_as", STATE_AS), ("action_tokens", ACTION_TOKENS), ("dtype", DTYPES),
        ):  # fmt: skip
            if getattr(self, name) not in known:
                raise ValueError(
                    f"{name} is {getattr(self, name)!r}; it is one of {', '.join(known)}."
                )
        if self.lora_rank == 0 and self.train_language_model and self.dtype != "float32":
            raise ValueError(
                f"all weights are trained (lora_rank 0) in {self.dtype}, where small steps are "
                "rounded away: use float32 (with autocast for speed), or a LoRA rank."
            )
