"""How far each annotator can be trusted, and what the votes together say of a pair: soft labels.

Dawid and Skene (1979, *Maximum likelihood estimation of observer error-rates*) for comparisons: of every pair one
answer is better, either being as likely beforehand, and annotator j names it with probability a_j, whichever side it is
on. A tie says nothing of which is better, and nothing of the annotator.
"""

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from posttrain.feedback.agreement import by_pair
from posttrain.feedback.bradley_terry import Z95, Estimate, sigmoid
from posttrain.feedback.comparisons import Comparison

PRIOR_RIGHT, PRIOR_WRONG = 5.0, 1.0
"""Beta prior of an annotator's accuracy: 5/6 at its mode in log-odds, where two annotators agree in 72 % of pairs, as
InstructGPT's did (72.6 %: Ouyang et al., 2022, section 3.4), with the weight of six votes."""
ENOUGH = 20  # votes beside another's, below which nobody is called careless
MAX_ROUNDS, TOLERANCE = 500, 1e-8

Pair = tuple[Hashable, Hashable, Hashable]


@dataclass(frozen=True, slots=True)
class Trust:
    """One annotator. `accuracy`: how often they name the better answer, with its 95 % interval. `num_beside`: those of
    their `num_votes` where somebody else voted too, from which alone accuracy is learned; `num_ties` are not among
    them. `verdict`: "fine", "by chance" (the interval holds 1/2: a random clicker), "reversed" (all of it below 1/2:
    the keys are mixed up, or worse), or "unknown" with fewer than ENOUGH votes beside others."""

    accuracy: Estimate
    num_votes: int
    num_beside: int
    num_ties: int

    @property
    def verdict(self) -> str:
        if self.num_beside < ENOUGH:
            return "unknown"
        return "reversed" if self.accuracy.high < 0.5 else "by chance" if self.accuracy.low <= 0.5 else "fine"


@dataclass(frozen=True, slots=True)
class Reliability:
    """`labels`: (item, first, second), the lesser name first, to P(first is the better one | all votes)."""

    annotators: dict[str, Trust]
    labels: dict[Pair, float]

    def label(self, item: Hashable, first: Hashable, second: Hashable) -> float:
        """P(`first` better than `second`), whichever way round the pair is kept; KeyError where nobody did compare."""
        found = self.labels.get((item, first, second))
        return found if found is not None else 1 - self.labels[item, second, first]


def reliability(comparisons: Sequence[Comparison]) -> Reliability:
    """Accuracies and soft labels by expectation-maximisation under the prior.

    With votes v = +1 / -1 and log-odds l_j of accuracy, P(first better) = sigmoid(sum_j v_j l_j). The label of a pair
    is that, drawn towards 1/2 by the share of ties among its votes.
    """
    said = by_pair(comparisons)
    names = sorted({name for words in said.values() for name in words})
    column = {name: place for place, name in enumerate(names)}
    vote_UA = np.zeros((len(said), len(names)))
    ties = np.zeros(len(names), np.int64)
    for unit, words in enumerate(said.values()):
        for name, outcome in words.items():
            vote_UA[unit, column[name]] = 2 * outcome - 1
            ties[column[name]] += outcome == 0.5
    log_odds = _maximise(vote_UA)
    clusters = {item: place for place, item in enumerate(dict.fromkeys(item for item, _, _ in said))}
    error = _errors(vote_UA, log_odds, np.array([clusters[item] for item, _, _ in said], np.int64))
    beside = (vote_UA != 0) & ((vote_UA != 0).sum(axis=1, keepdims=True) > 1)
    annotators = {
        name: Trust(
            Estimate(*(sigmoid(float(log_odds[a] + side * error[a])) for side in (0.0, -Z95, Z95))),
            int((vote_UA[:, a] != 0).sum()),
            int(beside[:, a].sum()),
            int(ties[a]),
        )
        for name, a in column.items()
    }
    better = 0.5 * (1 + np.tanh(vote_UA @ log_odds / 2))
    order_share = [sum(outcome != 0.5 for outcome in words.values()) / len(words) for words in said.values()]
    labels = {pair: float(0.5 + o * (p - 0.5)) for pair, p, o in zip(said, better, order_share, strict=True)}
    return Reliability(annotators, labels)


def _maximise(vote_UA: NDArray[np.float64]) -> NDArray[np.float64]:
    """The log-odds [A] of the most probable accuracies. A vote may be a share between the two sides (a judge's
    probability): its size is how much of a vote it is."""
    size_UA = np.abs(vote_UA)
    num_votes = size_UA.sum(axis=0)
    right_UA = np.where(vote_UA > 0, size_UA, 0.0)
    log_odds = np.full(vote_UA.shape[1], math.log(PRIOR_RIGHT / PRIOR_WRONG))
    for _ in range(MAX_ROUNDS):
        better_U = 0.5 * (1 + np.tanh(vote_UA @ log_odds / 2))
        right = better_U @ right_UA + (1 - better_U) @ (size_UA - right_UA)
        # The mode in log-odds, so that no accuracy is 0 or 1.
        ahead = np.log((PRIOR_RIGHT + right) / (PRIOR_WRONG + num_votes - right))
        change = np.abs(ahead - log_odds).max(initial=0.0)
        log_odds = ahead
        if change < TOLERANCE:
            break
    found: NDArray[np.float64] = log_odds
    return found


def _errors(
    vote_UA: NDArray[np.float64], log_odds: NDArray[np.float64], cluster_U: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Standard errors [A] of the log-odds: from the curvature of the marginal likelihood, whose term for a pair is
    log cosh(s/2) - sum_j log 2 cosh(l_j/2) with s = sum_j v_j l_j; or by the spread over items, if that is larger."""
    size_UA = np.abs(vote_UA)
    accuracy = 0.5 * (1 + np.tanh(log_odds / 2))
    sure_U = np.tanh(vote_UA @ log_odds / 2)
    known = accuracy * (1 - accuracy)
    information = np.diag((PRIOR_RIGHT + PRIOR_WRONG + size_UA.sum(axis=0)) * known)
    information -= 0.25 * (vote_UA * (1 - sure_U**2)[:, None]).T @ vote_UA
    values, vectors = np.linalg.eigh(information)
    # At a saddle, as where two annotators alone always contradict each other, the doubt is the prior's at the least.
    floor = float((known * (PRIOR_RIGHT + PRIOR_WRONG)).min(initial=1.0))
    inverse = (vectors / np.maximum(values, 0.05 * floor)) @ vectors.T
    slope_UA = 0.5 * (sure_U[:, None] * vote_UA - size_UA * np.tanh(log_odds / 2))
    num_clusters = int(cluster_U.max(initial=-1)) + 1
    sums = np.zeros((num_clusters, vote_UA.shape[1]))
    np.add.at(sums, cluster_U, slope_UA)
    sandwich = inverse @ (sums.T @ sums) @ inverse * (num_clusters / max(num_clusters - 1, 1))
    found: NDArray[np.float64] = np.sqrt(np.maximum(np.diag(inverse), np.diag(sandwich)))
    return found
