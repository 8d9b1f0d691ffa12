"""Files in, records out. The layout of each row is recognised from its fields, and said."""

import hashlib
from collections import Counter
from collections.abc import Generator, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from posttrain.data.files import find_files, raw_rows
from posttrain.data.hub import hub_rows, is_hub_name
from posttrain.data.layouts import parse_row
from posttrain.data.trees import Raw, gathered
from posttrain.errors import DataError
from posttrain.types import Record


@dataclass(frozen=True)
class Source:
    """What was read from one file: its records, the rows of each layout, and what is missing.

    `layouts` counts rows that could be read; `left_out` those among them that give no record, by reason; `skipped`
    lists (line, reason) of rows that could not be read. The rows of the file are those of `layouts` and `skipped`.
    """

    path: str
    sha256: str
    records: tuple[Record, ...]
    layouts: dict[str, int]
    left_out: dict[str, int]
    skipped: tuple[tuple[int, str], ...] = ()


def read(
    path: str | Path,
    *,
    columns: Mapping[str, str] | None = None,
    name: str | None = None,
    split: str = "train",
    on_bad_rows: Literal["error", "skip"] = "error",
) -> list[Source]:
    """Read a file, a folder, a glob, or a data set of the Hugging Face hub into memory, one Source a file.

    `columns` maps our field names to those of the data. `name` and `split` choose the configuration and the split of
    a data set; files have neither. Raises DataError naming file, line and field: at the first bad row, or, with
    `on_bad_rows="skip"`, where a file breaks off or has no row that can be read.
    """
    place = str(path)
    if is_hub_name(place):
        digest = hashlib.sha256()
        rows = _hashed(gathered(hub_rows(place, config=name, split=split)), digest)
        return [_collect(place, rows, digest, columns, on_bad_rows)]
    files = find_files(place, split=split)
    return [_collect(str(file), raw_rows(file), _hash(file), columns, on_bad_rows) for file in files]


def _collect(
    path: str,
    rows: Generator[tuple[int, Raw], None, None],
    digest: "hashlib._Hash",
    columns: Mapping[str, str] | None,
    on_bad_rows: Literal["error", "skip"],
) -> Source:
    layouts: Counter[str] = Counter()
    left_out: Counter[str] = Counter()
    records: list[Record] = []
    skipped: list[tuple[int, str]] = []
    with closing(rows):  # a bad row must not leave the file open
        for line, raw in rows:
            try:
                parsed = parse_row(raw, file=path, line=line, columns=columns)
            except DataError as error:
                if on_bad_rows == "error":
                    raise
                skipped.append((line, str(error)))
                continue
            layouts[parsed.layout] += 1
            records.extend(parsed.records)
            if parsed.left_out:
                left_out[f"{parsed.layout}: {parsed.left_out}"] += 1
    if not layouts and not skipped:
        raise DataError("the file is empty; it holds no row.", file=path)
    if not layouts:
        raise DataError(f"none of the {len(skipped):,} rows can be read. The first: {skipped[0][1]}", file=path)
    if not records:
        raise DataError(f"no row holds a record: {dict(left_out)}.", file=path)
    return Source(path, digest.hexdigest(), tuple(records), dict(layouts), dict(left_out), tuple(skipped))


def _hash(file: Path) -> "hashlib._Hash":
    with file.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256")


def _hashed(rows: Iterator[tuple[int, Raw]], digest: "hashlib._Hash") -> Generator[tuple[int, Raw], None, None]:
    """Rows that have no file of their own are hashed as they pass."""
    for line, raw in rows:
        digest.update(repr(raw).encode("utf-8", "surrogatepass"))
        yield line, raw
