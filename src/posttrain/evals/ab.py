"""The state of an A/B test, from the outcomes of its users: what is settled, and whether one may stop.

The always-valid figures hold at every look, so one may look all day and stop when they say so; the plain ones beside
them hold for one look at a number of users that was fixed beforehand.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from posttrain.evals.ab_betting import (
    ALPHA,
    Scores,
    bounds,
    crossing,
    difference_scores,
    effects_for,
    estimate,
    final_log_capital,
    log_capital,
    win_scores,
)
from posttrain.evals.ab_plain import plain_difference, sample_ratio
from posttrain.evals.ab_users import Outcome, User, drift, users_of
from posttrain.evals.ab_words import recommend, warnings
from posttrain.intervals import clustered_mean

MDE = 0.05
MISMATCH = 0.001
"""Below this p-value, which is always valid, the split is called broken: it should never be."""
NUM_POINTS = 60
MAX_MORE = 1_000_000
LEAST = 10
"""Users below which nothing is foretold."""

Chances = Mapping[str, float] | Callable[[str], Mapping[str, float] | None]


@dataclass(frozen=True, slots=True)
class Settled:
    """What the bets say of a mean. `value`: the estimate; `low`, `high`: bounds that hold at all looks together;
    `p_value`: always-valid, of no difference; `e_value`: the capital now, from 1 at the start. `verdict`: "better",
    "worse", "futile" (a difference of `mde` or more for the better is excluded) or "open". `num_more`: about how many
    more users it takes if the rates stay; 0 when settled, None where nothing can be foretold."""

    value: float | None
    low: float
    high: float
    p_value: float
    e_value: float
    verdict: str
    num_more: int | None
    num_users: int


def settle(scores: Scores, *, mde: float = MDE, alpha: float = ALPHA) -> Settled:
    """What one test's scores say after their last user; what was crossed on the way stays crossed."""
    num = scores.value.shape[-1]
    if not num:
        return Settled(None, -scores.reach, scores.reach, 1.0, 1.0, "open", None, 0)
    effects, line = effects_for(mde), crossing(alpha)
    capital = log_capital(scores, 0.0, effects)
    crossed = [int(side.argmax()) if side.any() else num for side in capital >= line]
    verdict = "open"
    if min(crossed) < num:
        verdict = "better" if crossed[0] < crossed[1] else "worse"
    elif (log_capital(scores, mde, effects)[1] >= line).any():
        verdict = "futile"
    low, high = bounds(scores, effects, alpha)
    if low > 0 or high < 0:  # of a difference that has turned since it was first seen: as it is now
        verdict = "better" if low > 0 else "worse"
    # A bound at 0 that was passed once stays passed, unless things have since turned round and the bounds say so.
    low = 0.0 if verdict == "better" and low < 0 < high else low
    high = 0.0 if verdict == "worse" and low < 0 < high else high
    most = float(capital.max())
    more = 0 if verdict != "open" else _num_more(scores, effects, line, mde)
    e_value = float(np.exp(np.minimum(capital[:, -1], 700)).mean())
    return Settled(estimate(scores), low, high, min(2 * math.exp(-max(most, 0)), 1.0), e_value, verdict, more, num)


def _num_more(scores: Scores, effects: Sequence[float], line: float, mde: float) -> int | None:
    """Users until something is settled if the scores go on as they were, by bisection on how many times they come."""
    num = scores.value.shape[-1]
    if num < LEAST:
        return None

    def is_settled(times: float) -> bool:
        sides = ((0.0, True), (0.0, False), (mde, False))
        return any(final_log_capital(scores, mean, effects, up, times) >= line for mean, up in sides)

    low, high = 1.0, MAX_MORE / num
    if high <= low or not is_settled(high):
        return None
    while (high - low) * num > max(0.01 * low * num, 0.5):
        middle = math.sqrt(low * high)
        low, high = (low, middle) if is_settled(middle) else (middle, high)
    return math.ceil(num * (high - 1))


def ab_state(
    outcomes: Iterable[Outcome],
    arms: Sequence[str],
    *,
    chances: Chances | None = None,
    assigned: Sequence[tuple[str, Sequence[float]]] | None = None,
    mde: float = MDE,
    alpha: float = ALPHA,
    window_hours: float = 24.0,
    guards: Mapping[str, float] | None = None,
    began: datetime | None = None,
    now: datetime | None = None,
) -> dict[str, Any]:
    """All figures of a test as JSON holds them. `arms`: the one in use before the test first.

    `chances`: of each arm, for all users or of one user (None: not known; that user is left out and counted); equal
    when None. `assigned`: the arm of every user drawn, voter or not, with the chances of the arms: what the sample
    ratio is checked on; the voters when None, else these too (`voting`: whether the arms' users vote equally often).
    `guards`: kind of outcome to by how much its share of a user's votes may grow ({"regenerated": 0.02}); a guard that
    is surely passed says stop whatever the votes say. `alpha` is shared by the new arms. Outcomes from before `began`
    belong to other tests; they are counted and left out.
    """
    users = users_of(outcomes, arms, window_hours=window_hours, began=began, now=now)
    share = alpha / (len(arms) - 1)
    of = _chances_of(chances, arms)
    tests = [_Test(users.settled, arms[0], arm, of) for arm in arms[1:]]
    found: dict[str, Any] = {
        "arms": list(arms),
        "alpha": alpha,
        "mde": mde,
        "window_hours": window_hours,
        "users": len(users.settled),
        "pending": len({one.user for one in users.pending + users.pending_pairs}),
        "votes": users.num_votes,
        "foreign": users.num_foreign,
        "moved": users.num_moved,
        "without_chances": sum(test.num_unknown for test in tests),
        "by_arm": [_arm(users.settled, arm) for arm in arms],
        "comparisons": [test.told(mde, share, guards or {}) for test in tests],
        "pairs": _pairs(users.pairs, arms, mde, alpha),
        "sample_ratio": _ratio(users.settled + users.pending, arms, of, assigned),
        "voting": None if assigned is None else _ratio(users.settled + users.pending, arms, of, None),
        "drift": sorted(drift(users.settled + users.pending), key=lambda row: arms.index(row["arm"])),
    }
    found["warnings"] = warnings(found)
    found["recommendation"] = recommend(found)
    return found


class _Test:
    """A new arm beside the old one, on the users of the two whose chances are known."""

    def __init__(
        self, users: Sequence[User], old: str, new: str, of: Callable[[str], Mapping[str, float] | None]
    ) -> None:
        self.old, self.new = old, new
        rows: list[tuple[User, float]] = []
        self.num_unknown = 0
        for one in users:
            if one.arm in (old, new):
                known = of(one.user) or {}
                total = known.get(new, 0.0) + known.get(old, 0.0)
                share = known.get(new, 0.0) / total if total > 0 else 0.0
                if 0 < share < 1:
                    rows.append((one, share))
                else:
                    self.num_unknown += 1
        self.users = [one for one, _ in rows]
        self.is_new = np.array([one.arm == new for one in self.users], dtype=bool)
        self.shares = np.array([share for _, share in rows])

    def scores(self, values: ArrayLike) -> Scores:
        return difference_scores(values, self.is_new, self.shares)

    def told(self, mde: float, alpha: float, guards: Mapping[str, float]) -> dict[str, Any]:
        values = np.array([one.value for one in self.users], np.float64)
        scores = self.scores(values)
        always, path = asdict(settle(scores, mde=mde, alpha=alpha)), self._path(values, scores, mde, alpha)
        if path:  # the bounds of all looks together
            always["low"] = min(max(always["low"], path[-1]["low"]), path[-1]["high"])
            always["high"] = max(min(always["high"], path[-1]["high"]), path[-1]["low"])
        return {
            "arm": self.new,
            "versus": self.old,
            "alpha": alpha,
            "is_adaptive": bool(len(self.shares)) and float(np.ptp(self.shares)) > 1e-9,
            "always": always,
            "plain": _plain(values[self.is_new], values[~self.is_new]),
            "path": path,
            "guards": [self._guard(kind, most, mde, alpha) for kind, most in guards.items()],
        }

    def _path(self, values: NDArray[np.float64], scores: Scores, mde: float, alpha: float) -> list[dict[str, Any]]:
        """Both intervals after more and more users; the always-valid one is what all looks so far have left of it."""
        num = len(self.users)
        found = []
        low, high = -1.0, 1.0
        for at in sorted({round(num * part) for part in np.linspace(0, 1, NUM_POINTS + 1)[1:]} - {0}):
            now_low, now_high = bounds(scores.first(at), effects_for(mde), alpha)
            low, high = max(low, now_low), min(high, now_high)
            if low > high:  # the difference has moved: what was sure then is no more
                low, high = now_low, now_high
            new = self.is_new[:at]
            plain = _plain(values[:at][new], values[:at][~new])
            when = self.users[at - 1].first
            found.append(
                {
                    "users": at,
                    "created": when.isoformat() if when else None,
                    "value": estimate(scores.first(at)),
                    "low": low,
                    "high": high,
                    "plain_low": plain["low"],
                    "plain_high": plain["high"],
                }
            )
        return found

    def _guard(self, kind: str, most: float, mde: float, alpha: float) -> dict[str, Any]:
        found = settle(self.scores([one.share_of(kind) for one in self.users]), mde=mde, alpha=alpha)
        is_passed = found.num_users > 0 and found.low > most
        told = {"kind": kind, "most": most, "value": found.value, "low": found.low, "high": found.high}
        return told | {"verdict": "passed" if is_passed else "kept" if found.high <= most else "open"}


def _plain(new: NDArray[np.float64], old: NDArray[np.float64]) -> dict[str, float | None]:
    found = plain_difference(new, old)._asdict()
    return {name: value if math.isfinite(value) else None for name, value in found.items()}


def _arm(users: Sequence[User], arm: str) -> dict[str, Any]:
    mine = [one for one in users if one.arm == arm]
    mean = clustered_mean([one.value for one in mine]) if mine else None
    known = mean is not None and math.isfinite(mean.low)
    return {
        "arm": arm,
        "users": len(mine),
        "votes": sum(len(one.values) for one in mine),
        "mean": mean.value if mean else None,
        "low": max(mean.low, 0.0) if mean and known else None,
        "high": min(mean.high, 1.0) if mean and known else None,
    }


def _pairs(users: Sequence[User], arms: Sequence[str], mde: float, alpha: float) -> list[dict[str, Any]]:
    """Of all who compared two arms: the share of wins of the newer, with always-valid bounds."""
    groups: dict[tuple[str, str], list[User]] = {}
    for one in users:
        groups.setdefault((one.arm, one.versus), []).append(one)
    share = alpha / math.comb(len(arms), 2)
    found = []
    for (new, old), rows in groups.items():
        settled = asdict(settle(win_scores([one.value for one in rows]), mde=mde, alpha=share))
        votes = [value for one in rows for value in one.values]
        counts = {"wins": sum(v > 0.5 for v in votes), "ties": votes.count(0.5), "losses": sum(v < 0.5 for v in votes)}
        rates = {name: settled.pop(name) + 0.5 for name in ("value", "low", "high")}
        found.append({"arm": new, "versus": old, **counts, "alpha": share, **rates, **settled})
    return found


def _ratio(
    users: Sequence[User],
    arms: Sequence[str],
    of: Callable[[str], Mapping[str, float] | None],
    assigned: Sequence[tuple[str, Sequence[float]]] | None,
) -> dict[str, Any]:
    if assigned is not None:
        drawn = [(arm, list(chances)) for arm, chances in assigned]
    else:
        drawn = [(one.arm, [known.get(arm, 0.0) for arm in arms]) for one in users if (known := of(one.user))]
    drawn = [(arm, chances) for arm, chances in drawn if max(chances) < 1]
    counts = [sum(arm == each for each, _ in drawn) for arm in arms]
    found = sample_ratio(counts, np.array([chances for _, chances in drawn]).reshape(len(drawn), len(arms)))
    return {
        "of": "users drawn" if assigned is not None else "users who voted",
        "users": dict(zip(arms, found.users, strict=True)),
        "expected": dict(zip(arms, found.expected, strict=True)),
        "p_value": found.always_p_value,
        "is_mismatch": found.always_p_value < MISMATCH,
    }


def _chances_of(chances: Chances | None, arms: Sequence[str]) -> Callable[[str], Mapping[str, float] | None]:
    if callable(chances):
        return chances
    same = dict(chances) if chances is not None else dict.fromkeys(arms, 1 / len(arms))
    total = sum(same.values())
    same = {arm: share / total for arm, share in same.items()}
    return lambda user: same  # noqa: ARG005
