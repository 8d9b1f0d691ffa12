"""Rows of the store's tables: found, made once, filled in, and turned into records."""

import hashlib
from collections.abc import Mapping
from functools import cache
from typing import Any

from sqlalchemy import Connection, Row, Select, Table, bindparam, select
from sqlalchemy.dialects import postgresql, sqlite

from posttrain.errors import StoreError
from posttrain.feedback.ballots import Assignment, Ballot, StoredPrompt, StoredResponse
from posttrain.feedback.tables import items, messages_of, prompts, responses


def insert_once(connection: Connection, table: Table, values: Mapping[str, Any], key: str = "") -> tuple[int, bool]:
    """(id, whether it is new) of the row that `values` makes, or of the row that has their `key` already.

    One statement: of two writers at once one makes the row, and the other finds it. Without a `key`, whatever unique
    index stands in the way, the id is then 0.
    """
    made = connection.execute(_insert(table, key, connection.dialect.name), dict(values)).scalar()
    if made is not None:
        return int(made), True
    if not key:
        return 0, False
    return int(connection.execute(_by(table, key), {"wanted": values[key]}).one().id), False


# Building a statement costs more than running it, so each is built once.
@cache
def _insert(table: Table, key: str, dialect: str) -> Any:
    insert: Any = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}[dialect]
    return insert(table).on_conflict_do_nothing(index_elements=[key] if key else None).returning(table.c.id)


@cache
def _by(table: Table, column: str) -> Select[Any]:
    return select(table).where(table.c[column] == bindparam("wanted"))


def fill_in(connection: Connection, table: Table, id: int, given: Mapping[str, Any]) -> None:
    """Add to a row what it lacks: empty columns take the value given, mappings the keys that they do not have."""
    known = connection.execute(_by(table, "id"), {"wanted": id}).one()
    new = {}
    for name, value in given.items():
        before = getattr(known, name)
        after = {**value, **(before or {})} if isinstance(value, Mapping) else before or value
        if after != before:
            new[name] = after
    if new:
        connection.execute(table.update().where(table.c.id == id).values(**new))


def must_be(connection: Connection, table: Table, id: Any, place: str) -> Row[Any]:
    """The row with this id, or StoreError."""
    row = connection.execute(_by(table, "id"), {"wanted": id}).first()
    if row is None:
        name = table.name.removesuffix("s")
        raise StoreError(f"{place}: there is no {name} {id}. Was it made in another store? Nothing was written.")
    return row


def hold_item(connection: Connection, item_id: int) -> None:
    """Wait for whoever else holds this item, then hold it until the transaction ends; SQLite has one writer anyway."""
    connection.execute(select(items.c.id).where(items.c.id == item_id).with_for_update(key_share=True))


@cache
def _of_prompt() -> Select[Any]:
    asked = responses.c.id.in_(bindparam("ids", expanding=True))
    return select(responses.c.id).where(responses.c.prompt_id == bindparam("wanted"), asked)


def check_answers(connection: Connection, prompt_id: int, response_ids: Any, place: str) -> None:
    """StoreError unless the prompt is there and these are answers to it."""
    must_be(connection, prompts, prompt_id, place)
    theirs = connection.execute(_of_prompt(), {"wanted": prompt_id, "ids": list(response_ids)}).scalars()
    if missing := set(response_ids) - set(theirs):
        raise StoreError(
            f"{place}: response {min(missing)} is no answer to prompt {prompt_id}. Nothing was written; load the page "
            "anew if one showed it."
        )


def prompt_of(row: Row[Any]) -> StoredPrompt:
    return StoredPrompt(row.id, messages_of(row.messages), tuple(row.tools), row.source, row.fields)


def response_of(row: Row[Any]) -> StoredResponse:
    return StoredResponse(
        row.id,
        row.prompt_id,
        messages_of(row.messages),
        row.model,
        row.parameters,
        None if row.token_ids is None else tuple(row.token_ids),
        None if row.scores is None else tuple(row.scores),
    )


def assignment_of(row: Row[Any]) -> Assignment:
    return Assignment(row.id, row.item_id, row.annotator, tuple(row.shown), row.opened, row.closed)


def ballot_of(row: Row[Any]) -> Ballot:
    return Ballot(**row._mapping)


def token_hash(token: str) -> str:
    """SHA-256 of a token. Tokens are random and long, so that nothing slower is needed against guessing."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()
