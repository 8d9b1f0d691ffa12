"""Rollouts on their way to the optimiser: what is known of every sampled token, and the packed batches of it."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

import torch
from torch import Tensor

from posttrain.data.batch import pack
from posttrain.data.packing import plan_rows
from posttrain.train import distributed
from posttrain.types import Batch, Rolled, Rollout, Sample, Segment

COLUMNS = ("old", "reference", "value", "advantage", "returns")


@dataclass
class Answer:
    """One rollout and the numbers of its n sampled tokens, each a float32 tensor [n] on the CPU. `group`: the number of
    its prompt in this iteration. `is_trained`: whether its tokens enter the loss."""

    rollout: Rollout
    group: int
    behaviour: Tensor
    old: Tensor | None = None
    reference: Tensor | None = None
    value: Tensor | None = None
    advantage: Tensor | None = None
    returns: Tensor | None = None
    is_trained: bool = True

    @property
    def num_chosen(self) -> int:
        return len(self.behaviour)

    @property
    def has_signal(self) -> bool:
        """Whether any of its tokens would move the policy."""
        return self.advantage is not None and bool((self.advantage != 0).any())


def answers_of(groups: Sequence[Sequence[Rollout]]) -> list[Answer]:
    """The rollouts that can be learned from: those that ran, were graded, and in which the policy said something."""
    return [
        Answer(rollout, number, torch.tensor([p for p, own in zip(rollout.logps, rollout.chosen, strict=True) if own]))
        for number, group in enumerate(groups)
        for rollout in group
        if rollout.is_known and any(rollout.chosen)
    ]


def packed(answers: Sequence[Answer], row_length: int, weights: Sequence[Tensor] | None = None) -> list["Row"]:
    """Rows of at most `row_length` positions, or of one prompt with one answer where that is longer. `weights`: the
    loss weight [n] of every answer's sampled tokens; left out, 1."""
    ones = [torch.ones(answer.num_chosen) for answer in answers]
    trees = list(_trees(list(zip(answers, ones if weights is None else weights, strict=True)), row_length))
    lengths = [min(row_length, sum(tree.lengths)) for tree in trees]
    return [Row([trees[i] for i in row]) for row in plan_rows(lengths, row_length, seed=0)]


@dataclass(frozen=True)
class _Tree:
    """Answers to one prompt, with the weights of their sampled tokens."""

    members: list[tuple[Answer, Tensor]]

    @property
    def lengths(self) -> list[int]:
        first = self.members[0][0].rollout
        return [len(first.prompt_ids), *(len(answer.rollout.token_ids) for answer, _ in self.members)]

    def sample(self) -> Sample:
        """Segment 0 is the prompt, segment i + 1 answer i."""
        first = self.members[0][0].rollout
        prompt = Segment(first.prompt_ids, (0.0,) * len(first.prompt_ids))
        branches = [Segment(a.rollout.token_ids, _weights(a.rollout, weight), parent=0) for a, weight in self.members]
        return Sample((prompt, *branches), source=first.prompt.source)


def _weights(rollout: Rollout, weight: Tensor) -> tuple[float, ...]:
    given = iter(weight.tolist())
    return tuple(next(given) if own else 0.0 for own in rollout.chosen)


def _trees(members: list[tuple[Answer, Tensor]], row_length: int) -> Iterator[_Tree]:
    """One tree a group; a group that is too long for a row is cut into several with the same prompt."""
    for _, group in groupby(members, key=lambda member: member[0].group):
        tree: list[tuple[Answer, Tensor]] = []
        room = 0
        for member in group:
            length = len(member[0].rollout.token_ids)
            if tree and length > room:
                yield _Tree(tree)
                tree = []
            if not tree:
                room = row_length - len(member[0].rollout.prompt_ids)
            tree.append(member)
            room -= length
        yield _Tree(tree)


@dataclass(frozen=True)
class Row:
    """The trees of one micro-batch."""

    trees: list[_Tree]

    @property
    def answers(self) -> list[Answer]:
        """Its answers, in the order of the batch."""
        return [answer for tree in self.trees for answer, _ in tree.members]

    @property
    def num_tokens(self) -> int:
        """Positions that pass the model."""
        return sum(sum(tree.lengths) for tree in self.trees)

    def batch(self, units: float = 1.0) -> Batch:
        """Everything on the tokens whose weight is not 0, for the loss."""
        members = [member for tree in self.trees for member in tree.members]
        kept = [weight != 0 for _, weight in members]
        counts = torch.tensor([int(mask.sum()) for mask in kept])
        known = {name: _column(members, kept, name) for name in ("behaviour", *COLUMNS)}
        behaviour, advantage = known["behaviour"], known["advantage"]
        assert behaviour is not None
        rolled = Rolled(
            answer_N=torch.repeat_interleave(torch.arange(len(members)), counts),
            num_answers=len(members),
            behaviour_N=behaviour,
            advantage_N=torch.zeros_like(behaviour) if advantage is None else advantage,
            units=units,
            old_N=known["old"],
            reference_N=known["reference"],
            value_N=known["value"],
            return_N=known["returns"],
        )
        return replace(pack([tree.sample() for tree in self.trees]), rolled=rolled)


def _column(members: Sequence[tuple[Answer, Tensor]], kept: Sequence[Tensor], name: str) -> Tensor | None:
    values = [getattr(answer, name) for answer, _ in members]
    if any(value is None for value in values):
        return None
    return torch.cat([value[mask] for value, mask in zip(values, kept, strict=True)])


@torch.no_grad()
def fill(
    answers: Sequence[Answer],
    name: str,
    ask: Callable[[Batch], Tensor],
    *,
    row_length: int,
    device: torch.device,
    bf16: bool,
) -> None:
    """Give every answer the column `name`: what `ask` says of its sampled tokens, without a gradient."""
    rows = packed(answers, row_length)
    parts: dict[int, Tensor] = {}
    for number, is_filler in distributed.share([row.num_tokens for row in rows]):
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            found = ask(rows[number].batch().to(device)).float().cpu()
        if not is_filler:
            parts[number] = found
    for number, found in sorted(item for part in distributed.gather(parts) for item in part.items()):
        own = rows[number].answers
        for answer, part in zip(own, found.split([answer.num_chosen for answer in own]), strict=True):
            setattr(answer, name, part)
