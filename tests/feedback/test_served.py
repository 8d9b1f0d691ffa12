"""What a server's users say, kept: consent, redaction, one vote a key, changed minds, foreign answers, forgetting."""

import multiprocessing
import os
import signal
import sqlite3
import threading
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event, text

from posttrain.errors import StoreAway, StoreError
from posttrain.feedback import connection
from posttrain.feedback.ballots import Ballot
from posttrain.feedback.connection import Database
from posttrain.feedback.exports import write_file
from posttrain.feedback.group_commit import GroupCommit
from posttrain.feedback.imports import load_file
from posttrain.feedback.records import training_records
from posttrain.feedback.served import NoSuchExchange, ServedStore
from posttrain.feedback.store import Store
from posttrain.types import Message, Preference, Ranking, Rating, ToolCall


@dataclass(frozen=True)
class Asked:
    """As the server's own record of an exchange."""

    id: str = "c1"
    user: str = "ann"
    messages: tuple[Message, ...] = (Message("user", "My address is a@b.org. What is 2 + 2?"),)
    answers: tuple[Message, ...] = (Message("assistant", "4"), Message("assistant", "5"))
    model: str = "m"
    arm: str = ""
    tools: tuple[Any, ...] = ()
    may_keep: bool = True
    parameters: dict[str, Any] = field(default_factory=dict)
    token_ids: tuple[tuple[int, ...], ...] = ((7, 8), (9,))
    replaces: str = ""
    created: datetime | None = None


@dataclass(frozen=True)
class Said:
    """As the server's own record of a vote."""

    key: str
    kind: str
    exchange: str = "c1"
    answer: int = 0
    user: str = "ann"
    over: tuple[tuple[str, int], ...] = ()
    text: str = ""
    comment: str = ""


@pytest.fixture
def keeper(store: Store) -> ServedStore:
    return ServedStore(store)


def standing(store: Store) -> list[tuple[Any, ...]]:
    return [(one.kind, one.value, one.response_ids, one.annotator, one.source) for one in store.ballots()]


def values(outcomes: list[Any]) -> list[tuple[Any, ...]]:
    return [(one.arm, one.value, one.kind, one.versus) for one in outcomes]


def everything(store: Store) -> str:
    """All that the database holds, as text."""
    tables = ("prompts", "responses", "ballots", "served", "served_votes", "items", "assignments")
    with store.snapshot() as connection:
        return "\n".join(str(row) for name in tables for row in connection.execute(text(f"SELECT * FROM {name}")))


# Exchanges


def test_with_consent_the_texts_are_kept_without_personal_data(store: Store, keeper: ServedStore) -> None:
    answers = (Message("assistant", "4"), Message("assistant", "Call +49 30 1234567"))
    keeper.keep(Asked(answers=answers, parameters={"temperature": 0.5, "stop": "c@d.org"}))
    (prompt,) = store.prompts()
    assert prompt.messages == (Message("user", "My address is [EMAIL]. What is 2 + 2?"),)
    assert (prompt.source, prompt.fields) == ("serving", {"pii": {"EMAIL": 1}})
    first, second = store.responses(prompt.id)
    assert (first.messages, first.model, first.token_ids) == ((Message("assistant", "4"),), "m", (7, 8))
    assert first.parameters == {"temperature": 0.5, "stop": "[EMAIL]", "source": "serving", "pii": {}}
    # The ids would tell what the text no longer tells.
    assert (second.messages[0].content, second.token_ids) == ("Call [PHONE]", None)
    assert second.parameters["pii"] == {"PHONE": 1}


def test_tool_calls_and_reasoning_are_redacted_and_stay_json(store: Store, keeper: ServedStore) -> None:
    call = ToolCall("mail", '{"to": "a@b.org", "n": 3}', "x")
    keeper.keep(Asked(answers=(Message("assistant", "", reasoning="to a@b.org", tool_calls=(call,)),)))
    (answer,) = store.responses()
    assert answer.messages[0].tool_calls[0].arguments == '{"to": "[EMAIL]", "n": 3}'
    assert answer.messages[0].reasoning == "to [EMAIL]"


def test_redaction_can_be_switched_off(store: Store) -> None:
    ServedStore(store, redact=False).keep(Asked())
    assert "a@b.org" in store.prompts()[0].messages[0].content
    assert store.responses()[0].token_ids == (7, 8)


def test_without_consent_no_text_is_kept_ever(store: Store, keeper: ServedStore) -> None:
    secret = "SECRETWORD"
    keeper.keep(
        Asked(
            messages=(Message("user", secret),),
            answers=(Message("assistant", secret), Message("assistant", secret + "2")),
            may_keep=False,
            arm="A",
            parameters={"stop": secret, "arms": ["A", "B"]},
            tools=({"name": secret},),
        )
    )
    keeper.vote(Said("k1", "edit", text=secret, comment=secret))
    keeper.vote(Said("k2", "up", comment=secret))
    keeper.vote(Said("k3", "better", over=(("c1", 1),), comment=secret))
    assert store.counts() == {"prompts": 0, "responses": 0, "items": 0, "ballots": 0, "annotators": 0}
    assert secret not in everything(store)
    assert values(keeper.outcomes()) == [("A", 0.0, "edit", ""), ("A", 1.0, "up", ""), ("A", 1.0, "better", "B")]


def test_an_exchange_is_kept_once(store: Store, keeper: ServedStore) -> None:
    keeper.keep(Asked())
    keeper.keep(Asked(messages=(Message("user", "another"),)))
    assert store.counts()["prompts"] == 1
    keeper.keep(Asked("c2"))  # the same words to the same model: the same rows
    assert (store.counts()["prompts"], store.counts()["responses"]) == (1, 2)


def test_what_other_data_brought_stays_as_it_was(store: Store, keeper: ServedStore) -> None:
    prompt = store.add_prompt([Message("user", "2 + 2?")], source="exam", fields={"level": 1})
    keeper.keep(Asked(messages=(Message("user", "2 + 2?"),)))
    assert store.prompts() == [store.prompt(prompt)]
    assert (store.prompt(prompt).source, store.prompt(prompt).fields) == ("exam", {"level": 1})


@pytest.mark.parametrize("change", [{"id": ""}, {"user": " "}, {"model": "a\0b"}, {"parameters": {"t": float("nan")}}])
def test_an_exchange_that_cannot_be_kept_is_refused(keeper: ServedStore, change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r".+"):
        keeper.keep(Asked(**change))


# Votes


def test_votes_become_ballots_with_their_provenance(store: Store, keeper: ServedStore) -> None:
    keeper.keep(Asked(arm="A"))
    outcomes = keeper.vote(Said("k1", "up", comment="thanks, c@d.org"))
    assert values(outcomes) == [("A", 1.0, "up", "")]
    (ballot,) = store.ballots()
    assert (ballot.kind, ballot.value, ballot.annotator, ballot.source) == ("label", "good", "ann", "serving")
    assert ballot.comment == "thanks, [EMAIL]"
    assert {name: ballot.details[name] for name in ("exchange", "model", "arm", "consent", "pii")} == {
        "exchange": "c1",
        "model": "m",
        "arm": "A",
        "consent": True,
        "pii": {"EMAIL": 2},
    }
    assert ballot.details["version"].startswith("posttrain ")
    assert ballot.created == keeper.outcomes()[0].created
    assert abs((ballot.created - datetime.now(UTC)).total_seconds()) < 60


def test_every_kind_of_vote(store: Store, keeper: ServedStore) -> None:
    keeper.keep(Asked(arm="A", parameters={"arms": ["A", "B"]}))
    assert values(keeper.vote(Said("k1", "down", answer=1))) == [("B", 0.0, "down", "")]
    assert values(keeper.vote(Said("k2", "better", answer=1, over=(("c1", 0),)))) == [("B", 1.0, "better", "A")]
    assert values(keeper.vote(Said("k3", "edit", text="It is 4, a@b.org"))) == [("A", 0.0, "edit", "")]
    assert values(keeper.vote(Said("k4", "regenerated"))) == [("A", 0.0, "regenerated", "")]
    one, two = (response.id for response in store.responses())
    assert standing(store) == [
        ("label", "bad", (two,), "ann", "serving"),
        ("choice", two, (one, two), "ann", "serving"),
        ("edit", "It is 4, [EMAIL]", (one,), "ann", "serving"),
    ]
    assert [one.kind for one in keeper.outcomes()] == ["down", "better", "edit", "regenerated"]


def test_answers_of_two_arms_are_kept_under_their_own_names(store: Store, keeper: ServedStore) -> None:
    keeper.keep(Asked(model="auto", parameters={"arms": ["A", "B"]}))
    assert [answer.model for answer in store.responses()] == ["A", "B"]


def test_votes_are_training_data(store: Store, keeper: ServedStore) -> None:
    keeper.keep(Asked())
    keeper.vote(Said("k1", "up"))
    keeper.vote(Said("k2", "better", over=(("c1", 1),)))
    keeper.vote(Said("k3", "edit", answer=1, text="four"))
    prompt = store.add_prompt([Message("user", "q")])
    responses = [store.add_response(prompt, [Message("assistant", word)]) for word in "xy"]
    store.vote(Ballot("choice", prompt, tuple(responses), "bob", value=responses[0]))
    found = list(training_records(store, sources={"serving"}))
    assert Counter(type(one) for one in found) == {Ranking: 1, Preference: 1, Rating: 1}
    ranking, edit, rating = found
    assert isinstance(ranking, Ranking)
    assert isinstance(edit, Preference)
    assert isinstance(rating, Rating)
    assert [one[0].content for one in ranking.responses] == ["4", "5"]
    assert ranking.ranks == (0.0, 1.0)
    assert (edit.chosen[0].content, edit.rejected[0].content) == ("four", "5")
    assert (rating.response[0].content, rating.score) == ("4", 1.0)
    assert len(list(training_records(store))) == 4


def test_the_same_key_is_the_same_vote(store: Store, keeper: ServedStore) -> None:
    keeper.keep(Asked(arm="A"))
    assert values(keeper.vote(Said("k", "up"))) == [("A", 1.0, "up", "")]
    assert keeper.vote(Said("k", "up")) == []
    assert (len(standing(store)), len(keeper.outcomes())) == (1, 1)
    with pytest.raises(StoreError, match="another vote"):
        keeper.vote(Said("k", "down"))
    keeper.keep(Asked("c9", user="bob"))  # somebody else's key is their own
    keeper.vote(Said("k", "down", exchange="c9", user="bob"))
    assert len(standing(store)) == 2


def test_a_key_with_other_words_is_no_repetition(keeper: ServedStore) -> None:
    keeper.keep(Asked())
    said = Said("key", "edit", text="It is 4. Write to a@b.org.", comment="clearer")
    keeper.vote(said)
    assert keeper.vote(said) == []  # the same words, redacted as before
    for other in (replace(said, text="It is 5."), replace(said, comment="shorter")):
        with pytest.raises(StoreError, match="another vote"):
            keeper.vote(other)


def test_a_changed_mind_takes_the_place_of_the_one_before(store: Store, keeper: ServedStore) -> None:
    keeper.keep(Asked(arm="A"))
    keeper.vote(Said("k1", "up"))
    keeper.vote(Said("k2", "up", answer=1))  # about another answer: beside it
    assert values(keeper.vote(Said("k3", "down"))) == [("A", 0.0, "down", "")]
    assert keeper.vote(Said("k4", "down")) == []  # says nothing new
    assert values(keeper.outcomes()) == [("A", 1.0, "up", ""), ("A", 0.0, "down", "")]
    told = [(one.value, one.replaced_by) for one in store.ballots(include_replaced=True)]
    assert told == [("good", 3), ("good", None), ("bad", 4), ("bad", None)]
    keeper.vote(Said("k5", "better", over=(("c1", 1),)))
    keeper.vote(Said("k6", "better", answer=1, over=(("c1", 0),)))  # the same two, the other way round
    assert [one.value for one in store.ballots() if one.kind == "choice"] == [2]


def test_answers_of_two_exchanges_can_be_compared(store: Store, keeper: ServedStore) -> None:
    keeper.keep(Asked("c1", arm="A", answers=(Message("assistant", "4"),)))
    keeper.keep(Asked("c2", arm="B", answers=(Message("assistant", "four"),), replaces="c1"))
    keeper.keep(Asked("c3", arm="B", messages=(Message("user", "else"),), answers=(Message("assistant", "x"),)))
    assert values(keeper.vote(Said("k1", "better", "c2", over=(("c1", 0),)))) == [("B", 1.0, "better", "A")]
    assert standing(store) == [("choice", 2, (1, 2), "ann", "serving")]
    with pytest.raises(ValueError, match="different prompts"):
        keeper.vote(Said("k2", "better", "c3", over=(("c1", 0),)))


def test_two_samples_with_the_same_words_make_no_ballot(store: Store, keeper: ServedStore) -> None:
    same = (Message("assistant", "4"), Message("assistant", "4"))
    keeper.keep(Asked(answers=same, arm="A"))
    assert keeper.vote(Said("k1", "better", over=(("c1", 1),))) == []
    assert standing(store) == []


@pytest.mark.parametrize("said", [Said("k", "up", user="eve"), Said("k", "up", "c7"), Said("k", "up", answer=2)])
def test_a_vote_on_what_one_was_not_given_is_refused(store: Store, said: Said) -> None:
    keeper = ServedStore(store, unknown=LookupError)
    keeper.keep(Asked())
    with pytest.raises(LookupError):
        keeper.vote(said)
    with pytest.raises(NoSuchExchange):
        ServedStore(store).vote(said)
    assert standing(store) == [] == keeper.outcomes()


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (Said("k", "great"), "expected one of up, down"),
        (Said("", "up"), "key is empty"),
        (Said("k", "edit", text=" \n"), "needs the text"),
        (Said("k", "better"), "names in `over`"),
        (Said("k", "better", over=(("c1", 0),)), "each once"),
        (Said("k", "better", over=tuple(("c1", n) for n in range(1, 10))), "the most is 8"),
        (Said("k", "up", over=(("c1", 1),)), "only 'better'"),
        (Said("k", "up", comment="\ud800"), "surrogate"),
    ],
)
def test_a_vote_without_sense_is_refused(store: Store, keeper: ServedStore, said: Said, why: str) -> None:
    keeper.keep(Asked())
    with pytest.raises(ValueError, match=why):
        keeper.vote(said)
    assert standing(store) == []


def test_the_servers_own_records_come_out(store: Store) -> None:
    keeper = ServedStore(store, outcome=dict, secret="salt")
    keeper.keep(Asked(arm="A"))
    (outcome,) = keeper.vote(Said("k", "up"))
    assert (outcome["arm"], outcome["user"]) == ("A", keeper.name_of("ann"))
    assert keeper.name_of("ann") != "ann" != ServedStore(store, secret="other").name_of("ann")
    assert "ann" not in {one.annotator for one in store.ballots()}


# Many at once, and sudden ends


def test_two_hundred_at_once_are_all_kept_in_few_commits(sqlite_store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    store, commits = sqlite_store, []
    keeper = ServedStore(store)
    batch = Store.batch

    def counted(self: Store) -> Any:
        commits.append(1)
        return batch(self)

    monkeypatch.setattr(Store, "batch", counted)
    ready = threading.Barrier(200)

    def one(number: int) -> None:
        ready.wait()
        keeper.keep(Asked(f"c{number}", messages=(Message("user", f"q{number}"),)))
        keeper.vote(Said(f"k{number}", "up", f"c{number}"))

    threads = [threading.Thread(target=one, args=(number,)) for number in range(200)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert store.counts()["ballots"] == 200
    assert len(commits) < 200, "400 writings that come at once share commits"


def test_one_refusal_undoes_nothing_else(sqlite_store: Store) -> None:
    """Works that wait together stand or fall each by itself; a dead database fails all of them."""
    commits = GroupCommit(sqlite_store)
    held, results = threading.Event(), {}

    def work(number: int) -> Callable[[Any], int]:
        def inner(_: Any) -> int:
            held.wait(5)
            sqlite_store.add_prompt([Message("user", str(number))])
            if number % 3 == 0:
                raise ValueError(f"no {number}")
            return number

        return inner

    def run(number: int) -> None:
        try:
            results[number] = commits.run(work(number))
        except ValueError as error:
            results[number] = str(error)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(9)]
    for thread in threads:
        thread.start()
    held.set()
    for thread in threads:
        thread.join()
    assert results == {n: f"no {n}" if n % 3 == 0 else n for n in range(9)}
    assert sorted(prompt.messages[0].content for prompt in sqlite_store.prompts()) == ["1", "2", "4", "5", "7", "8"]


def test_a_database_that_is_away_is_told_to_everybody(tmp_path: Path) -> None:
    path = tmp_path / "f.db"
    with Store.open(path, wait_s=0.2) as store, closing(sqlite3.connect(path)) as other:
        keeper = ServedStore(store)
        keeper.keep(Asked())
        other.execute("BEGIN IMMEDIATE")
        failed: list[str] = []

        def one(number: int) -> None:
            try:
                keeper.vote(Said(f"k{number}", "up"))
            except StoreAway as error:
                failed.append(str(error))

        threads = [threading.Thread(target=one, args=(number,)) for number in range(5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(failed) == 5
        other.rollback()
        keeper.vote(Said("k0", "up"))  # the same again
        assert len(store.ballots()) == 1


def _serve_until_killed(path: str, told: Any) -> None:
    with Store.open(path) as store:
        keeper = ServedStore(store)
        for number in range(10_000):
            keeper.keep(Asked(f"c{number}", messages=(Message("user", f"q{number}"),)))
            keeper.vote(Said(f"k{number}", "up", f"c{number}"))
            told.send(number)


def test_what_was_acknowledged_outlives_a_killed_process(tmp_path: Path) -> None:
    path = str(tmp_path / "f.db")
    Store.open(path).close()
    context = multiprocessing.get_context("fork")
    hears, tells = context.Pipe(duplex=False)
    process = context.Process(target=_serve_until_killed, args=(path, tells))
    process.start()
    tells.close()
    newest = -1
    while newest < 20:
        newest = hears.recv()
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    while hears.poll():
        try:
            newest = hears.recv()
        except EOFError:
            break
    with Store.open(path) as store:
        keeper = ServedStore(store)
        assert {ballot.details["exchange"] for ballot in store.ballots()} >= {f"c{n}" for n in range(newest + 1)}
        keeper.vote(Said("later", "down", f"c{newest}"))  # an answer that the dead process gave


# Forgetting


@pytest.fixture
def lived_in(keeper: ServedStore) -> Iterator[ServedStore]:
    """Ann and bob asked for things of their own, and both for the weather."""
    for user, words in (("ann", "ANNWORDS"), ("bob", "BOBWORDS")):
        keeper.keep(Asked(f"{user}-1", user, (Message("user", words),), (Message("assistant", words + " indeed"),)))
        keeper.keep(Asked(f"{user}-2", user, (Message("user", "weather?"),), (Message("assistant", f"{words} rain"),)))
        keeper.keep(Asked(f"{user}-3", user, (Message("user", "weather?"),), (Message("assistant", "sun"),), arm="A"))
        for number in (1, 2, 3):
            keeper.vote(Said(f"{user}{number}", "up", f"{user}-{number}", user=user, comment=f"{words} liked"))
    return keeper


def test_what_a_user_takes_back_is_gone(store: Store, lived_in: ServedStore) -> None:
    mine = next(one for one in store.responses() if one.messages[0].content == "ANNWORDS rain")
    sun = next(one for one in store.responses() if one.messages[0].content == "sun")
    item = store.add_item(mine.prompt_id, [mine.id, sun.id])
    store.assign(item, "judy", [mine.id, sun.id])
    store.vote(Ballot("choice", mine.prompt_id, (mine.id, sun.id), "judy", item_id=item, value=sun.id))
    store.vote(Ballot("skip", mine.prompt_id, (), "judy", item_id=item))
    gone = lived_in.forget("ann")
    assert (gone.exchanges, gone.votes, gone.ballots) == (3, 3, 5)
    assert (gone.prompts, gone.responses, gone.items) == (1, 2, 1)
    held = everything(store)
    assert "ann" not in held
    assert "ANNWORDS" not in held
    assert [one.annotator for one in store.ballots()] == ["bob"] * 3
    assert [one.messages[0].content for one in store.responses()] == ["sun", "BOBWORDS indeed", "BOBWORDS rain"]
    assert [one.user for one in lived_in.outcomes()] == ["bob"]
    assert lived_in.forget("ann").exchanges == 0


def test_texts_that_came_from_elsewhere_stay(store: Store) -> None:
    keeper = ServedStore(store, secret=b"salt")
    prompt = store.add_prompt([Message("user", "exam question")], source="exam")
    store.add_response(prompt, [Message("assistant", "gold")], model="teacher")
    keeper.keep(Asked(messages=(Message("user", "exam question"),), answers=(Message("assistant", "mine"),)))
    gone = keeper.forget("ann")
    assert (gone.exchanges, gone.prompts, gone.responses) == (1, 0, 1)
    assert [one.messages[0].content for one in store.responses()] == ["gold"]
    keeper.keep(Asked("c2"))
    assert keeper.forget(keeper.name_of("ann")).exchanges == 1  # by the name in the store


def test_the_bytes_are_gone_from_the_file(tmp_path: Path) -> None:
    path = tmp_path / "f.db"
    with Store.open(path) as store:
        keeper = ServedStore(store)
        for number in range(20):
            keeper.keep(Asked(f"c{number}", messages=(Message("user", f"UNFORGETTABLE {number} " + "x" * 3000),)))
        assert b"UNFORGETTABLE" in b"".join(one.read_bytes() for one in tmp_path.iterdir())
        keeper.forget("ann")
        assert b"UNFORGETTABLE" not in b"".join(one.read_bytes() for one in tmp_path.iterdir())


def test_the_bytes_are_gone_where_sqlite_leaves_them_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some builds do not overwrite what a row that moves leaves in its page."""
    prepare = connection._prepare_sqlite

    def careless(raw: Any, record: Any) -> None:
        prepare(raw, record)
        raw.execute("PRAGMA secure_delete = OFF").fetchall()

    monkeypatch.setattr(connection, "_prepare_sqlite", careless)
    with Store.open(tmp_path / "f.db") as store:
        keeper = ServedStore(store)
        for number in range(60):
            text = ("zebra " if number % 3 else "other ") + f"{number} " + "x" * (number * 37 % 900)
            said = (Message("user", text),)
            keeper.keep(Asked(f"c{number}", "ann" if number % 3 else "ben", said, said, token_ids=()))
        keeper.forget("ann")
        assert b"zebra" not in b"".join(path.read_bytes() for path in tmp_path.iterdir())
        assert b"other" in (tmp_path / "f.db").read_bytes()


def test_a_failure_does_not_say_what_it_could_not_write(sqlite_store: Store) -> None:
    def full(raw: Any) -> None:
        raw.exec_driver_sql(f"PRAGMA max_page_count = {raw.exec_driver_sql('PRAGMA page_count').scalar()}")

    with sqlite_store.snapshot() as view:
        event.listen(view.engine, "begin", full)
    words = "zeb" + "ra "  # not in a line of the trace
    with pytest.raises(StoreAway) as failed:
        ServedStore(sqlite_store).keep(Asked(messages=(Message("user", words * 5000),)))
    assert "zebra" not in "".join(traceback.format_exception(failed.value))


def test_what_is_replaced_is_kept_where_it_is_ones_own(store: Store, keeper: ServedStore) -> None:
    for exchange, user, replaces in (("c1", "ann", "any words"), ("c2", "ann", "c1"), ("c3", "ben", "c1")):
        keeper.keep(Asked(exchange, user, may_keep=False, replaces=replaces))
    with store.snapshot() as view:
        found = view.execute(text("SELECT exchange, replaces FROM served ORDER BY exchange")).all()
    assert [tuple(row) for row in found] == [("c1", ""), ("c2", "c1"), ("c3", "")]


def test_a_store_of_the_version_before_takes_exchanges(address: str) -> None:
    from posttrain.feedback import migrations

    database = Database(address)
    database.run(lambda connection: migrations.migrate(connection, address, to=2), write=True)
    database.close()
    with Store.open(address) as store:
        ServedStore(store).keep(Asked())
        assert store.counts()["responses"] == 2


def test_a_dump_brings_exchanges_and_votes(
    store: Store, lived_in: ServedStore, new_address: Callable[[], str], tmp_path: Path
) -> None:
    lived_in.keep(Asked("none", may_keep=False, arm="B"))
    lived_in.vote(Said("n1", "down", "none"))
    lived_in.vote(Said("ann9", "down", "ann-3"))  # a changed mind
    write_file(store, tmp_path / "all.jsonl", "store")
    with Store.open(new_address()) as copy:
        copy.add_prompt([Message("user", "here before")])  # every id moves
        for _ in range(2):
            load_file(copy, tmp_path / "all.jsonl")
        keeper = ServedStore(copy)
        assert keeper.outcomes() == lived_in.outcomes()
        assert keeper.vote(Said("ann9", "down", "ann-3")) == []
        assert values(keeper.vote(Said("later", "up", "ann-3"))) == [("A", 1.0, "up", "")]
        gone = keeper.forget("ann")
        assert (gone.exchanges, gone.votes) == (4, 6)
        assert "ANNWORDS" not in everything(copy)


def test_a_newer_dump_brings_an_older_copy_up_to_date(
    store: Store, keeper: ServedStore, new_address: Callable[[], str], tmp_path: Path
) -> None:
    keeper.keep(Asked(arm="A"))
    keeper.vote(Said("k1", "up"))
    write_file(store, tmp_path / "older.jsonl", "store")
    keeper.vote(Said("k2", "down"))
    write_file(store, tmp_path / "newer.jsonl", "store")
    with Store.open(new_address()) as copy:
        for name in ("older", "newer"):
            load_file(copy, tmp_path / f"{name}.jsonl")
        assert values(ServedStore(copy).outcomes()) == [("A", 0.0, "down", "")]
        assert [ballot.value for ballot in copy.ballots()] == ["bad"]


def test_two_changed_minds_at_once_leave_one_vote(store: Store, keeper: ServedStore) -> None:
    keeper.keep(Asked(arm="A"))
    others = [ServedStore(store) for _ in range(8)]  # each commits by itself, as processes do

    def one(number: int) -> None:
        others[number].vote(Said(f"k{number}", "up" if number % 2 else "down"))

    threads = [threading.Thread(target=one, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(store.ballots()) == len(keeper.outcomes()) == 1
    assert len(store.ballots(include_replaced=True)) == 8
