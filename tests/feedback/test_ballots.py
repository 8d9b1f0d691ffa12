"""A ballot that says nothing, or two things at once, is refused when it is built."""

from datetime import UTC, datetime
from typing import Any

import pytest

from posttrain.feedback.ballots import Ballot

RANKING: dict[str, Any] = {"kind": "ranking", "response_ids": (1, 2), "ranks": (0, 1)}


def ballot(**given: Any) -> Ballot:
    return Ballot(**{"prompt_id": 7, "annotator": "ann", "response_ids": (1, 2), **given})


@pytest.mark.parametrize(
    "given",
    [
        RANKING,
        {**RANKING, "ranks": (0.0, 0.0), "all_bad": True},
        {"kind": "choice", "value": 2},
        {"kind": "rating", "response_ids": (1,), "value": -0.5},
        {"kind": "label", "value": "good"},
        {"kind": "label", "response_ids": (), "value": ["a", "b"]},
        {"kind": "edit", "value": "better"},
        {"kind": "flag"},
        {"kind": "skip", "value": "I cannot tell"},
    ],
)
def test_good_ballots(given: dict[str, Any]) -> None:
    assert ballot(**given).kind == given["kind"]


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ({"kind": "vote"}, "kind is 'vote'"),
        ({**RANKING, "source": "robot"}, "source is 'robot'"),
        ({**RANKING, "annotator": "  "}, "annotator is empty"),
        ({**RANKING, "comment": "a\0b"}, "NUL"),
        ({**RANKING, "key": "\ud800"}, "surrogate"),
        ({**RANKING, "response_ids": (1, 1)}, "twice"),
        ({**RANKING, "response_ids": (1, "2")}, "whole numbers"),
        ({**RANKING, "ranks": (0,)}, "1 ranks for 2"),
        ({**RANKING, "ranks": None}, "needs ranks"),
        ({**RANKING, "ranks": (0, float("nan"))}, "finite"),
        ({**RANKING, "value": 1}, "no value"),
        ({"kind": "ranking", "response_ids": (1,), "ranks": (0,)}, "at least two"),
        ({**RANKING, "seconds": -1}, "seconds"),
        ({"kind": "choice", "value": 3}, "not among"),
        ({"kind": "choice", "response_ids": (1,), "value": 1}, "at least two"),
        ({"kind": "choice", "value": 1, "ranks": (0, 1)}, "only a ranking has ranks"),
        ({"kind": "choice", "value": 1, "all_bad": True}, "only a ranking can say"),
        ({"kind": "rating", "value": 1}, "about one answer"),
        ({"kind": "rating", "response_ids": (1,), "value": True}, "finite number"),
        ({"kind": "label", "value": []}, "label"),
        ({"kind": "edit", "value": " "}, "edit"),
        ({"kind": "flag", "value": 1}, "reason"),
    ],
)
def test_bad_ballots(given: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        ballot(**given)


def test_lists_and_times_are_made_one_kind() -> None:
    made = ballot(kind="ranking", response_ids=[1, 2], ranks=[0, 1], created=datetime(2026, 1, 1))
    assert (made.response_ids, made.ranks) == ((1, 2), (0, 1))
    assert made.created == datetime(2026, 1, 1, tzinfo=UTC)
