"""How far annotators agree: pair by pair, and beyond chance by Krippendorff's alpha, with intervals.

Intervals are percentiles of a bootstrap over items, since the comparisons of one item stand or fall together. With
fewer than ENOUGH_ITEMS items, or where they are all alike, a bootstrap would be too sure: agreement has Wilson's
interval by item instead, alpha none.
"""

import math
from collections import defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from posttrain.feedback.comparisons import Comparison, facing
from posttrain.intervals import clustered_share

LEVELS = ("nominal", "ordinal", "interval")
NUM_RESAMPLES = 1000
ENOUGH_ITEMS = 10


@dataclass(frozen=True, slots=True)
class Agreement:
    """A figure with its 95 % interval. `value` is NaN where nothing was judged twice (or, for alpha, where all values
    are the same, so that chance alone would agree); `low` and `high` are NaN where the doubt is unknown. `num_pairs`:
    pairs of words held against each other."""

    value: float
    low: float
    high: float
    num_pairs: int
    num_items: int


UNKNOWN = Agreement(float("nan"), float("nan"), float("nan"), 0, 0)


def by_pair(comparisons: Sequence[Comparison]) -> dict[tuple[Hashable, Hashable, Hashable], dict[str, float]]:
    """(item, first, second), the lesser name first, to each annotator's outcome, the last where there are several."""
    found: dict[tuple[Hashable, Hashable, Hashable], dict[str, float]] = defaultdict(dict)
    for comparison in map(facing, comparisons):
        key = (comparison.item, comparison.first, comparison.second)
        found[key][comparison.annotator] = comparison.outcome
    return found


def pairwise_agreement(
    comparisons: Sequence[Comparison], *, ties: str = "half", num_resamples: int = NUM_RESAMPLES, seed: int = 0
) -> Agreement:
    """The share of pairs of annotators that say the same of the same two answers.

    `ties="half"`: a tie agrees by half with an order, wholly with a tie. "leave_out": only two orders are held against
    each other, as where annotators cannot tie.
    """
    if ties not in ("half", "leave_out"):
        raise ValueError(f"ties is {ties!r}, expected half or leave_out")
    found: dict[Hashable, list[float]] = defaultdict(list)
    for (item, _, _), said in by_pair(comparisons).items():
        for one, other in combinations(said.values(), 2):
            if ties == "half" or 0.5 not in (one, other):
                found[item].append(1 - abs(one - other))
    if not found:
        return UNKNOWN
    table = np.array([(sum(agreed), len(agreed)) for agreed in found.values()])
    agreed, asked = table.sum(axis=0)
    rng = np.random.default_rng(seed)
    resampled = rng.multinomial(len(table), np.full(len(table), 1 / len(table)), num_resamples) @ table
    low, high = np.percentile(resampled[:, 0] / resampled[:, 1], [2.5, 97.5])
    if _too_sure(len(table), low, high):
        owners = [item for item, values in found.items() for _ in values]
        _, low, high = clustered_share([value for values in found.values() for value in values], owners)
    return Agreement(float(agreed / asked), float(low), float(high), int(asked), len(table))


def _too_sure(num_items: int, low: float, high: float) -> bool:
    """Whether a bootstrap over so few, or so equal, items says nothing of the doubt."""
    return num_items < ENOUGH_ITEMS or high - low < 1e-12


def krippendorff_alpha(
    values_AU: ArrayLike,
    level: str = "nominal",
    *,
    items: Sequence[Hashable] | None = None,
    symmetric: bool = False,
    num_resamples: int = NUM_RESAMPLES,
    seed: int = 0,
) -> Agreement:
    """Krippendorff (2011, *Computing Krippendorff's alpha-reliability*): 1 - observed / expected disagreement.

    `values_AU` [annotators, units], NaN where somebody gave no value. `level`: what a difference of two values means:
    "nominal" (0 or 1), "ordinal" (how many values lie between), "interval" (its square). `items`: the item of each
    unit, resampled together. `symmetric`: a unit's values mean the same seen from the other side (mirrored), as in
    comparisons, whose sides are in no order.
    """
    if level not in LEVELS:
        raise ValueError(f"level is {level!r}, expected one of {', '.join(LEVELS)}")
    table = np.atleast_2d(np.asarray(values_AU, np.float64))
    present = ~np.isnan(table)
    units = np.flatnonzero(present.sum(axis=0) > 1)  # a value without another beside it pairs with nothing
    if not len(units):
        return UNKNOWN
    owners = [items[u] if items else u for u in units.tolist()]
    cluster_of = {item: place for place, item in enumerate(dict.fromkeys(owners))}
    clusters = np.array([cluster_of[item] for item in owners])
    scale = np.unique(table[:, units][present[:, units]])
    if symmetric:
        scale = np.union1d(scale, scale[0] + scale[-1] - scale)
    code = np.searchsorted(scale, np.where(present, table, scale[0]))
    entries = _coincidences(code, present, units, len(scale), symmetric)
    unit, cell, weight = (np.concatenate([entry[part] for entry in entries]) for part in range(3))
    cluster = clusters[unit.astype(np.int64)]

    def alpha(share: NDArray[np.float64]) -> float:
        size = len(scale)
        matrix = np.bincount(cell, weight * share[cluster], size**2).astype(np.float64)
        return _alpha(matrix.reshape(size, size), scale, level)

    num_clusters = int(clusters.max()) + 1
    rng = np.random.default_rng(seed)
    resamples = rng.multinomial(num_clusters, np.full(num_clusters, 1 / num_clusters), num_resamples)
    spread = np.array([alpha(share) for share in resamples.astype(np.float64)])
    spread = spread[~np.isnan(spread)]
    low, high = np.percentile(spread, [2.5, 97.5]) if len(spread) else (math.nan, math.nan)
    if _too_sure(num_clusters, low, high):
        low = high = math.nan
    counts = present[:, units].sum(axis=0)
    value = alpha(np.ones(num_clusters))
    return Agreement(value, float(low), float(high), int((counts * (counts - 1) // 2).sum()), num_clusters)


def _coincidences(
    code: NDArray[np.int64], present: NDArray[np.bool_], units: NDArray[np.int64], size: int, symmetric: bool
) -> list[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]]:
    """Triples (place in `units`, cell of the coincidence matrix, weight): every ordered pair of two annotators' values
    of a unit weighs 1 / (values of the unit - 1)."""
    found = []
    counts = present[:, units].sum(axis=0)
    for a in range(len(code)):
        for b in range(len(code)):
            place = np.flatnonzero(present[a, units] & present[b, units]) if a != b else np.array([], np.int64)
            if not len(place):
                continue
            one, other = code[a, units[place]], code[b, units[place]]
            weight = 1 / (counts[place] - 1)
            if symmetric:
                found.append((place, (size - 1 - one) * size + size - 1 - other, weight / 2))
                weight = weight / 2
            found.append((place, one * size + other, weight))
    return found


def _alpha(coincidences: NDArray[np.float64], scale: NDArray[np.float64], level: str) -> float:
    """From the coincidence matrix [V, V]; NaN where only one value occurs."""
    count = coincidences.sum(axis=1)
    total = count.sum()
    expected = np.outer(count, count)
    if level == "nominal":
        distance = 1 - np.eye(len(scale))
    elif level == "interval":
        distance = (scale[:, None] - scale) ** 2
    else:
        middle = np.cumsum(count) - count / 2
        distance = (middle[:, None] - middle) ** 2
    chance = float((expected * distance).sum())
    return 1 - float((coincidences * distance).sum()) * float(total - 1) / chance if chance > 0 else float("nan")


def comparison_alpha(
    comparisons: Sequence[Comparison], *, num_resamples: int = NUM_RESAMPLES, seed: int = 0
) -> Agreement:
    """Krippendorff's alpha of comparisons, a tie half-way between the two orders (interval level): 0 is chance, 1 full
    agreement; without ties about 2 * pairwise agreement - 1."""
    said = by_pair(comparisons)
    names = {name: row for row, name in enumerate(sorted({name for words in said.values() for name in words}))}
    table = np.full((max(len(names), 1), len(said)), np.nan)
    for unit, words in enumerate(said.values()):
        for name, outcome in words.items():
            table[names[name], unit] = outcome
    items = [item for item, _, _ in said]
    return krippendorff_alpha(table, "interval", items=items, symmetric=True, num_resamples=num_resamples, seed=seed)
