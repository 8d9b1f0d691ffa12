"""Crashes, locks, lost servers, bad files: what was acknowledged is there once, the rest is told with its mend."""

import importlib.util
import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from posttrain.cli import main
from posttrain.errors import StoreError
from posttrain.feedback.ballots import Ballot
from posttrain.feedback.connection import Database
from posttrain.feedback.store import Store
from posttrain.types import Message

# Votes until it is killed; a line is printed after the store has acknowledged the vote.
VOTER = """
import sys
from posttrain.feedback.ballots import Ballot
from posttrain.feedback.store import Store

address, name, first, last = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
with Store.open(address) as store:
    for number in range(first, last):
        key = f"{name}-{number}"
        store.vote(Ballot("ranking", 1, (1, 2), name, ranks=(0, 1), key=key))
        print(key, flush=True)
"""


def voter(address: str, name: str, first: int = 0, last: int = 10**9) -> "subprocess.Popen[str]":
    words = [sys.executable, "-W", "error", "-c", VOTER, address, name, str(first), str(last)]
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def ballot(key: str = "", **given: Any) -> Ballot:
    return Ballot("ranking", 1, (1, 2), "ann", ranks=(0, 1), key=key, **given)


@pytest.fixture
def filled(address: str) -> str:
    """A store with prompt 1 and its answers 1 and 2."""
    with Store.open(address) as store:
        prompt = store.add_prompt([Message("user", "q")])
        for answer in "ab":
            store.add_response(prompt, [Message("assistant", answer)])
    return address


def test_processes_vote_at_once(filled: str) -> None:
    voters = [voter(filled, f"p{number}", last=100) for number in range(3)]
    told = [process.communicate(timeout=120) for process in voters]
    assert [(process.returncode, error) for process, (_, error) in zip(voters, told, strict=True)] == [(0, "")] * 3
    with Store.open(filled) as store:
        keys = [one.key for one in store.ballots()]
    assert sorted(keys) == sorted(key for output, _ in told for key in output.split())
    assert len(keys) == 300


def test_a_killed_process_loses_nothing_that_it_acknowledged(filled: str) -> None:
    acknowledged: list[str] = []
    for life in range(3):
        process = voter(filled, "p", first=len(acknowledged))
        assert process.stdout is not None
        for _ in range(10 + 7 * life):
            acknowledged.append(process.stdout.readline().strip())
        os.kill(process.pid, signal.SIGKILL)
        rest, _ = process.communicate(timeout=60)
        acknowledged += [line for line in rest.split("\n")[:-1] if line]
    with Store.open(filled) as store:
        keys = [one.key for one in store.ballots()]
    assert len(set(keys)) == len(keys)
    assert set(acknowledged) <= set(keys)
    assert len(keys) <= len(acknowledged) + 3  # the one on its way at each kill may be there or not


def test_a_locked_file_is_waited_for(tmp_path: Path, ask: Callable[..., Any]) -> None:
    path = tmp_path / "feedback.db"
    with Store.open(path, wait_s=0.6) as store:
        ask(store, "q", "1", "2")
        other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        other.execute("BEGIN EXCLUSIVE")
        start = time.monotonic()
        with pytest.raises(StoreError, match=r"feedback\.db: another process has held the lock for 0\.6 s.*try again"):
            store.vote(ballot("k"))
        assert 0.5 < time.monotonic() - start < 5
        assert store.ballots() == []  # reading goes on, and nothing is half-written
        release = threading.Timer(0.2, other.execute, ["COMMIT"])
        release.start()
        store.vote(ballot("k"))  # the lock goes while it waits
        release.join()
        other.close()
        assert [one.key for one in store.ballots()] == ["k"]


def test_a_lock_in_another_thread_is_waited_for(tmp_path: Path, ask: Callable[..., Any]) -> None:
    with Store.open(tmp_path / "feedback.db", wait_s=0.3) as store:
        ask(store, "q", "1", "2")
        failed: list[str] = []

        def vote() -> None:
            try:
                store.vote(ballot("k"))
            except StoreError as error:
                failed.append(str(error))

        with store.batch():
            thread = threading.Thread(target=vote)
            thread.start()
            thread.join()
        assert "held the lock" in failed[0]
        vote()
        assert (len(failed), store.counts()["ballots"]) == (1, 1)


def test_a_locked_table_is_waited_for(cluster: Any) -> None:
    import psycopg

    address = cluster.address()
    with Store.open(address, wait_s=0.3) as store, psycopg.connect(address) as other:
        prompt = store.add_prompt([Message("user", "q")])
        for answer in "ab":
            store.add_response(prompt, [Message("assistant", answer)])
        other.execute("LOCK TABLE ballots")
        with pytest.raises(StoreError, match=r"held the lock for 0\.3 s"):
            store.vote(ballot("k"))
        other.rollback()
        store.vote(ballot("k"))
        assert store.counts()["ballots"] == 1


def test_a_server_that_goes_away(cluster: Any) -> None:
    with Store.open(cluster.address()) as store:
        prompt = store.add_prompt([Message("user", "q")])
        for answer in "ab":
            store.add_response(prompt, [Message("assistant", answer)])
        store.vote(ballot("before"))

        def cut() -> None:
            with store.batch():
                store.vote(ballot("during"))
                cluster.stop()
                store.vote(ballot("never"))

        try:
            with pytest.raises(StoreError, match=r"cannot be reached.*same\s+key is stored once"):
                cut()
            with pytest.raises(StoreError, match="cannot be reached"):
                store.vote(ballot("k"))
        finally:
            cluster.start()
        assert store.vote(ballot("k")) == store.vote(ballot("k"))
        assert [one.key for one in store.ballots()] == ["before", "k"]


def test_an_answer_lost_on_the_way_is_not_a_second_vote(cluster: Any) -> None:
    """The server stores the vote and goes away before it can say so."""
    with Store.open(cluster.address()) as store:
        prompt = store.add_prompt([Message("user", "q")])
        for answer in "ab":
            store.add_response(prompt, [Message("assistant", answer)])
        database: Database = store._database
        commit = database._transaction

        def deaf(write: bool) -> Any:
            class Deaf:
                def __enter__(self) -> Any:
                    self.inner = commit(write)
                    return self.inner.__enter__()

                def __exit__(self, *error: Any) -> None:
                    self.inner.__exit__(*error)
                    raise StoreError("the connection broke")

            return Deaf()

        database._transaction = deaf  # type: ignore[assignment]
        with pytest.raises(StoreError, match="broke"):
            store.vote(ballot("k"))
        database._transaction = commit  # type: ignore[method-assign]
        store.vote(ballot("k"))
        assert [one.key for one in store.ballots()] == ["k"]


def test_a_server_that_is_not_there(tmp_path: Path) -> None:
    pytest.importorskip("psycopg")
    with pytest.raises(StoreError, match="cannot be reached") as caught:
        Store.open(f"postgresql://ann:secret@/feedback?host={tmp_path}")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("in_ci", [False, True])
@pytest.mark.parametrize("missing", ["programs", "user"])
def test_what_postgresql_lacks_is_a_skip_and_in_ci_a_failure(
    monkeypatch: pytest.MonkeyPatch, missing: str, in_ci: bool
) -> None:
    spec = importlib.util.spec_from_file_location("feedback_conftest", Path(__file__).with_name("conftest.py"))
    assert spec is not None
    assert spec.loader is not None
    conftest = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(conftest)

    def nobody(name: str) -> None:
        raise KeyError(name)

    monkeypatch.setenv("POSTTRAIN_CI", "1" if in_ci else "")
    monkeypatch.setattr(conftest, "programs", lambda: None if missing == "programs" else Path("/"))
    monkeypatch.setattr(conftest.os, "geteuid", lambda: 0)
    monkeypatch.setattr(conftest.pwd, "getpwnam", nobody)
    with pytest.raises(pytest.fail.Exception if in_ci else pytest.skip.Exception, match="apt-get install postgresql"):
        conftest.server_programs()


def test_a_database_that_is_not_there(cluster: Any) -> None:
    with pytest.raises(StoreError, match="createdb"):
        Store.open(cluster.address().replace("/postgres?", "/nothing?"))


@pytest.mark.parametrize(
    ("address", "complaint"),
    [
        ("", "no place"),
        (":memory:", "no place"),
        ("sqlite://", "in memory"),
        ("mysql://a@b/c", "mysql is not supported"),
        ("://x", "no address"),
    ],
)
def test_addresses_that_are_none(address: str, complaint: str) -> None:
    with pytest.raises(StoreError, match=complaint):
        Store.open(address)


def test_input_that_cannot_be_read_makes_no_store(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POSTTRAIN_ALLOCATOR", "system")
    (tmp_path / "bad.jsonl").write_text('{"prompt": "p", "responses": ["a", "b"]}\n{"prompt": "p"}\n')
    for name in ("bad.jsonl", "none.jsonl"):
        words = ["--store", str(tmp_path / "runs" / "f.db"), "--input", str(tmp_path / name), "--annotators", "ann"]
        assert main(["annotate", *words, "--port", "0"]) == 2
        assert name in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_files_that_are_no_store(tmp_path: Path) -> None:
    path = tmp_path / "notes.db"
    path.write_text("these are notes, and no database " * 100)
    with pytest.raises(StoreError, match=r"notes\.db: this file is no SQLite database"):
        Store.open(path)
    assert path.read_text().startswith("these are notes")
    with pytest.raises(StoreError, match="folder"):
        Store.open(tmp_path)
    with pytest.raises(StoreError, match="cannot be made"):
        Store.open(path / "feedback.db")


def test_a_damaged_file(tmp_path: Path, ask: Callable[..., Any]) -> None:
    path = tmp_path / "feedback.db"
    with Store.open(path) as store:
        ask(store, "q", *(str(number) * 200 for number in range(60)))
    content = bytearray(path.read_bytes())
    for start in range(4096, len(content), 4096):  # every page but the first
        content[start : start + 2048] = b"\xff" * 2048
    path.write_bytes(content)
    with pytest.raises(StoreError, match=r"damaged.*recover"), Store.open(path) as store:
        store.vote(ballot())


def test_a_folder_that_cannot_be_written_to() -> None:
    """Root may write anywhere, so the test stops being root for a moment."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with Store.open(folder / "feedback.db") as store:
            store.add_prompt([Message("user", "q")])
        folder.chmod(0o555)
        was_root = os.geteuid() == 0
        if was_root:
            os.seteuid(65534)
        try:
            with pytest.raises(StoreError, match=r"feedback\.db: .*written to"):
                Store.open(folder / "feedback.db")
            with pytest.raises(StoreError, match=r"new\.db: .*written to"):
                Store.open(folder / "new.db")
            with pytest.raises(StoreError, match="cannot be made"):
                Store.open(folder / "deeper" / "new.db")
        finally:
            if was_root:
                os.seteuid(0)
            folder.chmod(0o755)


def test_a_file_that_is_locked_while_it_is_opened(tmp_path: Path) -> None:
    path = tmp_path / "feedback.db"
    other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    other.execute("CREATE TABLE mine (x)")  # a file without a write-ahead log: readers wait too
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(StoreError, match=r"held the lock for 0\.2 s"):
        Store.open(path, wait_s=0.2)
    release = threading.Timer(0.2, other.execute, ["COMMIT"])
    release.start()
    with Store.open(path) as store:
        assert store.counts()["ballots"] == 0
    release.join()
    other.close()
