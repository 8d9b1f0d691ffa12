"""How far length decides: what the model's choice owes to it, and what a rule that sees nothing else would get.

Shapes: M pairs. `ratio_M` is log(length of chosen) - log(length of rejected).
"""

from typing import Any

import numpy as np

from posttrain.evals.calibration import logistic
from posttrain.intervals import Estimate, clustered_mean, clustered_share, student


def log_ratio(length_chosen_M: np.ndarray, length_rejected_M: np.ndarray) -> np.ndarray:
    """Log of the lengths' ratio; an empty answer counts as one token long."""
    return np.log(np.maximum(length_chosen_M, 1.0)) - np.log(np.maximum(length_rejected_M, 1.0))


def length_slope(
    margin_M: np.ndarray, ratio_M: np.ndarray, label_M: np.ndarray, weight_M: np.ndarray, group_M: np.ndarray
) -> dict[str, Any]:
    """`slope` of the model's choice on the log-length difference, `people_slope` of the labels on it, `slope_beyond`
    (the model's, where what people preferred is in the regression too), each as value, low and high or None; and
    `prefers_longer`, `people_prefer_longer`: the shares of pairs of unequal length in which the longer answer wins.

    A slope b says: an answer twice as long as the other is taken with probability sigmoid(b log 2).
    """
    choice_M = (1 + np.sign(margin_M)) / 2
    uneven = (ratio_M != 0) & (weight_M > 0)
    both_M2 = np.stack([ratio_M, 2 * label_M - 1], axis=1)
    found = {
        "slope": _first(logistic(ratio_M[:, None], choice_M, weight_M, group_M)),
        "people_slope": _first(logistic(ratio_M[:, None], label_M, weight_M, group_M)),
        "slope_beyond": _first(logistic(both_M2, choice_M, weight_M, group_M)),
        "prefers_longer": None,
        "people_prefer_longer": None,
        "difference": None,
    }
    if uneven.any():
        longer_M, parts = ratio_M[uneven] > 0, (group_M[uneven].tolist(), weight_M[uneven].tolist())
        model_M = np.where(longer_M, choice_M[uneven], 1 - choice_M[uneven])
        people_M = np.where(longer_M, label_M[uneven], 1 - label_M[uneven])
        found["prefers_longer"] = named(clustered_share(model_M.tolist(), *parts))
        found["people_prefer_longer"] = named(clustered_share(people_M.tolist(), *parts))
        found["difference"] = named(clustered_mean((model_M - people_M).tolist(), *parts))
    return found


def named(estimate: Estimate) -> dict[str, float | None]:
    """An estimate for JSON, which knows no infinite end."""
    return {key: value if np.isfinite(value) else None for key, value in estimate._asdict().items()}


def _first(fit: Any) -> dict[str, float | None] | None:
    return None if fit is None else named(fit[0])


def correlation_inside(score_A: np.ndarray, length_A: np.ndarray, group_A: np.ndarray) -> dict[str, Any] | None:
    """Correlation of score and log-length among the answers A of the same prompt, pooled: value, low, high.

    Both are centred inside their prompt first, so that prompts which ask for long answers do not count as bias. The
    interval is over prompts: linearised variance on Fisher's scale. None where nothing varies.
    """
    _, number_A = np.unique(group_A, return_inverse=True)
    num, size_G = int(number_A.max()) + 1, np.bincount(number_A)

    def centred(x_A: np.ndarray) -> np.ndarray:
        return x_A - (np.bincount(number_A, x_A) / size_G)[number_A]

    x_A, y_A = centred(np.log(np.maximum(length_A, 1.0))), centred(score_A)
    xy_G, xx_G, yy_G = (np.bincount(number_A, part, num) for part in (x_A * y_A, x_A**2, y_A**2))
    xx, yy = xx_G.sum(), yy_G.sum()
    if num < 3 or xx < 1e-12 or yy < 1e-12:
        return None
    value = float(np.clip(xy_G.sum() / np.sqrt(xx * yy), -1 + 1e-12, 1 - 1e-12))
    pull_G = xy_G / np.sqrt(xx * yy) - value / 2 * (xx_G / xx + yy_G / yy)
    error = np.sqrt((pull_G**2).sum() * num / (num - 1)) / (1 - value**2)
    middle, half = np.arctanh(value), student(num - 1) * error
    return named(Estimate(value, float(np.tanh(middle - half)), float(np.tanh(middle + half))))


def fit_threshold(ratio_M: np.ndarray, label_M: np.ndarray, weight_M: np.ndarray) -> tuple[float, bool]:
    """The best rule that sees lengths alone: (threshold, longer_above).

    It takes the longer answer where |ratio| >= threshold and the shorter one below it, or the other way round. "Longer
    wins" is the rule (0, True), "shorter wins" (0, False). Ties of the fit go to the lower threshold.
    """
    size_M = np.abs(ratio_M)
    # What taking the longer answer gains over a coin, in each pair.
    gain_M = np.where(ratio_M == 0, 0.0, np.sign(ratio_M) * (2 * label_M - 1)) * weight_M
    level_U, place_M = np.unique(size_M, return_inverse=True)
    gain_U = np.bincount(place_M, gain_M, len(level_U))
    below_U = np.concatenate([[0.0], np.cumsum(gain_U)])
    # Threshold at level u: the longer above it, the shorter below; one past the last level means always the shorter.
    longer_U = (gain_U.sum() - 2 * below_U).round(9)
    best, worst = int(np.argmax(longer_U)), int(np.argmin(longer_U))
    above = longer_U[best] >= -longer_U[worst]
    place = best if above else worst
    if place == len(level_U):  # never reached: the same as the opposite rule from the start
        return 0.0, not above
    # Half-way to the level below, so that a pair at the edge is decided as in the fit; 0 where nothing lies below.
    lower = level_U[place - 1] if place else 0.0
    return (float((lower + level_U[place]) / 2) if place else 0.0), bool(above)


def rule_credit(ratio_M: np.ndarray, label_M: np.ndarray, threshold: float, longer_above: bool) -> np.ndarray:
    """Probability that a voter agrees with the rule, per pair; half where both answers are equally long."""
    side_M = np.sign(ratio_M) * np.where(np.abs(ratio_M) >= threshold, 1, -1) * (1 if longer_above else -1)
    return credit(side_M, label_M)


def credit(margin_M: np.ndarray, label_M: np.ndarray) -> np.ndarray:
    """Probability that a voter agrees with a choice by the sign of `margin_M`; a tie gets half."""
    return 0.5 + np.sign(margin_M) * (label_M - 0.5)
