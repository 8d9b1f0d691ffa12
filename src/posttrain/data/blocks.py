"""Rows of many files in blocks: what one worker takes at a time, and what is found again in the cache."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from posttrain.data.files import find_files, raw_rows
from posttrain.data.hub import hub_rows, is_hub_name
from posttrain.data.trees import Raw, gathered
from posttrain.errors import DataError

BLOCK_ROWS, BLOCK_BYTES = 5_000, 8 * 2**20


@dataclass(frozen=True)
class Rows:
    """Numbered rows that are read as they come; `name` stands for their file."""

    name: str
    rows: Iterable[tuple[int, Raw]]


@dataclass(frozen=True)
class Block:
    """Consecutive rows and where they stand: each row's file as a number in `files`, and its line. `first_file` is the
    number of the first of `files` among all that are read; `digest` is of the rows alone."""

    rows: Sequence[Raw]
    files: Sequence[str]
    first_file: int
    file_R: Sequence[int]
    line_R: Sequence[int]
    digest: str
    num_bytes: int


def cut_blocks(
    data: Iterable[str | Path | Rows], inputs: list[dict[str, Any]], *, name: str | None = None, split: str = "train"
) -> Iterator[Block]:
    """Rows in order, at most 5,000 and about 8 MB a block, whose borders follow from the rows alone.

    `data`: files, folders, globs, names of data sets on the hub (`name`: which configuration), Rows. `inputs` grows by
    the path, the number of rows and the sha256 of each.

    Raises DataError for a file without rows.
    """
    pile = _Pile(inputs)
    for rows, file in _opened(data, name, split):
        pile.begin(rows.name, file)
        for line, raw in rows.rows:
            pile.add(line, raw)
            if len(pile.rows) >= BLOCK_ROWS or pile.num_bytes >= BLOCK_BYTES:
                yield pile.take()
        pile.end()
        # A large file ends its last block, so that a change in it leaves the blocks of the next file alone.
        if len(pile.rows) >= BLOCK_ROWS // 4:
            yield pile.take()
    if pile.rows:
        yield pile.take()


def _opened(data: Iterable[str | Path | Rows], name: str | None, split: str) -> Iterator[tuple[Rows, Path | None]]:
    for item in data:
        if isinstance(item, Rows):
            yield Rows(item.name, gathered(item.rows)), None
        elif is_hub_name(place := str(item)):
            yield Rows(place, gathered(hub_rows(place, config=name, split=split))), None
        else:
            yield from ((Rows(str(file), raw_rows(file)), file) for file in find_files(place, split=split))


class _Pile:
    """Rows that are no block yet."""

    def __init__(self, inputs: list[dict[str, Any]]) -> None:
        self.inputs = inputs
        self._empty()

    def _empty(self) -> None:
        self.rows: list[Raw] = []
        self.num_bytes = 0
        self._file_R: list[int] = []
        self._line_R: list[int] = []
        self._digest = hashlib.blake2b(digest_size=16)

    def begin(self, name: str, file: Path | None) -> None:
        self.inputs.append({"path": name, "rows": 0})
        self._file, self._content = file, hashlib.sha256()

    def add(self, line: int, raw: Raw) -> None:
        text = raw if isinstance(raw, bytes) else _as_json(raw)
        self._digest.update(b"%d %d " % (isinstance(raw, bytes), len(text)))
        self._digest.update(text)
        if self._file is None:
            self._content.update(text + b"\n")
        self.rows.append(raw)
        self.num_bytes += len(text)
        self._file_R.append(len(self.inputs) - 1)
        self._line_R.append(line)
        self.inputs[-1]["rows"] += 1

    def end(self) -> None:
        """Of a file the sha256 is that of its bytes, of other rows that of their lines."""
        if not self.inputs[-1]["rows"]:
            raise DataError("the file is empty; it holds no row.", file=self.inputs[-1]["path"])
        if self._file is not None:
            with self._file.open("rb") as opened:
                self._content = hashlib.file_digest(opened, "sha256")
        self.inputs[-1]["sha256"] = self._content.hexdigest()

    def take(self) -> Block:
        """What lies here as a block."""
        first = self._file_R[0]
        block = Block(
            self.rows,
            [entry["path"] for entry in self.inputs[first:]],
            first,
            [file - first for file in self._file_R],
            self._line_R,
            self._digest.hexdigest(),
            self.num_bytes,
        )
        self._empty()
        return block


def _as_json(row: dict[str, Any]) -> bytes:
    return json.dumps(row, ensure_ascii=False, default=repr).encode("utf-8", "surrogatepass")
