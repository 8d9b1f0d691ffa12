"""Label Studio's JSON export: Pairwise, Ranker, Rating, Choices and TextArea results; and back."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from posttrain.errors import DataError
from posttrain.feedback.ballots import Ballot
from posttrain.feedback.exports import write_file
from posttrain.feedback.imports import load_file
from posttrain.feedback.store import Store
from posttrain.types import Message

PAIR = {"prompt": "Say hi.", "text1": "Hi", "text2": "Yo"}
ITEMS = [
    {"id": "blog", "title": "b", "body": "Tips"},
    {"id": "mdn", "title": "m", "html": "Doc"},
    {"id": "w", "title": "Wiki"},
]
PAIRWISE = {"from_name": "pw", "to_name": "text1,text2", "type": "pairwise", "id": "x", "value": {"selected": "right"}}


def task(data: Any, *results: Any, **annotation: Any) -> dict[str, Any]:
    given = {
        "id": 1001,
        "completed_by": 10,
        "was_cancelled": False,
        "lead_time": 4.288,
        "created_at": "2021-03-09T22:16:08.728353Z",
        "result": list(results),
        **annotation,
    }
    return {"id": 1, "project": 83, "data": data, "annotations": [given], "predictions": []}


def load(store: Store, path: Path, *tasks: Any, **given: Any) -> Any:
    path.write_text(json.dumps(list(tasks)))
    return load_file(store, path, **given)


def said(store: Store) -> list[Any]:
    texts = {response.id: response.messages[0].content for response in store.responses()}
    return [
        (
            one.annotator,
            one.kind,
            [texts[id] for id in one.response_ids],
            one.ranks or (texts[one.value] if one.kind == "choice" else one.value),
        )
        for one in store.ballots()
    ]


def ranker(value: Any) -> dict[str, Any]:
    return {"from_name": "rank", "to_name": "results", "type": "ranker", "value": {"ranker": value}}


def test_a_pairwise_task(sqlite_store: Store, tmp_path: Path) -> None:
    note = {"from_name": "comment", "to_name": "prompt", "type": "textarea", "value": {"text": ["short", "fine"]}}
    loaded = load(sqlite_store, tmp_path / "t.json", task(PAIR, PAIRWISE, note))
    assert said(sqlite_store) == [("10", "choice", ["Hi", "Yo"], "Yo")]
    (ballot,) = sqlite_store.ballots()
    assert (ballot.seconds, ballot.comment) == (4.288, "short\nfine")
    assert ballot.created == datetime(2021, 3, 9, 22, 16, 8, 728353, tzinfo=UTC)
    assert (loaded.formats, loaded.new, loaded.left_out) == ({"Label Studio": 1}, {"ballots": 1}, {})


def test_a_second_project_counts_its_tasks_from_one_too(sqlite_store: Store, tmp_path: Path) -> None:
    for data in (PAIR, {**PAIR, "prompt": "Say bye."}, {**PAIR, "text1": "Ciao"}) * 2:
        load(sqlite_store, tmp_path / "t.json", task(data, PAIRWISE))
    assert [one.replaced_by for one in sqlite_store.ballots(include_replaced=True)] == [None] * 3


def test_a_pairwise_whose_sides_nothing_names_is_left_out(sqlite_store: Store, tmp_path: Path) -> None:
    """The order of the data's fields says nothing about the screen."""
    row = task(PAIR, {**PAIRWISE, "to_name": "left_panel,right_panel"})
    loaded = load(sqlite_store, tmp_path / "t.json", row)
    assert said(sqlite_store) == []
    assert [reason for reason in loaded.left_out if "--answer-fields" in reason]
    load(sqlite_store, tmp_path / "t.json", row, answer_fields=["text2", "text1"])
    assert said(sqlite_store) == [("10", "choice", ["Yo", "Hi"], "Hi")]


def test_an_export_of_ours_is_read_again_after_more_votes(sqlite_store: Store, tmp_path: Path) -> None:
    """Other tasks before it, a correction and another answer under the prompt change nothing of a vote of before."""
    path, store = tmp_path / "t.json", sqlite_store
    later = store.add_prompt([Message("user", "later")])
    prompt = store.add_prompt([Message("user", "q")])
    a, b = (store.add_response(prompt, [Message("assistant", text)]) for text in "ab")
    x, y = (store.add_response(later, [Message("assistant", text)]) for text in "xy")
    first = store.vote(Ballot("ranking", prompt, (a, b), "ann", ranks=(0, 1)))
    store.vote(Ballot("ranking", prompt, (a, b), "bob", ranks=(0, 1)))
    with Store.open(tmp_path / "copy.db") as copy:
        write_file(store, path, "label-studio")
        load_file(copy, path)
        store.vote(Ballot("ranking", later, (x, y), "ann", ranks=(0, 1)))
        store.add_response(prompt, [Message("assistant", "c")])
        store.vote(Ballot("ranking", prompt, (b, a), "ann", ranks=(0, 1)), replaces=first)
        write_file(store, path, "label-studio")
        load_file(copy, path)
        assert sorted(said(copy)) == sorted(said(store))
        assert len(said(copy)) == 3
        assert all("meta_posttrain" not in one.fields for one in copy.prompts())


def test_json_min_is_refused(sqlite_store: Store, tmp_path: Path) -> None:
    row = {**PAIR, "id": 1, "pw": "right", "annotator": 1, "annotation_id": 1, "lead_time": 4.2}
    with pytest.raises(DataError, match=r"annotation_id.*JSON-MIN.*export as JSON"):
        load(sqlite_store, tmp_path / "t.json", row)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (["mdn", "w", "blog"], (["Doc", "Wiki", "Tips"], (0, 1, 2))),
        ({"rank": ["mdn", "w", "blog"]}, (["Doc", "Wiki", "Tips"], (0, 1, 2))),
        ({"_": ["w", "blog"]}, (["Wiki", "Tips"], (0, 1))),
        ({"1": ["mdn"], "2": ["w", "blog"]}, (["Doc", "Wiki", "Tips"], (0, 1, 1))),
        ({"_": ["w"], "best": ["mdn", "blog"]}, (["Doc", "Tips"], (0, 1))),
        ({"relevant": ["mdn"], "biased": ["w"]}, None),
        (["mdn", "elsewhere"], None),
        (["mdn"], None),
        ("mdn", None),
    ],
)
def test_rankers(sqlite_store: Store, tmp_path: Path, value: Any, expected: Any) -> None:
    loaded = load(sqlite_store, tmp_path / "t.json", task({"prompt": "q", "items": ITEMS}, ranker(value)))
    assert [one[2:] for one in said(sqlite_store)] == ([] if expected is None else [expected])
    assert sum(loaded.left_out.values()) == (expected is None)


def test_ratings_choices_and_texts(sqlite_store: Store, tmp_path: Path) -> None:
    results = [
        {"from_name": "stars", "to_name": "text2", "type": "rating", "value": {"rating": 3}},
        {"from_name": "stars", "to_name": "prompt", "type": "rating", "value": {"rating": 5}},
        {"from_name": "winner", "to_name": "prompt", "type": "choices", "value": {"choices": ["text1"]}},
        {"from_name": "same", "to_name": "prompt", "type": "choices", "value": {"choices": ["tie"]}},
        {"from_name": "tone", "to_name": "text1", "type": "choices", "value": {"choices": ["rude", "short"]}},
        {"from_name": "edited", "to_name": "text2", "type": "textarea", "value": {"text": ["Good day"]}},
        {"from_name": "box", "to_name": "text1", "type": "rectanglelabels", "value": {"x": 1}},
    ]
    other = task(PAIR, was_cancelled=True, completed_by={"id": 3, "email": "bob@example.org"}, id=1002)
    loaded = load(sqlite_store, tmp_path / "t.json", {**task(PAIR, *results), "predictions": [{}]}, {**other, "id": 2})
    assert said(sqlite_store) == [
        ("10", "rating", ["Yo"], 3),
        ("10", "choice", ["Hi", "Yo"], "Hi"),
        ("10", "ranking", ["Hi", "Yo"], (0, 0)),
        ("10", "label", ["Hi"], ["rude", "short"]),
        ("10", "edit", ["Yo"], "Good day"),
        ("bob@example.org", "skip", ["Hi", "Yo"], None),
    ]
    assert sum(loaded.left_out.values()) == 3  # a rating of nobody knows what, a box, a prediction


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        ({"data": {"x": 1}, "annotations": []}, "line 1, field 'data': no field is the prompt"),
        ({"data": PAIR, "annotations": {"a": 1}}, "field 'annotations': expected a list"),
        ({"data": PAIR, "annotations": [1]}, r"field 'annotations\[0\]'"),
        ({"data": PAIR, "annotations": [{"result": "x"}]}, r"field 'annotations\[0\]\.result'"),
        ({"data": PAIR, "annotations": [{"result": [1]}]}, r"field 'annotations\[0\]\.result\[0\]'"),
        ({"data": PAIR, "annotations": [{"created_at": "soon"}]}, r"annotations\[0\]\.created_at': expected a date"),
        ({"data": PAIR, "annotations": [{"lead_time": -1, "result": [PAIRWISE]}]}, "line 1: seconds is -1"),
    ],
)
def test_bad_tasks(sqlite_store: Store, tmp_path: Path, row: Any, complaint: str) -> None:
    with pytest.raises(DataError, match=rf"t\.json, .*{complaint}"):
        load(sqlite_store, tmp_path / "t.json", row)
    assert sum(sqlite_store.counts().values()) == 0


def test_ballots_go_out_and_come_back(sqlite_store: Store, tmp_path: Path) -> None:
    store = sqlite_store
    prompt = store.add_prompt([Message("user", "q")])
    a, b, c = (store.add_response(prompt, [Message("assistant", text)], model=f"m{text}") for text in "abc")
    item = store.add_item(prompt, [a, b, c])
    for ballot in (
        Ballot("ranking", prompt, (b, a), "ann", ranks=(0, 1), comment="clear", seconds=2.0),
        Ballot("ranking", prompt, (a, b, c), "bob", ranks=(1, 0, 1), all_bad=True, item_id=item),
        Ballot("choice", prompt, (a, b), "cy", value=b),
        Ballot("choice", prompt, (a, b, c), "cy", value=c),
        Ballot("rating", prompt, (a,), "cy", value=3),
        Ballot("label", prompt, (a,), "cy", value=["x", "y"]),
        Ballot("edit", prompt, (b,), "dee", value="better"),
        Ballot("flag", prompt, (a, b, c), "ed", value="rude"),
        Ballot("skip", prompt, (a, b, c), "flo"),
    ):
        store.vote(ballot)
    path = tmp_path / "t.json"
    write_file(store, path, "label-studio")
    first = json.loads(path.read_text())[0]
    assert first["data"]["items"][1] == {"id": "response-2", "title": "response-2", "body": "b"}
    assert first["annotations"][0]["result"][0] == {
        "from_name": "ranking", "to_name": "items", "type": "ranker",
        "value": {"ranker": {"rank": ["response-2", "response-1"]}},
    }  # fmt: skip
    with Store.open(tmp_path / "copy.db") as copy:
        loaded = load_file(copy, path)
        assert not loaded.left_out

        def told(one: Store) -> list[Any]:
            return sorted(
                (
                    x.annotator,
                    x.kind,
                    sorted(zip(x.response_ids, x.ranks or x.response_ids, strict=True)),
                    str(x.value),
                    x.all_bad,
                    x.comment,
                    x.seconds,
                    x.created,
                )
                for x in one.ballots()
            )

        assert told(copy) == told(store)
        assert [one.model for one in copy.responses()] == ["ma", "mb", "mc"]
        assert load_file(copy, path).new == {}
