"""Paths in, raw rows out: which files a path means, and the rows of each format, one at a time."""

import csv
import glob
import re
from collections.abc import Callable, Generator, Iterator, Mapping
from io import TextIOWrapper
from pathlib import Path
from typing import Any

from posttrain.data.compressed import OPENERS, check_sign, first_line, open_bytes, refusing
from posttrain.data.fields import kind
from posttrain.data.hub import is_saved, saved_files, without_nulls
from posttrain.data.json_text import after_space, decode_at, explain
from posttrain.data.layouts import layout_of
from posttrain.data.trees import UNREADABLE, Raw, gathered
from posttrain.errors import DataError

Rows = Generator[tuple[int, Raw], None, None]

PAGES = (".txt", ".md")
NO_DATA = re.compile(r"(readme|source|licen[cs]e|notice|changelog|contributing|citation)\b", re.IGNORECASE)
ABOUT_DATA = ("dataset_info", "dataset_infos", "dataset_dict", "state", "config")  # .json files that data sets carry
TABLES = (".parquet", ".arrow")
ARROW_FILE = b"ARROW1"
BATCH = 256  # rows of such a table that are in memory as Python objects
LONGEST_CELL = 2**31 - 1
SPLITS = {"train", "test", "validation", "valid", "val", "dev", "eval"}


def find_files(path: str, *, split: str = "train") -> list[Path]:
    """The files that a path, folder or glob means, sorted.

    Of a folder that `Dataset.save_to_disk` wrote they are those of `split`, which nothing else looks at.
    In folders and globs hidden files and pages about the data (README, SOURCE, LICENSE …) are passed over, and pages
    (.txt, .md) are taken only where nothing else can be read. Raises DataError where nothing is left.
    """
    here = Path(path)
    if here.is_file():
        _known_format(here)
        return [here]
    if here.is_dir():
        if is_saved(here):
            return saved_files(here, split)
        found = [file for file in here.rglob("*") if not _hidden(file.relative_to(here))]
    else:
        found = [file for file in map(Path, glob.glob(path, recursive=True)) if not file.name.startswith(".")]
    found = sorted(file for file in found if _format(file) and file.is_file() and not _is_about(file))
    data = [file for file in found if _format(file) not in PAGES]
    if not found:
        what = "the folder holds no file that can be read" if here.is_dir() else "no such file"
        raise DataError(f"{what}; {_known()}.", file=path)
    return data or found


def _hidden(relative: Path) -> bool:
    return any(part.startswith(".") for part in relative.parts)


def _is_about(file: Path) -> bool:
    ending = _format(file)
    return bool(ending in PAGES and NO_DATA.match(file.name)) or (ending == ".json" and file.stem in ABOUT_DATA)


def _format(file: Path) -> str | None:
    """The ending that says how to read a file, without that of its packing."""
    endings = [ending.lower() for ending in file.suffixes[-2:]]
    if endings and endings[-1] in OPENERS:
        endings.pop()
    return endings[-1] if endings and endings[-1] in READERS else None


def _known_format(file: Path) -> str:
    ending = _format(file)
    if ending is None:
        raise DataError(f"files of this kind are not read; {_known()}.", file=str(file))
    return ending


def _known() -> str:
    return f"give a file, a folder or a glob of {', '.join(READERS)}, also packed as {', '.join(OPENERS)}"


def raw_rows(file: Path) -> Rows:
    """(line, raw) for each row of a file: `raw` is one undecoded line of JSON, or a row that is parsed already.

    `line` counts from 1, as an editor does; it is the number of the row where rows do not stand on lines of their own
    (parquet, an array on one line). A row that cannot be taken apart comes as {UNREADABLE: why}, which `parse_row`
    refuses, so that those after it can be read. Raises DataError where the file cannot be read on.
    """
    with refusing(file) as at:
        ending = _known_format(file)
        if ending not in TABLES:
            with open_bytes(file) as handle:
                check_sign(handle.read(8), file)
        for line, raw in gathered(READERS[ending](file)):
            yield line, raw
            at[0] = line


def _lines(file: Path) -> Rows:
    with open_bytes(file) as handle:
        for number, line in enumerate(handle, 1):
            if not line.isspace():
                yield number, line


def _text(file: Path) -> str:
    with open_bytes(file) as handle:
        data = handle.read()
    try:
        return data.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        begin = data.rfind(b"\n", 0, error.start) + 1
        raise _not_utf8(file, data.count(b"\n", 0, begin) + 1, error.start - begin) from None


def _not_utf8(file: Path, line: int, byte: int) -> DataError:
    return DataError(
        f"byte {byte + 1} of the line is no UTF-8 text; save the file as UTF-8.", file=str(file), line=line
    )


def _page(file: Path) -> Rows:
    text = _text(file)
    if text.strip():
        yield 1, {"text": text}


def _json(file: Path) -> Rows:
    """An array of rows, one object a line, objects one after another, one row, or one object around lists of rows."""
    text = _text(file)
    start = after_space(text, 0)
    if text.startswith("[", start):
        yield from _array(text, start, file)
        return
    if start == len(text):
        return
    value, end = _value(text, start, file)
    rest = after_space(text, end)
    if rest == len(text):
        yield from _whole(value, file, text.count("\n", 0, start) + 1)
    elif "\n" in text[end:rest] and "\n" not in text[start:end]:
        yield from ((number, line.encode()) for number, line in enumerate(text.split("\n"), 1) if line.strip())
    else:
        yield from _series(text, start, file)


def _value(text: str, start: int, file: Path) -> tuple[Any, int]:
    try:
        return decode_at(text, start)
    except ValueError as error:
        line = getattr(error, "lineno", text.count("\n", 0, start) + 1)
        raise DataError(f"{explain(error)}; the file cannot be read on from here.", file=str(file), line=line) from None


def _array(text: str, start: int, file: Path) -> Rows:
    at, line, number = after_space(text, start + 1), 1 + text.count("\n", 0, start), 0
    begin = start
    on_lines = _ends_on_another_line(text, at, file)
    while not text.startswith("]", at):
        line, begin = line + text.count("\n", begin, at), at
        value, end = _value(text, at, file)
        number += 1
        yield _row(value, line if on_lines else number)
        at = after_space(text, end)
        if text.startswith(",", at):
            at = after_space(text, at + 1)
        elif not text.startswith("]", at):
            what = "the array breaks off" if at == len(text) else "expected a comma or the end of the array"
            raise DataError(f"{what} after row {number}.", file=str(file), line=1 + text.count("\n", 0, at))
    more = after_space(text, at + 1)
    if more != len(text):
        raise DataError("there is more after the array.", file=str(file), line=1 + text.count("\n", 0, more))


def _ends_on_another_line(text: str, at: int, file: Path) -> bool:
    """Whether the rows of an array stand on lines of their own: its second begins on another line than its first."""
    if at == len(text) or text[at] == "]":
        return True
    end = _value(text, at, file)[1]
    comma = after_space(text, end)
    following = after_space(text, comma + 1) if text.startswith(",", comma) else comma
    return "\n" in text[at:following]


def _series(text: str, start: int, file: Path) -> Rows:
    line, begin = 1, 0
    while start < len(text):
        line, begin = line + text.count("\n", begin, start), start
        value, end = _value(text, start, file)
        yield _row(value, line)
        start = after_space(text, end)


def _whole(value: Any, file: Path, line: int) -> Rows:
    lists = [rows for rows in value.values() if _is_rows(rows)] if isinstance(value, dict) else []
    if not lists or layout_of(value) is not None:
        yield _row(value, line)
        return
    if len(splits := SPLITS & value.keys()) > 1:
        raise DataError(
            f"the file holds the splits {', '.join(sorted(splits))}; write each into a file of its own.", file=str(file)
        )
    yield from (_row(row, number) for number, row in enumerate((row for rows in lists for row in rows), 1))


def _is_rows(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(row, dict) or _is_chat(row) for row in value)


def _is_chat(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(turn, dict) for turn in value)


def _row(value: Any, line: int) -> tuple[int, Raw]:
    if isinstance(value, dict):
        return line, value
    if _is_chat(value):
        return line, {"messages": value}
    return line, {UNREADABLE: f"expected a JSON object, found {kind(value)}."}


def _table(file: Path) -> Rows:
    """A header and rows. Cells in quotes may hold line breaks; empty ones are null, and what a row lacks at its end."""
    csv.field_size_limit(LONGEST_CELL)
    line = 1
    with open_bytes(file) as raw, TextIOWrapper(raw, "utf-8-sig", newline="") as text:
        try:
            first = text.readline()
            reader = csv.reader(_again(first, text), delimiter=_delimiter(first, file), strict=True)
            header: list[str] = []
            for cells in reader:
                number, line = line, reader.line_num + 1
                if cells and not header:
                    header = _header(cells, file, number)
                elif cells:
                    yield _cells(header, cells, number)
        except csv.Error as error:
            raise DataError(
                f"the row that begins here is no CSV ({error}); put cells that hold quotes, commas or line breaks into "
                "quotes, and write each quote inside twice.",
                file=str(file),
                line=line,
            ) from None
        except UnicodeDecodeError:
            raise _first_bad_byte(file) from None


def _again(first: str, rest: TextIOWrapper) -> Iterator[str]:
    yield first
    yield from rest


def _first_bad_byte(file: Path) -> DataError:
    """Where the text is no UTF-8; the decoder itself counts from the start of its buffer."""
    with open_bytes(file) as handle:
        for number, line in enumerate(handle, 1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError as error:
                return _not_utf8(file, number, error.start)
    raise AssertionError("every line is UTF-8, and yet the file is not")


def _delimiter(header: str, file: Path) -> str:
    if _format(file) == ".tsv":
        return "\t"
    return next((mark for mark in ",;\t" if mark in header), ",")


def _header(cells: list[str], file: Path, line: int) -> list[str]:
    header = [cell.strip() for cell in cells]
    if not any(header):
        raise DataError("the first line names no column; write a header.", file=str(file), line=line)
    twice = {name for name in header if name and header.count(name) > 1}
    if twice:
        raise DataError(f"two columns have the name {sorted(twice)[0][:40]!r}; rename one.", file=str(file), line=line)
    return header


def _cells(header: list[str], cells: list[str], line: int) -> tuple[int, Raw]:
    if len(cells) > len(header):
        too_many = f"the row has {len(cells)} cells and the header {len(header)}"
        return line, {UNREADABLE: f"{too_many}; put cells that hold a separator into quotes."}
    filled = [cell or None for cell in cells]
    return line, dict(zip(header, filled + [None] * (len(header) - len(cells)), strict=True))


def _arrow(file: Path) -> Rows:
    """The rows of a parquet or Arrow file, a few at a time."""
    import pyarrow

    number = 0
    try:
        with open_bytes(file) as handle:
            packed = file.suffix.lower() in OPENERS
            for batch in _batches(file, pyarrow.BufferReader(handle.read()) if packed else handle):
                for row in batch.to_pylist():
                    number += 1
                    yield number, without_nulls(row)
    except (pyarrow.ArrowException, ValueError, TypeError, NotImplementedError) as error:
        what = f"no {_format(file)} data that can be read ({first_line(error)}); write the file anew."
        raise DataError(what, file=str(file), line=number + 1 if number else None) from None


def _batches(file: Path, handle: Any) -> Iterator[Any]:
    from pyarrow import ipc, parquet

    if _format(file) == ".parquet":
        return iter(parquet.ParquetFile(handle).iter_batches(BATCH))
    is_stream = handle.read(len(ARROW_FILE)) != ARROW_FILE
    handle.seek(0)
    opened = ipc.open_stream(handle) if is_stream else ipc.open_file(handle)
    whole = opened if is_stream else map(opened.get_batch, range(opened.num_record_batches))
    return (batch.slice(start, BATCH) for batch in whole for start in range(0, batch.num_rows, BATCH))


READERS: Mapping[str, Callable[[Path], Rows]] = {
    ".jsonl": _lines,
    ".ndjson": _lines,
    ".json": _json,
    ".csv": _table,
    ".tsv": _table,
    ".parquet": _arrow,
    ".arrow": _arrow,
    ".txt": _page,
    ".md": _page,
}
