"""When to stop asking: bounds that hold however often one looks.

A gambler bets before each vote on which model will win it. Were the win rate m, and the odds fair for it, the expected
capital would stay at 1, so it ever reaches 1 / alpha with probability at most alpha (Ville's inequality). The win rates
that the capital has not refuted are a confidence sequence (Waudby-Smith and Ramdas, 2024, *Estimating means of bounded
random variables by betting*). The bets here are a fixed mixture, so that only the counts matter, not the order.
"""

import math
from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike, NDArray

from posttrain.feedback.comparisons import Comparison, facing, order_of

ALPHA = 0.05
STAKES = np.array([0.01, 0.02, 0.04, 0.08, 0.15, 0.25, 0.4, 0.6, 0.85, 0.98])
"""Shares of the capital at risk on either side, as parts of the most that cannot be lost for good; equal parts of the
gambler's money follow each."""
GRID = np.linspace(0.0005, 0.9995, 1000)
MAX_MORE = 1_000_000


@dataclass(frozen=True, slots=True)
class Decision:
    """Two models and what is settled. `win_rate` of `first` (a tie counts half) with bounds that hold at all times and
    for all pairs together. `settled`: "better", "worse", "equal" (within the margin of indifference) or "open".
    `num_more`: about how many more items it takes if the rate stays what it is; 0 when settled, None if out of reach.
    """

    first: Hashable
    second: Hashable
    win_rate: float
    low: float
    high: float
    num_items: int
    settled: str
    num_more: int | None


@dataclass(frozen=True, slots=True)
class Stopping:
    """`may_stop`: every neighbouring pair of the order is settled. `num_more`: items until then, about."""

    may_stop: bool
    decisions: tuple[Decision, ...]
    num_more: int | None


def log_capital(values: ArrayLike, counts: ArrayLike, mean: float | NDArray[np.float64]) -> NDArray[np.float64]:
    """Log of the gambler's capital against each hypothesis `mean` [...] after votes `values` [C] in [0, 1], each seen
    `counts` [C] times. Exact for any number of votes, in any order."""
    values, counts = np.asarray(values, np.float64), np.asarray(counts, np.float64)
    mean = np.asarray(mean, np.float64)[..., None]
    bets = np.concatenate([STAKES / mean, -STAKES / (1 - mean)], axis=-1)  # [..., bets]: none can bring ruin
    growth = np.log1p(bets[..., None] * (values - mean[..., None])) @ counts
    found: NDArray[np.float64] = np.logaddexp.reduce(growth, axis=-1) - math.log(growth.shape[-1])
    return found


def win_rate_bounds(values: ArrayLike, counts: ArrayLike | None = None, alpha: float = ALPHA) -> tuple[float, float]:
    """Bounds of the mean of votes in [0, 1] that are wrong at any time, ever, with probability at most `alpha`."""
    values = np.asarray(values, np.float64)
    counts = np.ones(len(values)) if counts is None else np.asarray(counts, np.float64)
    if not counts.sum():
        return 0.0, 1.0
    inside = GRID[log_capital(values, counts, GRID) < math.log(1 / alpha)]
    step = GRID[1] - GRID[0]
    if not len(inside):  # so many votes that the bounds lie between two points of the grid
        centre = float(values @ counts / counts.sum())
        return max(centre - step, 0.0), min(centre + step, 1.0)
    return max(float(inside[0] - step), 0.0), min(float(inside[-1] + step), 1.0)


def votes_between(
    comparisons: Sequence[Comparison], *, per_item: Mapping[Hashable, int] | int = 1
) -> dict[tuple[Hashable, Hashable], list[float]]:
    """(first, second), the lesser name first, to one figure in [0, 1] for each item: the mean of its first `per_item`
    annotators' words, once it has as many. A word is the mean outcome of the annotator's first ballot on the item that
    compares the two: a ballot with two answers of each model compares them four times.

    Votes on one item depend on each other, so an item bets once. When it does must not depend on what the votes say,
    so that the number needed is fixed beforehand; and no later ballot changes a bet.
    """
    found: dict[tuple[Hashable, Hashable], list[float]] = {}
    for (item, first, second), words in _first_words(comparisons).items():
        needed = per_item if isinstance(per_item, int) else per_item.get(item, 1)
        if len(words) >= needed:
            found.setdefault((first, second), []).append(sum(words[:needed]) / needed)
    return found


def _first_words(comparisons: Sequence[Comparison]) -> dict[tuple[Hashable, Hashable, Hashable], list[float]]:
    """(item, first, second) to each annotator's mean outcome in their first ballot on it, in order of arrival."""
    said: dict[tuple[Hashable, Hashable, Hashable], dict[str, tuple[Hashable, list[float]]]] = defaultdict(dict)
    for one in map(facing, comparisons):
        ballot, outcomes = said[one.item, one.first, one.second].setdefault(one.annotator, (one.ballot, []))
        if ballot == one.ballot:
            outcomes.append(one.outcome)
    return {key: [sum(outcomes) / len(outcomes) for _, outcomes in words.values()] for key, words in said.items()}


def stopping(
    comparisons: Sequence[Comparison],
    order: Sequence[Hashable],
    *,
    per_item: Mapping[Hashable, int] | int = 1,
    top: int | None = None,
    indifference: float = 0.05,
    alpha: float = ALPHA,
) -> Stopping:
    """Whether the order of models may be called settled: its neighbours among the `top` (all when None).

    `order` is what the same votes say, so any pair may turn out a neighbour: alpha is shared among all pairs. Two
    models are "equal" when the bounds lie within 1/2 +- `indifference`.
    """
    votes = votes_between(comparisons, per_item=per_item)
    share = alpha / max(math.comb(len(order), 2), 1)
    line = list(order)[:top]
    decisions = tuple(_decide(a, b, votes, share, indifference) for a, b in pairwise(line))
    more = [decision.num_more for decision in decisions]
    known = [number for number in more if number is not None]
    may_stop = bool(decisions) and all(decision.settled != "open" for decision in decisions)
    return Stopping(may_stop, decisions, sum(known) if len(known) == len(more) else None)


def _decide(
    first: Hashable,
    second: Hashable,
    votes: Mapping[tuple[Hashable, Hashable], Sequence[float]],
    alpha: float,
    indifference: float,
) -> Decision:
    turn = order_of(second) < order_of(first)  # type: ignore[operator]
    cast = np.array(votes.get((second, first) if turn else (first, second), ()))
    values, times = np.unique(1 - cast if turn else cast, return_counts=True)
    counts = times.astype(np.float64)
    low, high = win_rate_bounds(values, counts, alpha)
    settled = _settled(values, counts, alpha, indifference)
    rate = float(values @ counts / len(cast)) if len(cast) else float("nan")
    num_more = 0 if settled != "open" else _num_more(values, counts, alpha, indifference)
    return Decision(first, second, rate, low, high, len(cast), settled, num_more)


def _settled(values: NDArray[np.float64], counts: NDArray[np.float64], alpha: float, indifference: float) -> str:
    """What the bounds say; each bound asked where it matters, not on a grid."""
    if not counts.sum():
        return "open"
    asked = np.array([0.5, max(0.5 - indifference, 1e-6), min(0.5 + indifference, 1 - 1e-6)])
    half, below, above = log_capital(values, counts, asked) >= math.log(1 / alpha)
    rate = values @ counts / counts.sum()
    if half:
        return "better" if rate > 0.5 else "worse"
    return "equal" if indifference and below and above and abs(rate - 0.5) < indifference else "open"


def _num_more(
    values: NDArray[np.float64], counts: NDArray[np.float64], alpha: float, indifference: float
) -> int | None:
    """Items until the pair is settled if every value keeps its share, by bisection."""
    num = float(counts.sum())
    if not num or _settled(values, counts * (MAX_MORE / num), alpha, indifference) == "open":
        return None
    low, high = 1.0, MAX_MORE / num
    while (high - low) * num > 0.5:
        middle = math.sqrt(low * high)
        low, high = (
            (middle, high) if _settled(values, counts * middle, alpha, indifference) == "open" else (low, middle)
        )
    return math.ceil(num * (high - 1))
