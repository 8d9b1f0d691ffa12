"""From outcomes to users: what each user said of their arm, counted once.

Votes of one user depend on each other, so the user is the unit: one user, one value. The always-valid test must not
look back, so a user's value is final once it counts: the mean of what they said within `window_hours` of their first
vote, as soon as these are over (0: the first vote). When a user counts is thus no matter of how they vote. Later votes
count in the table of drift alone, and one that was taken back (`replaced`) after the window stays in the value: users
who change their minds for weeks would else make a new test of every look.

Outcomes are anything with user, arm, value, kind, versus and created, in the order of their casting.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol


class Outcome(Protocol):
    """What is read of an outcome; `versus`: of a comparison of two arms the other one, else ''."""

    @property
    def user(self) -> str: ...
    @property
    def arm(self) -> str: ...
    @property
    def value(self) -> float: ...
    @property
    def kind(self) -> str: ...
    @property
    def versus(self) -> str: ...
    @property
    def created(self) -> datetime | None: ...


@dataclass(slots=True)
class User:
    """A user on an arm. `values`: of the votes in the window, `all_values`: of every vote, in their order; `kinds`:
    the kinds of the votes in the window. `versus`: the other arm, of a user who compared two."""

    user: str
    arm: str
    first: datetime | None
    values: list[float] = field(default_factory=list)
    all_values: list[float] = field(default_factory=list)
    kinds: list[str] = field(default_factory=list)
    versus: str = ""

    @property
    def value(self) -> float:
        """The mean within the window."""
        return sum(self.values) / len(self.values)

    @property
    def mean(self) -> float:
        """The mean of all."""
        return sum(self.all_values) / len(self.all_values)

    def share_of(self, kind: str) -> float:
        """The part of the votes in the window that are of this kind."""
        return self.kinds.count(kind) / len(self.kinds)


@dataclass(frozen=True, slots=True)
class Users:
    """In the order of first votes. `settled`: their windows are over; `pending`: not yet. `pairs`,
    `pending_pairs`: likewise of those who compared two arms, the value being the share of wins of the one that comes
    later in the order of the arms. `num_foreign`: outcomes of other tests; `num_moved`: votes of a
    user on another arm than that of their first."""

    settled: tuple[User, ...]
    pending: tuple[User, ...]
    pairs: tuple[User, ...]
    pending_pairs: tuple[User, ...]
    num_votes: int
    num_foreign: int
    num_moved: int


def users_of(
    outcomes: Iterable[Outcome],
    arms: Sequence[str],
    *,
    window_hours: float = 24.0,
    began: datetime | None = None,
    now: datetime | None = None,
) -> Users:
    """Every user once. Outcomes from before `began` are foreign. `now`: None is the time of the last outcome. A time
    without a zone is UTC; an outcome without any counts where it is the first of its user."""
    rows = list(outcomes)
    times = [at for row in rows if (at := _utc(row.created))]
    now = _utc(now) or (max(times) if times else None)
    window = timedelta(hours=window_hours)
    singles: dict[str, User] = {}
    pairs: dict[tuple[str, str, str], User] = {}
    num_foreign = num_moved = 0
    for row in rows:
        if not _belongs(row, arms, began):
            num_foreign += 1
        elif row.versus:
            new, old, value = _turned(row, arms)
            new_pair = User(row.user, new, _utc(row.created), versus=old)
            _take(pairs.setdefault((row.user, new, old), new_pair), row, value, window)
        else:
            one = singles.setdefault(row.user, User(row.user, row.arm, _utc(row.created)))
            if one.arm == row.arm:
                _take(one, row, row.value, window)
            else:
                num_moved += 1
    settled, pending = _parted(singles.values(), window, now)
    settled_pairs, pending_pairs = _parted(pairs.values(), window, now)
    num_votes = len(rows) - num_foreign
    return Users(settled, pending, settled_pairs, pending_pairs, num_votes, num_foreign, num_moved)


def _parted(
    users: Iterable[User], window: timedelta, now: datetime | None
) -> tuple[tuple[User, ...], tuple[User, ...]]:
    """Those whose windows are over, and the others."""
    over = [(one, _is_over(one, window, now)) for one in users]
    return tuple(one for one, is_over in over if is_over), tuple(one for one, is_over in over if not is_over)


def _belongs(row: Outcome, arms: Sequence[str], began: datetime | None) -> bool:
    at = _utc(row.created)
    is_old = began is not None and at is not None and at < began
    return not is_old and row.arm in arms and (not row.versus or row.versus in arms)


def _utc(at: datetime | None) -> datetime | None:
    return at.replace(tzinfo=UTC) if at is not None and at.tzinfo is None else at


def _turned(row: Outcome, arms: Sequence[str]) -> tuple[str, str, float]:
    """Whichever of the two comes later in the order of the arms is the new one."""
    if arms.index(row.arm) > arms.index(row.versus):
        return row.arm, row.versus, row.value
    return row.versus, row.arm, 1 - row.value


def _take(one: User, row: Outcome, value: float, window: timedelta) -> None:
    if not 0 <= value <= 1:
        raise ValueError(f"an outcome's value is {value}, expected 0 to 1")
    gone = _utc(getattr(row, "replaced", None))
    if not one.values or _within(one.first, _utc(row.created), window):
        if gone is not None and window and _within(one.first, gone, window):
            return  # another one stands in its place before the window is over
        one.values.append(value)
        one.kinds.append(row.kind)
    one.all_values.append(value)


def _within(first: datetime | None, at: datetime | None, window: timedelta) -> bool:
    return first is not None and at is not None and bool(window) and at - first <= window


def _is_over(one: User, window: timedelta, now: datetime | None) -> bool:
    return not window or one.first is None or now is None or now - one.first > window


def drift(users: Iterable[User]) -> list[dict[str, Any]]:
    """Of every arm the mean of users' first, second, ... votes: whether something new wears off, or grows."""
    ends = ((0, 1), (1, 3), (3, 10), (10, None))
    found = []
    by_arm: dict[str, list[User]] = {}
    for one in users:
        by_arm.setdefault(one.arm, []).append(one)
    for arm, rows in by_arm.items():
        for start, end in ends:
            means = [sum(part) / len(part) for one in rows if (part := one.all_values[start:end])]
            if means:
                name = "1" if end == 1 else f"{start + 1} to {end}" if end else f"from {start + 1}"
                found.append({"arm": arm, "votes": name, "users": len(means), "mean": sum(means) / len(means)})
    return found
