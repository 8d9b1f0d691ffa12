"""Confidence intervals for exam and evaluation figures. Standard library only; below every other room."""

import math
from collections.abc import Hashable, Iterable, Sequence
from typing import NamedTuple


def wilson(num_right: int, num_asked: int, z: float = 1.959964) -> tuple[float, float]:
    """Wilson score interval of a proportion (Wilson, 1927), 95 % by default.

    >>> low, high = wilson(8, 10)
    >>> round(low, 3), round(high, 3)
    (0.49, 0.943)
    """
    if num_asked <= 0:
        raise ValueError("an interval needs at least one observation")
    return _wilson(num_right / num_asked, num_asked, z)


class Estimate(NamedTuple):
    """A figure and the two ends of its 95 % interval."""

    value: float
    low: float
    high: float


def clustered_mean(
    values: Sequence[float], groups: Iterable[Hashable] | None = None, weights: Sequence[float] | None = None
) -> Estimate:
    """Weighted mean of values that come in groups (pairs of one prompt), with an interval that knows the groups.

    Values of one group may lean alike, so the spread is taken over the groups' sums (linearised ratio estimator:
    Cochran, 1977, Sampling Techniques, chapter 6) and the interval is Student's with one degree of freedom fewer than
    there are groups. With a single group nothing is known of the spread and the interval has no ends. ValueError
    without a value or with no weight at all.

    >>> [round(part, 3) for part in clustered_mean([1, 2, 3, 4, 5])]
    [3.0, 1.037, 4.963]
    """
    mean, variance, num_groups = _spread(values, groups, weights)
    if num_groups < 2:
        return Estimate(mean, -math.inf, math.inf)
    half = student(num_groups - 1) * math.sqrt(variance)
    return Estimate(mean, mean - half, mean + half)


def clustered_share(
    values: Sequence[float], groups: Iterable[Hashable] | None = None, weights: Sequence[float] | None = None
) -> Estimate:
    """As clustered_mean, for values in [0, 1] (right, wrong, half for a tie): the interval never leaves [0, 1].

    Wilson's interval at the effective number of observations, which is what the groups and weights leave of them
    (Korn and Graubard, 1998, Survey Methodology 24, section 3, with Wilson's interval in place of Clopper's).
    Where all values are equal, every group counts as one observation.

    >>> [round(part, 3) for part in clustered_share([1] * 8 + [0] * 2, [0, 0, 1, 1, 2, 2, 3, 3, 4, 4])]
    [0.8, 0.223, 0.982]
    """
    mean, variance, num_groups = _spread(values, groups, weights)
    mean = min(max(mean, 0.0), 1.0)
    if num_groups < 2:
        return Estimate(mean, *_wilson(mean, 1.0))
    weights = [1.0] * len(values) if weights is None else weights
    most = sum(weights) ** 2 / sum(weight * weight for weight in weights)
    size = min(mean * (1 - mean) / variance, most) if variance > 1e-15 else float(min(num_groups, most))
    return Estimate(mean, *_wilson(mean, size, student(num_groups - 1)))


def student(degrees: int, z: float = 1.959964) -> float:
    """The t that belongs to a normal quantile `z` (expansion: Abramowitz and Stegun, 26.7.5); exact for 1 and 2.

    >>> [round(student(degrees), 2) for degrees in (1, 2, 5, 30, 100000)]
    [12.71, 4.3, 2.57, 2.04, 1.96]
    """
    chance = math.erf(z / math.sqrt(2))
    if degrees <= 1:
        return math.tan(math.pi * chance / 2)
    if degrees == 2:
        return chance * math.sqrt(2 / (1 - chance * chance))
    first = (z**3 + z) / 4
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    fourth = (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160
    return z + first / degrees + second / degrees**2 + third / degrees**3 + fourth / degrees**4


def _spread(
    values: Sequence[float], groups: Iterable[Hashable] | None, weights: Sequence[float] | None
) -> tuple[float, float, int]:
    """Mean, variance of the mean, number of groups that carry weight."""
    values = [float(value) for value in values]
    weights = [1.0] * len(values) if weights is None else [float(weight) for weight in weights]
    total = sum(weights)
    if not values or total <= 0:
        raise ValueError("an interval needs at least one observation")
    mean = sum(weight * value for weight, value in zip(weights, values, strict=True)) / total
    sums: dict[Hashable, float] = {}
    for group, weight, value in zip(range(len(values)) if groups is None else groups, weights, values, strict=True):
        if weight > 0:
            sums[group] = sums.get(group, 0.0) + weight * (value - mean)
    num = len(sums)
    variance = sum(part * part for part in sums.values()) / total**2 * num / (num - 1) if num > 1 else math.inf
    return mean, variance, num


def _wilson(share: float, size: float, z: float = 1.959964) -> tuple[float, float]:
    """Wilson's interval where the number of observations need not be whole."""
    scale = 1 + z * z / size
    centre = (share + z * z / (2 * size)) / scale
    half = z * math.sqrt(share * (1 - share) / size + z * z / (4 * size**2)) / scale
    # The end beside a share of none or all is that share itself, whatever the rounding says.
    return max(0.0, centre - half) if share > 0 else 0.0, min(1.0, centre + half) if share < 1 else 1.0
