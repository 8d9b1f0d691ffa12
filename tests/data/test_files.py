"""Which files a path means, the rows of every format with their lines, and what is said of files that break off."""

import bz2
import csv
import gzip
import io
import json
import lzma
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from posttrain.data.files import find_files, raw_rows
from posttrain.data.layouts import parse_row
from posttrain.data.trees import UNREADABLE
from posttrain.errors import DataError

PACKING: dict[str, Callable[[bytes], bytes]] = {
    ".gz": gzip.compress,
    ".xz": lzma.compress,
    ".bz2": bz2.compress,
    ".zst": lambda data: zstandard.ZstdCompressor(write_checksum=True).compress(data),
}
ROWS = [{"text": f"é {i} 🙂\u2028\u0085"} for i in range(1000)]
LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS).encode()


def rows(path: Path, data: bytes | str) -> list[tuple[int, Any]]:
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return list(raw_rows(path))


def refusal(path: Path, data: bytes | str) -> DataError:
    with pytest.raises(DataError) as caught:
        rows(path, data)
    assert caught.value.file == str(path)
    return caught.value


def in_parquet(table: list[dict[str, Any]], path: Path, **options: Any) -> Path:
    parquet.write_table(pyarrow.Table.from_pylist(table), path, **options)
    return path


class TestFindFiles:
    def make(self, folder: Path, *names: str) -> None:
        for name in names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text("{}")

    def names(self, folder: Path, path: str = "") -> list[str]:
        return [str(file.relative_to(folder)) for file in find_files(str(folder / path if path else folder))]

    def test_a_folder_in_order_and_in_depth(self, tmp_path: Path) -> None:
        self.make(
            tmp_path, "b.jsonl", "a/z.json.gz", "a/c.csv", "t.tsv.zst", "p.parquet", "x.ndjson", "s.ARROW", "u.JSONL"
        )
        wanted = ["a/c.csv", "a/z.json.gz", "b.jsonl", "p.parquet", "s.ARROW", "t.tsv.zst", "u.JSONL", "x.ndjson"]
        assert self.names(tmp_path) == wanted

    def test_what_is_no_data_is_passed_over(self, tmp_path: Path) -> None:
        self.make(tmp_path, "a.jsonl", ".hidden.jsonl", ".git/b.jsonl", "README.md", "notes.txt", "dataset_info.json")
        self.make(tmp_path, "a.py", "b.yaml", "state.jsonl", "source.csv")
        assert self.names(tmp_path) == ["a.jsonl", "source.csv", "state.jsonl"]

    def test_pages_where_there_is_nothing_else(self, tmp_path: Path) -> None:
        self.make(tmp_path, "a.txt", "b/c.md", "d.txt.gz", "README.md", "SOURCE.md", "LICENSE.txt", "sources.txt")
        assert self.names(tmp_path) == ["a.txt", "b/c.md", "d.txt.gz", "sources.txt"]

    def test_globs(self, tmp_path: Path) -> None:
        self.make(tmp_path, "part-2.jsonl", "part-1.jsonl", "a/part-3.jsonl", "other.jsonl", "part-4.py", "a.txt")
        assert self.names(tmp_path, "part-*") == ["part-1.jsonl", "part-2.jsonl"]
        assert self.names(tmp_path, "**/part-*") == ["a/part-3.jsonl", "part-1.jsonl", "part-2.jsonl"]
        assert self.names(tmp_path, "*.txt") == ["a.txt"]

    def test_a_file_whose_name_looks_like_a_glob(self, tmp_path: Path) -> None:
        self.make(tmp_path, "a[1].jsonl")
        assert self.names(tmp_path, "a[1].jsonl") == ["a[1].jsonl"]

    @pytest.mark.parametrize("name", ["nowhere.jsonl", "*.jsonl", "no/where"])
    def test_nothing(self, tmp_path: Path, name: str) -> None:
        with pytest.raises(DataError, match=r"no such file; give a file, a folder or a glob of \.jsonl") as caught:
            find_files(str(tmp_path / name))
        assert caught.value.file == str(tmp_path / name)

    def test_a_folder_without_data(self, tmp_path: Path) -> None:
        self.make(tmp_path, "README.md", "a.py")
        with pytest.raises(DataError, match="the folder holds no file that can be read"):
            find_files(str(tmp_path))

    @pytest.mark.parametrize("name", ["a.xlsx", "a.zip", "a", "a.gz"])
    def test_a_file_of_another_kind(self, tmp_path: Path, name: str) -> None:
        self.make(tmp_path, name)
        with pytest.raises(DataError, match="files of this kind are not read"):
            find_files(str(tmp_path / name))


class TestLines:
    @pytest.mark.parametrize("packing", ["", *PACKING])
    def test_lines_come_undecoded(self, tmp_path: Path, packing: str) -> None:
        found = rows(tmp_path / f"a.jsonl{packing}", PACKING[packing](LINES) if packing else LINES)
        assert found == list(enumerate(LINES.splitlines(keepends=True), 1))
        assert [json.loads(line) for _, line in found] == ROWS

    def test_blank_lines_and_windows_line_ends(self, tmp_path: Path) -> None:
        found = rows(tmp_path / "a.jsonl", b'{"text": "a"}\r\n\r\n \t\n{"text": "b"}')
        assert [line for line, _ in found] == [1, 4]

    def test_one_line_is_in_memory_at_a_time(self, tmp_path: Path) -> None:
        path = tmp_path / "a.jsonl"
        path.write_bytes(LINES * 400)
        tracemalloc.start()
        count = sum(1 for _ in raw_rows(path))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert count == 400_000
        assert peak < path.stat().st_size / 20

    @pytest.mark.parametrize("parts", [1, 2, 3])
    def test_packed_files_may_have_several_parts(self, tmp_path: Path, parts: int) -> None:
        for packing, pack in PACKING.items():
            found = rows(tmp_path / f"a.jsonl{packing}", b"".join(pack(LINES) for _ in range(parts)))
            assert len(found) == parts * len(ROWS)

    @pytest.mark.parametrize("packing", PACKING)
    def test_a_packed_file_that_was_cut_off(self, tmp_path: Path, packing: str) -> None:
        """Cut anywhere, it is never taken for a shorter file. A zstd file has no end mark beyond its last frame's."""
        packed = PACKING[packing](LINES)
        for length in range(1, len(packed), 97):
            error = refusal(tmp_path / f"a.jsonl{packing}", packed[:length])
            assert "cut off" in str(error) or "broken" in str(error)

    @pytest.mark.parametrize("packing", PACKING)
    def test_the_line_after_which_it_was_cut_off(self, tmp_path: Path, packing: str) -> None:
        long = b"".join(b'{"text": "%d"}\n' % (i * 7919**3) for i in range(80_000))
        path = tmp_path / f"a.jsonl{packing}"
        path.write_bytes(PACKING[packing](long)[:-30])
        read = []
        with pytest.raises(DataError, match="cut off") as caught:
            read.extend(line for line, _ in raw_rows(path))
        assert read
        assert caught.value.line == read[-1] + 1

    @pytest.mark.parametrize("packing", PACKING)
    def test_packed_data_that_is_broken(self, tmp_path: Path, packing: str) -> None:
        packed = bytearray(PACKING[packing](LINES))
        packed[len(packed) // 2 : len(packed) // 2 + 8] = b"\xff" * 8
        for data in (bytes(packed), b"no such thing"):
            error = str(refusal(tmp_path / f"a.jsonl{packing}", data))
            assert "is broken" in error or "cannot be read: Invalid data stream" in error

    @pytest.mark.parametrize("packing", PACKING)
    def test_a_wrong_ending(self, tmp_path: Path, packing: str) -> None:
        for ending in (".jsonl", ".json", ".csv", ".txt"):
            error = refusal(tmp_path / f"a{ending}", PACKING[packing](LINES))
            assert f"this is no text but {packing[1:]} data; give the file the ending {packing}" in str(error)

    def test_a_table_with_a_wrong_ending(self, tmp_path: Path) -> None:
        data = in_parquet(ROWS, tmp_path / "a.parquet").read_bytes()
        assert "give the file the ending .parquet" in str(refusal(tmp_path / "a.csv", data))
        assert "UTF-16" in str(refusal(tmp_path / "a.jsonl", '{"text": "a"}'.encode("utf-16")))


class TestJson:
    @pytest.mark.parametrize("indent", [None, 2])
    @pytest.mark.parametrize("packing", ["", ".gz"])
    def test_an_array(self, tmp_path: Path, indent: int | None, packing: str) -> None:
        text = json.dumps(ROWS, indent=indent).encode()
        found = rows(tmp_path / f"a.json{packing}", PACKING[packing](text) if packing else text)
        assert [row for _, row in found] == ROWS
        # Lines where there are some, else the numbers of rows.
        assert [line for line, _ in found] == [2 + 3 * i if indent else 1 + i for i in range(len(ROWS))]

    @given(
        st.lists(st.dictionaries(st.text(max_size=3), st.text(max_size=5), max_size=3), min_size=2), st.integers(0, 2)
    )
    def test_lines_are_where_rows_begin(self, tmp_path_factory: Any, found: list[Any], blank: int) -> None:
        text = "\n" * blank + "[" + ",\n\n".join(json.dumps(row, indent=1) for row in found) + "]"
        path = tmp_path_factory.mktemp("json") / "a.json"
        lines = []
        for i in range(len(found)):
            before = ",\n\n".join(json.dumps(row, indent=1) for row in found[:i]) + (",\n\n" if i else "")
            lines.append(1 + blank + before.count("\n"))
        assert rows(path, text) == list(zip(lines, found, strict=True))

    def test_one_object_a_line(self, tmp_path: Path) -> None:
        assert [json.loads(raw) for _, raw in rows(tmp_path / "a.json", LINES)] == ROWS
        found = rows(tmp_path / "a.json", b'\xef\xbb\xbf\n{"text": "a"}\n{"text" "b"}\n\n{"text": "c"}')
        assert [line for line, _ in found] == [2, 3, 5]

    def test_objects_one_after_another(self, tmp_path: Path) -> None:
        text = "\n".join(json.dumps(row, indent=2) for row in ROWS[:3])
        assert rows(tmp_path / "a.json", text) == list(zip([1, 4, 7], ROWS, strict=False))
        assert rows(tmp_path / "a.json", '{"text": "a"} {"text": "b"}') == [(1, {"text": "a"}), (1, {"text": "b"})]

    def test_one_row(self, tmp_path: Path) -> None:
        row = {"messages": [{"role": "user", "content": "a"}]}
        assert rows(tmp_path / "a.json", json.dumps(row, indent=2)) == [(1, row)]

    def test_one_object_around_lists_of_rows(self, tmp_path: Path) -> None:
        chat = [{"role": "user", "content": "a"}]
        whole = {"version": "1", "names": ["x"], "data": ROWS[:2], "chats": [chat]}
        expected = [*ROWS[:2], {"messages": chat}]
        assert rows(tmp_path / "a.json", json.dumps(whole)) == list(enumerate(expected, 1))

    def test_splits_in_one_object_are_not_mixed(self, tmp_path: Path) -> None:
        error = refusal(tmp_path / "a.json", json.dumps({"train": ROWS, "test": ROWS}))
        assert "the file holds the splits test, train; write each into a file of its own" in str(error)
        assert len(rows(tmp_path / "a.json", json.dumps({"train": ROWS}))) == len(ROWS)

    def test_items_that_are_no_rows(self, tmp_path: Path) -> None:
        found = rows(tmp_path / "a.json", '[{"text": "a"}, 3, "x", null, [{"role": "user", "content": "b"}]]')
        assert [UNREADABLE in row for _, row in found] == [False, True, True, True, False]
        with pytest.raises(DataError, match="line 2: expected a JSON object, found a number"):
            parse_row(found[1][1], file="a.json", line=found[1][0])

    @pytest.mark.parametrize(
        ("text", "line", "message"),
        [
            ('[\n  {"text": "a"},\n  {"text" "b"}\n]', 3, "not valid JSON (Expecting ':' delimiter at column 11)"),
            ('[\n  {"text": "a"},\n  {"text": "b"}\n', 4, "the array breaks off after row 2"),
            ('[\n  {"text": "a"}\n  {"text": "b"}\n]', 3, "expected a comma or the end of the array after row 1"),
            ('[\n  {"text": "a"},\n', 3, "not valid JSON (Expecting value at column 1)"),
            ('[{"text": "a"}]\n[]', 2, "there is more after the array"),
            ('[{"text": "a", "text": "b"}]', 1, "the key 'text' appears twice"),
            ('[{"text": "a\\udc00"}]', 1, "half of a surrogate pair"),
            ("[" * 100_000, 1, "nested deeper than 256 levels"),
            ('{"text": "a"', 1, "not valid JSON (Expecting ',' delimiter"),
            ('{"text":\n "a"} x', 2, "not valid JSON (Expecting value at column 7)"),
            ("hello", 1, "not valid JSON (Expecting value at column 1)"),
        ],
    )
    def test_what_is_broken(self, tmp_path: Path, text: str, line: int, message: str) -> None:
        error = refusal(tmp_path / "a.json", text)
        assert message in str(error)
        assert error.line == line

    @pytest.mark.parametrize("ending", [".json", ".csv", ".txt", ".md"])
    def test_bytes_that_are_no_text(self, tmp_path: Path, ending: str) -> None:
        data = b'text\n"one"\n' * 5000 + b'"two \xe9"\n'
        error = refusal(tmp_path / f"a{ending}", data)
        assert error.line == 10_001
        assert "byte 6 of the line is no UTF-8 text; save the file as UTF-8" in str(error)


cells = st.text(st.sampled_from('ab,;"\n\r\té🙂 \u2028'), max_size=6)


class TestTables:
    @given(st.lists(st.lists(cells, min_size=2, max_size=2), min_size=1, max_size=8), st.booleans(), st.booleans())
    def test_cells_and_lines(self, tmp_path_factory: Any, table: list[list[str]], mark: bool, tabs: bool) -> None:
        """Written by the standard writer; a row's line is counted over the text before it."""
        out, lines = io.StringIO(newline=""), []
        writer = csv.writer(out, delimiter="\t" if tabs else ",", quoting=csv.QUOTE_ALL)
        writer.writerow(["prompt", "some text"])
        for row in table:
            text = out.getvalue()
            lines.append(1 + len(io.StringIO(text, newline=None).read().split("\n")) - 1)
            writer.writerow(row)
        path = tmp_path_factory.mktemp("csv") / ("a.tsv" if tabs else "a.csv")
        found = rows(path, (b"\xef\xbb\xbf" if mark else b"") + out.getvalue().encode())
        assert found == [
            (line, {"prompt": row[0] or None, "some text": row[1] or None})
            for line, row in zip(lines, table, strict=True)
        ]

    @pytest.mark.parametrize("packing", PACKING)
    def test_packed(self, tmp_path: Path, packing: str) -> None:
        found = rows(tmp_path / f"a.csv{packing}", PACKING[packing](b"prompt,completion\na,b\n"))
        assert found == [(2, {"prompt": "a", "completion": "b"})]

    @pytest.mark.parametrize("mark", [",", ";", "\t"])
    def test_other_separators(self, tmp_path: Path, mark: str) -> None:
        assert rows(tmp_path / "a.csv", f"prompt{mark}completion\na{mark}b\n") == [
            (2, {"prompt": "a", "completion": "b"})
        ]

    def test_blank_lines_and_short_rows(self, tmp_path: Path) -> None:
        found = rows(tmp_path / "a.csv", "\na,b\n\n1,2\n\n3\n,4\n")
        assert found == [(4, {"a": "1", "b": "2"}), (6, {"a": "3", "b": None}), (7, {"a": None, "b": "4"})]

    def test_a_huge_cell(self, tmp_path: Path) -> None:
        ((_, row),) = rows(tmp_path / "a.csv", f'text\n"{"a" * 3_000_000}"\n')
        assert len(row["text"]) == 3_000_000

    def test_too_many_cells(self, tmp_path: Path) -> None:
        found = rows(tmp_path / "a.csv", "a,b\n1,2,3\n4,5\n")
        with pytest.raises(DataError, match="line 2: the row has 3 cells and the header 2; put cells that hold"):
            parse_row(found[0][1], file="a.csv", line=found[0][0])
        assert found[1] == (3, {"a": "4", "b": "5"})

    @pytest.mark.parametrize(
        ("text", "line", "message"),
        [
            ('a,b\n1,2\n"3\n4\n', 3, "the row that begins here is no CSV (unexpected end of data)"),
            ('a,b\n1,2\n"3"4,5\n', 3, "the row that begins here is no CSV"),
            ("a,a\n1,2\n", 1, "two columns have the name 'a'"),
            (",\n1,2\n", 1, "the first line names no column"),
        ],
    )
    def test_what_is_broken(self, tmp_path: Path, text: str, line: int, message: str) -> None:
        error = refusal(tmp_path / "a.csv", text)
        assert message in str(error)
        assert error.line == line

    @pytest.mark.parametrize("packing", ["", *PACKING])
    @pytest.mark.parametrize("groups", [64, 1000])
    def test_parquet(self, tmp_path: Path, packing: str, groups: int) -> None:
        plain = in_parquet(ROWS, tmp_path / "b.parquet", row_group_size=groups).read_bytes()
        found = rows(tmp_path / f"a.parquet{packing}", PACKING[packing](plain) if packing else plain)
        assert found == list(enumerate(ROWS, 1))

    @pytest.mark.parametrize("form", ["stream", "file"])
    def test_arrow(self, tmp_path: Path, form: str) -> None:
        table = pyarrow.Table.from_pylist(ROWS)
        opened = pyarrow.ipc.new_stream if form == "stream" else pyarrow.ipc.new_file
        with opened(tmp_path / "a.arrow", table.schema) as writer:
            writer.write_table(table, max_chunksize=300)
        assert list(raw_rows(tmp_path / "a.arrow")) == list(enumerate(ROWS, 1))

    def test_objects_of_a_table_lose_the_nulls_it_gave_them(self, tmp_path: Path) -> None:
        """A table gives all objects of a column the same fields, so that a call would be trained with nulls."""
        calls = [{"city": "Paris"}, {"length": 3}]
        table = [{"prompt": "a", "note": None, "calls": [{"arguments": call}]} for call in calls]
        path = in_parquet(table, tmp_path / "a.parquet")
        assert list(raw_rows(path)) == list(enumerate(table, 1))

    def test_few_rows_are_in_memory_at_a_time(self, tmp_path: Path) -> None:
        path = in_parquet([{"text": f"{i} " * 200} for i in range(20_000)], tmp_path / "a.parquet", row_group_size=1000)
        tracemalloc.start()
        count = sum(1 for _ in raw_rows(path))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert count == 20_000
        assert peak < 4_000_000

    def test_a_broken_table(self, tmp_path: Path) -> None:
        whole = in_parquet(ROWS, tmp_path / "a.parquet").read_bytes()
        for ending in (".parquet", ".arrow"):
            for data in (b"", b"PAR1", whole[: len(whole) // 2], whole[len(whole) // 2 :], LINES):
                assert refusal(tmp_path / f"b{ending}", data)


class TestPages:
    @pytest.mark.parametrize("name", ["a.txt", "a.md", "a.txt.xz"])
    def test_one_file_is_one_document(self, tmp_path: Path, name: str) -> None:
        text = "\ufeffOnce.\r\n\r\nThe end.\n".encode()
        found = rows(tmp_path / name, lzma.compress(text) if name.endswith("xz") else text)
        assert found == [(1, {"text": "Once.\r\n\r\nThe end.\n"})]

    def test_an_empty_page(self, tmp_path: Path) -> None:
        assert rows(tmp_path / "a.txt", " \n") == []


def test_a_file_that_cannot_be_opened(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").symlink_to(tmp_path / "gone.jsonl")
    with pytest.raises(DataError, match=r"a.jsonl: cannot be read: No such file"):
        list(raw_rows(tmp_path / "a.jsonl"))
