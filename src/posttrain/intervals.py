"""Confidence intervals for exam and evaluation figures. Standard library only; below every other room."""

import math
import random
from collections.abc import Sequence


def wilson(num_right: int, num_asked: int, z: float = 1.959964) -> tuple[float, float]:
    """Wilson score interval of a proportion (Wilson, 1927), 95 % by default.

    >>> low, high = wilson(8, 10)
    >>> round(low, 3), round(high, 3)
    (0.49, 0.943)
    """
    if num_asked <= 0:
        raise ValueError("an interval needs at least one observation")
    share = num_right / num_asked
    scale = 1 + z * z / num_asked
    centre = (share + z * z / (2 * num_asked)) / scale
    half = z * math.sqrt(share * (1 - share) / num_asked + z * z / (4 * num_asked**2)) / scale
    return max(0.0, centre - half), min(1.0, centre + half)


def bootstrap_mean(values: Sequence[float], *, seed: int = 0, num_resamples: int = 2000) -> tuple[float, float]:
    """Percentile bootstrap interval (95 %) of a mean (Efron, 1979); the same seed gives the same interval."""
    if not values:
        raise ValueError("an interval needs at least one observation")
    rng = random.Random(seed)
    means = sorted(sum(rng.choices(values, k=len(values))) / len(values) for _ in range(num_resamples))
    return means[int(0.025 * num_resamples)], means[min(num_resamples - 1, int(0.975 * num_resamples))]
