"""Which model answers whom: a fixed split, or Thompson sampling; a user stays with the arm of the first sight.

A user's place in [0, 1) is a keyed hash (BLAKE2) of the user's name: uniform, the same in every process, and
independent between tests, since the test's name, seed and arms are the key. The arm is the one on whose piece of
[0, 1) the place falls; how long the pieces are is fixed, or follows what was heard. The pieces at the time are kept
beside the arm: they are the chances (propensities) that a valid estimate of the difference needs where they change.
"""

import threading
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from posttrain.errors import ConfigError
from posttrain.serve.assignments import Assignments, Test
from posttrain.serve.doors import Outcome

NUM_DRAWS = 1000


def place_of(user: str, salt: bytes) -> float:
    """A user's place in [0, 1), uniform over users and independent between salts."""
    return int.from_bytes(blake2b(user.encode(errors="surrogatepass"), key=salt, digest_size=8).digest()[:7]) / 2**56


def thompson_shares(
    good: ArrayLike,
    bad: ArrayLike,
    rng: np.random.Generator,
    *,
    floor: float = 0.05,
    prior: tuple[float, float] = (1.0, 1.0),
    num_draws: int = NUM_DRAWS,
) -> NDArray[np.float64]:
    """The chance of each arm [..., arms] under Thompson sampling (Thompson, 1933): how often its draw from the Beta
    posterior is the largest of all, squeezed so that every arm has at least `floor`. `good`, `bad`: what was heard
    [..., arms], for and against.

    The chances come from `num_draws` draws and are rough by 0.5 / sqrt(num_draws). No harm: an arm is then drawn with
    these very chances, so those that are kept are exact.
    """
    good, bad = np.asarray(good, np.float64), np.asarray(bad, np.float64)
    shape = (num_draws, *good.shape)
    drawn = rng.beta(prior[0] + good, prior[1] + bad, size=shape).argmax(-1)
    num = good.shape[-1]
    wins = np.stack([(drawn == arm).mean(0) for arm in range(num)], axis=-1)
    found: NDArray[np.float64] = floor + (1 - num * floor) * wins
    return found


class _Sticky:
    """What both splits share: users by arm, outcomes by arm, one lock."""

    def __init__(
        self,
        arms: Sequence[str],
        seed: int,
        name: str,
        path: str | Path | None,
        per_user: float,
        name_of: Callable[[str], str] | None,
    ) -> None:
        if len(arms) < 2 or len(set(arms)) != len(arms) or not all(arms):
            raise ConfigError(f"a test needs two or more arms of different names, got {list(arms)}.")
        if per_user <= 0:
            raise ConfigError(f"per_user is {per_user}, expected more than 0.")
        self._arms, self._name = tuple(arms), name
        self._salt = blake2b("\0".join([name, str(seed), *arms]).encode(), digest_size=32).digest()
        self._name_of = name_of or str
        self._lock = threading.Lock()
        self._assigned = Assignments(arms, path, name)
        self._num_users = dict.fromkeys(arms, 0)
        for one in self._assigned.users.values():
            self._num_users[one.arm] += 1
        self._expected = np.zeros(len(arms))
        for one in self._assigned.users.values():
            self._expected += one.shares
        self._num_votes = dict.fromkeys(arms, 0)
        self._sums: dict[tuple[str, str], tuple[int, float]] = {}
        self._good = dict.fromkeys(arms, 0.0)
        self._bad = dict.fromkeys(arms, 0.0)
        self._per_user = per_user
        self._num_heard = 0
        self._num_foreign = 0

    @property
    def arms(self) -> tuple[str, ...]:
        """The names of the models, the one in use before the test first."""
        return self._arms

    def close(self) -> None:
        """Let go of the file of assignments."""
        self._assigned.close()

    def heard(self, outcomes: Sequence[Outcome]) -> None:
        """Learn from outcomes. At the start the recipe passes all that the keeper has; those of arms that are not in
        this test, and those from before it began, are counted and left out. A user who voted on an arm of theirs but is
        not in the file (it was lost, or there is none) stays with that arm."""
        with self._lock:
            for one in outcomes:
                self._hear(one)

    def _hear(self, one: Outcome) -> None:
        arms = (one.arm, one.versus) if one.versus else (one.arm,)
        if any(arm not in self._num_users for arm in arms) or _is_before(one.created, self._assigned.began):
            self._num_foreign += 1
            return
        self._num_heard += 1
        self._num_votes[one.arm] += 1
        self._count(one.user, one.arm, one.value)
        if one.versus:  # shown both: what one has won the other has lost, and the user's own arm is not told by it
            self._num_votes[one.versus] += 1
            self._count(one.user, one.versus, 1 - one.value)
        elif one.user not in self._assigned.users:
            self._assign(one.user, one.arm, self._chances(one.user, one.arm))

    def _count(self, user: str, arm: str, value: float) -> None:
        """One user weighs `per_user` votes at most, with the mean of theirs."""
        num, total = self._sums.get((user, arm), (0, 0.0))
        new_num, new_total = num + 1, total + min(max(value, 0.0), 1.0)
        self._sums[user, arm] = new_num, new_total
        old, new = min(num, self._per_user) / max(num, 1), min(new_num, self._per_user) / new_num
        self._good[arm] += new * new_total - old * total
        self._bad[arm] += new * (new_num - new_total) - old * (num - total)

    def arm(self, user: str) -> str:
        """The arm of a user, always the same one."""
        user = self._name_of(user)
        with self._lock:
            known = self._assigned.users.get(user)
            if known is not None:
                return known.arm
            shares = self._shares()
            arm = self._draw(user, shares)
            self._assign(user, arm, shares)
            return arm

    def _draw(self, user: str, shares: Sequence[float]) -> str:
        return self._arms[int(np.searchsorted(np.cumsum(shares)[:-1], place_of(user, self._salt), side="right"))]

    def _assign(self, user: str, arm: str, shares: Sequence[float]) -> None:
        self._assigned.add(user, arm, shares)
        self._num_users[arm] += 1
        self._expected += shares

    def _chances(self, user: str, arm: str) -> tuple[float, ...]:  # noqa: ARG002 (a fixed split asks who)
        """Of a user whose draw is not remembered: all on their arm, which says that the chances are not known."""
        return tuple(float(arm == each) for each in self._arms)

    def _shares(self) -> tuple[float, ...]:
        raise NotImplementedError

    def test(self) -> Test:
        """The test so far: everybody drawn, with the chances of the arms at that time. A copy."""
        with self._lock:
            began = self._assigned.began or datetime.min.replace(tzinfo=UTC)
            return Test(self._name, self._arms, began, dict(self._assigned.users))

    def state(self) -> dict[str, Any]:
        """Users and outcomes by arm, and how the traffic is split at the moment. `expected`: users by arm that the
        chances of their drawing foretell; `mean`: of the users' own means; `others`: outcomes of another test."""
        with self._lock:
            weights = {arm: self._good[arm] + self._bad[arm] for arm in self._arms}
            return {
                "kind": self.kind,
                "arms": list(self._arms),
                "shares": dict(zip(self._arms, self._shares(), strict=True)),
                "users": dict(self._num_users),
                "expected": dict(zip(self._arms, self._expected.tolist(), strict=True)),
                "votes": dict(self._num_votes),
                "mean": {arm: self._good[arm] / weights[arm] if weights[arm] > 0 else None for arm in self._arms},
                "others": self._num_foreign,
            }

    kind = ""


def _is_before(created: datetime | None, began: datetime | None) -> bool:
    if created is None or began is None:
        return False
    return (created if created.tzinfo else created.replace(tzinfo=UTC)) < began


class FixedSplit(_Sticky):
    """Every arm has its share of users, for good (equal shares when None). `name` and `seed` tell tests apart: change
    one, and users are dealt anew. `path`: a file that remembers who was dealt what, so that shares may be changed on
    the way and nobody changes arms; without it a user's arm follows from the name alone. `name_of`: under which name
    the keeper's outcomes know a user (ServedStore.name_of); the file holds these names."""

    kind = "fixed"

    def __init__(
        self,
        arms: Sequence[str],
        shares: Sequence[float] | None = None,
        seed: int = 0,
        *,
        name: str = "",
        path: str | Path | None = None,
        name_of: Callable[[str], str] | None = None,
    ) -> None:
        super().__init__(arms, seed, name, path, 1.0, name_of)
        shares = [1.0] * len(arms) if shares is None else list(shares)
        if len(shares) != len(arms) or not all(0 < share < float("inf") for share in shares):
            raise ConfigError(f"shares: expected {len(arms)} numbers above 0, one for each arm, got {shares}.")
        self._fixed = tuple(share / sum(shares) for share in shares)

    def _shares(self) -> tuple[float, ...]:
        return self._fixed

    def _chances(self, user: str, arm: str) -> tuple[float, ...]:
        return self._fixed if self._draw(user, self._fixed) == arm else super()._chances(user, arm)


class ThompsonSplit(_Sticky):
    """More and more new users go to the arm that users like best (Thompson sampling on Beta posteriors).

    A user is drawn at first sight and stays. Every arm keeps at least the share `floor`, so that its mean can be
    estimated to the end. `per_user`: as how many votes one user weighs at most. `path`: the file that remembers the
    draws; without it those who have not voted yet are drawn anew after a restart. `name_of`: as of FixedSplit.
    """

    kind = "thompson"

    def __init__(
        self,
        arms: Sequence[str],
        seed: int = 0,
        prior: tuple[float, float] = (1.0, 1.0),
        *,
        floor: float = 0.05,
        per_user: float = 1.0,
        name: str = "",
        path: str | Path | None = None,
        name_of: Callable[[str], str] | None = None,
        num_draws: int = NUM_DRAWS,
    ) -> None:
        super().__init__(arms, seed, name, path, per_user, name_of)
        if not 0 < floor * len(arms) <= 1:
            raise ConfigError(f"floor is {floor}, expected above 0 and at most 1 / {len(arms)} arms.")
        if min(prior) <= 0:
            raise ConfigError(f"prior is {prior}, expected two numbers above 0.")
        self._seed, self._prior, self._floor, self._num_draws = seed, prior, floor, num_draws
        self._known: tuple[int, tuple[float, ...]] = (-1, ())

    def _shares(self) -> tuple[float, ...]:
        """At the posterior of now; drawn again only when something was heard, the same after a restart."""
        if self._known[0] != self._num_heard:
            good = [max(self._good[arm], 0.0) for arm in self._arms]
            bad = [max(self._bad[arm], 0.0) for arm in self._arms]
            rng = np.random.default_rng([abs(self._seed), self._num_heard])
            found = thompson_shares(good, bad, rng, floor=self._floor, prior=self._prior, num_draws=self._num_draws)
            self._known = self._num_heard, tuple(found.tolist())
        return self._known[1]
