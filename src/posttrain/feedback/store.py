"""The preference store: prompts, answers, ballots, and who cast them, in SQLite or PostgreSQL.

Doors: `Store.open(url)` in, `vote(ballot)` in, `ballots()` out. A method returns after its commit, so what it
acknowledged outlives the process. Threads may share a store, processes a database. Fails by StoreError; bad values by
ValueError before anything is written.
"""

import hmac
import secrets
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any

from sqlalchemy import Connection, Row, Table, func, select

from posttrain.errors import StoreError
from posttrain.feedback import migrations, tables
from posttrain.feedback.ballots import (
    SOURCES,
    Annotator,
    Assignment,
    Ballot,
    Item,
    StoredPrompt,
    StoredResponse,
    check_name,
    check_text,
)
from posttrain.feedback.connection import WAIT_S, Database
from posttrain.feedback.rows import (
    assignment_of,
    ballot_of,
    check_answers,
    fill_in,
    insert_once,
    must_be,
    prompt_of,
    response_of,
    token_hash,
)
from posttrain.feedback.tables import as_json, digest, message_rows
from posttrain.types import Message

MAX_ANSWERS = 4  # side by side on a screen
BALLOT_COLUMNS = [column.name for column in tables.ballots.c]


class Store:
    """An open store; `Store.open` makes it."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._run = database.run
        self.place = database.place

    @staticmethod
    def open(url: str | Path, *, wait_s: float = WAIT_S) -> "Store":
        """Open or make the store at a path (SQLite) or an address (`postgresql://user@host/database`), and bring its
        schema up to date. `wait_s`: how long to wait for a lock before StoreError."""
        database = Database(url, wait_s=wait_s)
        try:
            if database.run(migrations.version_of) != migrations.NEWEST:
                database.run(lambda connection: migrations.migrate(connection, database.place), write=True)
        except BaseException:
            database.close()
            raise
        return Store(database)

    def close(self) -> None:
        """Give the database back."""
        self._database.close()

    def __enter__(self) -> "Store":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.close()

    @contextmanager
    def batch(self) -> Iterator[Connection]:
        """One commit around many calls by this thread: faster, and all or nothing. Other writers wait for its end."""
        with self._database.batch() as connection:
            yield connection

    @contextmanager
    def snapshot(self) -> Iterator[Connection]:
        """One view of the store for many reads by this thread, whatever others write meanwhile."""
        with self._database.batch(write=False) as connection:
            yield connection

    # Prompts and answers

    def add_prompt(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Mapping[str, Any]] = (),
        source: str = "",
        fields: Mapping[str, Any] | None = None,
    ) -> int:
        """Its id; the same messages and tools have the same id. What is known of it stays, the rest is added."""
        if not messages:
            raise ValueError("a prompt needs at least one message")
        check_text(source, "source")
        rows, tool_rows, given = message_rows(messages), [dict(tool) for tool in tools], dict(fields or {})
        as_json(given, "fields")
        row = {"digest": digest(rows, tool_rows), "messages": rows, "tools": tool_rows, "source": source}

        def work(connection: Connection) -> int:
            there, made = insert_once(connection, tables.prompts, {**row, "fields": given}, "digest")
            if not made and (given or source):
                fill_in(connection, tables.prompts, there, {"source": source, "fields": given})
            return there

        return self._run(work, write=True)

    def add_response(
        self,
        prompt_id: int,
        messages: Sequence[Message],
        *,
        model: str = "",
        parameters: Mapping[str, Any] | None = None,
        token_ids: Sequence[int] | None = None,
    ) -> int:
        """Its id; the same messages by the same model to the same prompt have the same id."""
        if not messages:
            raise ValueError("an answer needs at least one message")
        check_text(model, "model")
        rows, given = message_rows(messages), dict(parameters or {})
        as_json(given, "parameters")
        ids = None if token_ids is None else [int(token) for token in token_ids]
        row = {"prompt_id": prompt_id, "digest": digest(prompt_id, rows, model), "messages": rows, "model": model}

        def work(connection: Connection) -> int:
            must_be(connection, tables.prompts, prompt_id, self.place)
            extra = {"parameters": given, "token_ids": ids}
            there, made = insert_once(connection, tables.responses, {**row, **extra}, "digest")
            if not made and (given or ids):
                fill_in(connection, tables.responses, there, extra)
            return there

        return self._run(work, write=True)

    def set_scores(self, response_id: int, scores: Sequence[float]) -> None:
        """Keep the scores of a reward-model ensemble, one a member, in place of those before."""
        values = [float(score) for score in scores]
        as_json(values, "scores")

        def work(connection: Connection) -> None:
            must_be(connection, tables.responses, response_id, self.place)
            chosen = tables.responses.update().where(tables.responses.c.id == response_id)
            connection.execute(chosen.values(scores=values))

        self._run(work, write=True)

    def prompt(self, id: int) -> StoredPrompt:
        """The prompt with this id."""
        return prompt_of(self._row(tables.prompts, id))

    def prompts(self) -> list[StoredPrompt]:
        """Every prompt, in the order of their ids."""
        return [prompt_of(row) for row in self._rows(tables.prompts)]

    def response(self, id: int) -> StoredResponse:
        """The answer with this id."""
        return response_of(self._row(tables.responses, id))

    def responses(self, prompt_id: int | None = None) -> list[StoredResponse]:
        """The answers (to one prompt), in the order of their ids."""
        return [response_of(row) for row in self._rows(tables.responses, prompt_id=prompt_id)]

    # Items and who works on them

    def add_item(self, prompt_id: int, response_ids: Sequence[int], *, overlap: int = 1) -> int:
        """Answers that `overlap` people are to compare. The same answers have the same id, and the larger overlap."""
        ids = [int(id) for id in response_ids]
        if len(set(ids)) != len(ids) or not 2 <= len(ids) <= MAX_ANSWERS:
            raise ValueError(f"an item compares 2 to {MAX_ANSWERS} different answers, got {ids}")
        if overlap < 1:
            raise ValueError(f"overlap is {overlap}, expected at least 1")
        row = {"prompt_id": prompt_id, "digest": digest(prompt_id, sorted(ids)), "response_ids": ids}

        def work(connection: Connection) -> int:
            check_answers(connection, prompt_id, ids, self.place)
            there, made = insert_once(connection, tables.items, {**row, "overlap": overlap}, "digest")
            if not made:
                item = tables.items.c
                wider = tables.items.update().where(item.id == there, item.overlap < overlap)
                connection.execute(wider.values(overlap=overlap))
            return there

        return self._run(work, write=True)

    def items(self) -> list[Item]:
        """Every item, in the order of their ids."""
        return [Item(row.id, row.prompt_id, tuple(row.response_ids), row.overlap) for row in self._rows(tables.items)]

    def assign(self, item_id: int, annotator: str, order: Sequence[int]) -> Assignment:
        """Put an item on an annotator's screen, answers in this order; one that is open there already stays."""
        check_name(annotator, "annotator")
        shown = [int(id) for id in order]

        def work(connection: Connection) -> int:
            item = must_be(connection, tables.items, item_id, self.place)
            if sorted(shown) != sorted(item.response_ids):
                raise ValueError(f"the order {shown} is none of the answers {item.response_ids} of item {item_id}")
            columns = tables.assignments.c
            row = {"item_id": item_id, "annotator": annotator, "shown": shown, "opened": datetime.now(UTC)}
            there, made = insert_once(connection, tables.assignments, row)
            if not made:
                mine = (columns.item_id == item_id, columns.annotator == annotator, columns.closed.is_(None))
                there = connection.execute(select(columns.id).where(*mine)).scalar_one()
            return there

        return self.assignment(self._run(work, write=True))

    def assignment(self, id: int) -> Assignment:
        """The assignment with this id, open or closed."""
        return assignment_of(self._row(tables.assignments, id))

    def assignments(self, annotator: str | None = None) -> list[Assignment]:
        """Every assignment (of an annotator), open or closed, in the order of their ids."""
        return [assignment_of(row) for row in self._rows(tables.assignments, annotator=annotator)]

    def open_assignment(self, annotator: str) -> Assignment | None:
        """What is on an annotator's screen: the oldest open assignment."""
        return next((found for found in self.assignments(annotator) if found.closed is None), None)

    def close_assignment(self, id: int) -> None:
        """Take an item off the screen; once closed it stays so."""

        def work(connection: Connection) -> None:
            must_be(connection, tables.assignments, id, self.place)
            mine = tables.assignments.update().where(
                tables.assignments.c.id == id, tables.assignments.c.closed.is_(None)
            )
            connection.execute(mine.values(closed=datetime.now(UTC)))

        self._run(work, write=True)

    # Annotators and guidelines

    def add_annotator(self, name: str, *, source: str = "person") -> str:
        """A new annotator's token, which is shown here and never again: the store keeps its hash alone."""
        check_name(name, "name")
        if source not in SOURCES:
            raise ValueError(f"source is {source!r}, expected one of {', '.join(SOURCES)}")
        token = secrets.token_urlsafe(24)
        row = {"name": name, "source": source, "token_hash": token_hash(token), "created": datetime.now(UTC)}
        _, made = self._run(lambda connection: insert_once(connection, tables.annotators, row, "name"), write=True)
        if not made:
            raise StoreError(
                f"{self.place}: there is an annotator {name!r} already. Take another name, or a new token."
            )
        return token

    def new_token(self, name: str) -> str:
        """A new token for an annotator; the one before no longer opens anything."""
        token = secrets.token_urlsafe(24)
        mine = tables.annotators.update().where(tables.annotators.c.name == name).values(token_hash=token_hash(token))
        if not self._run(lambda connection: connection.execute(mine).rowcount, write=True):
            raise StoreError(f"{self.place}: there is no annotator {name!r}. Add them first.")
        return token

    def annotator(self, token: str) -> str | None:
        """Whose token it is. Every hash is compared, each in constant time."""
        given, found = token_hash(token), None
        for row in self._rows(tables.annotators):
            if hmac.compare_digest(given, row.token_hash):
                found = row.name
        return found

    def annotators(self) -> list[Annotator]:
        """Everybody who was added, in the order of their adding."""
        return [Annotator(row.name, row.source, row.created) for row in self._rows(tables.annotators)]

    def set_guidelines(self, text: str) -> int:
        """The version of this text: that of the newest guidelines where it is the same, else a new one."""

        def work(connection: Connection) -> int:
            newest = select(tables.guidelines).order_by(tables.guidelines.c.id.desc()).limit(1)
            row = connection.execute(newest).first()
            if row is not None and row.text == text:
                return int(row.id)
            new = tables.guidelines.insert().values(text=text, created=datetime.now(UTC))
            return int(connection.execute(new.returning(tables.guidelines.c.id)).scalar_one())

        return self._run(work, write=True)

    def guidelines(self, version: int | None = None) -> tuple[int, str] | None:
        """(version, text) of the newest guidelines, or of a version; None where there are none."""
        rows = self._rows(tables.guidelines, id=version)
        return (rows[-1].id, rows[-1].text) if rows else None

    # Ballots

    def vote(self, ballot: Ballot, *, replaces: int | Sequence[int] | None = None) -> int:
        """Keep a ballot and return its id; it is on the disk when this returns.

        A ballot whose key is there already is the same ballot, sent again: nothing is written and its id returned.
        `replaces`: the ballots of the same annotator that this one corrects; they stay, marked. StoreError where
        prompt, answers or item do not belong together, the key is another ballot's, or the correction comes too late.
        """
        row = {name: getattr(ballot, name) for name in BALLOT_COLUMNS if name not in ("id", "replaced_by")}
        row["key"] = ballot.key or uuid.uuid4().hex
        row["created"] = ballot.created or datetime.now(UTC)
        row["details"] = dict(ballot.details)
        for name in ("value", "details"):
            as_json(row[name], name)
        replaced = () if replaces is None else (replaces,) if isinstance(replaces, int) else replaces

        def work(connection: Connection) -> int:
            self._check_ballot(connection, ballot)
            there, made = insert_once(connection, tables.ballots, row, "key")
            if not made:
                self._check_again(connection, there, ballot)
            else:
                for old in replaced:
                    self._replace(connection, old, there, ballot.annotator)
            return there

        return self._run(work, write=True)

    def ballots(
        self,
        *,
        item_id: int | None = None,
        annotator: str | None = None,
        source: str | None = None,
        include_replaced: bool = False,
    ) -> list[Ballot]:
        """The ballots that count (or all), in the order of their casting."""
        rows = self._rows(tables.ballots, item_id=item_id, annotator=annotator, source=source)
        return [ballot_of(row) for row in rows if include_replaced or row.replaced_by is None]

    def counts(self) -> dict[str, int]:
        """How many there are: prompts, responses, items, ballots that count, annotators."""
        counted = [tables.prompts, tables.responses, tables.items, tables.ballots, tables.annotators]

        def work(connection: Connection) -> dict[str, int]:
            found = {}
            for table in counted:
                query = select(func.count()).select_from(table)
                if table is tables.ballots:
                    query = query.where(table.c.replaced_by.is_(None))
                found[table.name] = int(connection.execute(query).scalar_one())
            return found

        return self._run(work)

    def _check_ballot(self, connection: Connection, ballot: Ballot) -> None:
        check_answers(connection, ballot.prompt_id, ballot.response_ids, self.place)
        if ballot.guidelines is not None:
            must_be(connection, tables.guidelines, ballot.guidelines, self.place)
        if ballot.item_id is None:
            return
        item = must_be(connection, tables.items, ballot.item_id, self.place)
        if item.prompt_id != ballot.prompt_id or not set(ballot.response_ids) <= set(item.response_ids):
            raise StoreError(
                f"{self.place}: the ballot is about answers {list(ballot.response_ids)} to prompt {ballot.prompt_id}, "
                f"and item {item.id} about {item.response_ids} to prompt {item.prompt_id}. Nothing was written."
            )

    def _check_again(self, connection: Connection, id: int, ballot: Ballot) -> None:
        """A key that comes twice must bring the same question and the same annotator."""
        known = must_be(connection, tables.ballots, id, self.place)
        same = (known.annotator, known.prompt_id, known.item_id, known.kind)
        if same != (ballot.annotator, ballot.prompt_id, ballot.item_id, ballot.kind):
            raise StoreError(
                f"{self.place}: the key {ballot.key!r} belongs to ballot {id}, which is another one. Give every ballot "
                "a key of its own; nothing was written."
            )

    def _replace(self, connection: Connection, old: int, new: int, annotator: str) -> None:
        columns = tables.ballots.c
        mine = (columns.id == old, columns.annotator == annotator, columns.replaced_by.is_(None))
        if connection.execute(tables.ballots.update().where(*mine).values(replaced_by=new)).rowcount:
            return
        known = must_be(connection, tables.ballots, old, self.place)
        why = (
            f"has been corrected already, by ballot {known.replaced_by}; correct that one"
            if known.annotator == annotator
            else f"is another annotator's, and {annotator!r} cannot correct it"
        )
        raise StoreError(f"{self.place}: ballot {old} {why}. Nothing was written.")

    def _row(self, table: Table, id: int) -> Row[Any]:
        return self._run(lambda connection: must_be(connection, table, id, self.place))

    def _rows(self, table: Table, **wanted: Any) -> Sequence[Row[Any]]:
        """Rows by id, where the columns have the values given; None asks for nothing."""
        where = [table.c[name] == value for name, value in wanted.items() if value is not None]
        return self._run(lambda connection: connection.execute(select(table).where(*where).order_by(table.c.id)).all())
