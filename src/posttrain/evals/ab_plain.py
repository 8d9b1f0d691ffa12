"""The plain tests beside the always-valid ones, and whether the split gives each arm its share.

The plain ones are right when one looks once, at a number of users fixed beforehand; they stand beside the always-valid
bounds because people know them, never to stop by.
"""

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from posttrain.intervals import student, wilson

TILTS = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0)
"""How far the odds of an arm may be off, as a logarithm, that the always-valid check of the split looks for."""


class Plain(NamedTuple):
    """New less old: the difference of means, its 95 % interval and the two-sided p-value, for a single look."""

    value: float
    low: float
    high: float
    p_value: float


def welch(new: ArrayLike, old: ArrayLike) -> Plain:
    """Welch's test (1947, Biometrika 34) on users' means; nothing is known with fewer than two users in an arm."""
    sides = [np.asarray(side, np.float64) for side in (new, old)]
    value = float(sides[0].mean() - sides[1].mean()) if all(len(side) for side in sides) else math.nan
    if min(map(len, sides)) < 2:
        return Plain(value, -math.inf, math.inf, 1.0)
    parts = [float(side.var(ddof=1)) / len(side) for side in sides]
    variance = sum(parts)
    if variance <= 0:
        return Plain(value, value, value, float(value == 0))
    degrees = variance**2 / sum(part**2 / (len(side) - 1) for part, side in zip(parts, sides, strict=True))
    half = _student_at(degrees) * math.sqrt(variance)
    return Plain(value, value - half, value + half, student_tail(value / math.sqrt(variance), degrees))


def newcombe(num_new: int, of_new: int, num_old: int, of_old: int) -> tuple[float, float]:
    """The 95 % interval of a difference of two shares that joins two of Wilson's (Newcombe, 1998, Statistics in
    Medicine 17, method 10).

    >>> [round(end, 4) for end in newcombe(56, 70, 48, 80)]
    [0.0524, 0.3339]
    """
    if not of_new or not of_old:
        return -1.0, 1.0
    one, two = num_new / of_new, num_old / of_old
    (low_one, high_one), (low_two, high_two) = wilson(num_new, of_new), wilson(num_old, of_old)
    low = one - two - math.hypot(one - low_one, high_two - two)
    return low, one - two + math.hypot(high_one - one, two - low_two)


def plain_difference(new: ArrayLike, old: ArrayLike) -> Plain:
    """Welch's test; where every user's value is 0 or 1, with Newcombe's interval, which holds for shares near 0 and 1
    and few users."""
    found = welch(new, old)
    sides = [np.asarray(side, np.float64) for side in (new, old)]
    if all(len(side) and np.isin(side, (0.0, 1.0)).all() for side in sides):
        low, high = newcombe(int(sides[0].sum()), len(sides[0]), int(sides[1].sum()), len(sides[1]))
        found = found._replace(low=low, high=high)
    return found


def student_tail(statistic: float, degrees: float) -> float:
    """Two-sided p of Student's t, by Gauss-Legendre over the body; to about 1e-12, absolute.

    >>> round(student_tail(2.228139, 10), 6)
    0.05
    """
    end = min(abs(statistic), 60.0)
    norm = math.exp(math.lgamma((degrees + 1) / 2) - math.lgamma(degrees / 2)) / math.sqrt(degrees * math.pi)
    nodes, weights = np.polynomial.legendre.leggauss(40)
    body = 0.0
    for left, right in zip(pieces := np.linspace(0, end, 13), pieces[1:], strict=False):
        x = (right - left) / 2 * nodes + (right + left) / 2
        body += (right - left) / 2 * float(weights @ (1 + x * x / degrees) ** (-(degrees + 1) / 2))
    return float(min(max(1 - 2 * norm * body, 0.0), 1.0))


def _student_at(degrees: float) -> float:
    """The 97.5 % quantile at degrees of freedom that need not be whole."""
    low = max(math.floor(degrees), 1)
    if degrees <= 1:
        return student(1)
    return student(low) + (degrees - low) * (student(low + 1) - student(low))


def chi_square_tail(statistic: float, degrees: int) -> float:
    """P of a chi-square of whole `degrees` above `statistic` (recursion of the incomplete gamma function: Abramowitz
    and Stegun, 6.5.22).

    >>> round(chi_square_tail(3.841459, 1), 6), round(chi_square_tail(7.814728, 3), 6)
    (0.05, 0.05)
    """
    half = max(statistic, 0.0) / 2
    a = 0.5 if degrees % 2 else 1.0
    tail = math.erfc(math.sqrt(half)) if degrees % 2 else math.exp(-half)
    while a < degrees / 2:
        tail += math.exp(a * math.log(half) - half - math.lgamma(a + 1)) if half > 0 else 0.0
        a += 1
    return min(tail, 1.0)


class Mismatch(NamedTuple):
    """Users by arm, how many were expected, and the p-values of as uneven a split: for one look with many users, and
    for all looks together with any number of them."""

    users: tuple[int, ...]
    expected: tuple[float, ...]
    p_value: float
    always_p_value: float


def sample_ratio(counts: Sequence[int], chances: ArrayLike) -> Mismatch:
    """Whether the arms got the users that their chances [users, arms] (or [arms], the same for all) foretell.

    Pearson's chi-square where the chances are the same for all users; where they change, the same form with the
    covariance of the sum of draws (martingale central limit theorem). With few users expected in an arm it sees
    mismatches that are none, and more of them at every look; the always-valid p-value does not.
    """
    observed = np.asarray(counts, np.float64)
    total = int(observed.sum())
    chances = np.asarray(chances, np.float64)
    if not total:
        return Mismatch(tuple(counts), tuple([0.0] * len(counts)), 1.0, 1.0)
    share, twice = (chances * total, np.outer(chances, chances) * total) if chances.ndim == 1 else _summed(chances)
    covariance = (np.diag(share) - twice)[:-1, :-1]
    off = (observed - share)[:-1]
    statistic = float(off @ np.linalg.pinv(covariance) @ off)
    plain, always = chi_square_tail(statistic, len(observed) - 1), _always_ratio(observed, chances)
    return Mismatch(tuple(counts), tuple(share.tolist()), plain, always)


def _always_ratio(observed: NDArray[np.float64], chances: NDArray[np.float64]) -> float:
    """One over the capital of those who bet that an arm's odds are others than the chances say, equal parts of it on
    every arm and tilt: the product of likelihood ratios is a martingale where the chances are right, whatever rule has
    set them (Ville; after Lindon and Malek, 2022, *Anytime-valid inference for multinomial count data*)."""
    tilts = np.array([sign * tilt for tilt in TILTS for sign in (1, -1)])
    each = chances if chances.ndim == 2 else chances[None]
    grown = np.stack([np.log1p(each * math.expm1(tilt)).sum(0) for tilt in tilts])
    logs = tilts[:, None] * observed - grown * (1.0 if chances.ndim == 2 else observed.sum())
    most = float(logs.max())
    return min(math.exp(-max(most + math.log(np.exp(logs - most).mean()), 0.0)), 1.0)


def _summed(chances: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    return chances.sum(0), chances.T @ chances


def msprt_p_values(difference: ArrayLike, variance: ArrayLike, effect: float) -> NDArray[np.float64]:
    """Always-valid p-values [..., looks] of the mixture sequential probability ratio test with a normal mixture of
    differences of spread `effect` (Johari, Pekelis and Walsh, 2017). `difference`, `variance` [..., looks]: of the
    means, at each look. It takes the means for normal: with few users, or shares near 0 and 1, that is untrue, and for
    chances that change it does not hold."""
    d, v = np.asarray(difference, np.float64), np.asarray(variance, np.float64)
    wide = v + effect**2
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        log_ratio = 0.5 * np.log(v / wide) + effect**2 * d * d / (2 * v * wide)
    log_ratio = np.where(np.isfinite(log_ratio), log_ratio, 0.0)
    found: NDArray[np.float64] = np.minimum(np.exp(-np.maximum(np.maximum.accumulate(log_ratio, axis=-1), 0.0)), 1.0)
    return found


def z_of(chance: float) -> float:
    """The normal quantile."""
    return NormalDist().inv_cdf(chance)
