"""What the DPO family reports, and what it refuses."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

from posttrain.losses.answers import Answers, Pairs
from posttrain.losses.pairs import pair_loss
from posttrain.losses.terms import PAIR_TERMS, WITH_IMITATION

NAMES = [*PAIR_TERMS, *WITH_IMITATION]
KNOBS = {"beta": 0.7, "label_smoothing": 0.1}


def test_metrics_by_hand() -> None:
    """Two pairs and a tie. The first label is 0.9, right; the second 0.2, so `worse` is the chosen one: wrong."""
    logp = torch.tensor([-1.0, -1.0, -3.0, -2.0, -4.0, -1.0, -1.0], dtype=torch.float64, requires_grad=True)
    answer = torch.tensor([0, 0, 1, 2, 3, 4, 5])
    answers = Answers(logp, answer, 6, torch.full((7,), -2.0, dtype=torch.float64))
    pairs = Pairs(
        torch.tensor([0, 2, 4]),
        torch.tensor([1, 3, 5]),
        torch.tensor([0.9, 0.2, 0.5]),
        torch.zeros(3),
        torch.tensor([1.0, 0.5, 9.0]),
    )
    found = {name: value.tolist() for name, value in pair_loss(answers, pairs, beta=0.5).metrics.items()}
    u_minus_1_less_log = [math.e - 2] * 4 + [math.exp(-1), 0.0, math.exp(-2) + 1]
    expected = {
        "rewards_chosen": [0.5 * 2 + 0.5 * 0.5 * -2, 1.5],
        "rewards_rejected": [0.5 * -1 + 0.0, 1.5],
        "rewards_margin": [0.5 * 3 + 0.5 * 0.5 * -2, 1.5],
        "accuracy": [1.0, 1.5],
        "logp_chosen": [-2.0 + 0.5 * -4, 1.5],
        "logp_rejected": [-3.0 + 0.5 * -2, 1.5],
        "length_chosen": [2 + 0.5, 1.5],
        "length_rejected": [1 + 0.5, 1.5],
        "kl": [sum(u_minus_1_less_log), 7.0],
    }
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, rel=1e-12), name


@pytest.mark.parametrize(
    ("name", "expected"),
    [("sigmoid_norm", 0.5 * 1.0), ("simpo", 0.5 * -1.0), ("cpo", 0.5 * -2.0), ("orpo", 0.5 * -1.0), ("sft", -0.5)],
)
def test_rewards_are_what_the_term_compares(name: str, expected: float) -> None:
    """Two tokens of log-probability -1, reference -2."""
    logp = torch.tensor([-1.0, -1.0, -3.0])
    answers = Answers(logp, torch.tensor([0, 0, 1]), 2, torch.full((3,), -2.0))
    one = torch.ones(1)
    pairs = Pairs(torch.tensor([0]), torch.tensor([1]), one, 0 * one, one)
    loss = pair_loss(answers, pairs, terms=[(name, 1.0)], beta=0.5)
    assert loss.metrics["rewards_chosen"].tolist() == pytest.approx([expected, 1.0])
    mixed = pair_loss(answers, pairs, terms=[("sft", 1.0), (name, 1.0)], beta=0.5)
    assert torch.equal(mixed.metrics["rewards_chosen"], loss.metrics["rewards_chosen"])


def test_an_untrained_adapter_is_right_half_the_time(comparisons: Any) -> None:
    answers, pairs = comparisons(14)
    same = answers._replace(reference_N=answers.logp_N.detach().clone())
    metrics = pair_loss(same, pairs).metrics
    assert float(metrics["accuracy"][0] / metrics["accuracy"][1]) == 0.5
    assert metrics["kl"].tolist() == [0.0, len(answers.logp_N)]


def test_the_kl_metric_estimates_what_it_says() -> None:
    """Tokens drawn from the reference: its mean tends to KL(reference || policy), which is computed exactly."""
    generator = torch.Generator().manual_seed(0)
    policy, reference = (torch.randn(11, generator=generator, dtype=torch.float64).log_softmax(0) for _ in range(2))
    exact = float((reference.exp() * (reference - policy)).sum())
    other = float((policy.exp() * (policy - reference)).sum())
    tokens = torch.multinomial(reference.exp(), 200_000, replacement=True, generator=generator)
    one = torch.ones(1, dtype=torch.float64)
    pairs = Pairs(torch.tensor([0]), torch.tensor([0]), one, 0 * one, one)
    total, count = pair_loss(Answers(policy[tokens], 0 * tokens, 1, reference[tokens]), pairs).metrics["kl"].tolist()
    assert total / count == pytest.approx(exact, rel=0.02)
    assert abs(exact - other) > 0.1


def test_metrics_are_detached_and_two_numbers(comparisons: Any) -> None:
    for name in NAMES:
        answers, pairs = comparisons(15)
        for value in pair_loss(answers, pairs, terms=[(name, 1.0)], **KNOBS).metrics.values():
            assert value.shape == (2,)
            assert not value.requires_grad


# --- refusals ---------------------------------------------------------------------------------------------------


def test_refusals(comparisons: Any) -> None:
    answers, pairs = comparisons()
    bare = answers._replace(reference_N=None)
    refused: list[tuple[str, Callable[[], Any]]] = [
        ("needs a term", lambda: pair_loss(answers, pairs, terms=[])),
        ("no term 'dpo'; there are sigmoid", lambda: pair_loss(answers, pairs, terms=[("dpo", 1.0)])),
        ("reference's log-probabilities", lambda: pair_loss(bare, pairs)),
        ("takes its logarithm", lambda: pair_loss(answers, pairs, terms=[("exo_pair", 1.0)])),
        ("below 1/2", lambda: pair_loss(answers, pairs, label_smoothing=0.5)),
        ("f_divergence is 'kl'", lambda: pair_loss(answers, pairs, f_divergence="kl")),
        ("values for", lambda: pair_loss(answers._replace(answer_N=answers.answer_N[:-1]), pairs)),
    ]
    for message, call in refused:
        with pytest.raises(AssertionError, match=message):
            call()


@pytest.mark.parametrize("name", [n for n, term in PAIR_TERMS.items() if not term.contrast and n != "sft"])
def test_single_rewards_take_no_divergence(name: str, comparisons: Any) -> None:
    answers, pairs = comparisons()
    with pytest.raises(AssertionError, match="sees single rewards"):
        pair_loss(answers, pairs, terms=[(name, 1.0)], f_divergence="js")


def test_the_free_terms_need_no_reference(comparisons: Any) -> None:
    answers, pairs = comparisons()
    bare = answers._replace(reference_N=None)
    for name in {n for n in NAMES if n not in PAIR_TERMS or "ratio" not in PAIR_TERMS[n].scale}:
        loss = pair_loss(bare, pairs, terms=[(name, 1.0)])
        assert torch.equal(loss.sum, pair_loss(answers, pairs, terms=[(name, 1.0)]).sum)
        assert "kl" not in loss.metrics


def test_no_pairs(comparisons: Any) -> None:
    """A rank without comparisons still takes part in the backward."""
    answers, pairs = comparisons()
    loss = pair_loss(answers, Pairs(*(column[:0] for column in pairs)))
    loss.sum.backward()
    assert loss.sum.item() == 0.0
    assert loss.metrics["accuracy"].tolist() == [0.0, 0.0]
