"""Random comparisons of answers, for every loss of preferences."""

import random
from collections.abc import Callable, Sequence

import pytest
import torch

from posttrain.losses.answers import Answers, Pairs

Case = tuple[Answers, Pairs]
Comparisons = Callable[..., Case]


def comparisons(seed: int = 0, *, trees: Sequence[int] = (2, 3, 2, 4), dtype: torch.dtype = torch.float64) -> Case:
    """Trees of 2 to 4 answers of 1 to 6 tokens; all pairs of a tree, with soft labels and margins of both signs. The
    tokens of different answers stand mixed up in the batch."""
    rng = random.Random(seed)
    lengths: list[int] = []
    rows: list[tuple[int, int, float, float, float]] = []
    for size in trees:
        base = len(lengths)
        lengths += [rng.randint(1, 6) for _ in range(size)]
        for better in range(base, base + size):
            for worse in range(better + 1, base + size):
                label = rng.choice([1.0, 1.0, 0.8, 0.5, 0.1, 0.0])
                rows.append((better, worse, label, rng.uniform(-0.5, 1.0), 2 / (size * (size - 1))))
    owners = [answer for answer, length in enumerate(lengths) for _ in range(length)]
    rng.shuffle(owners)
    logp = torch.tensor([-rng.expovariate(1.0) - 0.01 for _ in owners], dtype=dtype, requires_grad=True)
    reference = torch.tensor([-rng.expovariate(1.0) - 0.01 for _ in owners], dtype=dtype)
    better, worse, label, margin, weight = zip(*rows, strict=True)
    pairs = Pairs(
        torch.tensor(better),
        torch.tensor(worse),
        torch.tensor(label, dtype=dtype),
        torch.tensor(margin, dtype=dtype),
        torch.tensor(weight, dtype=dtype),
    )
    return Answers(logp, torch.tensor(owners), len(lengths), reference), pairs


def joined(cases: Sequence[Case]) -> Case:
    """Several micro-batches as one, its leaf a new one."""
    shifts = [sum(answers.num for answers, _ in cases[:i]) for i in range(len(cases))]
    answers = Answers(
        torch.cat([answers.logp_N.detach() for answers, _ in cases]).requires_grad_(),
        torch.cat([answers.answer_N + shift for (answers, _), shift in zip(cases, shifts, strict=True)]),
        sum(answers.num for answers, _ in cases),
        torch.cat([answers.reference_N for answers, _ in cases if answers.reference_N is not None]),
    )
    moved = [
        pairs._replace(better_M=pairs.better_M + shift, worse_M=pairs.worse_M + shift)
        for (_, pairs), shift in zip(cases, shifts, strict=True)
    ]
    return answers, Pairs(*(torch.cat(columns) for columns in zip(*moved, strict=True)))


@pytest.fixture(name="comparisons", scope="session")
def _comparisons() -> Comparisons:
    return comparisons


@pytest.fixture(name="joined", scope="session")
def _joined() -> Callable[[Sequence[Case]], Case]:
    return joined
