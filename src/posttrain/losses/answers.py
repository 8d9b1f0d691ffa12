"""Whole answers out of single tokens, and comparisons of answers: what the preference losses work on.

Shape suffixes here: A answers of a micro-batch, M comparisons of them.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

# Beyond this exponent exponentials go on along their tangent: finite in fp32, also squared, and never flat.
EXPONENT_MAX = 20.0


class Answers(NamedTuple):
    """The trained tokens of a packed batch, by answer; the tokens of one answer in their order.

    `logp_N`: log-probability of each under the policy. `answer_N`: int64, which answer (0 to `num` - 1) holds it.
    `reference_N`: the same under the reference policy, where a loss needs it; no gradient goes there.
    `collision_N`: `log sum_v p(v)^2` of the policy at each token, where WPO's sampled alignment is wanted.
    """

    logp_N: Tensor
    answer_N: Tensor
    num: int
    reference_N: Tensor | None = None
    collision_N: Tensor | None = None


class Pairs(NamedTuple):
    """Comparisons of answers.

    `better_M`, `worse_M`: int64 answer numbers. `label_M`: the probability in [0, 1] that `better` is the better one:
    1 a hard label, 0.5 a tie. `margin_M`: by how much it is better, in units of reward. `weight_M`: how much the
    comparison counts; those of one ranking share one unit (Ouyang et al., 2022, section 3.5).
    """

    better_M: Tensor
    worse_M: Tensor
    label_M: Tensor
    margin_M: Tensor
    weight_M: Tensor


def answer_sums(values_N: Tensor, answers: Answers) -> Tensor:
    """[A], fp32 or wider: the sum of one value a token over each answer; 0 for an answer without trained tokens.

    >>> import torch
    >>> answers = Answers(torch.tensor([-1.0, -2.0, -4.0]), torch.tensor([0, 0, 1]), 2)
    >>> answer_sums(answers.logp_N, answers)
    tensor([-3., -4.])
    """
    assert values_N.shape == answers.answer_N.shape, f"{values_N.shape} values for {answers.answer_N.shape} tokens"
    wide = values_N.to(torch.promote_types(values_N.dtype, torch.float32))
    return wide.new_zeros(answers.num).index_add(0, answers.answer_N, wide)


def answer_lengths(answers: Answers) -> Tensor:
    """[A], float: the number of trained tokens of each answer."""
    return answer_sums(torch.ones_like(answers.logp_N.detach()), answers)


def desensitised_sums(values_N: Tensor, answers: Answers, side_M: Tensor, other_M: Tensor, ld_alpha: float) -> Tensor:
    """[M]: the sum over the answer `side_M` of each comparison, where tokens past the length of `other_M` count
    `ld_alpha` (Liu et al., 2024, Length Desensitization in DPO). The lengths of all M answers
    stand in memory at once, and CUDA waits for their sum.
    """
    wide = values_N.to(torch.promote_types(values_N.dtype, torch.float32))
    length_A = torch.bincount(answers.answer_N, minlength=answers.num)
    token_N = torch.argsort(answers.answer_N, stable=True)  # answer by answer, as they stand inside each
    first_A = length_A.cumsum(0) - length_A
    length_M = length_A[side_M]
    # E: every token of every comparison's answer
    pair_E = torch.repeat_interleave(torch.arange(len(side_M), device=side_M.device), length_M)
    place_E = torch.arange(len(pair_E), device=side_M.device) - (length_M.cumsum(0) - length_M)[pair_E]
    value_E = wide[token_N[first_A[side_M][pair_E] + place_E]]
    kept_E = torch.where(place_E < length_A[other_M][pair_E], value_E, ld_alpha * value_E)
    return wide.new_zeros(len(side_M)).index_add(0, pair_E, kept_E)


def expm1_tangent(x: Tensor) -> Tensor:
    """`exp(x) - 1`; past EXPONENT_MAX its tangent there. NaN and infinities stay what they are."""
    return torch.expm1(x.clamp(max=EXPONENT_MAX)) + math.exp(EXPONENT_MAX) * torch.relu(x - EXPONENT_MAX)


def counted(values: Tensor, weights: Tensor) -> Tensor:
    """The metric (sum of weight * value, sum of weights), detached; what weighs 0 is left out whatever its value."""
    weights = weights.detach().to(values)
    return torch.stack([torch.where(weights == 0, 0.0, values.detach() * weights).sum(), weights.sum()])


def wins(first: Tensor, second: Tensor) -> Tensor:
    """1 where the first is greater, 0 where it is not, 1/2 where both are equal (as an untrained adapter says)."""
    return (first > second).to(first) + 0.5 * (first == second).to(first)


def token_kl(answers: Answers) -> dict[str, Tensor]:
    """The metric `kl`, nats a token: the mean of u - 1 - log u over the data's tokens, u = policy / reference.

    Never negative, and 0 where both agree. On answers that the reference wrote it is an unbiased estimate of
    KL(reference || policy) a token (Schulman, 2020, Approximating KL divergence, k3). It is not the
    KL(policy || reference) that an objective bounds: that one needs answers sampled from the policy.
    """
    if answers.reference_N is None:
        return {}
    log_u = (answers.logp_N - answers.reference_N).detach()
    return {"kl": counted(expm1_tangent(log_u) - log_u, torch.ones_like(log_u))}
