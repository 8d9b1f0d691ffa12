"""Direct preference optimisation and its relatives: a sum over comparisons of answers."""

from collections.abc import Sequence

import torch
from torch import Tensor

from posttrain.losses.answers import (
    Answers,
    Pairs,
    answer_lengths,
    answer_sums,
    counted,
    desensitised_sums,
    token_kl,
    wins,
)
from posttrain.losses.sft import Loss
from posttrain.losses.terms import PAIR_TERMS, WITH_IMITATION, Knobs, discounted

# Terms that have label_smoothing in their own formula, or no use for it.
OWN_SMOOTHING = ("robust", "exo_pair", "sft")
DIVERGENCES = ("reverse_kl", "forward_kl", "js", "alpha")


def pair_loss(
    answers: Answers,
    pairs: Pairs,
    *,
    terms: Sequence[tuple[str, float]] = (("sigmoid", 1.0),),
    beta: float = 0.1,
    label_smoothing: float = 0.0,
    f_divergence: str = "reverse_kl",
    alpha: float = 0.5,
    ld_alpha: float = 1.0,
    wpo: bool = False,
    gamma: float = 0.5,
    discopop_tau: float = 0.05,
    bco_shift: Tensor | float = 0.0,
    alphapo_alpha: float = 0.25,
    nll_coef: float = 1.0,
) -> Loss:
    """`sum_m weight_m * sum_t coef_t * (p_m * t(better, worse) + (1 - p_m) * t(worse, better))`; divide by the sum of
    `weight_m` over the global batch. The terms t are in `PAIR_TERMS`, and "cpo" and "orpo".

    `label_smoothing` e moves every label towards 1/2 (Mitchell, 2023, conservative DPO): p becomes
    p (1 - e) + (1 - p) e; `robust` and `exo_pair` use it in their own formula, and `sft` not at all.
    `f_divergence`, `alpha`: what the reward is a slope of, see `discounted`; only for terms that see differences.
    `ld_alpha`: what a token past the other answer's length counts, in rewards (1: as any other).
    `wpo`: weigh each comparison by the probability of both answers (Zhou et al., 2024, WPO, equation 2).
    `gamma`: the margin of SimPO and AlphaPO. `bco_shift`: the mean reward of a step's answers.
    """
    assert terms, "a pair loss needs a term"
    assert f_divergence in DIVERGENCES, f"f_divergence is {f_divergence!r}, expected one of {DIVERGENCES}"
    assert 0 <= label_smoothing < 0.5, f"label_smoothing is {label_smoothing}, expected at least 0 and below 1/2"
    sides = _Sides(answers, pairs, f_divergence, alpha, ld_alpha)
    knobs = Knobs(pairs.margin_M, beta, label_smoothing, gamma, discopop_tau, bco_shift, alphapo_alpha)
    parts = _expand(terms, beta, nll_coef)
    cost_M = torch.stack([coef * _soft(name, sides, pairs.label_M, knobs) for name, coef in parts]).sum(0)
    weight_M = pairs.weight_M * _on_policy_weight(answers, pairs) if wpo else pairs.weight_M
    return Loss((weight_M * cost_M).sum(), _metrics(answers, pairs, sides, _followed(parts), beta))


def _expand(terms: Sequence[tuple[str, float]], beta: float, nll_coef: float) -> list[tuple[str, float]]:
    """Terms by their own names."""
    parts: list[tuple[str, float]] = []
    for name, coef in terms:
        if name in WITH_IMITATION:
            own = beta if name == "orpo" else 1.0
            parts += [(WITH_IMITATION[name], coef * own), ("sft", coef * nll_coef)]
        else:
            assert name in PAIR_TERMS, f"no term {name!r}; there are {', '.join((*PAIR_TERMS, *WITH_IMITATION))}"
            parts.append((name, coef))
    return parts


def _followed(parts: Sequence[tuple[str, float]]) -> str:
    """The term whose rewards the metrics show: the first that compares."""
    return next((name for name, _ in parts if name != "sft"), "sft")


def _soft(name: str, sides: "_Sides", label_M: Tensor, knobs: Knobs) -> Tensor:
    """[M]: the term's mean over which of the two answers is the better one."""
    term, smoothing = PAIR_TERMS[name], knobs.label_smoothing
    if name not in OWN_SMOOTHING:
        label_M = label_M * (1 - smoothing) + (1 - label_M) * smoothing
    assert smoothing > 0 or name != "exo_pair", "exo_pair needs label_smoothing above 0: it takes its logarithm"
    assert term.contrast or sides.f_divergence == "reverse_kl" or name == "sft", (
        f"{name} sees single rewards, which an f-divergence fixes up to a number for each prompt; use reverse_kl"
    )
    better, worse = sides.on(term.scale)
    flipped = knobs._replace(margin_M=-knobs.margin_M)
    return label_M * term.cost(better, worse, knobs) + (1 - label_M) * term.cost(worse, better, flipped)


def _on_policy_weight(answers: Answers, pairs: Pairs) -> Tensor:
    """[M], detached: exp(mean over tokens of log p), both answers multiplied; with `collision_N`, log p is aligned by
    log sum_v p(v)^2, so that an answer sampled from the policy itself weighs about 1."""
    logp_N = answers.logp_N.detach()
    if answers.collision_N is not None:
        logp_N = logp_N - answers.collision_N.detach()
    weight_A = torch.exp(answer_sums(logp_N, answers) / answer_lengths(answers))
    return weight_A[pairs.better_M] * weight_A[pairs.worse_M]


class _Sides:
    """Both answers of each comparison on every scale that a term may ask for: (better_M, worse_M)."""

    def __init__(self, answers: Answers, pairs: Pairs, f_divergence: str, alpha: float, ld_alpha: float) -> None:
        self.answers, self.pairs = answers, pairs
        self.f_divergence, self.alpha, self.ld_alpha = f_divergence, alpha, ld_alpha
        self.lengths = self._each(answer_lengths(answers))
        self._made: dict[str, tuple[Tensor, Tensor]] = {}

    def _each(self, values_A: Tensor) -> tuple[Tensor, Tensor]:
        return values_A[self.pairs.better_M], values_A[self.pairs.worse_M]

    def _sums(self, values_N: Tensor) -> tuple[Tensor, Tensor]:
        better_M, worse_M = self.pairs.better_M, self.pairs.worse_M
        if self.ld_alpha == 1:
            return self._each(answer_sums(values_N, self.answers))
        return (
            desensitised_sums(values_N, self.answers, better_M, worse_M, self.ld_alpha),
            desensitised_sums(values_N, self.answers, worse_M, better_M, self.ld_alpha),
        )

    def on(self, scale: str) -> tuple[Tensor, Tensor]:
        """Rewards without beta, made when first asked for."""
        if scale not in self._made:
            self._made[scale] = self._make(scale)
        return self._made[scale]

    def _make(self, scale: str) -> tuple[Tensor, Tensor]:
        if scale.startswith("mean_"):
            # An answer without tokens has no mean: 0 / 0 is NaN, and stays so.
            better, worse = self.on(scale.removeprefix("mean_"))
            return better / self.lengths[0], worse / self.lengths[1]
        if scale == "likelihood":
            better, worse = self._each(answer_sums(self.answers.logp_N, self.answers))
            return better / self.lengths[0], worse / self.lengths[1]
        if scale == "logp":
            return self._sums(self.answers.logp_N)
        assert self.answers.reference_N is not None, "this loss needs the reference's log-probabilities"
        better, worse = self._sums(self.answers.logp_N - self.answers.reference_N.detach())
        return discounted(better, self.f_divergence, self.alpha), discounted(worse, self.f_divergence, self.alpha)


@torch.no_grad()
def _metrics(answers: Answers, pairs: Pairs, sides: _Sides, name: str, beta: float) -> dict[str, Tensor]:
    """Chosen is the answer that is more probably the better one; ties (label 0.5) count nowhere but in `kl`.
    Rewards are `beta` times what the term `name` is told of an answer."""
    better, worse = sides.on(PAIR_TERMS[name].scale)
    logps = answer_sums(answers.logp_N, answers)
    columns = {
        "rewards": (beta * better, beta * worse),
        "logp": (logps[pairs.better_M], logps[pairs.worse_M]),
        "length": sides.lengths,
    }
    weight_M = pairs.weight_M * (pairs.label_M != 0.5)
    as_named_M = pairs.label_M >= 0.5
    made: dict[str, Tensor] = {}
    for key, (first_M, second_M) in columns.items():
        chosen_M, rejected_M = first_M.where(as_named_M, second_M), second_M.where(as_named_M, first_M)
        made[f"{key}_chosen"] = counted(chosen_M, weight_M)
        made[f"{key}_rejected"] = counted(rejected_M, weight_M)
        if key == "rewards":
            made["rewards_margin"] = counted(chosen_M - rejected_M, weight_M)
            made["accuracy"] = counted(wins(chosen_M, rejected_M), weight_M)
    return made | token_kl(answers)
