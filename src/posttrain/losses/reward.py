"""Reward models: scores of answers such that their differences foretell people's choices."""

import torch
from torch import Tensor
from torch.nn.functional import softplus

from posttrain.losses.answers import Pairs, counted, wins
from posttrain.losses.sft import Loss


def reward_loss(score_A: Tensor, pairs: Pairs, *, center_coef: float = 0.0) -> Loss:
    """`sum_m weight_m * (cross-entropy of label_m under sigmoid(d_m - margin_m) + center_coef * (s_b + s_w)^2)` with
    d = s_b - s_w, the scores of better and worse; divide by the sum of `weight_m` over the global batch.

    `score_A`: one number an answer. Sources: Bradley and Terry, 1952; groups of K answers: Ouyang et al., 2022,
    equation 1; margins: Touvron et al., 2023 (Llama 2), equation 2; centring: Eisenstein et al., 2023.

    >>> import torch
    >>> one = torch.ones(1)
    >>> reward_loss(torch.tensor([2.0, 2.0]), Pairs(torch.tensor([0]), torch.tensor([1]), one, 0 * one, one)).sum
    tensor(0.6931)
    """
    assert score_A.ndim == 1, f"scores have shape {tuple(score_A.shape)}, expected one number an answer"
    score_A = score_A.to(torch.promote_types(score_A.dtype, torch.float32))
    better_M, worse_M = score_A[pairs.better_M], score_A[pairs.worse_M]
    ahead_M = better_M - worse_M - pairs.margin_M
    cost_M = pairs.label_M * softplus(-ahead_M) + (1 - pairs.label_M) * softplus(ahead_M)
    if center_coef:
        cost_M = cost_M + center_coef * (better_M + worse_M) ** 2
    return Loss((pairs.weight_M * cost_M).sum(), _metrics(score_A.detach(), pairs))


@torch.no_grad()
def _metrics(score_A: Tensor, pairs: Pairs) -> dict[str, Tensor]:
    """Chosen is the answer that is more probably the better one; ties count nowhere but in `score_mean`."""
    first_M, second_M = score_A[pairs.better_M], score_A[pairs.worse_M]
    as_named_M = pairs.label_M >= 0.5
    chosen_M, rejected_M = first_M.where(as_named_M, second_M), second_M.where(as_named_M, first_M)
    weight_M = pairs.weight_M * (pairs.label_M != 0.5)
    return {
        "accuracy": counted(wins(chosen_M, rejected_M), weight_M),
        "score_chosen": counted(chosen_M, weight_M),
        "score_rejected": counted(rejected_M, weight_M),
        "margin": counted(chosen_M - rejected_M, weight_M),
        "score_mean": counted(score_A, torch.ones_like(score_A)),
    }
