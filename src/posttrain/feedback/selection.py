"""Which item to show next: the one whose ballot is expected to tell most.

The information of a ballot is the mutual information between it and what is unknown (Houlsby et al., 2011, *Bayesian
active learning for classification and preference learning*): H(mean p) - mean H(p), over draws of the unknown. The
draws are those of a Bradley-Terry posterior of models, or the members of a reward-model ensemble. A share of the items
is the control: each is drawn for it by its id alone, before any vote, and shown at a random time, so that rates
measured on the control are unbiased, and so that it can be seen what choosing is worth.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from posttrain.feedback.bradley_terry import BradleyTerry

MAX_RANKED = 5  # answers whose rankings are counted out (120); of more, the pairs
NUM_DRAWS = 200
MAX_LOOKED_AT = 500  # items; the best of so many at random is among the best 0.6 % of all, 19 times of 20
SAME = 1e-12  # nats; items this close are drawn among at random


@dataclass(frozen=True, slots=True)
class Candidate:
    """An item that may be shown. `models`: who wrote each of its K answers. `scores` [E, K]: what each member of a
    reward-model ensemble gives them. It has `num_ballots`, those being written included, of the `overlap` it needs."""

    item_id: int
    models: tuple[str, ...]
    scores: ArrayLike | None = None
    num_ballots: int = 0
    overlap: int = 1


def information(score_EK: NDArray[np.float64]) -> float:
    """Nats that a ranking of K answers is expected to tell of which of E draws is the true one.

    A ranking has the Plackett-Luce probability, whose pairs are Bradley-Terry's. For more than MAX_RANKED answers: the
    mean over pairs, times K - 1, the comparisons that make a ranking.
    """
    num = score_EK.shape[1]
    if num > MAX_RANKED:
        pairs = [(a, b) for a in range(num) for b in range(a)]
        return (num - 1) * float(np.mean([information(score_EK[:, pair]) for pair in pairs]))
    score_EK = score_EK - score_EK.max(axis=1, keepdims=True)
    log_p = np.stack([_log_probability(score_EK[:, order]) for order in permutations(range(num))], axis=1)
    p = np.exp(log_p)
    mean = p.mean(axis=0)
    doubt_of_mean = -float(mean @ np.log(np.maximum(mean, 1e-300)))
    return max(doubt_of_mean + float((p * log_p).sum(axis=1).mean()), 0.0)


def _log_probability(score_EK: NDArray[np.float64]) -> NDArray[np.float64]:
    """[E] log-probability that the answers are ranked in this order: each is picked from those that are left."""
    left = np.logaddexp.accumulate(score_EK[:, ::-1], axis=1)[:, ::-1]
    found: NDArray[np.float64] = (score_EK - left).sum(axis=1)
    return found


def is_control(item_id: int, random_share: float, seed: int | str = 0) -> bool:
    """Whether an item is of the control: drawn from seed and id alone. A larger share lets none go."""
    drawn = int.from_bytes(hashlib.sha256(f"control/{seed}/{item_id}".encode()).digest()[:8], "big")
    return drawn < random_share * 2**64


def choose(
    candidates: Sequence[Candidate],
    *,
    posterior: BradleyTerry | None = None,
    random_share: float = 0.1,
    seed: int | str = 0,
    rng: np.random.Generator | int = 0,
    num_draws: int = NUM_DRAWS,
) -> tuple[int, str] | None:
    """(index of the candidate to show, why), or None where none needs a ballot. The same seed chooses the same.

    `posterior`: learn about models; without it, about answers, by the candidates' `scores`. Items of the control
    (`is_control` of `random_share` and `seed`) are shown in random order, for a `random_share` of the choices while
    others are left; the others by their information. Why is "control", "information" with the nats expected, or
    "random" where nothing tells the items apart.
    """
    if not 0 <= random_share <= 1:
        raise ValueError(f"random_share is {random_share}, expected a share between 0 and 1")
    rng = np.random.default_rng(rng)
    turn_of_control = rng.random() < random_share
    places: dict[bool, list[int]] = {True: [], False: []}
    for place, candidate in enumerate(candidates):
        if candidate.num_ballots < candidate.overlap:
            places[is_control(candidate.item_id, random_share, seed)].append(place)
    open_ones, control = places[False], places[True]
    if control and (turn_of_control or not open_ones):
        return int(rng.choice(control)), "control"
    if not open_ones:
        return None
    if len(open_ones) > MAX_LOOKED_AT:
        open_ones = sorted(rng.choice(open_ones, MAX_LOOKED_AT, replace=False).tolist())
    told = expected([candidates[place] for place in open_ones], posterior=posterior, rng=rng, num_draws=num_draws)
    best = np.flatnonzero(told >= told.max() - SAME)
    place = open_ones[int(rng.choice(best))]
    return place, f"information {told.max():.4f}" if told.max() > SAME else "random"


def expected(
    candidates: Sequence[Candidate],
    *,
    posterior: BradleyTerry | None = None,
    rng: np.random.Generator | int = 0,
    num_draws: int = NUM_DRAWS,
) -> NDArray[np.float64]:
    """Nats that a ballot on each candidate is expected to tell; 0 for one of which nothing is known beforehand."""
    if posterior is None:
        return np.array([0.0 if c.scores is None else information(np.atleast_2d(c.scores)) for c in candidates])
    rng = np.random.default_rng(rng)
    # An answer whose model nobody knows tells nothing of models.
    asked = [tuple(sorted(filter(None, candidate.models))) for candidate in candidates]
    names = sorted({model for models in asked for model in models} - set(posterior.names))
    draws = np.concatenate(
        [posterior.draws(num_draws, rng), posterior.prior_sd * rng.standard_normal((num_draws, len(names)))], axis=1
    )
    column = {name: place for place, name in enumerate([*posterior.names, *names])}
    known: dict[tuple[str, ...], float] = {}  # many items compare the same models, in whatever order
    for models in sorted(set(asked)):
        known[models] = information(draws[:, [column[model] for model in models]]) if len(models) > 1 else 0.0
    return np.array([known[models] for models in asked])
