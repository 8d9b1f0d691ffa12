"""Argilla records, as its client exports them, as its server sends them, and flat; and back."""

import json
from pathlib import Path
from typing import Any

import pytest

from posttrain.errors import DataError
from posttrain.feedback.ballots import Ballot
from posttrain.feedback.exports import write_file
from posttrain.feedback.imports import load_file
from posttrain.feedback.store import Store
from posttrain.types import Message

ANN, BOB = "b3e2a7a0-0000-4000-8000-000000000001", "b3e2a7a0-0000-4000-8000-000000000002"
FIELDS = {"instruction": "Say hi.", "response-1": "Hi", "response-2": "Hello", "response-3": "Yo"}


def load(store: Store, path: Path, *records: Any, **given: Any) -> Any:
    path.write_text(json.dumps(list(records)))
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


def record(responses: Any, **given: Any) -> dict[str, Any]:
    return {
        "id": "r1",
        "fields": FIELDS,
        "metadata": {},
        "suggestions": {},
        "responses": responses,
        "vectors": {},
        "_server_id": None,
        **given,
    }


def test_records_of_the_client(sqlite_store: Store, tmp_path: Path) -> None:
    answers = {
        "ranking": [{"value": ["response-2", "response-3", "response-1"], "user_id": ANN}],
        "rating-response-1": [{"value": 4, "user_id": ANN}, {"value": 2, "user_id": BOB}],
        "better": [{"value": "response-3", "user_id": BOB}],
        "tags": [{"value": ["short", "rude"], "user_id": BOB}],
        "corrected": [{"value": "Good day.", "user_id": BOB}],
        "reason": [{"value": "polite", "user_id": ANN}],
    }
    suggestions = {"ranking": {"value": ["response-1"], "score": 0.5, "agent": "gpt"}}
    loaded = load(sqlite_store, tmp_path / "a.json", record(answers, suggestions=suggestions))
    every = ["Hi", "Hello", "Yo"]
    assert said(sqlite_store) == [
        (ANN, "ranking", ["Hello", "Yo", "Hi"], (0, 1, 2)),
        (ANN, "rating", ["Hi"], 4),
        (BOB, "rating", ["Hi"], 2),
        (BOB, "choice", every, "Yo"),
        (BOB, "label", every, ["short", "rude"]),
        (BOB, "edit", every, "Good day."),
    ]
    assert [one.comment for one in sqlite_store.ballots()] == ["polite", "polite", "", "", "", ""]
    assert sqlite_store.prompt(1).messages == (Message("user", "Say hi."),)
    assert loaded.left_out == {"a suggestion, which nobody submitted": 1}
    assert (loaded.formats, loaded.new) == ({"Argilla": 1}, {"ballots": 6})


def test_records_of_the_server(sqlite_store: Store, tmp_path: Path) -> None:
    tied = [{"value": "response-1", "rank": 1}, {"value": "response-3", "rank": 2}, {"value": "response-2", "rank": 1}]
    answers = [
        {"values": {"ranking": {"value": tied}}, "status": "submitted", "user_id": ANN},
        {"values": {"ranking": {"value": tied}}, "status": "draft", "user_id": BOB},
        {"values": {}, "status": "discarded", "user_id": BOB},
    ]
    loaded = load(sqlite_store, tmp_path / "a.json", record(answers))
    assert said(sqlite_store) == [
        (ANN, "ranking", ["Hi", "Yo", "Hello"], (0, 1, 0)),
        (BOB, "skip", ["Hi", "Hello", "Yo"], None),
    ]
    assert loaded.left_out == {"a draft that was not submitted": 1}


def test_flat_rows(sqlite_store: Store, tmp_path: Path) -> None:
    row = {
        "id": "r1", "status": "completed", "_server_id": "x", "prompt": "Say hi.", "chosen": "Hi", "rejected": "Yo",
        "winner.responses": ["chosen", "tie"], "winner.responses.users": [ANN, BOB],
        "winner.responses.status": ["submitted", "submitted"], "winner.suggestion": "chosen",
    }  # fmt: skip
    load(sqlite_store, tmp_path / "a.json", row)
    assert said(sqlite_store) == [(ANN, "choice", ["Hi", "Yo"], "Hi"), (BOB, "ranking", ["Hi", "Yo"], (0, 0))]


def test_a_changed_answer_corrects_the_one_before(sqlite_store: Store, tmp_path: Path) -> None:
    def voted(*order: str) -> dict[str, Any]:
        return record({"ranking": [{"value": [f"response-{number}" for number in order], "user_id": ANN}]})

    path = tmp_path / "a.json"
    load(sqlite_store, path, voted("1", "2"))
    again = load(sqlite_store, path, voted("1", "2"))
    assert (again.new, again.known) == ({}, {"ballots": 1})
    load(sqlite_store, path, voted("2", "1"))
    assert said(sqlite_store) == [(ANN, "ranking", ["Hello", "Hi"], (0, 1))]
    assert len(sqlite_store.ballots(include_replaced=True)) == 2
    load(sqlite_store, path, voted("1", "2"))
    assert load(sqlite_store, path, voted("1", "2")).new == {}
    assert said(sqlite_store) == [(ANN, "ranking", ["Hi", "Hello"], (0, 1))]
    assert [one.replaced_by for one in sqlite_store.ballots(include_replaced=True)] == [2, 3, None]


def test_a_second_project_counts_its_records_from_one_too(sqlite_store: Store, tmp_path: Path) -> None:
    """Record, question and user are the same; prompt or answers are not, so nothing is corrected."""
    answers = {"ranking": [{"value": ["response-1", "response-2"], "user_id": ANN}]}
    projects = (FIELDS, {**FIELDS, "instruction": "Say bye."}, {**FIELDS, "response-1": "Ciao"})
    for fields in (*projects, *projects):
        load(sqlite_store, tmp_path / "a.json", record(answers, fields=fields))
    assert [one.replaced_by for one in sqlite_store.ballots(include_replaced=True)] == [None] * 3
    # A change in one of them, which now shows one answer more, corrects that one.
    swapped = {"ranking": [{"value": ["response-2", "response-1"], "user_id": ANN}]}
    load(sqlite_store, tmp_path / "a.json", record(swapped, fields={**projects[1], "response-4": "Tata"}))
    assert [one.replaced_by for one in sqlite_store.ballots(include_replaced=True)] == [None, 4, None, None]


def test_fields_can_be_named(sqlite_store: Store, tmp_path: Path) -> None:
    fields = {"ask": [{"role": "system", "content": "s"}, {"role": "user", "content": "q"}], "left": "a", "right": "b"}
    answers = {"best": [{"value": "right", "user_id": ANN}]}
    row = record(answers, fields=fields)
    with pytest.raises(DataError, match=r"a\.json, line 1, field 'fields': no field is the prompt, .*--prompt-field"):
        load(sqlite_store, tmp_path / "a.json", row)
    load(sqlite_store, tmp_path / "a.json", row, prompt_field="ask", answer_fields=["left", "right"])
    assert said(sqlite_store) == [(ANN, "choice", ["a", "b"], "b")]
    assert sqlite_store.prompt(1).messages == (Message("system", "s"), Message("user", "q"))
    with pytest.raises(DataError, match=r"field 'fields\.middle': there is no such field"):
        load(sqlite_store, tmp_path / "a.json", row, prompt_field="ask", answer_fields=["middle"])


@pytest.mark.parametrize(
    ("responses", "complaint"),
    [
        ("text", "field 'responses': expected an object or a list, found text"),
        ({"ranking": [3]}, r"field 'responses\.ranking\[0\]'"),
        ([3], r"field 'responses\[0\]'"),
        ([{"values": [1]}], r"field 'responses\[0\]\.values'"),
        ({"ranking": [{"value": [], "status": "lost"}]}, "the status is 'lost', expected one of submitted"),
        ({"edit": [{"value": " ", "user_id": ANN}], "fix": [{"value": "\0", "status": "submitted"}]}, "."),
    ],
)
def test_bad_records(sqlite_store: Store, tmp_path: Path, responses: Any, complaint: str) -> None:
    if complaint == ".":
        assert load(sqlite_store, tmp_path / "a.json", record(responses)).new == {"ballots": 2}
        return
    with pytest.raises(DataError, match=complaint):
        load(sqlite_store, tmp_path / "a.json", record(responses))


def test_what_cannot_be_told_is_counted(sqlite_store: Store, tmp_path: Path) -> None:
    answers = {
        "rating": [{"value": 4, "user_id": ANN}],
        "span": [{"value": [{"label": "x", "start": 0}], "user_id": ANN}],
    }
    loaded = load(sqlite_store, tmp_path / "a.json", record(answers))
    assert sum(loaded.left_out.values()) == 2
    assert any("which answer it rates cannot be told" in reason for reason in loaded.left_out)


def test_ballots_go_out_and_come_back(sqlite_store: Store, tmp_path: Path) -> None:
    store = sqlite_store
    prompt = store.add_prompt([Message("system", "s"), Message("user", "q")], fields={"topic": "x"})
    a, b = (store.add_response(prompt, [Message("assistant", text)], model=f"m{text}") for text in "ab")
    for ballot in (
        Ballot("ranking", prompt, (b, a), "ann", ranks=(0, 1), comment="clear"),
        Ballot("ranking", prompt, (a, b), "bob", ranks=(0, 0), all_bad=True),
        Ballot("choice", prompt, (a, b), "cy", value=b),
        Ballot("rating", prompt, (a,), "cy", value=3),
        Ballot("label", prompt, (a, b), "cy", value=["x", "y"]),
        Ballot("edit", prompt, (b,), "dee", value="better"),
        Ballot("flag", prompt, (a, b), "ed", value="rude"),
        Ballot("skip", prompt, (a, b), "flo", value="no idea"),
    ):
        store.vote(ballot)
    path = tmp_path / "a.json"
    write_file(store, path, "argilla")
    (first, *_) = json.loads(path.read_text())
    assert first["fields"] == {
        "prompt": [{"role": "system", "content": "s"}, {"role": "user", "content": "q"}],
        "response-1": "a",
        "response-2": "b",
    }
    assert first["responses"]["ranking"][0]["value"] == ["response-2", "response-1"]
    with Store.open(tmp_path / "copy.db") as copy:
        loaded = load_file(copy, path)
        assert not loaded.left_out

        def told(one: Store) -> list[Any]:
            return sorted(
                (x.annotator, x.kind, x.response_ids, str(x.ranks), str(x.value), x.all_bad, x.comment)
                for x in one.ballots()
            )

        assert told(copy) == told(store)
        assert [(one.messages, one.model) for one in copy.responses()] == [
            (one.messages, one.model) for one in store.responses()
        ]
        assert copy.prompt(1).fields == {"topic": "x"}
