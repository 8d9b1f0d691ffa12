"""One commit for everybody who waits: 200 answers that end at once cost a few commits, not 200.

`GroupCommit(store).run(work)` returns what `work(connection)` returns, after the commit. Whoever finds nobody at work
takes all that wait and writes it in one transaction, each in a savepoint of its own, so that one refusal undoes nothing
else. No thread of its own: nothing to end.
"""

import sqlite3
import threading
from collections.abc import Callable
from typing import Any, TypeVar

from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError

from posttrain.errors import StoreAway
from posttrain.feedback.store import Store

T = TypeVar("T")
MAX_TOGETHER = 256  # works in one transaction
UNDONE = object()


class _Job:
    """A work that waits, then its value or the error that it ended with."""

    def __init__(self, work: Callable[[Connection], Any]) -> None:
        self.work = work
        self.done = False
        self.value: Any = UNDONE
        self.error: BaseException | None = None

    def attempt(self, connection: Connection) -> None:
        """Do it, or undo it alone. Where the database itself fails, everybody's attempt does."""
        self.error = None
        try:
            with connection.begin_nested():
                self.value = self.work(connection)
        except (SQLAlchemyError, sqlite3.Error, StoreAway):
            raise
        except Exception as error:
            self.error = error


class GroupCommit:
    """Writers of one process who share commits."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._turn = threading.Lock()
        self._adding = threading.Lock()
        self._waiting: list[_Job] = []

    def run(self, work: Callable[[Connection], T]) -> T:
        """What `work` returns, once it is committed; what it raises, once it is undone. It may run several times."""
        job = _Job(work)
        with self._adding:
            self._waiting.append(job)
        while not job.done:
            with self._turn:
                if not job.done:
                    self._commit(self._next())
        if job.error is not None:
            raise job.error
        value: T = job.value
        return value

    def _next(self) -> list[_Job]:
        with self._adding:
            taken, self._waiting = self._waiting[:MAX_TOGETHER], self._waiting[MAX_TOGETHER:]
        return taken

    def _commit(self, jobs: list[_Job]) -> None:
        """All of them together; where that fails, one by one until the first that fails alone."""
        try:
            failed, error = jobs, self._together(jobs)
            if error is not None and len(jobs) > 1:
                failed = list(jobs)
                while failed and (error := self._together(failed[:1])) is None:
                    failed.pop(0)
            for job in failed if error is not None else ():
                job.error = error
        finally:
            for job in jobs:
                if job.error is None and job.value is UNDONE:
                    job.error = StoreAway(f"{self._store.place}: the writing was broken off. Send the same again.")
                job.done = True

    def _together(self, jobs: list[_Job]) -> StoreAway | None:
        committed = False
        try:
            with self._store.batch() as connection:
                for job in jobs:
                    job.attempt(connection)
            committed = True
        except StoreAway as error:
            return error
        finally:
            if not committed:
                for job in jobs:
                    job.value = UNDONE
        return None
