"""KTO against hand-computed numbers, a twin in Python floats, and finite differences."""

import math
import random
from typing import Any

import pytest
import torch

from posttrain.losses.answers import Answers
from posttrain.losses.kto import kto_baseline, kto_loss

OPTIONS: dict[str, Any] = {"beta": 0.6, "desirable_weight": 1.3, "undesirable_weight": 0.8}


def labels(answers: Answers, seed: int = 0) -> torch.Tensor:
    rng = random.Random(seed)
    return torch.tensor([rng.choice([0.0, 1.0, 1.0, 0.3]) for _ in range(answers.num)], dtype=torch.float64)


def twin(answers: Answers, good: list[float], baseline: float, loss_type: str, options: dict[str, Any]) -> float:
    """The value function of a gain or a loss, as in the paper, one answer at a time."""
    assert answers.reference_N is not None
    total = 0.0
    for answer in range(answers.num):
        ratio = 0.0
        for logp, reference, owner in zip(
            answers.logp_N.tolist(), answers.reference_N.tolist(), answers.answer_N.tolist(), strict=True
        ):
            ratio += logp - reference if owner == answer else 0.0
        reference_point = baseline if loss_type == "kto" else 0.0
        gain = 1 / (1 + math.exp(-options["beta"] * (ratio - reference_point)))
        loss = 1 / (1 + math.exp(-options["beta"] * (reference_point - ratio)))
        total += good[answer] * options["desirable_weight"] * (1 - gain)
        total += (1 - good[answer]) * options["undesirable_weight"] * (1 - loss)
    return total


@pytest.mark.parametrize("loss_type", ["kto", "apo_zero_unpaired"])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_twin(seed: int, loss_type: str, comparisons: Any) -> None:
    answers, _ = comparisons(seed)
    good = labels(answers, seed)
    found = kto_loss(answers, good, 0.4, loss_type=loss_type, **OPTIONS).sum.item()
    assert found == pytest.approx(twin(answers, good.tolist(), 0.4, loss_type, OPTIONS), rel=1e-13)


def test_by_hand() -> None:
    """Log-ratios ln 3 (good) and -ln 3 (bad); without a baseline both cost 1/4, with ln 3 they cost 1/2 and 1/10."""
    logp = torch.tensor([3 / 4, 1 / 4], dtype=torch.float64).log()
    answers = Answers(logp, torch.tensor([0, 1]), 2, logp.flip(0))
    good = torch.tensor([1.0, 0.0], dtype=torch.float64)
    assert kto_loss(answers, good, 0.0, beta=1.0).sum.item() == pytest.approx(0.5, rel=1e-14)
    weights = {"desirable_weight": 3.0, "undesirable_weight": 2.0}
    found = kto_loss(answers, good, math.log(3), beta=1.0, **weights).sum.item()
    assert found == pytest.approx(3 / 2 + 2 / 10, rel=1e-14)
    unpaired = kto_loss(answers, good, math.log(3), beta=1.0, loss_type="apo_zero_unpaired", **weights).sum.item()
    assert unpaired == pytest.approx(3 / 4 + 2 / 4, rel=1e-14)


def test_baseline() -> None:
    policy = torch.tensor([-1.0, -2.0, -3.0], requires_grad=True)
    found = kto_baseline(policy, torch.tensor([-2.0, -4.0, -3.0]))
    assert found.item() == 1.0
    assert not found.requires_grad
    assert kto_baseline(policy, torch.tensor([0.0, 0.0, 0.0])).item() == 0.0  # a divergence is not negative
    assert math.isnan(kto_baseline(policy, torch.tensor([0.0, math.nan, 0.0])).item())
    with pytest.raises(AssertionError, match="log-probabilities"):
        kto_baseline(policy, torch.zeros(3, 1))


@pytest.mark.parametrize("loss_type", ["kto", "apo_zero_unpaired"])
def test_gradcheck(loss_type: str, comparisons: Any) -> None:
    answers, _ = comparisons(3)
    good = labels(answers)

    def total(logp_N: torch.Tensor) -> torch.Tensor:
        return kto_loss(answers._replace(logp_N=logp_N), good, 0.3, loss_type=loss_type, **OPTIONS).sum

    assert torch.autograd.gradcheck(total, [answers.logp_N])


def test_no_gradient_to_reference_and_baseline(comparisons: Any) -> None:
    answers, _ = comparisons()
    reference = answers.reference_N.clone().requires_grad_()
    baseline = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    kto_loss(answers._replace(reference_N=reference), labels(answers), baseline).sum.backward()
    assert reference.grad is None
    assert baseline.grad is None
    assert answers.logp_N.grad.abs().sum() > 0


@pytest.mark.parametrize("loss_type", ["kto", "apo_zero_unpaired"])
def test_swapping_the_classes_mirrors_the_loss(loss_type: str, comparisons: Any) -> None:
    """Good at r, weight w, baseline 0 costs what bad at -r, weight w costs."""
    answers, _ = comparisons(4)
    good = labels(answers)
    mirrored = answers._replace(logp_N=answers.reference_N, reference_N=answers.logp_N.detach())
    found = kto_loss(mirrored, 1 - good, 0.0, loss_type=loss_type).sum.item()
    assert found == pytest.approx(kto_loss(answers, good, 0.0, loss_type=loss_type).sum.item(), rel=1e-13)


def test_any_split_gives_the_same_gradient(comparisons: Any, joined: Any) -> None:
    """With one baseline for the whole step."""
    parts = [comparisons(seed, trees=(2, 3)) for seed in range(3)]
    answers, _ = joined(parts)
    goods = [labels(part[0], seed) for seed, part in enumerate(parts)]
    whole = kto_loss(answers, torch.cat(goods), 0.2, **OPTIONS)
    whole.sum.backward()
    losses = [kto_loss(part[0], good, 0.2, **OPTIONS) for part, good in zip(parts, goods, strict=True)]
    for loss in losses:
        loss.sum.backward()
    assert whole.sum.item() == pytest.approx(sum(loss.sum.item() for loss in losses), rel=1e-13)
    gradient = torch.cat([part[0].logp_N.grad for part in parts])
    assert (answers.logp_N.grad - gradient).abs().max() <= 1e-14
    for key, value in whole.metrics.items():
        assert torch.allclose(value, torch.stack([loss.metrics[key] for loss in losses]).sum(0), rtol=1e-12) or (
            key == "baseline" and value.tolist() == [0.2, 1.0]
        ), key


def test_extreme_ratios_in_fp32() -> None:
    """Saturated on either side: finite, and the slope is 0."""
    logp = torch.tensor([-1e3, 0.0, -1e3, 0.0], requires_grad=True)
    answers = Answers(logp, torch.arange(4), 4, torch.tensor([0.0, -1e3, 0.0, -1e3]))
    loss = kto_loss(answers, torch.tensor([1.0, 1.0, 0.0, 0.0]), 1e3, beta=1.0)
    loss.sum.backward()
    assert loss.sum.item() == 1.0 + 0.5 + 0.0 + 0.5
    assert logp.grad is not None
    assert logp.grad.tolist() == [0.0, -0.25, 0.0, 0.25]


@pytest.mark.parametrize("bad", [math.nan, -math.inf])
def test_what_is_not_a_number_is_not_hidden(bad: float, comparisons: Any) -> None:
    answers, _ = comparisons(5)
    logp = answers.logp_N.detach().clone()
    logp[answers.answer_N == 0] = bad
    loss = kto_loss(answers._replace(logp_N=logp), torch.ones(answers.num), 0.0)
    assert not math.isfinite(loss.metrics["rewards_chosen"][0].item())
    assert math.isnan(loss.sum.item()) or not math.isnan(bad)


def test_metrics_by_hand() -> None:
    logp = torch.tensor([-1.0, -1.0, -4.0], dtype=torch.float64, requires_grad=True)
    answers = Answers(logp, torch.tensor([0, 0, 1]), 2, torch.full((3,), -2.0, dtype=torch.float64))
    found = kto_loss(answers, torch.tensor([1.0, 0.0]), torch.tensor(0.25), beta=0.5).metrics
    assert {name: value.tolist() for name, value in found.items()} == {
        "rewards_chosen": [1.0, 1.0],
        "rewards_rejected": [-1.0, 1.0],
        "logp_chosen": [-2.0, 1.0],
        "logp_rejected": [-4.0, 1.0],
        "length_chosen": [2.0, 1.0],
        "length_rejected": [1.0, 1.0],
        "baseline": [0.25, 1.0],
        "kl": pytest.approx([2 * (math.e - 2) + math.exp(-2) + 1, 3.0]),
    }
    assert not any(value.requires_grad for value in found.values())


def test_a_class_that_is_absent_counts_nothing(comparisons: Any) -> None:
    answers, _ = comparisons(6)
    loss = kto_loss(answers, torch.ones(answers.num), 0.0)
    assert loss.metrics["rewards_rejected"].tolist() == [0.0, 0.0]
    assert math.isfinite(loss.sum.item())


def test_refusals(comparisons: Any) -> None:
    answers, _ = comparisons()
    good = labels(answers)
    with pytest.raises(AssertionError, match="reference's log-probabilities"):
        kto_loss(answers._replace(reference_N=None), good, 0.0)
    with pytest.raises(AssertionError, match=f"labels for {answers.num} answers"):
        kto_loss(answers, good[:-1], 0.0)
    with pytest.raises(AssertionError, match="loss_type is 'bco'"):
        kto_loss(answers, good, 0.0, loss_type="bco")
