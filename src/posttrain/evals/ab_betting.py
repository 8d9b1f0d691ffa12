"""Always-valid bounds of a difference between two arms, by betting.

Each user i is given the new arm with a chance p_i that is known when the user is drawn. Of the user's value Y_i in
[0, 1] and any centre c_i known before, the score

    Z_i = (Y_i - c_i) (1[new] / p_i - 1[old] / (1 - p_i))

has the difference of the arms' means as its expectation given all that came before, whatever rule has set p_i: a fixed
split or Thompson sampling (the augmented inverse propensity score with one centre for both arms; Waudby-Smith, Wu,
Ramdas, Karampatziakis and Mineiro, 2022, *Anytime-valid off-policy inference for contextual bandits*, section 2).

A gambler bets a part l_i of the capital on it: were the difference d, the capital

    K(d) = prod_i (1 + l_i (Z_i - d))

would be a martingale, which ever reaches 1 / alpha with probability at most alpha (Ville's inequality). The differences
that it has not refuted are a confidence sequence (Waudby-Smith and Ramdas, 2024, *Estimating means of bounded random
variables by betting*, section 4). It is valid at every look, for every sample size, with no normal approximation. The
bets here are those that win most were the difference e (l_i = e / variance of Z_i, as far as it is known before user
i), capped so that no d in [-1, 1] can bring ruin; equal parts of the capital follow each e of `effects`, in either
direction, and each direction has half of alpha.

Arrays are [..., T]: T users in the order of their votes, anything before it (the trials of a simulation).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

ALPHA = 0.05
MOST = 0.95
"""The part of the capital that may be lost on one user."""
MOST_STEPS = 60
PRIOR = 4.0
"""Users that the first guess (mean 1/2, variance 1/4) counts for."""

Floats = NDArray[np.float64]


def effects_for(mde: float) -> tuple[float, ...]:
    """The differences that the gambler counts on, around the least one that matters."""
    return (mde / 2, mde, 2 * mde, 4 * mde)


@dataclass(frozen=True, slots=True)
class Scores:
    """What is bet on. `value` [..., T]: Z; `precision` [..., T]: one over its variance, as foreseen; `most_up`,
    `most_down` [..., T]: the largest bets on a greater and on a lesser mean; `reach`: no mean is further from 0."""

    value: Floats
    precision: Floats
    most_up: Floats
    most_down: Floats
    reach: float = 1.0

    def first(self, num: int) -> "Scores":
        """Of the first users alone."""
        value, precision = self.value[..., :num], self.precision[..., :num]
        return Scores(value, precision, self.most_up[..., :num], self.most_down[..., :num], self.reach)


def difference_scores(value: ArrayLike, is_new: ArrayLike, share: ArrayLike) -> Scores:
    """Scores of users whose `value` is in [0, 1]: `is_new` says who was given the new arm and `share` with what chance
    (above 0, below 1). The centre is the mean of the users before."""
    value, new = np.asarray(value, np.float64), np.asarray(is_new, np.bool_)
    share = np.broadcast_to(np.asarray(share, np.float64), value.shape)
    centre = _before(value, 0.5)
    off = value - centre
    spread = _before(off * off, 0.25)
    score = np.where(new, off / share, -off / (1 - share))
    below = np.maximum(centre / share, (1 - centre) / (1 - share))
    above = np.maximum((1 - centre) / share, centre / (1 - share))
    return Scores(score, share * (1 - share) / spread, MOST / (below + 1), MOST / (above + 1))


def win_scores(value: ArrayLike) -> Scores:
    """Scores of a share of wins less 1/2: each user's is in [0, 1], a tie 1/2."""
    off = np.asarray(value, np.float64) - 0.5
    most = np.full(off.shape, MOST)
    return Scores(off, 1 / _before(off * off, 0.25), most, most, 0.5)


def log_capital(scores: Scores, mean: float, effects: Sequence[float]) -> Floats:
    """Log of the capital of those who bet on more and of those who bet on less than `mean` [2, ..., T], after each
    user."""
    return np.stack([_mixed(np.cumsum(_growth(scores, mean, effects, up), axis=-1)) for up in (True, False)])


def final_log_capital(scores: Scores, mean: float, effects: Sequence[float], up: bool, times: float = 1.0) -> float:
    """Log of the capital of one side after the last user of one test; `times`: had as many times the users come."""
    return float(_mixed(times * _growth(scores, mean, effects, up).sum(-1)))


def crossing(alpha: float) -> float:
    """The log-capital that refutes a mean: either side has half of `alpha`."""
    return math.log(2 / alpha)


def p_values(log_capitals: Floats) -> Floats:
    """The always-valid p-value [..., T] of the mean that was bet against: it never rises again."""
    most = np.maximum.accumulate(log_capitals.max(0), axis=-1)
    return np.minimum(2 * np.exp(-np.maximum(most, 0.0)), 1.0)


def bounds(scores: Scores, effects: Sequence[float], alpha: float = ALPHA) -> tuple[float, float]:
    """The means of one test that are not refuted after its last user."""
    if not scores.value.shape[-1]:
        return -scores.reach, scores.reach
    ends = [_end(scores, effects, crossing(alpha), up) for up in (True, False)]
    return ends[0], ends[1]


def estimate(scores: Scores) -> float:
    """The mean of one test's scores, each weighed by its precision; NaN without any."""
    total = scores.precision.sum()
    return float(scores.value @ scores.precision / total) if total > 0 else math.nan


def _before(value: Floats, guess: float) -> Floats:
    """The mean of what came before each, with the guess as the first PRIOR of it."""
    count = np.arange(value.shape[-1])
    found: Floats = (np.cumsum(value, axis=-1) - value + PRIOR * guess) / (count + PRIOR)
    return found


def _growth(scores: Scores, mean: float, effects: Sequence[float], up: bool) -> Floats:
    """Growth of the log-capital [effects, ..., T] with each user. The bets do not depend on `mean`, so the capital of
    those who bet on more falls as `mean` grows, and an end of the bounds is where it crosses."""
    off = scores.value - mean if up else mean - scores.value
    most = scores.most_up if up else scores.most_down
    return np.stack([np.log1p(np.minimum(effect * scores.precision, most) * off) for effect in effects])


def _mixed(growth: Floats) -> Floats:
    most = growth.max(0)
    found: Floats = most + np.log(np.exp(growth - most).mean(0))
    return found


def _end(scores: Scores, effects: Sequence[float], line: float, up: bool) -> float:
    """Where the capital of one side crosses the line, by Newton's steps; halving where one leads out of the bracket."""
    sign = 1.0 if up else -1.0
    refuted, kept = -sign * scores.reach, sign * scores.reach
    if final_log_capital(scores, refuted, effects, up) <= line:
        return refuted
    if final_log_capital(scores, kept, effects, up) >= line:
        return kept
    values, most = scores.value, scores.most_up if up else scores.most_down
    bets = np.stack([np.minimum(effect * scores.precision, most) for effect in effects])
    at = min(max(estimate(scores), -0.999 * scores.reach), 0.999 * scores.reach)
    for _ in range(MOST_STEPS):
        grown = 1 + bets * (sign * (values - at))
        each = np.log(grown).sum(-1)
        part = np.exp(each - each.max())
        over = float(each.max() + math.log(part.mean())) - line
        if abs(over) < 1e-6:
            break
        refuted, kept = (at, kept) if over > 0 else (refuted, at)
        slope = float(part @ (-sign * (bets / grown).sum(-1)) / part.sum())
        at = at - over / slope if slope else kept
        if not min(refuted, kept) < at < max(refuted, kept):
            at = (refuted + kept) / 2
    return at
