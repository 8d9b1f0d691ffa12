"""Whether a probability means what it says: binned curve, expected calibration error, fitted temperature; numpy only.

Shapes: M pairs. `margin_M` is score of chosen minus score of rejected, so the model's probability that chosen is the
better one is sigmoid(margin); `label_M` is the probability that people gave it (1 for a plain vote).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from posttrain.intervals import Estimate, clustered_share, student

NUM_DRAWS = 200


def sigmoid(x: np.ndarray) -> np.ndarray:
    """The logistic function, without overflow."""
    return np.exp(-np.logaddexp(0.0, -x))


def nll(margin_M: np.ndarray, label_M: np.ndarray, weight_M: np.ndarray) -> float:
    """Mean negative log-likelihood of the labels in nats a pair: log 2 for a coin."""
    loss_M = label_M * np.logaddexp(0.0, -margin_M) + (1 - label_M) * np.logaddexp(0.0, margin_M)
    return float(loss_M @ weight_M / weight_M.sum())


def calibration(
    margin_M: np.ndarray, label_M: np.ndarray, weight_M: np.ndarray, group_M: np.ndarray, num_bins: int
) -> dict[str, Any]:
    """`curve` (list of bins: predicted, observed, low, high, share of the pairs), `error`, `error_by_chance`, and
    what `fitted_temperature` gives.

    Every pair enters in both orders, so the curve is symmetric about (1/2, 1/2) and no habit of which answer is
    written first can bend it. `error` is the expected calibration error (Naeini et al., 2015; Guo et al., 2017,
    equation 3); `error_by_chance` is what a perfectly calibrated model would get from this number of plain votes.
    """
    p_M = sigmoid(margin_M)
    bin_M = np.minimum((p_M * num_bins).astype(int), num_bins - 1)
    # A pair and its mirror image must fall into mirrored bins; one in the middle belongs half to either side.
    p_E = np.concatenate([p_M, 1 - p_M])
    label_E = np.concatenate([label_M, 1 - label_M])
    bin_E = np.concatenate([bin_M, num_bins - 1 - bin_M])
    weight_E, group_E = np.concatenate([weight_M] * 2), np.concatenate([group_M] * 2)
    if num_bins % 2 == 0:
        middle = np.flatnonzero(p_E == 0.5)
        weight_E[middle] /= 2
        p_E, label_E = np.append(p_E, p_E[middle]), np.append(label_E, label_E[middle])
        bin_E = np.append(bin_E, num_bins - 1 - bin_E[middle])
        weight_E, group_E = np.append(weight_E, weight_E[middle]), np.append(group_E, group_E[middle])
    curve = []
    for index in range(num_bins):
        here = (bin_E == index) & (weight_E > 0)
        if not here.any():
            continue
        observed = clustered_share(label_E[here].tolist(), group_E[here].tolist(), weight_E[here].tolist())
        predicted = float(np.average(p_E[here], weights=weight_E[here]))
        curve.append(
            {"predicted": predicted, **_named(observed), "share": float(weight_E[here].sum() / weight_E.sum())}
        )
    rng = np.random.default_rng(0)
    votes = ((rng.random(len(p_M)) < p_M).astype(float) for _ in range(NUM_DRAWS))
    return {
        "curve": curve,
        "error": expected_error(p_M, label_M, weight_M, num_bins),
        "error_by_chance": float(np.mean([expected_error(p_M, vote_M, weight_M, num_bins) for vote_M in votes])),
        **fitted_temperature(margin_M, label_M, weight_M, group_M),
    }


def _named(observed: Estimate) -> dict[str, float]:
    return {"observed": observed.value, "low": observed.low, "high": observed.high}


def expected_error(p_M: np.ndarray, label_M: np.ndarray, weight_M: np.ndarray, num_bins: int) -> float:
    """Mean distance between predicted and observed over the bins, weighted by what is in them; both orders."""
    bin_M = np.minimum((p_M * num_bins).astype(int), num_bins - 1)
    # A pair at 1/2 cancels its own mirror image.
    gap_M = np.where(p_M == 0.5, 0.0, weight_M * (label_M - p_M))
    gap_B = np.bincount(bin_M, gap_M, num_bins) - np.bincount(num_bins - 1 - bin_M, gap_M, num_bins)
    return float(np.abs(gap_B).sum() / (2 * weight_M.sum()))


def fitted_temperature(
    margin_M: np.ndarray, label_M: np.ndarray, weight_M: np.ndarray, group_M: np.ndarray
) -> dict[str, Any]:
    """`temperature` (T that makes sigmoid(margin / T) most likely; above 1 the model is too sure), its `low` and
    `high` as `temperature_low` and `temperature_high`, and `nll_at_temperature`. None where no T exists.

    Source: Guo et al., 2017, On Calibration of Modern Neural Networks, section 4.2, with both orders of a pair.
    """
    fit = logistic(margin_M[:, None], label_M, weight_M, group_M)
    slope = None if fit is None else fit[0]
    found: dict[str, Any] = {"temperature": None, "temperature_low": None, "temperature_high": None}
    found["nll_at_temperature"] = None
    if slope is None or slope.value <= 0:
        return found
    found |= {"temperature": 1 / slope.value, "temperature_low": 1 / slope.high if slope.high > 0 else None}
    found["temperature_high"] = 1 / slope.low if slope.low > 0 else None
    found["nll_at_temperature"] = nll(slope.value * margin_M, label_M, weight_M)
    return found


def logistic(
    x_MK: np.ndarray, label_M: np.ndarray, weight_M: np.ndarray, group_M: np.ndarray
) -> Sequence[Estimate] | None:
    """Logistic regression through the origin, [M, K] -> K slopes with intervals that are robust to groups.

    Without an intercept the fit is the same whichever answer of a pair is named first. Newton's method with halved
    steps; sandwich variance over groups (Liang and Zeger, 1986). None where the slopes are not determined: labels
    that x separates, or an x without spread.
    """
    scale_K = np.sqrt(np.average(x_MK**2, axis=0, weights=weight_M))
    if (scale_K == 0).any():
        return None
    x_MK, slope_K = x_MK / scale_K, np.zeros(x_MK.shape[1])
    loss = nll(x_MK @ slope_K, label_M, weight_M)
    for _ in range(100):
        p_M = sigmoid(x_MK @ slope_K)
        gradient_K = x_MK.T @ (weight_M * (label_M - p_M))
        bend_KK = (x_MK * (weight_M * p_M * (1 - p_M))[:, None]).T @ x_MK
        if np.abs(slope_K).max() > 50 or np.linalg.cond(bend_KK) > 1e12:
            return None
        step_K = np.linalg.solve(bend_KK, gradient_K)
        while (new := nll(x_MK @ (slope_K + step_K), label_M, weight_M)) > loss + 1e-12 and np.abs(step_K).max() > 1e-9:
            step_K = step_K / 2
        slope_K, loss = slope_K + step_K, new
        if np.abs(step_K).max() < 1e-9:
            break
    inverse_KK = np.linalg.inv(bend_KK)
    _, number_M = np.unique(group_M, return_inverse=True)
    num = int(number_M.max()) + 1
    if num < 2:
        return None
    pull_MK = x_MK * (weight_M * (label_M - p_M))[:, None]
    pull_GK = np.stack([np.bincount(number_M, column, num) for column in pull_MK.T], axis=1)
    variance_KK = inverse_KK @ (pull_GK.T @ pull_GK) @ inverse_KK * num / (num - 1)
    half_K = student(num - 1) * np.sqrt(np.diag(variance_KK))
    return [
        Estimate(float(slope / scale), float((slope - half) / scale), float((slope + half) / scale))
        for slope, half, scale in zip(slope_K, half_K, scale_K, strict=True)
    ]
