"""What a comparison of two answers can cost: one small function a term.

A term sees the two answers' rewards (before the factor `beta`) on its own scale, see `PAIR_TERMS`, and says what it
costs that the first is said to be better: [M], [M] -> [M]. All are finite at any finite reward.
"""

import math
from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, softplus

from posttrain.losses.answers import expm1_tangent


class Knobs(NamedTuple):
    """The numbers that terms take; what each means stands at `pair_loss`. `margin_M` changes sign with the pair."""

    margin_M: Tensor
    beta: float = 0.1
    label_smoothing: float = 0.0
    gamma: float = 0.5
    discopop_tau: float = 0.05
    bco_shift: Tensor | float = 0.0
    alphapo_alpha: float = 0.25


def power_score(log_u: Tensor, alpha: float) -> Tensor:
    """`(1 - u ** -alpha) / alpha`, and its limit `log u` at alpha = 0."""
    return log_u if alpha == 0 else -expm1_tangent(-alpha * log_u) / alpha


def _difference(better: Tensor, worse: Tensor, knobs: Knobs) -> Tensor:
    """The difference of rewards less the margin asked for (Amini et al., 2024, DPO with an offset)."""
    return knobs.beta * (better - worse) - knobs.margin_M


def logistic(better: Tensor, worse: Tensor, knobs: Knobs) -> Tensor:
    """-log sigmoid(d). Rafailov et al., 2023 (DPO), equation 7; length-normalised: Lambert et al., 2024 (Tulu 3);
    without a reference: Xu et al., 2024 (CPO), equation 3."""
    return -logsigmoid(_difference(better, worse, knobs))


def simpo(better: Tensor, worse: Tensor, knobs: Knobs) -> Tensor:
    """-log sigmoid(d - gamma). Meng et al., 2024 (SimPO), equation 6."""
    return -logsigmoid(_difference(better, worse, knobs) - knobs.gamma)


def alphapo(better: Tensor, worse: Tensor, knobs: Knobs) -> Tensor:
    """SimPO on the reward (1 - p ** -alpha) / alpha, p = the geometric mean of the token probabilities.
    Gupta et al., 2025 (AlphaPO)."""
    alpha = knobs.alphapo_alpha
    return simpo(power_score(better, alpha), power_score(worse, alpha), knobs)


def hinge(better: Tensor, worse: Tensor, knobs: Knobs) -> Tensor:
    """max(0, 1 - d). Liu et al., 2024 (RSO); without a reference: Zhao et al., 2023 (SLiC-HF), delta = 1 / beta."""
    return torch.relu(1 - _difference(better, worse, knobs))


def ipo(better: Tensor, worse: Tensor, knobs: Knobs) -> Tensor:
    """(difference of log-ratios - 1 / (2 beta)) ** 2. Azar et al., 2023 (IPO), equation 17; beta is its tau."""
    return (better - worse - 1 / (2 * knobs.beta)) ** 2


def robust(better: Tensor, worse: Tensor, knobs: Knobs) -> Tensor:
    """The unbiased estimate of DPO's loss where a share `label_smoothing` of the labels is flipped.
    Chowdhury et al., 2024 (provably robust DPO)."""
    d, flipped = _difference(better, worse, knobs), knobs.label_smoothing
    return ((1 - flipped) * -logsigmoid(d) + flipped * logsigmoid(-d)) / (1 - 2 * flipped)


def exo_pair(better: Tensor, worse: Tensor, knobs: Knobs) -> Tensor:
    """KL(softmax of both rewards || (1 - e, e)), e = `label_smoothing`. Ji et al., 2024 (EXO), equation 16."""
    d = knobs.beta * (better - worse)
    e = knobs.label_smoothing
    first = torch.sigmoid(d) * (logsigmoid(d) - math.log1p(-e))
    return first + torch.sigmoid(-d) * (logsigmoid(-d) - math.log(e))


def nca_pair(better: Tensor, worse: Tensor, knobs: Knobs) -> Tensor:
    """Chen et al., 2024 (noise contrastive alignment), with two answers."""
    b, w = knobs.beta * better, knobs.beta * worse
    return -logsigmoid(b) - 0.5 * logsigmoid(-b) - 0.5 * logsigmoid(-w)


def bco_pair(better: Tensor, worse: Tensor, knobs: Knobs) -> Tensor:
    """A classifier of single answers with the shift `bco_shift`. Jung et al., 2024 (BCO)."""
    b, w = knobs.beta * better - knobs.bco_shift, knobs.beta * worse - knobs.bco_shift
    return -logsigmoid(b) - logsigmoid(-w)


def sppo_hard(better: Tensor, worse: Tensor, knobs: Knobs) -> Tensor:
    """Log-ratios drawn to +-1 / (2 beta). Wu et al., 2024 (SPPO), equation 4.7 with win probabilities 1 and 0."""
    target = 0.5 / knobs.beta
    return (better - target) ** 2 + (worse + target) ** 2


def apo_zero(better: Tensor, worse: Tensor, knobs: Knobs) -> Tensor:
    """Better up, worse down. D'Oosterlinck et al., 2024 (APO), equation 7."""
    return torch.sigmoid(-knobs.beta * better) + torch.sigmoid(knobs.beta * worse)


def apo_down(better: Tensor, worse: Tensor, knobs: Knobs) -> Tensor:
    """Both down, the worse further. D'Oosterlinck et al., 2024 (APO), equation 8."""
    return torch.sigmoid(knobs.beta * better) + torch.sigmoid(-knobs.beta * (better - worse))


def discopop(better: Tensor, worse: Tensor, knobs: Knobs) -> Tensor:
    """A blend of -log sigmoid(d) and exp(-d), by sigmoid(d / tau). Lu et al., 2024 (DiscoPOP), equation 5."""
    d = knobs.beta * (better - worse)
    at = d / knobs.discopop_tau
    # The second product as one exponential: exp(-d) alone overflows where its factor is 0.
    return -logsigmoid(d) * torch.sigmoid(-at) + torch.exp(logsigmoid(at) - d)


def odds_ratio(better: Tensor, worse: Tensor, knobs: Knobs) -> Tensor:  # noqa: ARG001 (the signature of every term)
    """-log sigmoid(log odds of better - log odds of worse). Hong et al., 2024 (ORPO), equations 4 and 7."""
    return -logsigmoid(log_odds(better) - log_odds(worse))


def log_odds(logp: Tensor) -> Tensor:
    """log(p / (1 - p)) of a log-probability <= 0; p is kept below 1 by one rounding step of the dtype."""
    logp = logp.clamp(max=-torch.finfo(logp.dtype).eps)
    near = logp > -math.log(2)
    # Each branch is given what it can bear: the other's infinite slope, times 0, would be NaN.
    small = torch.log(-torch.expm1(torch.where(near, logp, -1.0)))
    large = torch.log1p(-torch.exp(torch.where(near, -1.0, logp)))
    return logp - torch.where(near, small, large)


def imitation(better: Tensor, worse: Tensor, knobs: Knobs) -> Tensor:  # noqa: ARG001 (the signature of every term)
    """Negative log-likelihood of the better answer, a mean over its tokens. Pang et al., 2024 (Iterative RPO),
    with the length of the answer alone."""
    return -better


Scale = Literal["ratio", "mean_ratio", "logp", "mean_logp", "likelihood"]


class Term(NamedTuple):
    """`cost`: the function. `contrast`: it sees the difference of the two answers alone. `scale`: what it is told of
    each: the log-ratio to the reference or the policy's own log-probability, as a sum or a mean over tokens;
    `likelihood`: the mean log-probability, untouched by `ld_alpha`."""

    cost: Callable[[Tensor, Tensor, Knobs], Tensor]
    scale: Scale
    contrast: bool = True


PAIR_TERMS: dict[str, Term] = {
    "sigmoid": Term(logistic, "ratio"),
    "sigmoid_norm": Term(logistic, "mean_ratio"),
    "ipo": Term(ipo, "ratio"),
    "ipo_norm": Term(ipo, "mean_ratio"),
    "hinge": Term(hinge, "ratio"),
    "robust": Term(robust, "ratio"),
    "exo_pair": Term(exo_pair, "ratio"),
    "discopop": Term(discopop, "ratio"),
    "nca_pair": Term(nca_pair, "ratio", contrast=False),
    "bco_pair": Term(bco_pair, "ratio", contrast=False),
    "sppo_hard": Term(sppo_hard, "ratio", contrast=False),
    "apo_zero": Term(apo_zero, "ratio", contrast=False),
    "apo_down": Term(apo_down, "ratio", contrast=False),
    "sigmoid_free": Term(logistic, "logp"),
    "slic": Term(hinge, "logp"),
    "simpo": Term(simpo, "mean_logp"),
    "alphapo": Term(alphapo, "mean_logp"),
    "odds_ratio": Term(odds_ratio, "mean_logp"),
    "sft": Term(imitation, "likelihood", contrast=False),
}
# Shorthands: what each stands for, beside `nll_coef` times the term `sft`. ORPO's lambda is `beta`.
WITH_IMITATION = {"cpo": "sigmoid_free", "orpo": "odds_ratio"}


def discounted(log_ratio: Tensor, f_divergence: str, alpha: float) -> Tensor:
    """`f'(u)` of u = policy / reference, from log u. Wang et al., 2023 (f-DPO).

    `alpha` is that of the paper: 0 gives the reverse KL, 1 the forward KL.
    """
    if f_divergence == "reverse_kl":
        return log_ratio
    if f_divergence == "forward_kl":
        return power_score(log_ratio, 1.0)
    if f_divergence == "alpha":
        return power_score(log_ratio, alpha)
    assert f_divergence == "js", f"f_divergence is {f_divergence!r}"
    return math.log(2) - softplus(-log_ratio)
