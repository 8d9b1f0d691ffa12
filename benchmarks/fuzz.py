"""Broken data files by the thousand: each must read, every row accounted for, or be refused with file and line.

    python benchmarks/fuzz.py [--cases 10000] [--seed 0]

A case is a valid file of one of the layouts, in one of the formats, that was then damaged: rows, bytes, packing or
name. It is read with and without `on_bad_rows="skip"`. What counts as a failure: any exception but DataError, a
DataError without the file, or without the line where there are rows, a row that is neither read, left out nor skipped,
or a valid row that is refused. It exits with 1 where there is one.
"""

import argparse
import json
import pickle
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from fuzz_cases import VALID, Case, make
from posttrain.data.convert import for_sft
from posttrain.data.files import raw_rows
from posttrain.data.sources import Source, read
from posttrain.errors import DataError
from posttrain.types import Conversation, Document

HERE = Path(__file__).parent


def check(case: Case, folder: Path) -> str:
    """What became of a case: "read", "row refused" or "file refused". AssertionError where a law is broken."""
    file = folder / case.name
    file.write_bytes(case.data)
    try:
        numbers, broken = count_rows(file)
        strict, lax = attempt(file, "error"), attempt(file, "skip")
    finally:
        file.unlink()
    for outcome in (strict, lax):
        if isinstance(outcome, DataError):
            assert str(file) in str(outcome), f"the file is not named: {outcome}"
            has_rows = bool(numbers) if broken is None else bool(numbers) and broken.line is not None
            assert outcome.line is not None or not has_rows or "none of the" in str(outcome) or broken, (
                f"no line: {outcome}"
            )
            assert "Traceback" not in str(outcome)
            assert len(str(outcome)) < 4000, f"a message of {len(str(outcome))} characters"
    if isinstance(lax, Source):
        assert broken is None, f"read on after {broken}"
        assert sum(lax.layouts.values()) + len(lax.skipped) == len(numbers), "rows are missing"
        assert len(lax.records) >= sum(lax.layouts.values()) - sum(lax.left_out.values()), "records are missing"
        assert sorted(line for line, _ in lax.skipped) == [line for line, _ in lax.skipped]
        assert all(f"{file}, line {line}" in reason for line, reason in lax.skipped), "a skipped row without its line"
        assert isinstance(strict, DataError) == bool(lax.skipped), "strict and lax reading disagree"
    else:
        assert isinstance(strict, DataError), "skipping refuses what reading takes"
    if isinstance(strict, Source):
        check_records(strict)
    if case.num_rows is not None:
        assert isinstance(strict, Source), f"a valid file is refused: {strict}"
        assert (
            case.name.startswith("case.txt")
            or "OpenAssistant messages" in strict.layouts
            or len(numbers) == case.num_rows
        )
    check_lines(case, numbers, broken)
    if isinstance(strict, Source):
        return "read"
    return "row refused" if broken is None and numbers else "file refused"


def count_rows(file: Path) -> tuple[list[int], DataError | None]:
    numbers = []
    try:
        for line, raw in raw_rows(file):
            assert isinstance(raw, bytes | dict)
            numbers.append(line)
    except DataError as error:
        return numbers, error
    return numbers, None


def attempt(file: Path, on_bad_rows: Any) -> Source | DataError:
    try:
        (source,) = read(file, on_bad_rows=on_bad_rows)
    except DataError as error:
        return error
    return source


def check_records(source: Source) -> None:
    for record in source.records:
        item, why = for_sft(record)
        assert isinstance(item, Conversation | Document) if not why else item is None
    assert pickle.loads(pickle.dumps(source.records)) == source.records or "nan" in repr(source.records)
    json.dumps([repr(record) for record in source.records]).encode()


def check_lines(case: Case, numbers: list[int], broken: DataError | None) -> None:
    """Counted anew: the lines of a plain .jsonl file are its rows, unless messages were gathered into trees."""
    if case.name != "case.jsonl" or broken or b"parent_id" in case.data:
        return
    lines = [number for number, line in enumerate(case.data.split(b"\n"), 1) if line.strip()]
    assert numbers == lines, f"rows {numbers} of lines {lines}"


def run(
    cases: range, seed: int, folder: Path, say: Callable[[str], None]
) -> tuple[Counter[tuple[str, str]], list[str]]:
    """Outcomes by (damage, outcome), and what failed."""
    outcomes: Counter[tuple[str, str]] = Counter()
    failures = []
    for number in cases:
        case = make(number, seed)
        try:
            outcomes[case.damage, check(case, folder)] += 1
        except Exception as error:
            failures.append(f"case {number} ({case.name}, {case.damage}): {type(error).__name__}: {str(error)[:300]}")
            say(failures[-1])
        if number % 1000 == 999:
            say(f"{number + 1:,} cases, {len(failures)} failures")
    return outcomes, failures


def main() -> int:
    from process import hardware

    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=HERE / "results" / "fuzz.json")
    args = parser.parse_args()
    began = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="posttrain-fuzz-") as folder:
        outcomes, failures = run(range(args.cases), args.seed, Path(folder), lambda line: print(line, flush=True))
    columns = ("read", "row refused", "file refused")
    table = {
        damage: {column: outcomes[damage, column] for column in columns}
        for damage in sorted({damage for damage, _ in outcomes})
    }
    print(f"{'damage':16}" + "".join(f"{column:>14}" for column in columns))
    for damage, row in table.items():
        print(f"{damage:16}" + "".join(f"{row[column]:14,}" for column in columns))
    totals = {column: sum(row[column] for row in table.values()) for column in columns}
    print(f"{'all':16}" + "".join(f"{totals[column]:14,}" for column in columns))
    result = {
        "name": "fuzz",
        "command": f"python benchmarks/fuzz.py --cases {args.cases} --seed {args.seed}",
        "hardware": hardware(),
        "versions": {name: version(name) for name in ("posttrain", "pyarrow", "zstandard")}
        | {"python": sys.version.split()[0]},
        "figures": {
            "cases": args.cases,
            "layouts": list(VALID),
            "failures": failures,
            "outcomes": totals,
            "by_damage": table,
            "seconds": round(time.perf_counter() - began, 1),
        },
    }
    args.output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(f"{args.cases:,} cases, {len(failures)} failures; wrote {args.output}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
