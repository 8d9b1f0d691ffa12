"""From votes to users."""

from datetime import UTC, datetime, timedelta
from typing import NamedTuple

import pytest

from posttrain.evals.ab_users import drift, users_of
from posttrain.serve.doors import Outcome

START = datetime(2026, 1, 1, tzinfo=UTC)


class Told(NamedTuple):
    user: str
    arm: str
    value: float
    hours: float | None = 0.0
    kind: str = "up"
    versus: str = ""

    @property
    def created(self):
        return None if self.hours is None else START + timedelta(hours=self.hours)


def test_a_user_counts_once_with_the_votes_of_the_window():
    rows = [Told("u", "A", 1, 0), Told("v", "B", 0, 1), Told("u", "A", 0, 24), Told("u", "A", 0, 24.1)]
    found = users_of(rows, ["A", "B"], window_hours=24, now=START + timedelta(hours=60))
    assert [(one.user, one.value, len(one.all_values)) for one in found.settled] == [("u", 0.5, 3), ("v", 0.0, 1)]
    assert found.num_votes == 4


def test_a_window_that_is_open_waits_and_no_later_vote_changes_what_counted():
    rows = [Told("u", "A", 1, 0), Told("v", "B", 0, 20), Told("w", "A", 1, 30)]
    found = users_of(rows, ["A", "B"], window_hours=24)  # now: the last vote
    assert [one.user for one in found.settled] == ["u"]
    assert [one.user for one in found.pending] == ["v", "w"]
    later = users_of([*rows, Told("u", "A", 0, 90)], ["A", "B"], window_hours=24)
    assert [(one.user, one.value) for one in later.settled] == [("u", 1.0), ("v", 0.0), ("w", 1.0)]


def test_without_a_window_or_a_time_the_first_vote_counts():
    rows = [Told("u", "A", 1, 0), Told("u", "A", 0, 0)]
    assert users_of(rows, ["A", "B"], window_hours=0).settled[0].value == 1
    rows = [Told("u", "A", 1, None), Told("u", "A", 0, None)]
    assert users_of(rows, ["A", "B"]).settled[0].value == 1


def test_a_time_without_a_zone_is_utc():
    class Naive(Told):
        @property
        def created(self):
            return START.replace(tzinfo=None) + timedelta(hours=self.hours)

    found = users_of([Told("u", "A", 1, 0), Naive("u", "A", 0, 2)], ["A", "B"], now=START + timedelta(days=3))
    assert found.settled[0].value == 0.5


def test_what_belongs_to_no_arm_of_the_user_is_counted_and_left_out():
    rows = [Told("u", "A", 1), Told("u", "B", 0), Told("v", "C", 1), Told("v", "A", 1, versus="C")]
    found = users_of(rows, ["A", "B"], window_hours=0)
    assert [(one.user, one.all_values) for one in found.settled] == [("u", [1])]
    assert (found.num_moved, found.num_foreign, found.num_votes) == (1, 2, 2)


def test_what_was_said_before_the_test_is_foreign():
    rows = [Told("u", "A", 1, 0), Told("u", "B", 0, 5)]
    found = users_of(rows, ["A", "B"], window_hours=0, began=START + timedelta(hours=5))
    assert [(one.user, one.arm) for one in found.settled] == [("u", "B")]
    assert found.num_foreign == 1


def test_comparisons_are_turned_towards_the_newer_arm():
    rows = [
        Told("u", "A", 1, 0, "better", "B"),
        Told("u", "B", 1, 1, "better", "A"),
        Told("v", "B", 0.5, 2, "better", "A"),
    ]
    found = users_of(rows, ["A", "B"], now=START + timedelta(days=9))
    assert [(one.user, one.arm, one.versus, one.value) for one in found.pairs] == [
        ("u", "B", "A", 0.5),
        ("v", "B", "A", 0.5),
    ]
    assert found.settled == ()


def test_kinds_are_shares_of_the_votes_of_the_window():
    rows = [Told("u", "A", 1), Told("u", "A", 0, 1, "regenerated"), Told("u", "A", 0, 50, "regenerated")]
    one = users_of(rows, ["A", "B"], now=START + timedelta(days=9)).settled[0]
    assert one.share_of("regenerated") == 0.5


def test_a_value_outside_of_0_to_1_is_refused():
    with pytest.raises(ValueError, match=r"1\.5"):
        users_of([Told("u", "A", 1.5)], ["A", "B"])


def test_drift_by_hand():
    rows = [Told("u", "A", value, hour) for hour, value in enumerate([1, 0, 1, 1])] + [Told("v", "A", 0)]
    found = drift(users_of(rows, ["A", "B"]).pending)
    assert [(row["votes"], row["users"], row["mean"]) for row in found] == [
        ("1", 2, 0.5),
        ("2 to 3", 1, 0.5),
        ("4 to 10", 1, 1.0),
    ]


def test_a_vote_taken_back_after_the_window_has_counted():
    def rows(hours):
        back = START + timedelta(hours=hours)
        first = Outcome("u", "A", 1.0, "up", "", START, back)
        return [first, Outcome("v", "B", 1.0, "up", "", START), Outcome("u", "A", 0.0, "down", "", back)]

    now = START + timedelta(hours=100)
    for hours, value in ((1, 0.0), (30, 1.0)):
        found = users_of(rows(hours), ["A", "B"], now=now)
        assert [(one.user, one.first, one.value) for one in found.settled] == [("u", START, value), ("v", START, 1.0)]
    assert users_of(rows(1), ["A", "B"], window_hours=0, now=now).settled[0].value == 1.0
