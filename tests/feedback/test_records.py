"""The store's ballots as training data, by each way of aggregating."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from posttrain.feedback.ballots import Ballot
from posttrain.feedback.records import score_of, training_records
from posttrain.feedback.reliability import PRIOR_RIGHT, PRIOR_WRONG
from posttrain.feedback.store import Store
from posttrain.types import Message, Preference, Ranking, Rating

ALONE = PRIOR_RIGHT / (PRIOR_RIGHT + PRIOR_WRONG)  # what one vote by an unknown annotator is worth


class Filled:
    """A store with two prompts, three answers each, and short names for what is in it."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.prompts = [store.add_prompt([Message("user", text)], source="test") for text in ("one?", "two?")]
        self.answers = [
            [store.add_response(prompt, [Message("assistant", text)], model=text) for text in "abc"]
            for prompt in self.prompts
        ]
        for name in ("ann", "bob", "cyd"):
            store.add_annotator(name)

    def vote(self, kind: str, which: str, by: str = "ann", prompt: int = 0, **more: object) -> int:
        ids = tuple(self.answers[prompt]["abc".index(letter)] for letter in which)
        return self.store.vote(Ballot(kind, self.prompts[prompt], ids, by, **more))  # type: ignore[arg-type]

    def records(self, aggregate: str, **more: object) -> tuple[list[Preference | Ranking | Rating], Counter[str]]:
        counts: Counter[str] = Counter()
        return list(training_records(self.store, aggregate=aggregate, counts=counts, **more)), counts  # type: ignore[arg-type]


@pytest.fixture
def filled(tmp_path: Path) -> Iterator[Filled]:
    with Store.open(tmp_path / "feedback.db") as store:
        yield Filled(store)


def pair(record: object) -> tuple[str, str, float, float]:
    assert isinstance(record, Preference)
    return record.chosen[0].content, record.rejected[0].content, record.label, record.weight


def test_each_ballot_is_one_ranking(filled: Filled) -> None:
    filled.vote("ranking", "bac", ranks=(0, 1, 1))
    filled.vote("choice", "abc", by="bob", value=filled.answers[0][2])
    filled.vote("ranking", "ab", by="cyd", prompt=1, ranks=(1, 0))
    records, counts = filled.records("ballots")
    assert all(isinstance(record, Ranking) and record.weight == 1 for record in records)
    assert [([r[0].content for r in x.responses], x.ranks) for x in records if isinstance(x, Ranking)] == [
        (["b", "a", "c"], (0, 1, 1)),
        (["a", "b", "c"], (1, 1, 0)),
        (["a", "b"], (1, 0)),
    ]
    assert records[0].prompt == (Message("user", "one?"),)
    assert records[0].source == "ann, ballot 1"
    assert +counts == {"ballots": 3, "records": 3}


def test_pairs_take_the_likelier_side_once(filled: Filled) -> None:
    for by, ranks in (("ann", (0, 1, 2)), ("bob", (0, 1, 2)), ("cyd", (1, 0, 2))):
        filled.vote("ranking", "abc", by=by, ranks=ranks)
    records, _ = filled.records("pairs")
    assert sorted(map(pair, records)) == [(a, b, 1.0, pytest.approx(1 / 3)) for a, b in ("ab", "ac", "bc")]


def test_soft_labels_say_how_sure_the_votes_are(filled: Filled) -> None:
    filled.vote("ranking", "ab", by="ann", ranks=(0, 1))
    filled.vote("ranking", "ab", prompt=1, by="ann", ranks=(1, 0))
    filled.vote("ranking", "ab", prompt=1, by="bob", ranks=(1, 0))
    records, _ = filled.records("soft")
    one, two = map(pair, records)
    assert one[:2] == ("a", "b")
    assert two[:2] == ("b", "a")
    assert ALONE - 0.01 < one[2] < two[2] < 1
    assert one[3] == two[3] == 1


def test_ties_are_counted_or_kept_as_one_half(filled: Filled) -> None:
    filled.vote("ranking", "ab", ranks=(0, 0), all_bad=True)
    for aggregate in ("ballots", "pairs", "ranked_pairs"):
        records, counts = filled.records(aggregate)
        assert (records, counts["ties"]) == ([], 1), aggregate
    records, counts = filled.records("soft")
    assert [pair(record)[2] for record in records] == [0.5]
    assert counts["ties"] == 1


def test_one_against_one_is_a_tie(filled: Filled) -> None:
    """In floating point the label is 0.5000000000000001: three pairs of six two people see alike, three not."""
    for prompt, against in ((0, (1, 0)), (1, (0, 1))):
        for which in ("ab", "ac", "bc"):
            filled.vote("ranking", which, by="ann", prompt=prompt, ranks=(0, 1))
            filled.vote("ranking", which, by="bob", prompt=prompt, ranks=against)
    records, counts = filled.records("pairs")
    assert [record.prompt[0].content for record in records] == ["two?"] * 3
    assert counts["ties"] == 3
    assert [pair(record)[2] for record in filled.records("soft")[0]][:3] == [0.5] * 3


def test_ranked_pairs_is_one_ranking_a_prompt(filled: Filled) -> None:
    for by, ranks in (("ann", (0, 1, 2)), ("bob", (0, 1, 1)), ("cyd", (2, 0, 1))):
        filled.vote("ranking", "abc", by=by, ranks=ranks)
    filled.vote("ranking", "ca", prompt=1, ranks=(0, 1))
    records, _ = filled.records("ranked_pairs")
    assert all(isinstance(record, Ranking) for record in records)
    orders = [
        [r[0].content for _, r in sorted(zip(x.ranks, x.responses, strict=True), key=lambda entry: entry[0])]
        for x in records
        if isinstance(x, Ranking)
    ]
    assert orders == [["a", "b", "c"], ["c", "a"]]


def test_an_edit_stands_over_every_answer_shown(filled: Filled) -> None:
    filled.vote("edit", "ab", value="better")
    for aggregate in ("ballots", "pairs", "soft", "ranked_pairs"):
        records, _ = filled.records(aggregate)
        assert list(map(pair, records)) == [("better", "a", 1.0, 0.5), ("better", "b", 1.0, 0.5)]
    filled.vote("edit", "a", by="bob", value="a")
    assert filled.records("pairs")[1]["identical_answers"] == 1


def test_ratings_and_labels(filled: Filled) -> None:
    filled.vote("rating", "a", value=4)
    filled.vote("rating", "a", by="bob", value=5)
    filled.vote("label", "b", value="good")
    filled.vote("label", "b", by="bob", value=["Good", "long"])
    filled.vote("label", "b", by="cyd", value="bad")
    filled.vote("label", "c", value="spam")
    filled.vote("label", "c", by="bob", value="good")
    filled.vote("label", "c", by="cyd", value="bad")

    def scores(aggregate: str) -> list[tuple[str, float]]:
        records, counts = filled.records(aggregate)
        assert counts["labels_without_score"] == 1
        return [(x.response[0].content, x.score) for x in records if isinstance(x, Rating)]

    assert scores("ballots") == [("a", 4), ("a", 5), ("b", 1), ("b", 1), ("b", 0), ("c", 1), ("c", 0)]
    assert scores("pairs") == [("a", 4.5), ("b", 1)]
    assert scores("soft") == [("a", 4.5), ("b", pytest.approx(2 / 3)), ("c", 0.5)]
    assert filled.records("pairs")[1]["ties"] == 1


def test_flags_and_skips_are_left_out_and_counted(filled: Filled) -> None:
    item = filled.store.add_item(filled.prompts[0], filled.answers[0][:2])
    filled.vote("ranking", "ab", ranks=(0, 1), item_id=item)
    filled.vote("ranking", "bc", by="bob", ranks=(0, 1))
    filled.vote("skip", "ab", by="bob", prompt=1)
    filled.vote("flag", "ab", by="cyd", item_id=item, value="private")
    for aggregate in ("ballots", "pairs", "soft", "ranked_pairs"):
        records, counts = filled.records(aggregate)
        assert len(records) == 1
        assert (counts["flagged"], counts["skips"], counts["ballots"]) == (1, 1, 4)


def test_a_better_answer_taken_back_is_no_skip(filled: Filled) -> None:
    edit = filled.vote("edit", "ab", value="better")
    ids = tuple(filled.answers[0][:2])
    back = Ballot("skip", filled.prompts[0], ids, "ann", details={"withdraws": "edit"})
    filled.store.vote(back, replaces=edit)
    filled.vote("skip", "ab", by="bob")
    records, counts = filled.records("pairs")
    assert (records, counts["skips"], counts["ballots"]) == ([], 1, 1)


def test_identical_answers_teach_nothing(filled: Filled) -> None:
    twin = filled.store.add_response(filled.prompts[0], [Message("assistant", "a")], model="other")
    filled.store.vote(Ballot("ranking", filled.prompts[0], (filled.answers[0][0], twin), "ann", ranks=(0, 1)))
    for aggregate in ("ballots", "pairs", "soft", "ranked_pairs"):
        records, counts = filled.records(aggregate)
        assert (records, counts["identical_answers"]) == ([], 1), aggregate


def test_sources_are_chosen(filled: Filled) -> None:
    filled.vote("ranking", "ab", ranks=(0, 1))
    filled.vote("ranking", "ab", by="judge", ranks=(1, 0), source="judge")
    assert [pair(record)[:2] for record in filled.records("pairs", sources=("judge",))[0]] == [("b", "a")]
    assert len(filled.records("ballots", sources=("person", "judge"))[0]) == 2
    with pytest.raises(ValueError, match="aggregate"):
        list(training_records(filled.store, aggregate="best"))


def test_a_corrected_ballot_counts_no_more(filled: Filled) -> None:
    first = filled.vote("ranking", "ab", ranks=(0, 1))
    ids = tuple(filled.answers[0][:2])
    filled.store.vote(Ballot("ranking", filled.prompts[0], ids, "ann", ranks=(1, 0)), replaces=first)
    assert [pair(record)[:2] for record in filled.records("pairs")[0]] == [("b", "a")]


def test_what_labels_say() -> None:
    assert (score_of("Good "), score_of(["bad", "short"]), score_of("spam"), score_of(["good", "bad"])) == (
        1,
        0,
        None,
        None,
    )
