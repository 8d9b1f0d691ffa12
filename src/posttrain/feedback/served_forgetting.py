"""What a user takes back is gone: their exchanges, votes and texts, and whatever was built on those texts."""

import contextlib
import sqlite3
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Table, delete, select
from sqlalchemy.exc import SQLAlchemyError

from posttrain.feedback import tables
from posttrain.feedback.store import Store

MANY = 500  # ids in one statement


@dataclass(slots=True)
class Forgotten:
    """How much is gone. `ballots`: of the user, and of others about texts of the user. `prompts` and `responses`: those
    that nobody else was served too; a text that came from elsewhere stays."""

    exchanges: int = 0
    votes: int = 0
    ballots: int = 0
    prompts: int = 0
    responses: int = 0
    items: int = 0


def forget(store: Store, names: Collection[str], source: str) -> Forgotten:
    """Delete what the store holds of the annotators `names` with ballots of this `source`, in one transaction; from a
    SQLite file the bytes too."""
    gone = Forgotten()
    with store.batch() as connection:
        if connection.dialect.name == "sqlite":
            connection.exec_driver_sql("PRAGMA secure_delete = ON")
        served, votes, ballots = tables.served, tables.served_votes, tables.ballots
        rows = connection.execute(select(served).where(served.c.annotator.in_(names))).all()
        prompts = sorted({row.prompt_id for row in rows if row.prompt_id is not None})
        gone.votes = connection.execute(delete(votes).where(votes.c.annotator.in_(names))).rowcount
        mine = (ballots.c.annotator.in_(names), ballots.c.source == source)
        gone.ballots = connection.execute(delete(ballots).where(*mine)).rowcount
        gone.exchanges = connection.execute(delete(served).where(served.c.annotator.in_(names))).rowcount
        answers = {id for row in rows for id in row.response_ids or ()}
        for prompt in prompts:
            _forget_prompt(connection, prompt, answers, source, gone)
    if connection.dialect.name == "sqlite":
        _shorten_journal(store)
    return gone


def _forget_prompt(connection: Connection, prompt: int, answers: set[int], source: str, gone: Forgotten) -> None:
    """A prompt goes with everything about it, unless others were served it too or it came from elsewhere; then those of
    `answers` go that were given to nobody else."""
    served, responses = tables.served.c, tables.responses.c
    others = connection.execute(select(served.response_ids).where(served.prompt_id == prompt)).scalars().all()
    row = connection.execute(select(tables.prompts).where(tables.prompts.c.id == prompt)).one()
    theirs = connection.execute(select(responses.id, responses.parameters).where(responses.prompt_id == prompt)).all()
    whole = not others and row.source == source
    kept = {id for ids in others for id in ids}
    lost = [one.id for one in theirs if whole or (one.id in answers - kept and one.parameters.get("source") == source)]
    _forget_about(connection, prompt, None if whole else set(lost), gone)
    gone.responses += _delete(connection, tables.responses, lost)
    if whole:
        gone.prompts += _delete(connection, tables.prompts, [prompt])


def _forget_about(connection: Connection, prompt: int, lost: set[int] | None, gone: Forgotten) -> None:
    """Items, what is on screens of them, and ballots, of a prompt: all of them, or those about one of `lost`."""

    def about(table: Table) -> list[int]:
        found = connection.execute(select(table.c.id, table.c.response_ids).where(table.c.prompt_id == prompt)).all()
        return [row.id for row in found if lost is None or lost & set(row.response_ids)]

    ballots, items = about(tables.ballots), about(tables.items)
    asked_by = tables.ballots.c
    for part in _parts(items):
        ballots += connection.execute(select(asked_by.id).where(asked_by.item_id.in_(part))).scalars()
    if ballots:
        votes = tables.served_votes
        for ids in _parts(ballots):
            connection.execute(votes.update().where(votes.c.ballot_id.in_(ids)).values(ballot_id=None))
    gone.ballots += _delete(connection, tables.ballots, ballots)
    _delete(connection, tables.assignments, items, "item_id")
    gone.items += _delete(connection, tables.items, items)


def _delete(connection: Connection, table: Table, ids: list[int], column: str = "id") -> int:
    return sum(connection.execute(delete(table).where(table.c[column].in_(part))).rowcount for part in _parts(ids))


def _parts(ids: list[int]) -> Iterable[list[int]]:
    return (ids[start : start + MANY] for start in range(0, len(ids), MANY))


def _shorten_journal(store: Store) -> None:
    """SQLite's journal still holds what was deleted until it is written into the file and cut; and so do corners of
    pages that a row once moved out of, until the file is written anew."""
    with store.snapshot() as connection:
        engine = connection.engine
    with contextlib.suppress(SQLAlchemyError, sqlite3.Error):  # another process reads: its own end does it
        raw: Any = engine.raw_connection()
        try:
            raw.cursor().execute("VACUUM")
            raw.cursor().execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        finally:
            raw.close()
