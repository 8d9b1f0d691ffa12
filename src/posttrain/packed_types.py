"""The records of packed tensors, which `types` hands on: what a batch is made of and what is known of its tokens.

Shape suffixes as in `types`. Nothing here imports torch, so that records can be named where it is not loaded.
"""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class Span:
    """Where a segment lies in a packed row: positions [start, stop), and the span it continues (-1: a root)."""

    start: int
    stop: int
    parent: int = -1


@dataclass(frozen=True, slots=True)
class Judged:
    """The answers of a batch of preference data, numbered in row order, and what is known of them.

    `answer_N`: the answer that holds each trained token. `last_A`: the position of each answer's last token.
    `better_M`, `worse_M`: int64 numbers of answers that were compared; `label_M`, `margin_M`, `weight_M`: float32, as
    in Pair. `score_A`: float32 ratings of answers, empty where there are none. `reference_N`: float32 log-probability
    of each trained token under the reference model, where one was asked.
    """

    answer_N: "torch.Tensor"
    last_A: "torch.Tensor"
    better_M: "torch.Tensor"
    worse_M: "torch.Tensor"
    label_M: "torch.Tensor"
    margin_M: "torch.Tensor"
    weight_M: "torch.Tensor"
    score_A: "torch.Tensor"
    reference_N: "torch.Tensor | None" = None

    def to(self, device: "torch.device") -> "Judged":
        """The same on another device."""
        tensors = {name: getattr(self, name) for name in Judged.__slots__}
        return replace(self, **{name: value.to(device) for name, value in tensors.items() if value is not None})


@dataclass(frozen=True, slots=True)
class Rolled:
    """What is known of the sampled tokens of a batch; float32 [N] unless said otherwise.

    `answer_N`: int64, the answer (0 to `num_answers` - 1) that holds each trained token. `behaviour_N`: log-probability
    under the distribution that it was drawn from. `advantage_N`: how much better it was than expected. `old_N`:
    log-probability under the policy before its first step on these rollouts; None where there is one step only, and
    the policy itself is that. `reference_N`: under the reference. `value_N`, `return_N`: what a value model expected
    from here on, and what it is trained to expect. `units`: what the batch adds to the divisor of the loss.
    """

    answer_N: "torch.Tensor"
    num_answers: int
    behaviour_N: "torch.Tensor"
    advantage_N: "torch.Tensor"
    units: float
    old_N: "torch.Tensor | None" = None
    reference_N: "torch.Tensor | None" = None
    value_N: "torch.Tensor | None" = None
    return_N: "torch.Tensor | None" = None

    def to(self, device: "torch.device") -> "Rolled":
        """The same on another device."""
        found = {name: getattr(self, name) for name in Rolled.__slots__ if name.endswith("_N")}
        return replace(self, **{name: value.to(device) for name, value in found.items() if value is not None})


@dataclass(frozen=True, slots=True)
class Batch:
    """Packed trees in one flat row, without padding. What each trained token needs to know is beside it.

    `input_ids_T`, `position_ids_T`: int64; positions restart at every tree and go on from the prompt in each branch.
    `spans`: every segment in row order; attention follows a span and its ancestors only.
    `target_ids_N`: the trained tokens; `source_N`: the position whose hidden state predicts each of them (for the
    first token of a branch this is the last position of its prompt); `weight_N`: float32 loss weights;
    `span_N`: the index in `spans` that holds each. `sources`: where each tree came from, for error messages.
    `judged`: of preference data, what is known of the answers. `baseline`: answers behind prompts that they do not
    belong to, where an objective measures its baseline on such (KTO). `rolled`: of rollouts, what is known of the
    sampled tokens. `replay`: text to imitate beside the rollouts (PPO-ptx). `is_filler`: it counts for nothing, and is
    there so that a process passes the model as often as the others do.
    """

    input_ids_T: "torch.Tensor"
    position_ids_T: "torch.Tensor"
    spans: tuple[Span, ...]
    target_ids_N: "torch.Tensor"
    source_N: "torch.Tensor"
    weight_N: "torch.Tensor"
    span_N: "torch.Tensor"
    sources: tuple[str, ...]
    judged: "Judged | None" = None
    baseline: "tuple[Batch, ...]" = ()
    rolled: "Rolled | None" = None
    replay: "Batch | None" = None
    is_filler: bool = False

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
        parts = {name: getattr(self, name) for name in ("judged", "rolled", "replay")}
        moved = {name: part.to(device) for name, part in parts.items() if part is not None}
        return replace(self, **tensors, **moved, baseline=tuple(each.to(device) for each in self.baseline))
