"""The records that pass between rooms. Frozen, standard library only, ValueError when built wrong.

Shape suffixes used on tensors everywhere:

    B rows · T packed positions · N trained tokens · S sequences (root-to-leaf paths)
    P prompts · G group members · D hidden size · V vocabulary

`logp` is a log-probability (natural logarithm), `_coef` a coefficient, `num_` a count, `_s` seconds.
"""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

ROLES = ("system", "user", "assistant", "tool")


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation, as text."""

    role: str
    content: str

    def __post_init__(self) -> None:
        if self.role not in ROLES:
            raise ValueError(f"role is {self.role!r}, expected one of {', '.join(ROLES)}")
        if not isinstance(self.content, str):
            raise ValueError(f"content of a {self.role} message is {type(self.content).__name__}, expected text")


@dataclass(frozen=True, slots=True)
class Conversation:
    """Messages in order. `source` says where they came from ("file:line"), for error messages."""

    messages: tuple[Message, ...]
    source: str = ""

    def __post_init__(self) -> None:
        if not self.messages:
            raise ValueError("a conversation needs at least one message")


@dataclass(frozen=True, slots=True)
class Document:
    """Plain text without roles; every token of it is trained."""

    text: str
    source: str = ""

    def __post_init__(self) -> None:
        if not self.text.strip():
            raise ValueError("a document needs text")


@dataclass(frozen=True, slots=True)
class Segment:
    """A run of tokens in a tree. `weights[i]` is how much the prediction of `token_ids[i]` counts in the loss:
    0 for what the policy is not trained to say. `parent` is the index of the segment it continues, -1 for the root.
    """

    token_ids: tuple[int, ...]
    weights: tuple[float, ...]
    parent: int = -1

    def __post_init__(self) -> None:
        if not self.token_ids:
            raise ValueError("a segment needs at least one token")
        if len(self.weights) != len(self.token_ids):
            raise ValueError(f"got {len(self.weights)} weights for {len(self.token_ids)} tokens")


@dataclass(frozen=True, slots=True)
class Sample:
    """A tree of segments, parents before children: one prompt and its k branches.

    One segment for supervised fine-tuning, a prompt with two branches for a preference pair, with G for a group.
    The first token of the root has no predecessor, so its weight must be 0.
    """

    segments: tuple[Segment, ...]
    source: str = ""

    def __post_init__(self) -> None:
        for index, segment in enumerate(self.segments):
            if not -1 <= segment.parent < index:
                raise ValueError(f"segment {index} has parent {segment.parent}, expected an earlier segment or -1")
            if segment.parent == -1 and segment.weights[0]:
                raise ValueError("the first token of a root segment cannot be trained: nothing predicts it")

    @property
    def num_tokens(self) -> int:
        """Positions this tree takes in a packed row; a shared prompt counts once."""
        return sum(len(segment.token_ids) for segment in self.segments)

    @property
    def num_trained(self) -> int:
        """Tokens with a weight other than 0."""
        return sum(1 for segment in self.segments for weight in segment.weights if weight)


@dataclass(frozen=True, slots=True)
class Span:
    """Where a segment lies in a packed row: positions [start, stop), and the span it continues (-1: a root)."""

    start: int
    stop: int
    parent: int = -1


@dataclass(frozen=True, slots=True)
class Batch:
    """Packed trees in one flat row, without padding. What each trained token needs to know is beside it.

    `input_ids_T`, `position_ids_T`: int64; positions restart at every tree and go on from the prompt in each branch.
    `spans`: every segment in row order; attention follows a span and its ancestors only.
    `target_ids_N`: the trained tokens; `source_N`: the position whose hidden state predicts each of them (for the
    first token of a branch this is the last position of its prompt); `weight_N`: float32 loss weights;
    `span_N`: the index in `spans` that holds each. `sources`: where each tree came from, for error messages.
    """

    input_ids_T: "torch.Tensor"
    position_ids_T: "torch.Tensor"
    spans: tuple[Span, ...]
    target_ids_N: "torch.Tensor"
    source_N: "torch.Tensor"
    weight_N: "torch.Tensor"
    span_N: "torch.Tensor"
    sources: tuple[str, ...]

    @property
    def num_tokens(self) -> int:
        """T, the positions that pass through the model."""
        return self.input_ids_T.shape[0]

    @property
    def num_trained(self) -> int:
        """N, the tokens that pass through the head."""
        return self.target_ids_N.shape[0]

    def to(self, device: "torch.device") -> "Batch":
        """The same batch on another device."""
        tensors = {
            name: getattr(self, name).to(device, non_blocking=True)
            for name in ("input_ids_T", "position_ids_T", "target_ids_N", "source_N", "weight_N", "span_N")
        }
        return replace(self, **tensors)
