"""What goes into the store comes out of it, once, on SQLite and on PostgreSQL."""

import json
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import inspect, text

from posttrain.errors import StoreError
from posttrain.feedback import migrations, tables
from posttrain.feedback.ballots import Ballot
from posttrain.feedback.connection import Database
from posttrain.feedback.store import Store
from posttrain.types import Message, ToolCall

Ask = Callable[..., tuple[int, list[int]]]


def ranking(prompt: int, responses: list[int], **given: Any) -> Ballot:
    return Ballot(
        **{"kind": "ranking", "annotator": "ann", "ranks": range(len(responses)), **given},
        prompt_id=prompt,
        response_ids=tuple(responses),
    )


def test_prompts_and_responses_come_back_whole(store: Store) -> None:
    odd = "NUL \0, half \ud800, \U0001f600, </script>, quote ' \" \\"
    asked = [Message("system", "be brief"), Message("user", odd)]
    call = ToolCall("add", '{"b": 1, "a": 2}', "c1")
    said = [
        Message("assistant", odd, reasoning="hm", tool_calls=(call,), name="x", weight=0.5),
        Message("tool", "3", tool_call_id="c1"),
    ]
    tools = [{"type": "function", "function": {"name": "add", "parameters": {"z": 1, "a": 2}}}]
    prompt = store.add_prompt(asked, tools=tools, source="file:1", fields={"answer": "42"})
    response = store.add_response(prompt, said, model="m", parameters={"temperature": 0.7}, token_ids=[5, 0, 7])
    found, answer = store.prompt(prompt), store.response(response)
    assert (found.messages, list(found.tools), found.source) == (tuple(asked), tools, "file:1")
    assert json.dumps(found.tools) == json.dumps(tools)  # a template prints the keys in their order
    assert found.fields == {"answer": "42"}
    assert (answer.messages, answer.model, answer.token_ids) == (tuple(said), "m", (5, 0, 7))
    assert (answer.prompt_id, answer.parameters, answer.scores) == (prompt, {"temperature": 0.7}, None)
    store.set_scores(response, [1, -0.25])
    assert store.response(response).scores == (1.0, -0.25)
    assert store.prompts() == [found]
    assert store.responses(prompt) == store.responses() == [store.response(response)]


def test_the_same_content_is_stored_once(store: Store) -> None:
    hello = [Message("user", "hello")]
    prompt = store.add_prompt(hello, fields={"a": 1})
    assert store.add_prompt(hello, source="later", fields={"a": 2, "b": 3}) == prompt
    assert (store.prompt(prompt).source, store.prompt(prompt).fields) == ("later", {"a": 1, "b": 3})
    other = store.add_prompt(hello, tools=[{"type": "function", "function": {"name": "f"}}])
    assert other != prompt
    answer = [Message("assistant", "hi")]
    first = store.add_response(prompt, answer, model="m")
    assert store.add_response(prompt, answer, model="m", token_ids=[1]) == first
    assert store.response(first).token_ids == (1,)
    ids = {first, store.add_response(prompt, answer, model="n"), store.add_response(other, answer, model="m")}
    assert len(ids) == 3
    item = store.add_item(prompt, [first, max(i for i in ids if store.response(i).prompt_id == prompt)], overlap=2)
    same = store.items()[0]
    assert store.add_item(prompt, same.response_ids[::-1], overlap=3) == item
    assert [(one.id, one.overlap) for one in store.items()] == [(item, 3)]


def test_ballots_of_every_kind_come_back(store: Store, ask: Ask) -> None:
    prompt, (a, b, c) = ask(store, "q", "1", "2", "3")
    item = store.add_item(prompt, [a, b, c])
    version = store.set_guidelines("be kind")
    moment = datetime(2026, 2, 3, 4, 5, 6, 789, tzinfo=UTC)
    given = [
        ranking(
            prompt,
            [c, a, b],
            ranks=(0.0, 1.0, 1.0),
            all_bad=True,
            item_id=item,
            comment="ß",
            guidelines=version,
            seconds=1.5,
            created=moment,
            key="k",
            details={"order": [3, 1, 2]},
            source="judge",
        ),
        ranking(prompt, [b, a]),
        Ballot("choice", prompt, (a, b), "bob", value=b, source="serving"),
        Ballot("rating", prompt, (a,), "bob", value=4.5, source="verifier"),
        Ballot("label", prompt, (a, b), "bob", value=["x", "y"]),
        Ballot("edit", prompt, (a,), "bob", value="better\0"),
        Ballot("flag", prompt, (a,), "bob", value="rude"),
        Ballot("skip", prompt, (a, b), "bob", item_id=item),
    ]
    ids = [store.vote(ballot) for ballot in given]
    found = store.ballots()
    assert [ballot.id for ballot in found] == ids
    for before, after in zip(given, found, strict=True):
        for name in (
            "kind",
            "response_ids",
            "annotator",
            "source",
            "item_id",
            "ranks",
            "all_bad",
            "value",
            "comment",
            "guidelines",
            "seconds",
            "details",
        ):
            assert getattr(after, name) == getattr(before, name), name
        assert after.key
        assert after.created is not None
    assert (found[0].created, found[0].key) == (moment, "k")
    assert [ballot.id for ballot in store.ballots(item_id=item)] == [ids[0], ids[-1]]
    assert [ballot.id for ballot in store.ballots(annotator="ann")] == ids[:2]
    assert [ballot.id for ballot in store.ballots(source="serving")] == [ids[2]]
    assert store.counts() == {"prompts": 1, "responses": 3, "items": 1, "ballots": 8, "annotators": 0}


def test_a_key_is_stored_once(store: Store, ask: Ask) -> None:
    prompt, answers = ask(store, "q", "1", "2")
    first = store.vote(ranking(prompt, answers, key="k"))
    assert store.vote(ranking(prompt, answers, key="k")) == first
    with ThreadPoolExecutor(8) as pool:
        ids = set(pool.map(lambda _: store.vote(ranking(prompt, answers, key="many")), range(32)))
    assert len(ids) == 1
    assert store.counts()["ballots"] == 2
    for other in (ranking(prompt, answers, key="k", annotator="bob"), Ballot("skip", prompt, (), "ann", key="k")):
        with pytest.raises(StoreError, match="belongs to ballot"):
            store.vote(other)
    assert store.counts()["ballots"] == 2


def test_a_correction_marks_what_it_replaces(store: Store, ask: Ask) -> None:
    prompt, (a, b) = ask(store, "q", "1", "2")
    old = store.vote(ranking(prompt, [a, b]))
    new = store.vote(ranking(prompt, [b, a], key="new"), replaces=old)
    assert store.vote(ranking(prompt, [b, a], key="new"), replaces=old) == new  # sent twice
    assert [ballot.id for ballot in store.ballots()] == [new]
    assert [ballot.replaced_by for ballot in store.ballots(include_replaced=True)] == [new, None]
    for ballot, replaced, complaint in (
        (ranking(prompt, [a, b]), old, "corrected already"),
        (ranking(prompt, [a, b], annotator="bob"), new, "another annotator"),
        (ranking(prompt, [a, b]), 999, "no ballot 999"),
    ):
        with pytest.raises(StoreError, match=complaint):
            store.vote(ballot, replaces=replaced)
    assert len(store.ballots(include_replaced=True)) == 2  # nothing half-written


def test_votes_about_what_is_not_there(store: Store, ask: Ask) -> None:
    prompt, (a, b) = ask(store, "q", "1", "2")
    other, (c, d) = ask(store, "r", "3", "4")
    item = store.add_item(other, [c, d])
    for ballot in (
        ranking(999, [a, b]),
        ranking(prompt, [a, 999]),
        ranking(prompt, [a, c]),
        ranking(prompt, [a, b], item_id=item),
        ranking(prompt, [a, b], item_id=999),
        ranking(prompt, [a, b], guidelines=9),
    ):
        with pytest.raises(StoreError, match=r"Nothing was written"):
            store.vote(ballot)
    for call in (
        lambda: store.add_response(999, [Message("assistant", "x")]),
        lambda: store.add_item(prompt, [a, c]),
        lambda: store.set_scores(999, [1.0]),
        lambda: store.prompt(999),
        lambda: store.response(999),
        lambda: store.assign(999, "ann", [a, b]),
        lambda: store.assignment(999),
        lambda: store.close_assignment(999),
        lambda: store.new_token("nobody"),
    ):
        with pytest.raises(StoreError):
            call()
    for refused in (
        lambda: store.add_prompt([]),
        lambda: store.add_response(prompt, []),
        lambda: store.add_prompt([Message("user", "x")], fields={"f": object()}),
        lambda: store.set_scores(a, [float("nan")]),
        lambda: store.add_item(prompt, [a]),
        lambda: store.add_item(prompt, [a, a]),
        lambda: store.add_item(prompt, [a, b], overlap=0),
        lambda: store.assign(item, "ann", [c]),
        lambda: store.add_annotator(" "),
        lambda: store.add_annotator("x", source="robot"),
    ):
        with pytest.raises(ValueError, match=r"."):
            refused()
    assert store.counts() == {"prompts": 2, "responses": 4, "items": 1, "ballots": 0, "annotators": 0}


def test_tokens_are_known_by_their_hash_alone(store: Store, address: str) -> None:
    token = store.add_annotator("ann")
    other = store.add_annotator("judge", source="judge")
    assert (store.annotator(token), store.annotator(other)) == ("ann", "judge")
    assert store.annotator("") is store.annotator(token + "x") is store.annotator("\ud800") is None
    with pytest.raises(StoreError, match="already"):
        store.add_annotator("ann")
    newer = store.new_token("ann")
    assert (store.annotator(token), store.annotator(newer)) == (None, "ann")
    assert [(one.name, one.source) for one in store.annotators()] == [("ann", "person"), ("judge", "judge")]
    with Store.open(address) as again:
        assert again.annotator(newer) == "ann"
    database = Database(address)
    kept = database.run(lambda connection: connection.execute(text("SELECT * FROM annotators")).all())
    database.close()
    assert not any(secret in str(kept) for secret in (token, other, newer))


def test_guidelines_have_versions(store: Store) -> None:
    assert store.guidelines() is None
    first = store.set_guidelines("a\0")
    assert store.set_guidelines("a\0") == first
    second = store.set_guidelines("b")
    assert store.guidelines() == (second, "b")
    assert store.guidelines(first) == (first, "a\0")
    third = store.set_guidelines("a\0")
    assert first < second < third


def test_assignments_open_once_and_close(store: Store, ask: Ask) -> None:
    prompt, (a, b, c) = ask(store, "q", "1", "2", "3")
    first, second = store.add_item(prompt, [a, b]), store.add_item(prompt, [b, c])
    assert store.open_assignment("ann") is None
    opened = store.assign(first, "ann", [b, a])
    assert (opened.order, opened.closed) == ((b, a), None)
    assert store.assign(first, "ann", [a, b]) == opened  # the page that is open stays as it is
    with ThreadPoolExecutor(8) as pool:
        found = set(pool.map(lambda _: store.assign(second, "bob", [b, c]).id, range(16)))
    assert len(found) == 1
    assert store.open_assignment("ann") == store.assignment(opened.id) == opened
    store.close_assignment(opened.id)
    closed = store.assignment(opened.id).closed
    store.close_assignment(opened.id)
    assert store.assignment(opened.id).closed == closed is not None
    assert store.open_assignment("ann") is None
    assert store.assign(first, "ann", [a, b]).id != opened.id
    assert [one.annotator for one in store.assignments()] == ["ann", "bob", "ann"]


def test_a_batch_is_all_or_nothing(store: Store, ask: Ask) -> None:
    prompt, answers = ask(store, "q", "1", "2")

    def half_good() -> None:
        with store.batch():
            store.vote(ranking(prompt, answers))
            assert store.counts()["ballots"] == 1
            store.vote(ranking(prompt, [999, 1000]))

    with pytest.raises(StoreError, match="999"):
        half_good()
    assert store.counts()["ballots"] == 0
    with store.batch():
        store.vote(ranking(prompt, answers))
    assert store.counts()["ballots"] == 1


def test_threads_lose_and_double_nothing(store: Store, ask: Ask) -> None:
    prompt, answers = ask(store, "q", "1", "2")
    keys = [f"{person}-{number}" for person in range(10) for number in range(20)]
    with ThreadPoolExecutor(20) as pool:  # every ballot is sent twice, at about the same time
        list(pool.map(lambda key: store.vote(ranking(prompt, answers, key=key)), sorted([*keys, *keys])))
    assert sorted(ballot.key for ballot in store.ballots()) == sorted(keys)


def old_store(address: str) -> None:
    """A store as version 1 of the schema left it: one correction."""
    database = Database(address)

    def work(connection: Any) -> None:
        migrations.migrate(connection, address, to=1)
        run = connection.exec_driver_sql
        run(
            "INSERT INTO prompts (digest, messages, tools, source, fields) VALUES "
            """('d', '[{"role":"user","content":"q"}]', '[]', '', '{}')"""
        )
        for number, model in ((1, "m"), (2, "n")):
            run(
                "INSERT INTO responses (prompt_id, digest, messages, model, parameters, token_ids) VALUES "
                f"""(1, 'r{number}', '[{{"role":"assistant","content":"{number}"}}]', '{model}', '{{}}', NULL)"""
            )
        for key, replaces in (("a", "NULL"), ("b", "1"), ("c", "NULL")):
            run(
                "INSERT INTO ballots (key, kind, prompt_id, response_ids, annotator, source, ranks, all_bad, comment, "
                f"details, created, replaces) VALUES ('{key}', 'ranking', 1, '[1,2]', 'ann', 'person', '[0,1]', false, "
                f"'', '{{}}', '2026-01-01T00:00:00.000000+00:00', {replaces})"
            )

    database.run(work, write=True)
    database.close()


def test_an_old_store_is_brought_up_to_date(address: str) -> None:
    old_store(address)
    with ThreadPoolExecutor(4) as pool:  # several servers start at once
        for store in pool.map(lambda _: Store.open(address), range(4)):
            store.close()
    with Store.open(address) as store:
        assert [(one.key, one.replaced_by) for one in store.ballots(include_replaced=True)] == [
            ("a", 2),
            ("b", None),
            ("c", None),
        ]
        store.set_scores(1, [0.5])
        assert [response.scores for response in store.responses(1)] == [(0.5,), None]
        store.vote(ranking(1, [1, 2]), replaces=3)
        assert store.counts()["ballots"] == 2


def test_migrations_make_the_tables_that_queries_use(address: str) -> None:
    Store.open(address).close()
    database = Database(address)
    columns = database.run(
        lambda connection: {
            name: {column["name"] for column in inspect(connection).get_columns(name)}
            for name in inspect(connection).get_table_names()
        }
    )
    version = database.run(migrations.version_of)
    database.close()
    assert columns == {table.name: {column.name for column in table.c} for table in tables.METADATA.sorted_tables}
    assert version == migrations.NEWEST == len(migrations.STEPS)


def test_a_newer_store_is_refused_untouched(address: str) -> None:
    with Store.open(address) as store:
        store.add_prompt([Message("user", "q")])
    database = Database(address)
    database.run(
        lambda connection: connection.execute(text("INSERT INTO schema_version VALUES (99, '2099')")), write=True
    )
    with pytest.raises(StoreError, match=r"version 99.*up to 3.*upgrade"):
        Store.open(address)
    assert database.run(lambda connection: connection.execute(text("SELECT count(*) FROM prompts")).scalar()) == 1
    database.close()


def test_tables_of_another_program_are_left_alone(address: str) -> None:
    database = Database(address)
    database.run(lambda connection: connection.execute(text("CREATE TABLE prompts (mine INTEGER)")), write=True)
    with pytest.raises(StoreError, match="another program"):
        Store.open(address)
    names = database.run(lambda connection: inspect(connection).get_table_names())
    database.close()
    assert names == ["prompts"]


def test_sqlite_is_set_for_votes_that_last(sqlite_store: Store) -> None:
    with sqlite_store.snapshot() as connection:
        found = [
            connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "synchronous", "foreign_keys")
        ]
    assert found == ["wal", 2, 1]
    assert sqlite3.sqlite_version_info >= (3, 35)  # RETURNING, DROP COLUMN
