"""Confidence intervals for exam and evaluation figures. Standard library only; below every other room."""

import math


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
