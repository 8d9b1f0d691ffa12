"""Who was drawn to which arm of an A/B test, and with what chances: an append-only file of JSON lines.

A test begins with {"test": name, "arms": [...], "began": time}. Every line after it is a user: {"user", "arm",
"shares": the chance of each arm when the user was drawn, in the order of the arms}. A file holds one test after the
other; a test of the same name and arms goes on where it was left. The line of a user is with the system before the arm
is told to anybody, so a server that is killed forgets none; a line that was cut short was told to nobody and is left
out. One process at a time writes a file; it holds a lock on it that goes with it.
"""

import fcntl
import json
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from posttrain.errors import DataError, StoreAway, StoreError


class Assigned(NamedTuple):
    """The arm of a user, and the chance that each arm had."""

    arm: str
    shares: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Test:
    """A test and its users, in the order of their drawing. What was voted before `began` belongs to another one."""

    name: str
    arms: tuple[str, ...]
    began: datetime
    users: dict[str, Assigned] = field(default_factory=dict)


class Assignments:
    """The users drawn so far. `path`: the file, made where there is none; None keeps them in memory alone, and there is
    no knowing when the test began. Raises DataError where a line cannot be read, StoreError where another server
    writes the file."""

    def __init__(self, arms: Sequence[str], path: str | Path | None = None, name: str = "") -> None:
        self.users: dict[str, Assigned] = {}
        self.began: datetime | None = None
        self._file: int | None = None
        if path is None:
            return
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file, self._path = _locked(path), path
        try:
            tests = read_assignments(path) if _mend(path) else []
        except DataError:
            self.close()
            raise
        known = next((test for test in tests if (test.name, test.arms) == (name, tuple(arms))), None)
        test = known or Test(name, tuple(arms), datetime.now(UTC))
        self.users, self.began = test.users, test.began
        if not tests or test is not tests[-1]:
            self._write({"test": name, "arms": test.arms, "began": test.began.isoformat()})

    def add(self, user: str, arm: str, shares: Sequence[float]) -> None:
        """Remember a user. Raises StoreAway where the file cannot be written, as on a full disk."""
        self._write({"user": user, "arm": arm, "shares": list(shares)})
        self.users[user] = Assigned(arm, tuple(shares))

    def close(self) -> None:
        """Let go of the file."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _write(self, row: dict[str, object]) -> None:
        if self._file is None:
            return
        line, end = json.dumps(row).encode() + b"\n", os.fstat(self._file).st_size
        try:
            while line:
                line = line[os.write(self._file, line) :]
        except OSError as error:
            with suppress(OSError):
                os.ftruncate(self._file, end)  # half a line would make one with the next
            raise StoreAway(f"{self._path}: users cannot be dealt to arms: {error.strerror}.") from error


def read_assignments(path: str | Path) -> list[Test]:
    """The tests of a file, the one that ran last at the end. Raises DataError."""
    path = Path(path)
    try:
        lines = path.read_bytes().split(b"\n")[:-1]  # behind the last end of a line: nothing, or what was cut short
    except OSError as error:
        raise DataError(f"the file of assignments cannot be read: {error}", file=str(path)) from None
    tests: list[Test] = []
    number = 0
    try:
        while number < len(lines):
            number += 1
            row = json.loads(lines[number - 1])
            if "test" in row:
                _begin(tests, row)
            else:
                _take(tests[-1], row)
    except (ValueError, KeyError, TypeError, IndexError) as error:
        said = f"not a line of assignments ({error}). Remove it, or name another file"
        raise DataError(said, file=str(path), line=number) from None
    return tests


def _begin(tests: list[Test], row: dict[str, Any]) -> None:
    """A test that begins, or goes on, is the last of all."""
    test = Test(str(row["test"]), tuple(map(str, row["arms"])), datetime.fromisoformat(row["began"]))
    known = next((one for one in tests if (one.name, one.arms) == (test.name, test.arms)), None)
    if known is not None:
        tests.remove(known)
    tests.append(known or test)


def _take(test: Test, row: dict[str, Any]) -> None:
    if row["arm"] not in test.arms or len(row["shares"]) != len(test.arms):
        raise ValueError("the arm or the number of shares is not that of the test")
    test.users.setdefault(str(row["user"]), Assigned(row["arm"], tuple(map(float, row["shares"]))))


def _locked(path: Path) -> int:
    """The file, open to be added to by this process alone."""
    try:
        file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    except OSError as error:
        raise StoreError(f"{path}: cannot be written: {error.strerror}.") from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(file)
        raise StoreError(
            f"{path}: another server deals users by this file. Two would give a user two arms; stop one, or give it a "
            "store of its own."
        ) from None
    except OSError:  # a file system that knows no locks
        pass
    return file


def _mend(path: Path) -> bool:
    """Take away a last line that was cut short; whether anything is left."""
    whole = path.read_bytes()
    end = whole.rfind(b"\n") + 1
    if end < len(whole):
        os.truncate(path, end)
    return end > 0
