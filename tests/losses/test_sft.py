"""The supervised loss against a hand-computed number, a naive twin over the full softmax, and finite differences."""

import math
import random

import pytest
import torch

from posttrain.losses.sft import sft_loss


def naive(logits: list[list[float]], targets: list[int], weights: list[float]) -> float:
    """Python floats and loops: -sum_n w_n log(exp(l_n[t_n]) / sum_v exp(l_n[v]))."""
    total = 0.0
    for row, target, weight in zip(logits, targets, weights, strict=True):
        total -= weight * math.log(math.exp(row[target]) / sum(math.exp(value) for value in row))
    return total


def test_by_hand() -> None:
    """Three tokens of probability 1/2, 1/4, 1/8 with weights 1, 1/2, 0: ln 2 + ln 4 / 2 = 2 ln 2."""
    logp = torch.tensor([0.5, 0.25, 0.125], dtype=torch.float64).log()
    loss = sft_loss(logp, torch.tensor([1.0, 0.5, 0.0]))
    assert float(loss.sum) == pytest.approx(2 * math.log(2), abs=1e-15)


def test_naive_twin() -> None:
    rng = random.Random(0)
    logits = [[rng.gauss(0, 3) for _ in range(11)] for _ in range(40)]
    targets = [rng.randrange(11) for _ in range(40)]
    weights = [rng.choice([0.0, 0.1, 1.0, rng.random()]) for _ in range(40)]
    rows = torch.log_softmax(torch.tensor(logits, dtype=torch.float64), -1)
    loss = sft_loss(rows[torch.arange(40), torch.tensor(targets)], torch.tensor(weights, dtype=torch.float64))
    assert abs(float(loss.sum) - naive(logits, targets, weights)) <= 1e-12


def test_gradient_is_minus_the_weight() -> None:
    logp = torch.randn(6, dtype=torch.float64, requires_grad=True)
    weight = torch.tensor([1.0, 0.3, 0.0, 2.0, 1.0, 0.1], dtype=torch.float64)
    sft_loss(logp, weight).sum.backward()
    assert logp.grad is not None
    assert torch.equal(logp.grad, -weight)


def test_gradcheck() -> None:
    logp = torch.randn(6, dtype=torch.float64, requires_grad=True)
    weight = torch.rand(6, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: sft_loss(x, weight).sum, [logp])


def test_it_is_a_sum_and_not_a_mean() -> None:
    """The loop divides once by the whole step's units; a loss that divides too would count the split twice."""
    logp, weight = torch.randn(8, dtype=torch.float64), torch.rand(8, dtype=torch.float64)
    halves = sft_loss(logp[:3], weight[:3]).sum + sft_loss(logp[3:], weight[3:]).sum
    assert abs(float(sft_loss(logp, weight).sum - halves)) <= 1e-14


def test_metrics_are_detached_sums_and_counts() -> None:
    logp = torch.tensor([-1.0, -2.0], requires_grad=True)
    loss = sft_loss(logp, torch.tensor([1.0, 0.5]))
    assert set(loss.metrics) == {"nll"}
    assert not loss.metrics["nll"].requires_grad
    assert loss.metrics["nll"].tolist() == [2.0, 1.5]


def test_shapes_must_agree() -> None:
    """Broadcasting [N, 1] against [N] would give a number, and a wrong one."""
    with pytest.raises(AssertionError, match="log-probabilities for"):
        sft_loss(torch.zeros(3, 1), torch.zeros(3))
