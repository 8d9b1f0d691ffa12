"""Stores on both engines: SQLite in a file, PostgreSQL in a cluster of its own that the tests start and end."""

import contextlib
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import NoReturn

import pytest

from posttrain.feedback.store import Store
from posttrain.types import Message


class Cluster:
    """A PostgreSQL server without TCP, its data and its socket in a temporary folder."""

    def __init__(self, programs: Path) -> None:
        self._programs = programs
        self.folder = Path(tempfile.mkdtemp(prefix="pt-pg-"))
        # PostgreSQL refuses to run as root.
        self._user = "postgres" if os.geteuid() == 0 else None
        if self._user:
            shutil.chown(self.folder, self._user, self._user)
        self._numbers = count(1)
        self._call("initdb", "--username=posttrain", "--auth=trust", "--no-sync", "--encoding=UTF8", "-D", self._data)
        self.start()

    @property
    def _data(self) -> str:
        return str(self.folder / "data")

    def _call(self, program: str, *arguments: str) -> None:
        # The server must not inherit our output, or whoever reads it would wait for the server's end.
        with tempfile.TemporaryFile("w+") as output:
            done = subprocess.run(
                [str(self._programs / program), *arguments],
                user=self._user,
                group=self._user,
                extra_groups=[] if self._user else None,
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                timeout=120,
                check=False,
            )
            output.seek(0)
            assert done.returncode == 0, output.read()

    def start(self) -> None:
        options = f"-c listen_addresses='' -c unix_socket_directories='{self.folder}' -c fsync=off"
        self._call("pg_ctl", "-D", self._data, "-w", "-l", str(self.folder / "log"), "-o", options, "start")

    def stop(self) -> None:
        """End it as a crash would: every connection breaks at once."""
        self._call("pg_ctl", "-D", self._data, "-w", "-m", "immediate", "stop")

    def remove(self) -> None:
        with contextlib.suppress(AssertionError):
            self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def address(self) -> str:
        """A new, empty schema of the one database; a database each would fill the disk."""
        name = f"store{next(self._numbers)}"
        import psycopg

        with psycopg.connect(host=str(self.folder), user="posttrain", dbname="postgres", autocommit=True) as connection:
            connection.execute(f"CREATE SCHEMA {name}")
        return f"postgresql://posttrain@/postgres?host={self.folder}&options=-csearch_path%3D{name}"


def programs() -> Path | None:
    """Where the server's programs are: where Debian puts them, or on the path."""
    places = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda place: float(place.parent.name), reverse=True)
    places += [Path(found).resolve().parent] if (found := shutil.which("initdb")) else []
    return next((place for place in places if (place / "initdb").exists() and (place / "pg_ctl").exists()), None)


def lacking(what: str) -> NoReturn:
    """Skip what needs it; with POSTTRAIN_CI=1, as .ci/run sets it, fail, so that nothing goes unchecked in silence."""
    if os.environ.get("POSTTRAIN_CI") == "1":
        pytest.fail(f"{what}; POSTTRAIN_CI=1 lets no test skip for want of it", pytrace=False)
    pytest.skip(what)


def server_programs() -> Path:
    """Where the programs of a server are that can be started here."""
    where = programs()
    if where is None:
        lacking("PostgreSQL is not installed here (apt-get install postgresql)")
    if os.geteuid() == 0:
        try:
            pwd.getpwnam("postgres")
        except KeyError:
            lacking("PostgreSQL refuses to run as root, and there is no user postgres (apt-get install postgresql)")
    try:
        import psycopg  # noqa: F401
    except ImportError:
        lacking("PostgreSQL needs its driver (pip install 'posttrain[postgres]')")
    return where


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    made = Cluster(server_programs())
    yield made
    made.remove()


@pytest.fixture(params=["sqlite", "postgresql"])
def new_address(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], str]:
    """`new_address()`: a place where no store is yet, once on each engine."""
    if request.param == "sqlite":
        numbers = count(1)
        return lambda: str(tmp_path / f"store{next(numbers)}.db")
    return request.getfixturevalue("cluster").address


@pytest.fixture
def address(new_address: Callable[[], str]) -> str:
    return new_address()


@pytest.fixture
def store(address: str) -> Iterator[Store]:
    with Store.open(address) as opened:
        yield opened


@pytest.fixture
def sqlite_store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "feedback.db") as opened:
        yield opened


@pytest.fixture
def ask() -> Callable[..., tuple[int, list[int]]]:
    """`ask(store, question, *answers)`: the ids of a prompt and its answers."""

    def add(store: Store, question: str, *answers: str) -> tuple[int, list[int]]:
        prompt = store.add_prompt([Message("user", question)])
        return prompt, [store.add_response(prompt, [Message("assistant", answer)]) for answer in answers]

    return add
