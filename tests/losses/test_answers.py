"""From tokens to answers, against loops."""

import math
import random

import pytest
import torch

from posttrain.losses.answers import Answers, answer_lengths, answer_sums, desensitised_sums, expm1_tangent, wins


def test_sums_and_lengths_against_loops() -> None:
    """Also of an answer without tokens, and in another order than the batch's."""
    rng = random.Random(0)
    owners = [rng.choice([0, 1, 3]) for _ in range(40)]
    values = [rng.gauss(0, 1) for _ in owners]
    answers = Answers(torch.zeros(40, dtype=torch.float64), torch.tensor(owners), 4)
    sums, lengths = [0.0] * 4, [0.0] * 4
    for owner, value in zip(owners, values, strict=True):
        sums[owner] += value
        lengths[owner] += 1
    assert answer_sums(torch.tensor(values, dtype=torch.float64), answers).tolist() == pytest.approx(sums, rel=1e-13)
    assert answer_lengths(answers).tolist() == lengths


def test_half_precision_is_summed_in_fp32() -> None:
    """In bfloat16, 256 + 1 is 256."""
    answers = Answers(torch.zeros(1000, dtype=torch.bfloat16), torch.zeros(1000, dtype=torch.int64), 1)
    assert answer_sums(torch.ones(1000, dtype=torch.bfloat16), answers).tolist() == [1000.0]
    assert answer_lengths(answers).tolist() == [1000.0]
    one = torch.zeros(1, dtype=torch.int64)
    assert desensitised_sums(torch.ones(1000, dtype=torch.bfloat16), answers, one, one, 0.5).tolist() == [1000.0]


def test_desensitised_sums_depend_on_the_other_answer() -> None:
    """Answer 0 has 1, 2, 4; answer 1 has 8; answer 2 has 16, 32: mixed up in the batch, in order within."""
    values = torch.tensor([16.0, 1.0, 8.0, 2.0, 32.0, 4.0], requires_grad=True)
    answers = Answers(values, torch.tensor([2, 0, 1, 0, 2, 0]), 3)
    side, other = torch.tensor([0, 0, 1, 2, 2]), torch.tensor([1, 2, 0, 0, 1])
    found = desensitised_sums(values, answers, side, other, 0.25)
    assert found.tolist() == [1 + 0.25 * 6, 3 + 0.25 * 4, 8, 48, 16 + 0.25 * 32]
    found.sum().backward()
    assert values.grad is not None
    assert values.grad.tolist() == [2, 2, 1, 1.25, 1.25, 0.5]


def test_the_exponential_goes_on_along_its_tangent() -> None:
    x = torch.tensor([-1e3, -1e-9, 1e-9, 3.0, 20.0, 21.0, 1e3], dtype=torch.float64, requires_grad=True)
    found = expm1_tangent(x)
    edge = math.exp(20)
    expected = [*(math.expm1(v) for v in x.tolist()[:5]), 2 * edge - 1, 981 * edge - 1]
    assert found.tolist() == pytest.approx(expected, rel=1e-14)
    found.sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == pytest.approx([0.0, 1.0, 1.0, math.exp(3), edge, edge, edge], rel=1e-8)
    odd = expm1_tangent(torch.tensor([math.nan, math.inf, -math.inf]))
    assert math.isnan(float(odd[0]))
    assert odd[1:].tolist() == [math.inf, -1.0]


def test_wins() -> None:
    first, second = torch.tensor([1.0, 2.0, 3.0, math.nan]), torch.tensor([2.0, 2.0, 2.0, 2.0])
    assert wins(first, second).tolist() == [0.0, 0.5, 1.0, 0.0]
