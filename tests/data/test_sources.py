"""Whole files: which rows became records, which were left out or skipped, and where reading stops."""

import gzip
import hashlib
import json
import random
from pathlib import Path
from typing import Any

import pytest

from posttrain.data.sources import Source, read
from posttrain.errors import DataError
from posttrain.types import Conversation, Document, Message

GOOD = '{"question": "q", "answer": "a"}'
BAD = '{"question": "q"}'


def write(path: Path, *rows: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def only(path: Path, **options: Any) -> Source:
    (source,) = read(path, **options)
    return source


class TestRead:
    def test_several_layouts_in_one_file(self, tmp_path: Path) -> None:
        source = only(write(tmp_path / "a.jsonl", {"text": "a"}, {"question": "q", "answer": "a"}, {"text": "b"}))
        assert source.layouts == {"text": 2, "question/answer": 1}
        assert [record.source for record in source.records] == [f"{tmp_path}/a.jsonl:{line}" for line in (1, 2, 3)]

    def test_a_folder_gives_one_source_a_file(self, tmp_path: Path) -> None:
        write(tmp_path / "b.jsonl", {"text": "b"})
        write(tmp_path / "a" / "z.json", {"text": "z"}, {"text": "y"})
        sources = read(tmp_path)
        assert [(Path(source.path).name, len(source.records)) for source in sources] == [("z.json", 2), ("b.jsonl", 1)]

    def test_the_hash_is_that_of_the_bytes(self, tmp_path: Path) -> None:
        path = tmp_path / "a.jsonl.gz"
        path.write_bytes(gzip.compress(b'{"text": "a"}'))
        assert only(path).sha256 == hashlib.sha256(path.read_bytes()).hexdigest()

    def test_columns(self, tmp_path: Path) -> None:
        path = tmp_path / "a.csv"
        path.write_text('Frage,Antwort\n"Wo?","Hier,\nda."\nUnd?,Dort.\n')
        source = only(path, columns={"prompt": "Frage", "completion": "Antwort"})
        assert source.layouts == {"prompt/completion": 2}
        assert source.records[0] == Conversation(
            (Message("user", "Wo?"), Message("assistant", "Hier,\nda.")), f"{path}:2"
        )
        assert source.records[1].source == f"{path}:4"

    def test_a_row_may_hold_several_records_or_none(self, tmp_path: Path) -> None:
        gone = {"message_tree_id": "t", "prompt": {"role": "prompter", "text": "a", "deleted": True}}
        tasks = {"instruction": "i", "instances": [{"input": "a", "output": "b"}, {"input": "c", "output": "d"}]}
        source = only(write(tmp_path / "a.jsonl", gone, tasks))
        assert source.layouts == {"OpenAssistant tree": 1, "self-instruct": 1}
        assert source.left_out == {"OpenAssistant tree: marked as deleted": 1}
        assert len(source.records) == 2
        with pytest.raises(DataError, match=r"no row holds a record.*marked as deleted"):
            read(write(tmp_path / "b.jsonl", gone))

    @pytest.mark.parametrize(
        ("name", "content"), [("a.jsonl", ""), ("a.jsonl", " \n\n"), ("a.json", "[]"), ("a.csv", "a")]
    )
    def test_an_empty_file(self, tmp_path: Path, name: str, content: str) -> None:
        (tmp_path / name).write_text(content)
        for mode in ("error", "skip"):
            with pytest.raises(DataError, match=f"{name}: the file is empty"):
                read(tmp_path / name, on_bad_rows=mode)  # type: ignore[arg-type]


class TestBadRows:
    def test_the_first_bad_row_stops_reading(self, tmp_path: Path) -> None:
        path = tmp_path / "a.jsonl"
        path.write_text("\n".join([GOOD, "", BAD, "{"]))
        with pytest.raises(DataError, match=r"looks like question/answer .* `answer` is missing") as caught:
            read(path)
        assert (caught.value.file, caught.value.line) == (str(path), 3)

    def test_skipped_rows_are_listed(self, tmp_path: Path) -> None:
        path = tmp_path / "a.jsonl"
        path.write_bytes("\n".join([GOOD, "", BAD, GOOD, "{", "3", GOOD]).encode() + b'\n{"text": "\xff"}')
        source = only(path, on_bad_rows="skip")
        assert source.layouts == {"question/answer": 3}
        assert [line for line, _ in source.skipped] == [3, 5, 6, 8]
        assert all(reason.startswith(f"{path}, line {line}: ") for line, reason in source.skipped)
        assert "byte 11 of the line is no UTF-8" in source.skipped[3][1]

    @pytest.mark.parametrize("ending", [".jsonl", ".json", ".csv"])
    def test_every_row_is_read_or_listed(self, tmp_path: Path, ending: str) -> None:
        """Random files of good and bad rows, counted while they are made."""
        rng = random.Random(ending)
        for number in range(20):
            good = [rng.random() < 0.6 for _ in range(12)]
            rows = [{"text": f"row {i}" if ok else " "} for i, ok in enumerate(good)]
            path = tmp_path / f"{number}{ending}"
            if ending == ".csv":
                path.write_text("text\n" + "".join(f'"{row["text"]}"\n' for row in rows))
            else:
                lines = [json.dumps(row) for row in rows]
                path.write_text("\n".join(lines) if ending == ".jsonl" else "[" + ",\n".join(lines) + "]")
            first = 2 if ending == ".csv" else 1
            source = only(path, on_bad_rows="skip")
            assert source.records == tuple(
                Document(f"row {i}", f"{path}:{i + first}") for i, ok in enumerate(good) if ok
            )
            assert [line for line, _ in source.skipped] == [i + first for i, ok in enumerate(good) if not ok]

    def test_a_file_of_bad_rows_alone(self, tmp_path: Path) -> None:
        path = tmp_path / "a.jsonl"
        path.write_text(f"{BAD}\n{BAD}\n")
        with pytest.raises(
            DataError, match=r"none of the 2 rows can be read. The first: .*a.jsonl, line 1: the fields"
        ):
            read(path, on_bad_rows="skip")

    def test_a_file_that_breaks_off_is_never_skipped(self, tmp_path: Path) -> None:
        path = tmp_path / "a.jsonl.gz"
        path.write_bytes(gzip.compress(f"{GOOD}\n".encode() * 10_000)[:-20])
        with pytest.raises(DataError, match="cut off"):
            read(path, on_bad_rows="skip")

    def test_a_row_that_is_too_long_for_its_header(self, tmp_path: Path) -> None:
        path = tmp_path / "a.csv"
        path.write_text("text\na\nb,c\nd\n")
        source = only(path, on_bad_rows="skip")
        assert [record.source for record in source.records] == [f"{path}:2", f"{path}:4"]
        assert source.skipped == (
            (3, f"{path}, line 3: the row has 2 cells and the header 1; put cells that hold a separator into quotes."),
        )
