"""Files out of the store and into it: whole, as training data, twice, and broken."""

import gzip
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from posttrain.cli import main
from posttrain.data.sources import read
from posttrain.errors import DataError, StoreError
from posttrain.feedback.ballots import Ballot
from posttrain.feedback.exports import FORMATS, write_file
from posttrain.feedback.imports import load_file
from posttrain.feedback.store import Store
from posttrain.types import Message, Preference, Ranking, Rating, ToolCall

TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {"b": 1, "a": 2}}}]


def fill(store: Store) -> None:
    """One of everything, ids with a gap, a correction, and characters that hurt."""
    first = store.add_prompt([Message("user", "one\0\ud800")], fields={"gold": 1}, source="here")
    second = store.add_prompt([Message("system", "s"), Message("user", "two")], tools=TOOLS)
    a = store.add_response(first, [Message("assistant", "A", reasoning="hm")], model="m", token_ids=[1, 2])
    x = store.add_response(second, [Message("assistant", "", tool_calls=(ToolCall("f", '{"a": 1}', "c"),))])
    b = store.add_response(first, [Message("assistant", "B", weight=0.5)], parameters={"top_p": 0.9})
    c = store.add_response(first, [Message("assistant", "C")], model="n")
    y = store.add_response(second, [Message("assistant", "Y")])
    store.set_scores(c, [0.5, 1.5])
    item = store.add_item(first, [c, a, b], overlap=2)
    store.add_annotator("ann")
    store.add_annotator("judge", source="judge")
    version = store.set_guidelines("be kind")
    old = store.vote(Ballot("ranking", first, (c, a), "ann", ranks=(0, 1), item_id=item, key="old"))
    store.vote(
        Ballot("ranking", first, (b, c, a), "ann", ranks=(1, 0, 1), item_id=item, guidelines=version, seconds=2.5),
        replaces=old,
    )
    store.vote(Ballot("choice", second, (x, y), "judge", "judge", value=y, details={"p": 0.75}))
    store.vote(Ballot("rating", second, (x,), "bob", "serving", value=-1.5, comment="nö"))
    store.vote(Ballot("edit", second, (y,), "bob", value="better"))
    store.vote(Ballot("skip", second, (x, y), "bob"))
    store.close_assignment(store.assign(item, "ann", [a, b, c]).id)
    store.assign(item, "bob", [c, b, a])


def all_of(store: Store) -> tuple[Any, ...]:
    return (
        store.prompts(),
        store.responses(),
        store.items(),
        store.annotators(),
        store.guidelines(),
        store.ballots(include_replaced=True),
        store.assignments(),
    )


def test_a_dump_makes_an_equal_store(store: Store, new_address: Callable[[], str], tmp_path: Path) -> None:
    fill(store)
    for name in ("a.jsonl", "a.json"):
        written = write_file(store, tmp_path / name, "store")
        with Store.open(new_address()) as copy:
            loaded = load_file(copy, tmp_path / name)
            assert all_of(copy) == all_of(store)
            assert sum(loaded.new.values()) == written.rows - 1
            again = load_file(copy, tmp_path / name)
            assert (again.new, again.known, all_of(copy)) == (Counter(), loaded.new, all_of(store))
            # New rows get ids of their own.
            prompt = copy.add_prompt([Message("user", "new")])
            assert prompt == 3


def test_a_dump_joins_a_store_that_has_rows(store: Store, new_address: Callable[[], str], tmp_path: Path) -> None:
    fill(store)
    write_file(store, tmp_path / "a.jsonl", "store")
    with Store.open(new_address()) as other:
        mine = other.add_prompt([Message("user", "mine")])
        theirs = other.add_prompt([Message("system", "s"), Message("user", "two")], tools=TOOLS)  # in both
        answer = other.add_response(mine, [Message("assistant", "A")])
        other.add_response(theirs, [Message("assistant", "Y")])
        other.set_guidelines("be brief")
        other.vote(Ballot("rating", mine, (answer,), "ann", value=1, key="mine"))
        load_file(other, tmp_path / "a.jsonl")
        load_file(other, tmp_path / "a.jsonl")

        def told(one: Store) -> list[Any]:
            """What was said, in contents in place of ids."""
            texts = {response.id: response.messages for response in one.responses()}
            prompts = {prompt.id: prompt.messages for prompt in one.prompts()}
            keys = {ballot.id: ballot.key for ballot in one.ballots(include_replaced=True)}
            versions = {number: one.guidelines(number) for number in range(1, 4)}
            return [
                (
                    ballot.key,
                    ballot.kind,
                    prompts[ballot.prompt_id],
                    [texts[id] for id in ballot.response_ids],
                    texts[ballot.value] if ballot.kind == "choice" else ballot.value,
                    ballot.ranks,
                    (versions[ballot.guidelines] or ("", ""))[1] if ballot.guidelines else None,
                    keys.get(ballot.replaced_by),
                    ballot.created,
                )
                for ballot in one.ballots(include_replaced=True)
            ]

        assert told(other)[1:] == told(store)
        assert other.counts() == {"prompts": 3, "responses": 6, "items": 1, "ballots": 6, "annotators": 2}


def test_a_dump_of_the_same_key_brings_its_own_ballot(
    store: Store, new_address: Callable[[], str], ask: Callable[..., Any], tmp_path: Path
) -> None:
    """Two clients, or two imports, may choose one key in two stores; nobody's vote is dropped, and none doubled."""
    with Store.open(new_address()) as other:
        for one, name, ranks in ((store, "ann", (0, 1)), (other, "bob", (0, 1))):
            prompt, answers = ask(one, "q", "1", "2")
            one.vote(Ballot("ranking", prompt, answers, name, ranks=ranks, key="k"))
        write_file(store, tmp_path / "a.jsonl", "store")
        assert load_file(other, tmp_path / "a.jsonl").new["ballots"] == 1
        assert load_file(other, tmp_path / "a.jsonl").new["ballots"] == 0
        assert [(one.annotator, one.key.startswith("k")) for one in other.ballots()] == [("bob", True), ("ann", True)]


def test_imports_into_two_stores_can_be_joined(store: Store, new_address: Callable[[], str], tmp_path: Path) -> None:
    """The first ballots of two stores are on prompt 1 and answers 1 and 2; that makes them no one ballot."""
    for name in "ab":
        row = {"prompt": f"q{name}", "chosen": f"{name}1", "rejected": f"{name}2"}
        (tmp_path / f"{name}.jsonl").write_text(json.dumps(row) + "\n")
    with Store.open(new_address()) as other:
        load_file(store, tmp_path / "a.jsonl", annotator="crowd")
        load_file(other, tmp_path / "b.jsonl", annotator="crowd")
        write_file(store, tmp_path / "all.jsonl", "store")
        assert load_file(other, tmp_path / "all.jsonl").new["ballots"] == 1
        assert [one.messages[0].content for one in other.prompts()] == ["qb", "qa"]
        assert len({one.key for one in other.ballots()}) == other.counts()["ballots"] == 2
        # What the dump brought is known when its own source is read.
        assert load_file(other, tmp_path / "a.jsonl", annotator="crowd").known == {"ballots": 1}


def test_the_order_on_the_screen_follows_the_answers(
    store: Store, new_address: Callable[[], str], ask: Callable[..., Any], tmp_path: Path
) -> None:
    prompt, (a, b) = ask(store, "q", "1", "2")
    store.vote(Ballot("ranking", prompt, (a, b), "ann", ranks=(0, 1), details={"shown": [b, a], "other": [a]}))
    write_file(store, tmp_path / "a.jsonl", "store")
    with Store.open(new_address()) as other:
        ask(other, "another", "3", "4", "5")
        load_file(other, tmp_path / "a.jsonl")
        (ballot,) = other.ballots()
        texts = [other.response(id).messages[0].content for id in ballot.details["shown"]]
        assert (texts, ballot.details["other"]) == (["2", "1"], [a])


def test_preference_rows_keep_how_sure_they_are(sqlite_store: Store, tmp_path: Path) -> None:
    said = [(None, 0, 1), (0.5000000000000001, 0, 1), (0.3, 2, 1), (0.9, 0, 0.5), (0, 0, 1)]
    rows = [
        {"prompt": "p", "chosen": f"{n}a", "rejected": f"{n}b", "chosen_probability": p, "margin": m, "pair_weight": w}
        for n, (p, m, w) in enumerate(said)
    ]
    (tmp_path / "p.jsonl").write_text("".join(json.dumps({**row, "comment": "so so"}) + "\n" for row in rows))
    load_file(sqlite_store, tmp_path / "p.jsonl")
    found = [(one.ranks, one.details) for one in sqlite_store.ballots()]
    assert found == [
        ((0, 1), {}),
        ((0, 0), {}),
        ((1, 0), {"label": 0.3, "margin": 2}),
        ((0, 1), {"label": 0.9, "weight": 0.5}),
        ((1, 0), {}),
    ]
    assert {one.comment for one in sqlite_store.ballots()} == {"so so"}


def test_a_ranking_comes_back_with_what_was_said_beside_it(
    sqlite_store: Store, ask: Callable[..., Any], tmp_path: Path
) -> None:
    prompt, (a, b) = ask(sqlite_store, "q", "1", "2")
    sqlite_store.vote(Ballot("ranking", prompt, (b, a), "ann", ranks=(0, 0), all_bad=True, comment="both wrong"))
    sqlite_store.vote(Ballot("rating", prompt, (a,), "ann", value=2, comment="meh"))
    with Store.open(tmp_path / "copy.db") as copy:
        for name in ("ranking", "rating"):
            write_file(sqlite_store, tmp_path / f"{name}.jsonl", name)
            load_file(copy, tmp_path / f"{name}.jsonl")
        ranking, rating = copy.ballots()
        assert (ranking.all_bad, ranking.comment, ranking.ranks) == (True, "both wrong", (0, 0))
        assert (rating.comment, rating.value) == ("meh", 2)


def test_a_newer_dump_brings_an_older_copy_up_to_date(
    store: Store, new_address: Callable[[], str], tmp_path: Path
) -> None:
    fill(store)
    write_file(store, tmp_path / "old.jsonl", "store")
    with Store.open(new_address()) as copy:
        load_file(copy, tmp_path / "old.jsonl")
        last = store.ballots()[0]
        store.vote(Ballot("skip", last.prompt_id, last.response_ids, "ann", item_id=last.item_id), replaces=last.id)
        store.set_scores(1, [0.25])
        store.close_assignment(store.assignments()[-1].id)
        store.add_prompt([Message("user", "one\0\ud800")], fields={"level": 3})
        assert all_of(copy) != all_of(store)
        write_file(store, tmp_path / "new.jsonl", "store")
        assert load_file(copy, tmp_path / "new.jsonl").new == {"ballots": 1}
        assert all_of(copy) == all_of(store)


def test_a_bad_ballot_leaves_nothing_of_its_row(store: Store, tmp_path: Path) -> None:
    good = {"from_name": "pw", "to_name": "text1,text2", "type": "pairwise", "value": {"selected": "left"}}
    data = {"prompt": "q", "text1": "x", "text2": "y"}
    rows = [
        {"id": 1, "data": data, "annotations": [{"result": [good]}, {"id": 2, "lead_time": -1, "result": [good]}]},
        {"id": 1, "data": data, "annotations": [{"result": [good]}]},
    ]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[:1]))
    with pytest.raises(DataError, match="no row"):
        load_file(store, tmp_path / "t.jsonl", on_bad_rows="skip")
    assert sum(store.counts().values()) == 0
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    loaded = load_file(store, tmp_path / "t.jsonl", on_bad_rows="skip")
    assert (loaded.new, len(loaded.skipped)) == ({"ballots": 1}, 1)
    assert store.counts() == {"prompts": 1, "responses": 2, "items": 0, "ballots": 1, "annotators": 0}


def test_rankings_and_ratings_are_read_by_the_trainers(sqlite_store: Store, tmp_path: Path) -> None:
    fill(sqlite_store)
    written = write_file(sqlite_store, tmp_path / "r.jsonl", "ranking")
    (source,) = read(tmp_path / "r.jsonl")
    first, second = source.records
    assert isinstance(first, Ranking)
    assert isinstance(second, Ranking)
    assert (written.rows, written.left_out) == (2, {"rating": 1, "edit": 1, "skip": 1})
    assert first.prompt == (Message("user", "one\0�"),)
    assert first.responses == (
        (Message("assistant", "B", weight=0.5),),
        (Message("assistant", "C"),),
        (Message("assistant", "A", reasoning="hm"),),
    )
    assert first.ranks == (1, 0, 1)
    assert (second.ranks, second.tools) == ((1, 0), tuple(TOOLS))
    assert second.responses[0][0].tool_calls == (ToolCall("f", '{"a": 1}', "c"),)
    write_file(sqlite_store, tmp_path / "k.jsonl", "rating")
    ((rating,),) = (one.records for one in read(tmp_path / "k.jsonl"))
    assert isinstance(rating, Rating)
    assert (rating.score, rating.prompt[-1].content) == (-1.5, "two")


def test_preferences_are_read_by_the_trainers(sqlite_store: Store, ask: Callable[..., Any], tmp_path: Path) -> None:
    prompt, (a, b, c) = ask(sqlite_store, "q", "1", "2", "3")
    sqlite_store.vote(Ballot("ranking", prompt, (a, b, c), "ann", ranks=(2, 1, 0)))
    write_file(sqlite_store, tmp_path / "p.jsonl", "preference", aggregate="pairs")
    rows = [json.loads(line) for line in (tmp_path / "p.jsonl").read_text().splitlines()]
    assert all(set(row) >= {"chosen_probability", "margin", "pair_weight"} for row in rows)
    ((*pairs,),) = (one.records for one in read(tmp_path / "p.jsonl"))
    assert all(isinstance(pair, Preference) for pair in pairs)
    found = {(pair.chosen[0].content, pair.rejected[0].content) for pair in pairs if isinstance(pair, Preference)}
    assert found == {("3", "2"), ("3", "1"), ("2", "1")}


def test_training_data_becomes_ballots(store: Store, tmp_path: Path) -> None:
    rows = [
        {"prompt": "p", "chosen": "good", "rejected": "bad"},
        {"prompt": "p", "chosen": "good", "rejected": "bad"},  # somebody else said the same
        {
            "prompt": "p",
            "responses": ["x", "y", "z"],
            "ranks": [1, 0, 1],
            "annotator": "ann",
            "models": ["1", "2", "3"],
        },
        {"prompt": "p", "completion": "x", "label": False},
        {"prompt": "q", "answer": "42"},
        {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]},
        {"prompt": "p", "chosen": "same", "rejected": "same"},
        {"text": "nothing to judge"},
    ]
    path = tmp_path / "data.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    loaded = load_file(store, path, annotator="crowd", source="judge")
    said = [(one.kind, one.annotator, one.source, one.ranks, one.value) for one in store.ballots()]
    assert said == [
        ("ranking", "crowd", "judge", (0, 1), None),
        ("ranking", "crowd", "judge", (0, 1), None),
        ("ranking", "ann", "judge", (1, 0, 1), None),
        ("rating", "crowd", "judge", None, 0.0),
    ]
    assert [response.model for response in store.responses(1)][2:5] == ["1", "2", "3"]
    assert store.prompts()[1].fields == {"answer": "42"}
    assert loaded.new == {"ballots": 4}
    assert sum(loaded.formats.values()) == len(rows)
    assert loaded.left_out == {
        "nobody has judged it; prompt and answers are stored": 2,
        "an answer that is there twice under one prompt": 1,
        "a ranking of equal answers": 1,
        "document without a prompt and an answer": 1,
    }
    before = all_of(store)
    assert (load_file(store, path, annotator="crowd", source="judge").known, all_of(store)) == ({"ballots": 4}, before)


def test_trees_become_rankings(sqlite_store: Store, tmp_path: Path) -> None:
    def said(role: str, text: str, rank: int | None, *replies: Any) -> dict[str, Any]:
        return {"message_id": text, "role": role, "text": text, "rank": rank, "replies": list(replies)}

    deep = said(
        "prompter", "q2", None, said("assistant", "c", 1), said("assistant", "d", 0), said("assistant", "e", None)
    )
    root = said("prompter", "q", None, said("assistant", "a", 1, deep), said("assistant", "b", 0))
    (tmp_path / "t.jsonl").write_text(json.dumps({"message_tree_id": "t", "prompt": root}) + "\n")
    with (tmp_path / "t.jsonl").open("a") as handle:
        handle.write(json.dumps({"message_tree_id": "u", "prompt": said("prompter", "silence", None)}) + "\n")
    loaded = load_file(sqlite_store, tmp_path / "t.jsonl")
    assert (loaded.formats, loaded.left_out) == ({"OpenAssistant tree": 2}, {"a tree without an answer": 1})
    texts = {response.id: response.messages[0].content for response in sqlite_store.responses()}
    found = [
        (sqlite_store.prompt(one.prompt_id).messages[-1].content, [texts[id] for id in one.response_ids], one.ranks)
        for one in sqlite_store.ballots()
    ]
    assert found == [("q", ["a", "b"], (1, 0)), ("q2", ["c", "d"], (1, 0))]
    assert list(texts.values()) == ["a", "b", "c", "d", "e"]


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ('{"table": "posttrain", "format": 9}', "line 2: this dump has format 9"),
        ('{"table": "votes"}', "field 'table': there is no table 'votes'"),
        ('{"table": "guidelines", "id": 1, "text": "x"}', "field 'created': the field is missing"),
        ('{"table": "guidelines", "id": 1, "text": "x", "created": "2026-01-01", "by": 1}', "field 'by': .* unknown"),
        ('{"table": "guidelines", "id": "1", "text": "x", "created": "2026-01-01"}', "id must be a whole number"),
        ('{"table": "guidelines", "id": 1, "text": "x", "created": "today"}', "field 'created'"),
        (
            '{"table": "items", "id": 1, "digest": "", "prompt_id": 7, "response_ids": [], "overlap": 1}',
            "'prompt_id': 7",
        ),
        ('{"prompt": "p", "chosen": "x"', "line 2: not valid JSON"),
        ('{"prompt": "p", "chosen": "x", "rejected": 3}', "field 'rejected'"),
        ('{"nothing": 1}', "line 2: the fields"),
        ("[1]", "line 2: each line must be one JSON object"),
    ],
)
def test_bad_rows_are_named_and_nothing_is_stored(store: Store, tmp_path: Path, line: str, complaint: str) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text('{"prompt": "p", "chosen": "x", "rejected": "y"}\n' + line + "\n")
    with pytest.raises(DataError, match=rf"bad\.jsonl.*{complaint}"):
        load_file(store, path)
    assert sum(store.counts().values()) == 0
    loaded = load_file(store, path, on_bad_rows="skip")
    assert (store.counts()["ballots"], [number for number, _ in loaded.skipped]) == (1, [2])


def test_a_file_without_a_good_row(sqlite_store: Store, tmp_path: Path) -> None:
    for name, content in (("empty.jsonl", ""), ("bad.jsonl", "x\ny\n")):
        (tmp_path / name).write_text(content)
        with pytest.raises(DataError, match=name):
            load_file(sqlite_store, tmp_path / name, on_bad_rows="skip")
    with pytest.raises(DataError, match=r"missing\.jsonl"):
        load_file(sqlite_store, tmp_path / "missing.jsonl")


def test_a_packed_file(sqlite_store: Store, tmp_path: Path) -> None:
    path = tmp_path / "d.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"prompt": "p", "chosen": "x", "rejected": "y"}\n'))
    assert load_file(sqlite_store, path).new == {"ballots": 1}


def test_a_failed_export_leaves_the_old_file(sqlite_store: Store, tmp_path: Path, monkeypatch: Any) -> None:
    fill(sqlite_store)
    path = tmp_path / "out.jsonl"
    path.write_text("old")

    def broken(*_: Any) -> Any:
        yield {"a": 1}
        raise StoreError("gone")

    monkeypatch.setitem(FORMATS, "ranking", broken)
    with pytest.raises(StoreError, match="gone"):
        write_file(sqlite_store, path, "ranking")
    assert (path.read_text(), sorted(tmp_path.glob("*out*"))) == ("old", [path])
    with pytest.raises(StoreError, match="cannot be written"):
        write_file(sqlite_store, path / "x.jsonl", "store")


def test_the_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POSTTRAIN_ALLOCATOR", "system")
    data, store, out = tmp_path / "data.jsonl", tmp_path / "runs" / "feedback.db", tmp_path / "out.jsonl"
    data.write_text('{"prompt": "p", "chosen": "x", "rejected": "y"}\n{"prompt": 1}\n{"text": "t"}\n')
    assert main(["feedback", "export", "--store", str(store), str(out)]) == 2
    assert "no such store" in capsys.readouterr().err
    assert not store.exists()
    assert main(["feedback", "import", "--store", str(store), str(data)]) == 2
    assert "line 2, field 'prompt'" in capsys.readouterr().err
    (tmp_path / "bad.jsonl").write_text("x\n")
    for name in ("bad.jsonl", "nofile.jsonl"):
        words = ["feedback", "import", "--store", str(store), str(tmp_path / name), "--on-bad-rows", "skip"]
        assert main(words) == 2
        assert name in capsys.readouterr().err
    assert not store.parent.exists(), "a command that failed leaves no store"
    assert main(["feedback", "import", "--store", str(store), str(data), "--on-bad-rows", "skip"]) == 0
    said = capsys.readouterr().out
    assert "new in the store: 1 ballots" in said
    assert "not read" in said
    assert "1 × document" in said
    for name in FORMATS:
        assert main(["feedback", "export", "--store", str(store), "--output", str(out), "--format", name]) == 0
        assert f"rows ({name})" in capsys.readouterr().out
    assert main(["feedback", "export", "--store", str(store), "--output", str(out), "--format", "rating"]) == 0
    assert "left out: 1 ranking" in capsys.readouterr().out
