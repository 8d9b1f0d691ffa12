"""The reward model's loss against hand-computed numbers, a twin in Python floats, and finite differences."""

import math
from typing import Any

import pytest
import torch

from posttrain.losses.answers import Pairs
from posttrain.losses.reward import reward_loss


def scores(count: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (2 * torch.randn(count, generator=generator, dtype=torch.float64)).requires_grad_()


def twin(score: list[float], pairs: Pairs, center_coef: float) -> float:
    total = 0.0
    for better, worse, label, margin, weight in zip(*(column.tolist() for column in pairs), strict=True):
        chance = 1 / (1 + math.exp(-(score[better] - score[worse] - margin)))
        value = -label * math.log(chance) - (1 - label) * math.log(1 - chance)
        total += weight * (value + center_coef * (score[better] + score[worse]) ** 2)
    return total


@pytest.mark.parametrize("center_coef", [0.0, 0.01])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_twin(seed: int, center_coef: float, comparisons: Any) -> None:
    answers, pairs = comparisons(seed)
    score = scores(answers.num, seed)
    found = reward_loss(score, pairs, center_coef=center_coef).sum.item()
    assert found == pytest.approx(twin(score.tolist(), pairs, center_coef), rel=1e-13)


def test_by_hand() -> None:
    """A difference of ln 9 less the margin ln 3: sigmoid 3/4. Scores sum to ln 81."""
    score = torch.tensor([1.5, 0.5], dtype=torch.float64) * math.log(9)
    one = torch.ones(1, dtype=torch.float64)
    pairs = Pairs(torch.tensor([0]), torch.tensor([1]), one, math.log(3) * one, one)
    assert reward_loss(score, pairs).sum.item() == pytest.approx(-math.log(3 / 4), rel=1e-14)
    soft = pairs._replace(label_M=0.25 * one)
    expected = -0.25 * math.log(3 / 4) - 0.75 * math.log(1 / 4)
    assert reward_loss(score, soft).sum.item() == pytest.approx(expected, rel=1e-14)
    centred = reward_loss(score, pairs, center_coef=0.5).sum.item()
    assert centred == pytest.approx(-math.log(3 / 4) + 0.5 * math.log(81) ** 2, rel=1e-14)


def test_the_pairs_of_a_ranking_are_one_unit() -> None:
    """Four equal scores, six pairs of weight 1/6: ln 2, as one pair alone."""
    number = torch.combinations(torch.arange(4))
    one = torch.ones(6)
    pairs = Pairs(number[:, 0], number[:, 1], one, 0 * one, one / 6)
    assert reward_loss(torch.zeros(4), pairs).sum.item() == pytest.approx(math.log(2), rel=1e-6)


def test_gradcheck(comparisons: Any) -> None:
    answers, pairs = comparisons(3)
    assert torch.autograd.gradcheck(lambda x: reward_loss(x, pairs, center_coef=0.1).sum, [scores(answers.num)])


def test_the_minimum_is_where_the_label_says() -> None:
    """Slope 0 where sigmoid(difference - margin) = label."""
    score = torch.tensor([0.5 + math.log(4), 0.0], dtype=torch.float64, requires_grad=True)
    one = torch.ones(1, dtype=torch.float64)
    pairs = Pairs(torch.tensor([0]), torch.tensor([1]), 0.8 * one, 0.5 * one, one)
    reward_loss(score, pairs).sum.backward()
    assert score.grad is not None
    assert score.grad.abs().max() <= 1e-15


def test_swapping_the_answers_and_the_label_changes_nothing(comparisons: Any) -> None:
    answers, pairs = comparisons(4)
    swapped = Pairs(pairs.worse_M, pairs.better_M, 1 - pairs.label_M, -pairs.margin_M, pairs.weight_M)
    score = scores(answers.num)
    found, expected = (reward_loss(score, p, center_coef=0.1) for p in (swapped, pairs))
    assert found.sum.item() == pytest.approx(expected.sum.item(), rel=1e-13)
    for key, value in expected.metrics.items():
        assert torch.allclose(found.metrics[key], value, rtol=1e-12), key


def test_any_split_gives_the_same_gradient(comparisons: Any, joined: Any) -> None:
    parts = [comparisons(seed, trees=(2, 4)) for seed in range(3)]
    answers, pairs = joined(parts)
    score = scores(answers.num)
    whole = reward_loss(score, pairs, center_coef=0.1)
    whole.sum.backward()
    pieces = [piece.detach().requires_grad_() for piece in score.split([part[0].num for part in parts])]
    losses = [reward_loss(piece, part[1], center_coef=0.1) for piece, part in zip(pieces, parts, strict=True)]
    for loss in losses:
        loss.sum.backward()
    assert whole.sum.item() == pytest.approx(sum(loss.sum.item() for loss in losses), rel=1e-13)
    assert score.grad is not None
    assert (score.grad - torch.cat([piece.grad for piece in pieces if piece.grad is not None])).abs().max() <= 1e-13
    for key, value in whole.metrics.items():
        assert torch.allclose(value, torch.stack([loss.metrics[key] for loss in losses]).sum(0), rtol=1e-12), key


def test_extreme_scores_in_fp32() -> None:
    score = torch.tensor([-1e3, 1e3], requires_grad=True)
    one = torch.ones(1)
    loss = reward_loss(score, Pairs(torch.tensor([0]), torch.tensor([1]), one, 0 * one, one))
    loss.sum.backward()
    assert loss.sum.item() == 2000.0
    assert score.grad is not None
    assert score.grad.tolist() == [-1.0, 1.0]


def test_bf16_scores_are_compared_in_fp32() -> None:
    score = torch.tensor([3.0, 1.0], dtype=torch.bfloat16)
    one = torch.ones(1)
    loss = reward_loss(score, Pairs(torch.tensor([0]), torch.tensor([1]), one, 0.01 * one, one))
    assert loss.sum.item() == pytest.approx(math.log1p(math.exp(-1.99)), rel=1e-6)


@pytest.mark.parametrize("bad", [math.nan, -math.inf])
def test_what_is_not_a_number_is_not_hidden(bad: float) -> None:
    one = torch.ones(1)
    loss = reward_loss(torch.tensor([bad, 0.0]), Pairs(torch.tensor([0]), torch.tensor([1]), one, 0 * one, one))
    assert not math.isfinite(loss.sum.item())
    assert not math.isfinite(loss.metrics["score_mean"][0].item())


def test_metrics_by_hand() -> None:
    """A right pair, a wrong one whose label turns it round, a tie, and equal scores."""
    score = torch.tensor([3.0, 1.0, 2.0, 1.0, 5.0, 7.0, 4.0, 4.0], requires_grad=True)
    pairs = Pairs(
        torch.tensor([0, 2, 4, 6]),
        torch.tensor([1, 3, 5, 7]),
        torch.tensor([1.0, 0.25, 0.5, 1.0]),
        torch.zeros(4),
        torch.tensor([1.0, 0.5, 9.0, 1.0]),
    )
    found = reward_loss(score, pairs).metrics
    assert {name: value.tolist() for name, value in found.items()} == {
        "accuracy": [1.0 + 0.0 + 0.5, 2.5],
        "score_chosen": [3.0 + 0.5 * 1.0 + 4.0, 2.5],
        "score_rejected": [1.0 + 0.5 * 2.0 + 4.0, 2.5],
        "margin": [2.0 - 0.5 + 0.0, 2.5],
        "score_mean": [27.0, 8.0],
    }
    assert not any(value.requires_grad for value in found.values())


def test_scores_are_one_number_an_answer(comparisons: Any) -> None:
    answers, pairs = comparisons()
    with pytest.raises(AssertionError, match="one number an answer"):
        reward_loss(torch.zeros(answers.num, 1), pairs)
