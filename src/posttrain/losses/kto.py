"""Kahneman-Tversky optimisation: single answers, each said to be good or bad."""

import torch
from torch import Tensor

from posttrain.losses.answers import Answers, answer_lengths, answer_sums, counted, token_kl
from posttrain.losses.sft import Loss

LOSS_TYPES = ("kto", "apo_zero_unpaired")


def kto_baseline(policy_A: Tensor, reference_A: Tensor) -> Tensor:
    """Scalar, detached: `max(0, mean of log policy / reference)` over answers that belong to other prompts.

    `policy_A`, `reference_A`: log-probabilities of whole mismatched answers. Take them from the whole optimiser step,
    all micro-batches and ranks, before any backward: a baseline of each micro-batch would make the gradient depend on
    the split. It is a biased guess at KL(policy || reference), for the answers were not sampled from the policy.
    Source: Ethayarajh et al., 2024 (KTO), section 4.

    >>> import torch
    >>> kto_baseline(torch.tensor([-1.0, -2.0]), torch.tensor([-2.0, -2.0]))
    tensor(0.5000)
    """
    assert policy_A.shape == reference_A.shape, f"got {policy_A.shape} and {reference_A.shape} log-probabilities"
    return (policy_A - reference_A).detach().mean().clamp(min=0)


def kto_loss(
    answers: Answers,
    good_A: Tensor,
    baseline: Tensor | float,
    *,
    beta: float = 0.1,
    desirable_weight: float = 1.0,
    undesirable_weight: float = 1.0,
    loss_type: str = "kto",
) -> Loss:
    """`sum_a w_a * sigmoid(-+beta (r_a - baseline))`, r the log-ratio of a whole answer: minus where it is good, with
    `desirable_weight`, plus where it is bad, with `undesirable_weight`; divide by the number of answers.

    `good_A`: 1 good, 0 bad; between them, the probability that it is good. `baseline`: from `kto_baseline`.
    "apo_zero_unpaired" takes no baseline (D'Oosterlinck et al., 2024, equation 7 for single answers).
    Source: Ethayarajh et al., 2024 (KTO), section 4, less its constant.
    """
    assert answers.reference_N is not None, "this loss needs the reference's log-probabilities"
    assert good_A.shape == (answers.num,), f"got {good_A.shape} labels for {answers.num} answers"
    assert loss_type in LOSS_TYPES, f"loss_type is {loss_type!r}, expected one of {LOSS_TYPES}"
    ratio_A = answer_sums(answers.logp_N - answers.reference_N.detach(), answers)
    baseline = torch.as_tensor(baseline, dtype=ratio_A.dtype, device=ratio_A.device).detach()
    ahead_A = beta * (ratio_A - baseline if loss_type == "kto" else ratio_A)
    cost_A = good_A * desirable_weight * torch.sigmoid(-ahead_A)
    cost_A = cost_A + (1 - good_A) * undesirable_weight * torch.sigmoid(ahead_A)
    return Loss(cost_A.sum(), _metrics(answers, good_A, beta * ratio_A, baseline))


@torch.no_grad()
def _metrics(answers: Answers, good_A: Tensor, rewards_A: Tensor, baseline: Tensor) -> dict[str, Tensor]:
    """By class: chosen are the good answers, rejected the bad ones."""
    columns = {
        "rewards": rewards_A,
        "logp": answer_sums(answers.logp_N, answers),
        "length": answer_lengths(answers),
    }
    made: dict[str, Tensor] = {}
    for key, values_A in columns.items():
        made[f"{key}_chosen"] = counted(values_A, good_A)
        made[f"{key}_rejected"] = counted(values_A, 1 - good_A)
    made["baseline"] = torch.stack([baseline, torch.ones_like(baseline)])
    return made | token_kl(answers)
