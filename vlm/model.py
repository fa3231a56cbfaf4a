"""ActionModel: what trains and acts asks of every model, and the named tensors between them."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from vlm.arrays import Array


class Context(NamedTuple):
    """Inputs of a decision, in the order of the arguments of `ActionModel.prefill`."""

    features: Float[Tensor, "b k m c"] | None  # image tokens of every frame, newest last
    state: Float[Tensor, "b k s"] | None  # normalized
    frame_mask: Bool[Tensor, "b k"]  # False: the episode is younger than this frame
    text_ids: Int64[Tensor, "b l"]
    returns: Float[Tensor, " b"] | None = None  # in [0, 1], for return-conditioned models
    # Of the last j steps, newest last: words of the command that led there and of its texts.
    words: Int64[Tensor, "b j w"] | None = None


class ModelOutput(NamedTuple):
    """Hidden states and logits; index i predicts action token i and has seen those before it."""

    hidden: Float[Tensor, "b n c"]
    logits: Float[Tensor, "b n v"]


@runtime_checkable
class ModelShape(Protocol):
    """Sizes that every model's config tells."""

    @property
    def vocab_size(self) -> int: ...
    @property
    def n_tokens(self) -> int: ...
    @property
    def state_dim(self) -> int: ...
    @property
    def history(self) -> int: ...
    @property
    def width(self) -> int: ...
    @property
    def depth(self) -> int: ...
    @property
    def text_length(self) -> int: ...
    @property
    def frame_image_tokens(self) -> int: ...


def check_frames(
    config: ModelShape, features: Tensor | None, state: Tensor | None, shape: torch.Size
) -> None:
    """ValueError where features and states are not those of windows of this `shape`, [b, k]."""
    b, k = shape
    if k != config.history:
        raise ValueError(f"frame_mask has {k} frames; the model reads {config.history}.")
    wanted = (b, k, config.frame_image_tokens, config.width)
    if config.frame_image_tokens and (features is None or features.shape != wanted):
        given = None if features is None else list(features.shape)
        raise ValueError(f"features of shape {given}; the model expects {list(wanted)}.")
    if not config.frame_image_tokens and features is not None:
        raise ValueError("features were given to a model without cameras; pass None.")
    expected = (b, k, config.state_dim)
    if config.state_dim and (state is None or state.shape != expected):
        given = None if state is None else list(state.shape)
        raise ValueError(f"state of shape {given}; the model expects {list(expected)}.")


class DecodingCache(Protocol):
    """Keys and values of one decision."""

    def decode(self, ids: Int64[Tensor, " b"]) -> ModelOutput:
        """Read one more action token; the output (n = 1) for the next."""
        ...


class ActionModel(nn.Module):
    """A network that reads a context and predicts action tokens one after the other.

    Two equal ways: `forward` reads whole decisions (training), `prefill` and the cache's `decode`
    read token by token (acting). A later token never changes an earlier output.
    """

    # A class and no protocol, because all that hold one also use it as an nn.Module.
    config: Any  # a ModelShape, with what else the model is made of

    @abstractmethod
    def encode_words(self, instruction: str) -> Int64[Array, " l"]:
        """Ids of an instruction, as `text_ids` holds them."""
        raise NotImplementedError

    @abstractmethod
    def encode_images(
        self, images: Mapping[str, Tensor], text_ids: Int64[Tensor, "b l"]
    ) -> Float[Tensor, "b m c"]:
        """Image tokens of one frame: camera -> uint8 [b, h, w, 3]."""
        raise NotImplementedError

    @abstractmethod
    def prefill(
        self,
        features: Float[Tensor, "b k m c"] | None,
        state: Float[Tensor, "b k s"] | None,
        frame_mask: Bool[Tensor, "b k"],
        text_ids: Int64[Tensor, "b l"],
        returns: Float[Tensor, " b"] | None = None,
        words: Int64[Tensor, "b j w"] | None = None,
    ) -> tuple[ModelOutput, Any]:
        """Read a context: the output for action token 0 (n = 1), and a `DecodingCache`."""
        raise NotImplementedError

    @abstractmethod
    def image_parameters(self) -> Iterator[nn.Parameter]:
        """Parameters that the image tokens depend on."""
        raise NotImplementedError

    @abstractmethod
    def decoder_parameters(self) -> Iterator[nn.Parameter]:
        """All other parameters that are trained."""
        raise NotImplementedError

    @abstractmethod
    def gradient_checkpointing(self, on: bool = True) -> None:
        """Recompute activations in the backward pass: less memory, more time."""
        raise NotImplementedError

    # Whether the last steps are read as `words`, by `encode_frame`, or in the prompt, by
    # `encode_steps`.
    reads_frames: bool = False

    def encode_frame(self, command: str, texts: Sequence[str]) -> Int64[Array, " w"]:
        """Ids of a step: the command that led there and its texts."""
        raise NotImplementedError(f"{type(self).__name__} reads its steps in the prompt")

    def encode_steps(
        self, instruction: str, steps: Sequence[tuple[str, Sequence[str]]]
    ) -> Int64[Array, " l"]:
        """Ids of a prompt with the last steps, each a command and the texts after it."""
        raise NotImplementedError(f"{type(self).__name__} reads its steps as words")

    def together(self, others: Sequence[ActionModel]) -> Any:
        """This model and others as one that reads once for all; None where that can't be."""
        return None
