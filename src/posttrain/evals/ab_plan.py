"""How many users, or pairs, an A/B test takes: for the plain test with one look at the end, and for the always-valid
one that stops as soon as it is settled."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from posttrain.evals.ab_betting import ALPHA, Scores, crossing, difference_scores, effects_for, log_capital, win_scores
from posttrain.evals.ab_plain import z_of

LONGEST = 3.0
"""As many times the users of the plain plan is a simulated test followed."""
SIMULATED = 3000
"""Users of the plain plan that a simulation has at most: a larger plan is simulated at a smaller scale."""

MOST_USERS = 12_000_000
"""Users that all trials of a simulation have together, about: rare votes take long tests."""


@dataclass(frozen=True, slots=True)
class AlwaysValid:
    """What stopping when settled takes, by simulation, where the difference is as planned. `mean`: users until it is
    settled, in the mean (a test that is not after LONGEST times the plan counts as that); `median`; `for_power`: within
    which the planned power is reached, None if not within LONGEST times the plan; `power_at_plan`: share settled by the
    users of the plain plan; `num_trials`."""

    mean: int
    median: int
    for_power: int | None
    power_at_plan: float
    num_trials: int


def user_variance(mean: float, votes_per_user: float = 1.0, icc: float = 0.0) -> float:
    """Variance of a user's mean of `votes_per_user` votes of 0 or 1 that lean alike by the intra-class correlation
    `icc` (Kish's design effect, 1965, over the number of votes)."""
    return mean * (1 - mean) * (1 + (votes_per_user - 1) * icc) / votes_per_user


def users_needed(
    baseline: float,
    difference: float,
    *,
    power: float = 0.8,
    alpha: float = ALPHA,
    share: float = 0.5,
    votes_per_user: float = 1.0,
    icc: float = 0.0,
) -> tuple[int, int]:
    """Users of the old and of the new arm, which gets `share` of them, for a two-sided test of the difference of means
    (normal approximation, unpooled: Fleiss, Levin and Paik, 2003, Statistical Methods for Rates and Proportions,
    equation 4.14 without the correction).

    >>> users_needed(0.5, 0.05)
    (1562, 1562)
    """
    new = baseline + difference
    if not 0 < baseline < 1 or not 0 < new < 1 or not difference:
        raise ValueError("baseline and baseline + difference lie between 0 and 1, and the difference is not 0")
    if not 0 < share < 1:
        raise ValueError(f"share is {share}, expected between 0 and 1")
    spread = (
        user_variance(baseline, votes_per_user, icc) / (1 - share) + user_variance(new, votes_per_user, icc) / share
    )
    total = (z_of(1 - alpha / 2) + z_of(power)) ** 2 * spread / difference**2
    return math.ceil(total * (1 - share)), math.ceil(total * share)


def pairs_needed(
    win_rate: float, *, power: float = 0.8, alpha: float = ALPHA, ties: float = 0.0, design_effect: float = 1.0
) -> int:
    """Comparisons that tell a win rate from 1/2, two-sided. `ties`: their share; a tie is half a win and makes the
    votes spread less; `win_rate` counts them so. `design_effect`: above 1 where a user votes several times.

    >>> [pairs_needed(rate) for rate in (0.52, 0.55, 0.6)]
    [4906, 785, 197]
    """
    if not 0 < win_rate < 1 or win_rate == 0.5:
        raise ValueError("the win rate lies between 0 and 1 and is not 1/2")
    variance = (1 - ties) / 4
    return math.ceil(design_effect * (z_of(1 - alpha / 2) + z_of(power)) ** 2 * variance / (win_rate - 0.5) ** 2 - 1e-9)


def always_valid_users(
    baseline: float,
    difference: float,
    *,
    power: float = 0.8,
    alpha: float = ALPHA,
    share: float = 0.5,
    votes_per_user: int = 1,
    icc: float = 0.0,
    num_trials: int = 400,
    seed: int = 0,
) -> AlwaysValid:
    """Users of both arms together until the always-valid test says that they differ, by simulation of users with
    beta-binomial votes. Error of the means: about 3 % with 400 trials."""
    plan = sum(
        users_needed(
            baseline, difference, power=power, alpha=alpha, share=share, votes_per_user=votes_per_user, icc=icc
        )
    )
    middle = baseline + difference / 2
    scale = _scale(plan, middle, difference)
    moved = difference * scale
    rng = np.random.default_rng(seed)
    length = max(math.ceil(LONGEST * plan / scale**2), 10)

    def scores(num: int) -> Scores:
        is_new = rng.random((num, length)) < share
        values = user_values(np.where(is_new, middle + moved / 2, middle - moved / 2), votes_per_user, icc, rng)
        return difference_scores(values, is_new, share)

    trials = [scores(size) for size in _batches(num_trials, length)]
    return _stopped(trials, abs(moved), plan, scale, power, alpha)


def always_valid_pairs(
    win_rate: float,
    *,
    power: float = 0.8,
    alpha: float = ALPHA,
    ties: float = 0.0,
    num_trials: int = 400,
    seed: int = 0,
) -> AlwaysValid:
    """Comparisons, one a user, until the always-valid test tells the win rate from 1/2, by simulation."""
    plan = pairs_needed(win_rate, power=power, alpha=alpha, ties=ties)
    scale = _scale(plan, 0.5, 2 * win_rate - 1)
    moved = (win_rate - 0.5) * scale
    rng = np.random.default_rng(seed)
    length = max(math.ceil(LONGEST * plan / scale**2), 10)

    def scores(num: int) -> Scores:
        is_tie = rng.random((num, length)) < ties
        wins = (rng.random((num, length)) < 0.5 + moved / (1 - ties)).astype(np.float64)
        return win_scores(np.where(is_tie, 0.5, wins))

    trials = [scores(size) for size in _batches(num_trials, length)]
    return _stopped(trials, abs(moved), plan, scale, power, alpha)


def user_values(
    mean: NDArray[np.float64], votes_per_user: int, icc: float, rng: np.random.Generator
) -> NDArray[np.float64]:
    """The mean of each user's votes, beta-binomial: users differ as the intra-class correlation says."""
    if icc > 0:
        each = 1 / icc - 1
        drawn = rng.beta(mean * each, (1 - mean) * each) if each > 0 else rng.random(mean.shape) < mean
        mean = np.asarray(drawn, np.float64)
    return rng.binomial(votes_per_user, mean) / votes_per_user


def stopping_times(scores: Scores, mean: float, effect: float, alpha: float) -> NDArray[np.float64]:
    """Of every trial [...] after how many users `mean` is refuted; inf where it is not."""
    crossed = (log_capital(scores, mean, effects_for(effect)) >= crossing(alpha)).any(0)
    return np.where(crossed.any(-1), crossed.argmax(-1) + 1.0, np.inf)


def _scale(plan: int, middle: float, difference: float) -> float:
    """How many times the difference is taken, about the same middle, so that a long plan is simulated with fewer
    users: what counts, beside the plan, is the difference in standard errors."""
    most = max(min(middle, 1 - middle) / abs(difference), 1.0)
    return min(max(math.sqrt(plan / SIMULATED), 1.0), most)


def _batches(num_trials: int, length: int) -> list[int]:
    """How many trials at a time: of very long ones fewer, down to 40 in all, and these one by one."""
    num = min(num_trials, max(MOST_USERS // length, 40))
    size = max(min(40, MOST_USERS // (20 * length)), 1)
    return [size] * max(num // size, 1)


def _stopped(trials: list[Scores], effect: float, plan: int, scale: float, power: float, alpha: float) -> AlwaysValid:
    times = np.concatenate([stopping_times(scores, 0.0, effect, alpha) for scores in trials]) * scale**2
    longest = LONGEST * plan
    ends = np.minimum(times, longest)
    within = float(np.sort(times)[math.ceil(power * len(times)) - 1])
    return AlwaysValid(
        mean=round(float(ends.mean())),
        median=round(float(np.median(ends))),
        for_power=round(within) if math.isfinite(within) else None,
        power_at_plan=float((times <= plan).mean()),
        num_trials=len(times),
    )
