"""A database behind one door, `run(work)`: transactions that wait for locks, and faults in words with their mend."""

import random
import re
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url, text
from sqlalchemy.exc import ArgumentError, DBAPIError, SQLAlchemyError, StatementError

from posttrain.errors import StoreAway, StoreError

T = TypeVar("T")

WAIT_S = 20.0  # for a lock that another process holds
PATIENCE_S = 0.5  # of one try; SQLite's own waiting is not fair, so a long wait is made of several
SQLITE_SAYS = {
    sqlite3.SQLITE_NOTADB: "this file is no SQLite database. Give the path of a store, or a new one",
    sqlite3.SQLITE_CORRUPT: "the file is damaged. Keep a copy, then save what can be read: "
    "`sqlite3 FILE .recover | sqlite3 NEW_FILE`",
    sqlite3.SQLITE_READONLY: "the file or its folder cannot be written to. Give the rights to write to both "
    "(SQLite keeps its journal beside the file), or copy the file to where you may write",
    sqlite3.SQLITE_CANTOPEN: "the file cannot be opened or made. See that its folder is there and may be written to "
    "(SQLite keeps its journal beside the file)",
    sqlite3.SQLITE_FULL: "the disk is full. Free some space and try again",
    sqlite3.SQLITE_IOERR: "the disk failed to read or write the file. Check the disk; network folders do not suit "
    "SQLite, take PostgreSQL there",
}
POSTGRES_SAYS = {
    "28": "the server refused this user. Check user and password in the address",
    "3D": "there is no such database on the server. Make it with `createdb`, or correct the address",
    "42501": "this user may not do that here. Grant the rights to create and write tables: "
    "`GRANT CREATE, USAGE ON SCHEMA public TO` the user",
    "25006": "the server is read-only, a standby perhaps. Give the address of the one that can be written to",
    "53100": "the server's disk is full. Free some space there and try again",
    "53300": "the server takes no more connections. Close some, or raise max_connections",
}
# A refused connection comes without a code.
REFUSALS = (
    (re.compile(r"password|authentication|pg_hba|role .* does not exist"), "28"),
    (re.compile(r"database .* does not exist"), "3D"),
    (re.compile(r"too many (clients|connections)|connection slots"), "53300"),
)
LOCKED = {"55P03", "40001", "40P01"}  # PostgreSQL: lock timeout, serialisation failure, deadlock


class Database:
    """An engine for SQLite or PostgreSQL that many threads may use at once."""

    def __init__(self, address: str | Path, *, wait_s: float = WAIT_S) -> None:
        self.wait_s = wait_s
        url = _url(address)
        self.is_sqlite = url.get_backend_name() == "sqlite"
        self.place = str(url.database) if self.is_sqlite else url.render_as_string(hide_password=True)
        self._engine = self._sqlite(url) if self.is_sqlite else self._postgres(url)
        self._local = threading.local()
        # SQLite takes one writer; threads of one process queue here, where waiting is fair and costs nothing.
        self._turn = threading.Lock()

    def close(self) -> None:
        """Give every connection back."""
        self._engine.dispose()

    def run(self, work: Callable[[Connection], T], *, write: bool = False) -> T:
        """What `work` returns, in one transaction, committed before this returns; inside `batch`, in that one.

        Waits up to `wait_s` for locks; `work` may therefore run several times. StoreAway where the database fails.
        """
        inner: Connection | None = getattr(self._local, "connection", None)
        if inner is not None:
            with self._explained():
                return work(inner)
        with self._transaction(write) as connection:
            return work(connection)

    @contextmanager
    def batch(self, *, write: bool = True) -> Iterator[Connection]:
        """One transaction around everything that this thread does inside: all of it is stored, or nothing. Without
        `write` it is one view of the store, whatever others write meanwhile."""
        if getattr(self._local, "connection", None) is not None:
            raise RuntimeError("a batch inside a batch")
        with self._transaction(write) as connection:
            if not write and not self.is_sqlite:
                connection.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY"))
            self._local.connection = connection
            try:
                yield connection
            finally:
                self._local.connection = None

    @contextmanager
    def _transaction(self, write: bool) -> Iterator[Connection]:
        deadline = time.monotonic() + self.wait_s
        queue = self.is_sqlite and write
        if queue and not self._turn.acquire(timeout=self.wait_s):
            raise StoreAway(self._locked())
        try:
            with self._explained():
                connection = self._begun(write, deadline)
                try:
                    yield connection
                    connection.commit()
                finally:
                    connection.close()  # rolls back what is not committed
        finally:
            if queue:
                self._turn.release()

    def _begun(self, write: bool, deadline: float) -> Connection:
        """A connection in a transaction. A writer of SQLite has the lock from here on: nothing can be locked later."""
        while True:
            connection = None
            try:
                connection = self._engine.connect().execution_options(write=write)
                connection.begin()
                return connection
            except (SQLAlchemyError, sqlite3.Error) as error:
                if connection is not None:
                    connection.close()
                if not is_locked(error) or time.monotonic() > deadline:
                    raise
                time.sleep(random.uniform(0.001, 0.01))

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except (SQLAlchemyError, sqlite3.Error) as error:
            if isinstance(error, StatementError) and isinstance(error.orig, ValueError):
                raise error.orig from None  # a value that cannot be kept; the database never saw it
            raise StoreAway(self._explain(error)) from error

    def _locked(self) -> str:
        return (
            f"{self.place}: another process has held the lock for {self.wait_s:g} s. Nothing was written; end the "
            "program that holds it, or wait for it, then try again."
        )

    def _explain(self, error: Exception) -> str:
        """Where, what, and the mend."""
        if is_locked(error):
            return self._locked()
        origin = getattr(error, "orig", None) or error
        said = " ".join(str(origin).split())
        if self.is_sqlite:
            code = (getattr(origin, "sqlite_errorcode", 0) or 0) & 0xFF
            mend = SQLITE_SAYS.get(code, "the database refused")
        else:
            state = getattr(origin, "sqlstate", None) or next((c for words, c in REFUSALS if words.search(said)), "")
            mend = POSTGRES_SAYS.get(state) or POSTGRES_SAYS.get(state[:2]) or ""
            lost = not state or state[:2] in ("08", "57") or getattr(error, "connection_invalidated", False)
            if not mend:
                mend = (
                    "the database cannot be reached. Start it or check the address, then try again: a ballot with the "
                    "same key is stored once"
                    if lost
                    else "the database refused"
                )
        return f"{self.place}: {mend}. The database says: {said}"

    def _sqlite(self, url: URL) -> Engine:
        path = Path(url.database or "")
        if path.is_dir():
            raise StoreError(f"{path}: this is a folder. Give the path of a file in it, as in {path / 'feedback.db'}.")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(f"{path}: its folder cannot be made ({error.strerror}). Choose another path.") from None
        engine = create_engine(
            url,
            connect_args={"timeout": min(PATIENCE_S, self.wait_s)},
            pool_size=8,
            max_overflow=56,
            hide_parameters=True,  # an error's words go to logs; the texts that could not be written do not
        )
        event.listen(engine, "connect", _prepare_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
        return engine

    def _postgres(self, url: URL) -> Engine:
        try:
            engine = create_engine(
                url.set(drivername="postgresql+psycopg"),
                connect_args={"connect_timeout": 10, "application_name": "posttrain"},
                pool_size=8,
                max_overflow=24,
                pool_timeout=self.wait_s,
                pool_pre_ping=True,
                hide_parameters=True,
            )
        except ModuleNotFoundError:
            raise StoreError(
                f"{self.place}: PostgreSQL needs a driver that is not installed: pip install 'posttrain[postgres]'."
            ) from None
        wait_ms = max(int(self.wait_s * 1000), 1)

        def prepare(connection: Any, _: Any) -> None:
            # An acknowledged vote must outlive a crash of the server, whatever its default is.
            connection.autocommit = True
            connection.execute(f"SET lock_timeout = {wait_ms}")
            connection.execute(
                "SELECT set_config('synchronous_commit', 'on', false) "
                "WHERE current_setting('synchronous_commit') IN ('off', 'local')"
            )
            connection.autocommit = False

        event.listen(engine, "connect", prepare)
        return engine


def is_locked(error: Exception) -> bool:
    """Whether somebody else held a lock for too long; the same may work a moment later."""
    origin = error.orig if isinstance(error, DBAPIError) else error
    if isinstance(origin, sqlite3.Error):
        code = (getattr(origin, "sqlite_errorcode", 0) or 0) & 0xFF
        return code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
    return getattr(origin, "sqlstate", None) in LOCKED


def _prepare_sqlite(connection: Any, _: Any) -> None:
    """A committed vote is on the disk (synchronous=FULL) and readers never wait for a writer (WAL)."""
    connection.isolation_level = None  # transactions begin where `_begin_sqlite` says so, not where the driver guesses
    try:
        (mode,) = connection.execute("PRAGMA journal_mode").fetchone()
        if mode != "wal":
            connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA foreign_keys = ON")
    except sqlite3.Error:
        connection.close()
        raise


def _begin_sqlite(connection: Connection) -> None:
    writes = connection.get_execution_options().get("write")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _url(address: str | Path) -> URL:
    """A path is a SQLite file; an address with a scheme says what it is."""
    given = str(address)
    if not given.strip() or given == ":memory:":
        raise StoreError(f"{given!r} is no place for a store. Give a file, as in runs/feedback.db, or postgresql://…")
    if "://" not in given:
        return URL.create("sqlite", database=given)
    try:
        url = make_url(given)
    except ArgumentError:
        raise StoreError(f"{given.partition('://')[0]}://…: this is no address. {ADDRESSES}") from None
    name = url.get_backend_name()
    if name == "postgres":  # as hosting services write it
        url, name = url.set(drivername="postgresql"), "postgresql"
    if name not in ("sqlite", "postgresql"):
        raise StoreError(f"{url.render_as_string(hide_password=True)}: {name} is not supported. {ADDRESSES}")
    if name == "sqlite" and not (url.database or "").strip(":"):
        raise StoreError(f"{given}: a store in memory would forget everything. {ADDRESSES}")
    return url


ADDRESSES = "Give a file, sqlite:///FILE, or postgresql://USER@HOST/DATABASE."
