"""The log of a guard's decisions: a JSON object a line, appended, kept in a few files of bounded size."""

import json
import threading
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

MAX_BYTES, KEEP = 10_000_000, 4


class DecisionLog:
    """Appends to `path`; at `max_bytes` it becomes path.1, that path.2, and so on up to `keep`, and the oldest goes.

    What cannot be written (a full disk) is counted in `num_lost` and stops nobody; the next line is tried again. May
    be used from any thread.
    """

    def __init__(self, path: str | Path, *, max_bytes: int = MAX_BYTES, keep: int = KEEP) -> None:
        if max_bytes < 1 or keep < 1:
            raise ValueError(f"max_bytes is {max_bytes} and keep {keep}, expected at least 1")
        self.path, self.max_bytes, self.keep = Path(path), max_bytes, keep
        self.num_lost = 0
        self.last_error = ""
        self._lock = threading.Lock()

    def __str__(self) -> str:
        return str(self.path)

    def write(self, row: Mapping[str, Any]) -> None:
        """One decision, with the time in front."""
        line = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), **row}
        data = json.dumps(line, ensure_ascii=True, default=str).encode() + b"\n"
        with self._lock:
            try:
                self._append(data)
            except OSError as error:
                self.num_lost += 1
                self.last_error = f"{type(error).__name__}: {error}"

    def _append(self, data: bytes) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        size = self.path.stat().st_size if self.path.exists() else 0
        if size and size + len(data) > self.max_bytes:
            self._rotate()
            size = 0
        with self.path.open("ab+", buffering=0) as file:
            if size:
                file.seek(-1, 2)
                if file.read(1) != b"\n":  # a line that a full disk cut in two
                    data = b"\n" + data
            if file.write(data) != len(data):
                raise OSError("only a part of the line could be written")

    def _rotate(self) -> None:
        for number in range(self.keep - 1, 0, -1):
            older = self._numbered(number)
            if older.exists():
                older.replace(self._numbered(number + 1))
        self.path.replace(self._numbered(1))

    def _numbered(self, number: int) -> Path:
        return self.path.with_name(f"{self.path.name}.{number}")
