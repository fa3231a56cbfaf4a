"""Frozen settings of the model that is trained, their contradictions refused."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from qsft_robot.config.require import require

# The trunk of a Decision Transformer that is no language model's.
SCRATCH = "scratch"


@dataclass(frozen=True)
class ModelConfig:
    """The model: the RT-style transformer, or a pretrained one that is fine-tuned."""

    # Size of the RT-style transformer: rt_tiny, rt_small or rt_base; or perceptron, which has no
    # attention, for states on a CPU; or whole_commands, perceptrons that score each command of a
    # closed list at once.
    name: str = "rt_tiny"
    # Distributions over commands that whole_commands mixes: logs of several players are not one.
    # None: 2.
    mixture: int | None = None
    # Fine-tune this pretrained model instead: a Hugging Face hub id, a local folder of one, or a
    # GGUF file, which is unpacked to float32 once.
    pretrained: str | None = None
    # Branch, tag or commit of the hub id. None: its main branch; the checkpoint keeps the commit.
    revision: str | None = None
    # Rank of the LoRA adapters on the language model. 0: fine-tune all of its weights.
    lora_rank: int = 16
    # LoRA adds alpha / rank times its product.
    lora_alpha: float = 32.0
    # Dropout at the input of the adapters while training.
    lora_dropout: float = 0.0
    # Which entries of the pretrained vocabulary stand for action tokens: those that text uses
    # least, or new ones.
    action_tokens: Literal["least_used", "added"] = "least_used"
    # How a pretrained model reads the state: as one projected token, or written out as text.
    state_as: Literal["token", "text"] = "token"
    # Tokens that the instruction may have in a pretrained model.
    text_length: int = 48
    # Trunk of --method lamo: scratch, or a causal language model (a Hugging Face hub id, a local
    # folder of one, or a GGUF file), on which --model.lora-rank puts adapters.
    trunk: str = "scratch"
    # Layers of that language model that are kept, from the first. None: all.
    layers: int | None = None
    # Precision in which the frozen weights of a pretrained model are kept.
    dtype: Literal["float32", "bfloat16"] = "float32"
    # Run code that comes with the pretrained model. Only for publishers that you trust.
    trust_remote_code: bool = False
    # Channels of every token. None: as the size has them.
    width: int | None = None
    # Transformer blocks of the decoder, or perceptrons. None: as the size has them.
    depth: int | None = None
    # Frames that the policy sees: this one and the history-1 before it.
    history: int = 1
    # Steps whose text commands and texts the policy remembers, the current one included. 0: it
    # reads none, where states tell all.
    text_history: int = 16
    # Words of a step's texts that the RT-style transformer reads; the rest is cut.
    frame_text_length: int = 48
    # "small" (ours, fast on a CPU), "timm:<name>" or "open_clip:<name>"; <name> is one that the
    # library lists, local-dir:<folder> or hf-hub:<repository>.
    image_encoder: str = "small"
    # Weights of such a tower: a local safetensors file, "hub" or "hub:<tag>". None: those of the
    # folder or repository that its name names, else random ones.
    image_weights: str | None = None
    # "words" (hashed, learnt from scratch) or "open_clip:<name>", whose text half reads the
    # instructions.
    text_encoder: str = "words"
    # Weights of the text half, as --model.image-weights; often the very file of the image half.
    text_weights: str | None = None
    # Our image encoder reads images so many times smaller than they are (means over squares): 2 is
    # four times as fast.
    image_shrink: int = 1
    # Train pretrained towers too. Off: they stay as they are, and their image features are computed
    # once per frame.
    fine_tune_towers: bool = False
    # Shift training images by up to so many pixels (replicated edges). 0: off.
    random_shift: int = 0
    # Weight of the auxiliary task of the behavior stage: image tokens regress the keys that
    # --data.auxiliary-keys names, or tell the commands of --data.auxiliary-commands.
    auxiliary_weight: float = 3.0
    # Dropout in the decoder while training.
    dropout: float = 0.1
    # Run the value stage on the behavior's image features, computed once per frame; switched off,
    # that stage trains the image encoder too. A pretrained image encoder is left as it is in both
    # stages, and its features are computed once; switched off, both train it.
    frozen_features: bool = True

    def __post_init__(self) -> None:
        require(self.history >= 1, "--model.history must be at least 1.")
        require(self.text_history >= 0, "--model.text-history must not be negative.")
        require(
            self.text_history > 0 or self.pretrained is None,
            "--model.text-history 0 is for models of our own: a pretrained one reads its steps.",
        )
        require(self.frame_text_length >= 1, "--model.frame-text-length must be at least 1.")
        require(0 <= self.dropout < 1, "--model.dropout must lie in [0, 1).")
        require(self.image_shrink >= 1, "--model.image-shrink must be at least 1.")
        require(
            self.image_shrink == 1 or (self.image_encoder == "small" and self.pretrained is None),
            "--model.image-shrink is for our own image encoder: a pretrained one has its own size.",
        )
        require(self.random_shift >= 0, "--model.random-shift must not be negative.")
        require(self.auxiliary_weight >= 0, "--model.auxiliary-weight must not be negative.")
        require(self.layers is None or self.layers >= 1, "--model.layers must be at least 1.")
        require(
            self.layers is None or self.trunk != SCRATCH,
            "--model.layers keeps layers of a language model: name it with --model.trunk "
            "(--model.depth is the size of a trunk from scratch).",
        )
        require(self.lora_rank >= 0, "--model.lora-rank must not be negative.")
        require(0 <= self.lora_dropout < 1, "--model.lora-dropout must lie in [0, 1).")
        require(
            self.text_encoder != "words" or self.text_weights is None,
            "--model.text-weights belongs to a text tower: name it with --model.text-encoder.",
        )
        require(
            self.name not in ("perceptron", "whole_commands") or self.text_encoder == "words",
            f"--model.name {self.name} reads instructions as words: leave --model.text-encoder "
            "out.",
        )
        require(self.mixture is None or self.mixture >= 1, "--model.mixture must be at least 1.")
        require(
            self.mixture is None or self.name == "whole_commands",
            "--model.mixture is a setting of --model.name whole_commands.",
        )
        if self.pretrained is None:
            for name in ("revision", "trust_remote_code"):
                require(
                    not getattr(self, name) or (name == "revision" and self.trunk != SCRATCH),
                    f"--model.{name.replace('_', '-')} says something of a pretrained model: name "
                    "one with --model.pretrained.",
                )
            return
        for name in ("width", "depth", "image_weights"):
            require(
                getattr(self, name) is None,
                f"--model.{name.replace('_', '-')} is a size of the RT-style transformer, but "
                f"--model.pretrained {self.pretrained} has its own: leave one of the two out.",
            )
        for name, own in (("image_encoder", "small"), ("text_encoder", "words")):
            require(
                getattr(self, name) == own,
                f"--model.{name.replace('_', '-')} {getattr(self, name)} belongs to the RT-style "
                f"transformer, but --model.pretrained {self.pretrained} has its own: leave one of "
                "the two out.",
            )

    @property
    def reads_words(self) -> bool:
        """Whether instructions are hashed words; else the model itself says how it reads them."""
        return self.pretrained is None and self.text_encoder == "words"
