"""Five hundred of the ten thousand damaged files of benchmarks/fuzz.py, and proof that its checks can fail."""

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from posttrain.data import layouts, sources
from posttrain.errors import DataError

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def fuzz() -> Any:
    sys.path.insert(0, str(BENCHMARKS))
    try:
        import fuzz

        yield fuzz
    finally:
        sys.path.remove(str(BENCHMARKS))


def test_damaged_files_read_or_are_refused(fuzz: ModuleType, tmp_path: Path) -> None:
    outcomes, failures = fuzz.run(range(500), 1, tmp_path, lambda _: None)
    assert not failures, "\n".join(failures)
    assert sum(outcomes.values()) == 500
    # Enough of each, so that the cases are worth something.
    for what in ("read", "row refused", "file refused"):
        assert sum(count for (_, outcome), count in outcomes.items() if outcome == what) > 80


def test_every_layout_is_damaged(fuzz: ModuleType) -> None:
    assert set(fuzz.VALID) == {layout.name for layout in layouts.LAYOUTS} - {"input/output"}


class TestTheChecks:
    """A reader with a fault must be caught."""

    def failures(self, fuzz: ModuleType, folder: Path) -> list[str]:
        return fuzz.run(range(120), 1, folder, lambda _: None)[1]

    def test_a_traceback(self, fuzz: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def crash(*_: Any, **__: Any) -> Any:
            raise KeyError("text")

        monkeypatch.setattr(sources, "parse_row", crash)
        assert any("KeyError" in failure for failure in self.failures(fuzz, tmp_path))

    def test_a_row_that_vanishes(self, fuzz: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        rows = sources.raw_rows
        monkeypatch.setattr(sources, "raw_rows", lambda file: (row for row in rows(file) if row[0] != 2))
        assert any("rows are missing" in failure for failure in self.failures(fuzz, tmp_path))

    def test_a_message_without_the_line(
        self, fuzz: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        parse = sources.parse_row

        def forgetful(raw: Any, **options: Any) -> Any:
            try:
                return parse(raw, **options)
            except DataError as error:
                raise DataError("bad.", file=error.file) from None

        monkeypatch.setattr(sources, "parse_row", forgetful)
        assert any("no line" in failure for failure in self.failures(fuzz, tmp_path))

    def test_a_valid_file_that_is_refused(
        self, fuzz: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def strict(_: Any, **options: Any) -> Any:
            raise DataError("no.", file=options["file"], line=options["line"])

        monkeypatch.setattr(sources, "parse_row", strict)
        assert any("a valid file is refused" in failure for failure in self.failures(fuzz, tmp_path))
