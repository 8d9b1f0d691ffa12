"""Ballots to comparisons: all pairs, ties, partial ballots, choices, flags."""

import pytest

from posttrain.feedback.ballots import Ballot
from posttrain.feedback.comparisons import Comparison, comparisons_of, connected, facing, split_flagged, standing


def ranking(ids: tuple[int, ...], ranks: tuple[float, ...], **more: object) -> Ballot:
    return Ballot("ranking", 7, ids, "ann", ranks=ranks, **more)  # type: ignore[arg-type]


def said(ballots: list[Ballot], **more: object) -> set[tuple[object, object, float]]:
    return {(c.first, c.second, c.outcome) for c in comparisons_of(ballots, **more)}  # type: ignore[arg-type]


def test_a_ranking_decides_all_its_pairs() -> None:
    found = comparisons_of([ranking((4, 2, 9, 3), (0, 2, 1, 1))])
    assert {(c.first, c.second, c.outcome) for c in found} == {
        (4, 2, 1.0),
        (4, 9, 1.0),
        (4, 3, 1.0),
        (2, 9, 0.0),
        (2, 3, 0.0),
        (9, 3, 0.5),
    }
    assert {(c.item, c.annotator, c.weight, c.ballot) for c in found} == {(7, "ann", 1.0, 0)}


def test_what_a_partial_ballot_does_not_list_is_not_compared() -> None:
    assert said([ranking((4, 2), (1, 0), item_id=1)]) == {(4, 2, 0.0)}


def test_a_choice_stands_over_every_other_answer_and_no_more() -> None:
    assert said([Ballot("choice", 1, (5, 6, 7), "ann", value=6)]) == {(6, 5, 1.0), (6, 7, 1.0)}


def test_both_bad_is_a_tie_unless_it_is_ordered() -> None:
    assert said([ranking((1, 2), (0, 0), all_bad=True)]) == {(1, 2, 0.5)}
    assert said([ranking((1, 2), (0, 1), all_bad=True)]) == {(1, 2, 1.0)}


@pytest.mark.parametrize(
    "ballot",
    [
        Ballot("rating", 1, (1,), "ann", value=3),
        Ballot("label", 1, (1, 2), "ann", value="good"),
        Ballot("edit", 1, (1, 2), "ann", value="better"),
        Ballot("flag", 1, (1, 2), "ann", value="broken"),
        Ballot("skip", 1, (1, 2), "ann"),
    ],
    ids=lambda ballot: ballot.kind,
)
def test_other_kinds_compare_nothing(ballot: Ballot) -> None:
    assert comparisons_of([ballot]) == []


def test_models_are_compared_where_two_known_ones_meet() -> None:
    models = {1: "a", 2: "b", 3: "a", 4: ""}
    ballot = ranking((1, 2, 3, 4), (0, 1, 2, 3))
    assert [(c.first, c.second, c.outcome) for c in comparisons_of([ballot], "model", models)] == [
        ("a", "b", 1.0),
        ("b", "a", 1.0),
    ]
    with pytest.raises(ValueError, match="models"):
        comparisons_of([ballot], "model")
    with pytest.raises(ValueError, match="expected response or model"):
        comparisons_of([ballot], "answer")


def test_comparisons_know_their_ballot() -> None:
    found = comparisons_of([ranking((1, 2, 3), (0, 1, 2)), Ballot("skip", 7, (), "ann"), ranking((2, 1), (0, 1))])
    assert [c.ballot for c in found] == [0, 0, 0, 2]


def test_what_marks_an_answer_as_taken_back_was_cast_by_nobody() -> None:
    skip = Ballot("skip", 1, (1, 2), "ann")
    assert standing([skip, Ballot("skip", 1, (1, 2), "ann", details={"withdraws": "edit"})]) == [skip]


def test_a_flag_takes_out_its_item_for_everybody() -> None:
    one, other = ranking((1, 2), (0, 1), item_id=1), ranking((3, 4), (0, 1), item_id=2)
    flag = Ballot("flag", 7, (1, 2), "bob", item_id=1)
    assert split_flagged([one, flag, other]) == ([other], [one])
    assert split_flagged([one, Ballot("flag", 7, (1, 2), "bob"), other]) == ([], [one, other])
    assert split_flagged([one, Ballot("flag", 8, (1, 2), "bob"), other]) == ([one, other], [])


def test_a_comparison_faces_one_way_only() -> None:
    turned = Comparison(1, "b", "a", 0.75, "ann", 2.0, ballot=3)
    assert facing(turned) == facing(turned.turned()) == Comparison(1, "a", "b", 0.25, "ann", 2.0, ballot=3)
    assert facing(Comparison(1, 10, 9, 1.0)).first == 9  # by number, not by its digits


@pytest.mark.parametrize(
    ("wrong", "complaint"),
    [((1, 1, 0.5, 1.0), "with itself"), ((1, 2, 1.5, 1.0), "outcome"), ((1, 2, 1.0, 0.0), "weight")],
)
def test_wrong_comparisons_are_refused(wrong: tuple[int, int, float, float], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        Comparison(0, *wrong[:3], "ann", wrong[3])


def test_connected_groups() -> None:
    assert connected("abcdef", [("a", "c"), ("d", "e"), ("c", "f")]) == [("a", "c", "f"), ("d", "e"), ("b",)]
