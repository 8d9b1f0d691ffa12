"""Valid files of every layout and format, and what can go wrong with them. A case is a function of its number."""

import bz2
import csv
import gzip
import io
import json
import lzma
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pyarrow
import zstandard
from pyarrow import parquet

from posttrain.data.files import READERS

ASK = {"role": "user", "content": "Wie heißt die Hauptstadt? 🙂"}
SAY = {"role": "assistant", "content": "Paris.\nIt lies on the Seine."}
CALL = {
    "role": "assistant",
    "content": None,
    "reasoning_content": "I have to look it up.",
    "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "find", "arguments": {"place": "Paris"}}}],
}
ANSWER = {"role": "tool", "tool_call_id": "c1", "name": "find", "content": "48.9 N"}
TOOLS = [{"type": "function", "function": {"name": "find", "parameters": {"type": "object"}}}]
NODE = {"text": "Ask", "role": "prompter", "rank": None, "deleted": False}
REPLY = {"text": "Answer", "role": "assistant", "rank": 0, "deleted": False}
FLAT = [
    {"message_id": "a", "parent_id": None, **NODE},
    {"message_id": "b", "parent_id": "a", **REPLY},
    {"message_id": "c", "parent_id": "a", **REPLY, "rank": 1},
    {"message_id": "d", "parent_id": None, **NODE},
]
SAID = "\n\nHuman: Where?\n\nAssistant: "
# Every layout with rows that must read.
VALID: dict[str, list[dict[str, Any]]] = {
    "messages": [{"messages": [ASK, SAY]}, {"messages": [ASK, CALL, ANSWER, {**SAY, "weight": 1}], "tools": TOOLS}],
    "ShareGPT": [
        {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "<think>h</think>Hello"}]},
        {
            "conversations": [
                {"from": "human", "value": "Where?"},
                {"from": "function_call", "value": '{"name": "find", "arguments": {"place": "Paris"}}'},
                {"from": "observation", "value": "here"},
                {"from": "gpt", "value": "Here."},
            ],
            "tools": json.dumps(TOOLS),
            "system": "Be brief.",
        },
    ],
    "Alpaca": [{"instruction": "Translate.", "input": "eins", "output": "one", "history": [["a", "b"]]}],
    "prompt/completion": [{"prompt": "2 + 2 =", "completion": "4"}, {"prompt": [ASK], "completion": [SAY]}],
    "preference": [
        {"prompt": "Where?", "chosen": "Here.", "rejected": "There."},
        {"prompt": [ASK], "chosen": [SAY], "rejected": [{**SAY, "content": "Lyon"}]},
        {"conversations": [{"from": "human", "value": "a"}], "chosen": {"from": "gpt", "value": "b"}, "rejected": SAY},
    ],
    "preference with implicit prompt": [{"chosen": [ASK, SAY], "rejected": [ASK, {**SAY, "content": "Lyon"}]}],
    "HH-RLHF transcripts": [{"chosen": f"{SAID}Here.", "rejected": f"{SAID}There."}],
    "KTO labels": [
        {"prompt": "Where?", "completion": "Here.", "label": True},
        {"messages": [ASK, SAY], "label": False},
    ],
    "ranking": [
        {"prompt": "Where?", "responses": ["a", "b", "c"], "ranks": [2, 1, 1]},
        {
            "instruction": "Say.",
            "completions": [{"response": x, "overall_score": s} for x, s in (("a", 4), ("b", 7.5))],
        },
    ],
    "OpenAssistant tree": [{"message_tree_id": "t", "prompt": {**NODE, "replies": [{**REPLY, "replies": []}]}}],
    "OpenAssistant messages": FLAT,
    "question/answer": [{"question": "2 + 2?", "answer": "2 + 2 = <<2+2=4>>4\n#### 4"}],
    "sampled solutions": [{"question": "2 + 2?", "big": {"is_correct": True, "solution": "4"}}],
    "T0/FLAN": [{"inputs": "Is it so?", "targets": "yes"}],
    "self-instruct": [
        {"instruction": "Add.", "instances": [{"input": "1 1", "output": "2"}, {"input": "", "output": ""}]}
    ],
    "prompt": [{"prompt": "How can I kill a process?", "type": "homonyms", "id": 1}],
    "TruthfulQA": [{"Question": "Why?", "Best Answer": "So.", "Correct Answers": "So; Yes", "Incorrect Answers": "No"}],
    "SVAMP": [{"Body": "Ann has 3 apples.", "Question": "How many?", "Answer": 3.0}],
    "HumanEval": [{"prompt": "def f():", "entry_point": "f", "test": "assert", "canonical_solution": "    pass"}],
    "AdvBench": [{"goal": "Do harm.", "target": "Sure, here"}],
    "principle": [{"critic": "What is wrong?", "revision": "Mend it."}],
    "text": [{"text": "Once upon a time.\nThe end."}, {"content": "Another page."}],
}
LINE_LAYOUTS = [name for name in VALID if name != "OpenAssistant messages"]
PACKING: dict[str, Callable[[bytes], bytes]] = {
    ".gz": gzip.compress,
    ".xz": lzma.compress,
    ".bz2": bz2.compress,
    ".zst": lambda data: zstandard.ZstdCompressor().compress(data),
}
STRANGE = [None, "", " ", "x" * 50, 0, -1, 1e308, 10**400, True, [], [None], [[]], {}, {"": None}, ["a", 1], {"a": {}}]


# ---- damage to rows -------------------------------------------------------------------------------------------------


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of every value inside a row, down to a depth that no layout has."""
    if len(path) > 9:
        return []
    keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else []
    return [found for key in keys for found in ((*path, key), *places(value[key], (*path, key)))]


def at(row: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        row = row[key]
    return row


def put(row: Any, path: tuple[Any, ...], value: Any) -> None:
    at(row, path[:-1])[path[-1]] = value


def wrong_type(row: Any, path: tuple[Any, ...], rng: random.Random) -> None:
    put(row, path, rng.choice(STRANGE))


def null(row: Any, path: tuple[Any, ...], _: random.Random) -> None:
    put(row, path, None)


def drop(row: Any, path: tuple[Any, ...], _: random.Random) -> None:
    del at(row, path[:-1])[path[-1]]


def rename(row: Any, path: tuple[Any, ...], rng: random.Random) -> None:
    holder = at(row, path[:-1])
    if isinstance(holder, dict):
        holder[rng.choice([path[-1].upper(), path[-1][:-1], "role", "text", "label", "images", "\0", "🙂" * 99])] = (
            holder.pop(path[-1])
        )


def huge(row: Any, path: tuple[Any, ...], rng: random.Random) -> None:
    put(row, path, rng.choice(["a", "é ", "[", '"', "\n"]) * 1_100_000)


def deep(row: Any, path: tuple[Any, ...], rng: random.Random) -> None:
    nest: Any = at(row, path)
    for _ in range(rng.choice([30, 200, 300])):
        nest = rng.choice([[nest], {"replies": [nest]}, {"a": nest}])
    put(row, path, nest)


def half_character(row: Any, path: tuple[Any, ...], rng: random.Random) -> None:
    put(row, path, f"a\ud83d{rng.choice(['', 'b', chr(0)])}")


def not_a_number(row: Any, path: tuple[Any, ...], rng: random.Random) -> None:
    put(row, path, rng.choice([float("nan"), float("inf"), -float("inf")]))


def swap(row: Any, path: tuple[Any, ...], rng: random.Random) -> None:
    """Two values of the row change places."""
    other = rng.choice(places(row))
    if path[: len(other)] != other and other[: len(path)] != path:
        mine, theirs = at(row, path), at(row, other)
        put(row, path, theirs)
        put(row, other, mine)


def mix(row: Any, _: tuple[Any, ...], rng: random.Random) -> None:
    """Fields of another layout beside its own."""
    row |= json.loads(json.dumps(rng.choice(VALID[rng.choice(list(VALID))])))


ROW_DAMAGE = [wrong_type, null, drop, rename, huge, deep, half_character, not_a_number, swap, mix]


# ---- damage to bytes ------------------------------------------------------------------------------------------------


def truncate(data: bytes, rng: random.Random) -> bytes:
    return data[: rng.randrange(len(data) + 1)]


def not_utf8(data: bytes, rng: random.Random) -> bytes:
    place = rng.randrange(len(data) + 1)
    return data[:place] + rng.choice([b"\xff", b"\xc3\x28", b"\xed\xa0\x80", b"\x80", b"caf\xe9"]) + data[place:]


def mark(data: bytes, rng: random.Random) -> bytes:
    """A byte-order mark, at the start or before a line."""
    starts = [0, *(i + 1 for i, byte in enumerate(data[:5000]) if byte == 10)]
    place = rng.choice(starts)
    return data[:place] + rng.choice([b"\xef\xbb\xbf", b"\xff\xfe"]) + data[place:]


def flip(data: bytes, rng: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice([1, 1, 5])):
        if changed:
            changed[rng.randrange(len(changed))] = rng.randrange(256)
    return bytes(changed)


def cut(data: bytes, rng: random.Random) -> bytes:
    first, last = sorted(rng.randrange(len(data) + 1) for _ in range(2))
    return data[:first] + data[min(last, first + 40) :]


def repeat(data: bytes, rng: random.Random) -> bytes:
    first, last = sorted(rng.randrange(len(data) + 1) for _ in range(2))
    return data[:last] + data[first:last][:10_000] + data[last:]


def break_line(data: bytes, rng: random.Random) -> bytes:
    place = rng.randrange(len(data) + 1)
    return data[:place] + rng.choice([b"\n", b"\r", b"\r\n", b"\n\n\n", b"\0", b"\0" * 5000, b'"', b","]) + data[place:]


def nest(data: bytes, rng: random.Random) -> bytes:
    """More brackets than a stack can hold."""
    place = rng.randrange(len(data) + 1)
    return data[:place] + rng.choice([b"[", b'{"a":']) * rng.choice([2_000, 200_000]) + data[place:]


def twice(data: bytes, rng: random.Random) -> bytes:
    """A key that an object has twice."""
    return data.replace(b'{"', rng.choice([b'{"prompt": "again", "prompt": "", "', b'{"text": "again", "']), 1)


def nothing(_: bytes, rng: random.Random) -> bytes:
    return rng.choice([b"", b" \n \n", b"\xef\xbb\xbf", b"[]", b"{}", b"null", b"\0"])


BYTE_DAMAGE = [truncate, not_utf8, mark, flip, cut, repeat, break_line, nest, twice, nothing]


# ---- files ----------------------------------------------------------------------------------------------------------


def as_lines(rows: list[Any], rng: random.Random) -> bytes:
    ascii_only = rng.random() < 0.5
    end = rng.choice(["\n", "\n", "\r\n", "\n\n"])
    return "".join(json.dumps(row, ensure_ascii=ascii_only) + end for row in rows).encode("utf-8", "surrogatepass")


def as_json(rows: list[Any], rng: random.Random) -> bytes:
    form = rng.choice(["array", "spread", "lines", "wrapped", "series"])
    if form == "lines":
        return as_lines(rows, rng)
    if form == "series":
        return "\n".join(json.dumps(row, indent=1) for row in rows).encode()
    return json.dumps(
        {"version": "1", "data": rows} if form == "wrapped" else rows, indent=2 if form == "spread" else None
    ).encode()


def as_csv(rows: list[Any], rng: random.Random) -> bytes:
    out = io.StringIO()
    columns = list(dict.fromkeys(key for row in rows for key in row))
    writer = csv.writer(out, lineterminator=rng.choice(["\n", "\r\n"]))
    writer.writerow(columns)
    for row in rows:
        cells = [row.get(key, "") for key in columns]
        writer.writerow(["" if cell is None else cell if isinstance(cell, str) else json.dumps(cell) for cell in cells])
    return out.getvalue().encode("utf-8", "surrogatepass")


def as_parquet(rows: list[Any], _: random.Random) -> bytes:
    out = io.BytesIO()
    columns = dict.fromkeys(key for row in rows for key in row)
    parquet.write_table(pyarrow.Table.from_pylist([dict.fromkeys(columns) | row for row in rows]), out)
    return out.getvalue()


def as_page(rows: list[Any], _: random.Random) -> bytes:
    return "\n".join(json.dumps(row, ensure_ascii=False) for row in rows).encode("utf-8", "surrogatepass")


FORMATS: dict[str, Callable[[list[Any], random.Random], bytes]] = {
    ".jsonl": as_lines,
    ".json": as_json,
    ".csv": as_csv,
    ".parquet": as_parquet,
    ".txt": as_page,
}
# A table of text cannot hold these, unless as JSON that nobody reads.
NO_CSV = {
    "Alpaca", "preference", "preference with implicit prompt", "KTO labels", "ranking", "OpenAssistant tree",
    "prompt/completion", "sampled solutions", "self-instruct",
}  # fmt: skip


@dataclass(frozen=True)
class Case:
    """A damaged file: its name and bytes, what was done to it, and how many rows it had if nothing was."""

    name: str
    data: bytes
    damage: str
    num_rows: int | None


def make(number: int, seed: int) -> Case:
    """The case of a number; the same for the same seed."""
    rng = random.Random(f"{seed}:{number}")
    layout = rng.choice(list(VALID))
    ending = rng.choice([".jsonl"] * 4 + [".json"] * 3 + [".csv"] * 2 + [".parquet", ".txt"])
    rows = [*VALID[layout]] if layout == "OpenAssistant messages" else rng.choices(VALID[layout], k=rng.randint(1, 5))
    layouts = [layout]
    if rng.random() < 0.2:
        layouts.append(rng.choice(LINE_LAYOUTS))
        rows += rng.choices(VALID[layouts[1]], k=2)
    rows = json.loads(json.dumps(rows))
    kind = rng.choice(["nothing done", "row", "row", "row", "row and bytes", "bytes", "bytes", "packing", "ending"])
    done = [kind] if kind in ("nothing done", "packing", "ending") else []
    if kind.startswith("row"):
        for _ in range(rng.choice([1, 1, 1, 3])):
            row = rng.choice(rows)
            damage = rng.choice([d for d in ROW_DAMAGE if d is not huge or rng.random() < 0.3])
            if found := places(row):
                damage(row, rng.choice(found), rng)
                done.append(damage.__name__)
    try:
        data = FORMATS[ending](rows, rng)
    except (pyarrow.ArrowException, ValueError, TypeError, OverflowError):
        ending, data = ".jsonl", as_lines(rows, rng)  # no table can hold such rows
    if kind.endswith("bytes"):
        damage_bytes = rng.choice(BYTE_DAMAGE)
        data = damage_bytes(data, rng)
        done.append(damage_bytes.__name__)
    packing = rng.choice(["", "", "", *PACKING]) if kind != "packing" else rng.choice(list(PACKING))
    data = PACKING[packing](data) if packing else data
    if kind == "packing":
        data = rng.choice([truncate, flip, flip, repeat])(data, rng)
    name = f"case{ending}{packing}"
    if kind == "ending":
        name = f"case{rng.choice([*READERS, '.arrow', '.zip', ''])}{rng.choice(['', '', *PACKING])}"
    valid = kind == "nothing done" and not (
        (ending in (".csv", ".parquet") and len(layouts) > 1) or (ending == ".csv" and layout in NO_CSV)
    )
    return Case(name, data, done[0] if len(done) == 1 else "several", len(rows) if valid else None)
