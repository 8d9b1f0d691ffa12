"""Files in, records out. The layout of each record is recognised from its fields, and said."""

import glob
import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from posttrain.data.oasst import best_path
from posttrain.errors import DataError
from posttrain.types import ROLES, Conversation, Document, Message

Record = Conversation | Document


@dataclass(frozen=True)
class Source:
    """What was read from one file: its records, how many of which layout, and what was left out and why."""

    path: str
    sha256: str
    records: tuple[Record, ...]
    layouts: dict[str, int]
    left_out: dict[str, int]


def read(path: str | Path) -> list[Source]:
    """Read a file, a folder or a glob of .jsonl/.json files. Raises DataError naming file, line and field."""
    files = _files(str(path))
    return [_read_file(file) for file in files]


def _files(path: str) -> list[Path]:
    here = Path(path)
    if here.is_dir():
        found = sorted(p for p in here.rglob("*") if p.suffix in (".jsonl", ".json"))
    elif here.exists():
        found = [here]
    else:
        found = sorted(Path(p) for p in glob.glob(path, recursive=True))
    if not found:
        what = "the folder holds no .jsonl or .json file" if here.is_dir() else "no such file"
        raise DataError(f"{what}; give the path of a .jsonl file, a folder or a glob.", file=path)
    return found


def _read_file(file: Path) -> Source:
    layouts: Counter[str] = Counter()
    left_out: Counter[str] = Counter()
    records: list[Record] = []
    for line, row in _rows(file):
        layout, parsed = _parse(row, str(file), line)
        layouts[layout] += 1
        records.extend(parsed)
        if not parsed:
            left_out[f"{layout} without an assistant answer"] += 1
    if not layouts:
        raise DataError("the file is empty; give one JSON object a line.", file=str(file))
    if not records:
        raise DataError(f"no record can be trained on: {dict(left_out)}.", file=str(file))
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    return Source(str(file), digest, tuple(records), dict(layouts), dict(left_out))


def _rows(file: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line, object) pairs; a .json file may also hold one array."""
    try:
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"not UTF-8 text at byte {error.start}; save the file as UTF-8.", file=str(file)) from error
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}.", file=str(file)) from error
    if file.suffix == ".json" and text.lstrip().startswith("["):
        yield from ((number, _object(row, file, number)) for number, row in enumerate(_json(text, file, 1), 1))
        return
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            yield number, _object(_json(line, file, number), file, number)


def _json(text: str, file: Path, line: int) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        where = line + error.lineno - 1
        raise DataError(
            f"not valid JSON ({error.msg} at column {error.colno}); each line must be one complete JSON object.",
            file=str(file),
            line=where,
        ) from error


def _object(row: Any, file: Path, line: int) -> dict[str, Any]:
    if not isinstance(row, dict):
        raise DataError(f"expected a JSON object, found {type(row).__name__}.", file=str(file), line=line)
    return row


def _parse(row: dict[str, Any], file: str, line: int) -> tuple[str, list[Record]]:
    for layout, fields, parse in LAYOUTS:
        if all(field in row for field in fields):
            try:
                return layout, parse(row, f"{file}:{line}")
            except DataError as error:
                raise DataError(str(error), file=file, line=line) from error
            except ValueError as error:
                raise DataError(f"{error}.", file=file, line=line) from error
    known = "; ".join(f"{layout}: {', '.join(fields)}" for layout, fields, _ in LAYOUTS)
    raise DataError(
        f"the fields {', '.join(sorted(row)) or '(none)'} fit no known layout. Layouts and their fields: {known}.",
        file=file,
        line=line,
    )


def _text(value: Any, field: str) -> str:
    if not isinstance(value, str):
        raise DataError(f"expected text, found {type(value).__name__}.", field=field)
    return value


def _turns(value: Any, field: str) -> tuple[Message, ...]:
    if not isinstance(value, list):
        raise DataError(f"expected a list of messages, found {type(value).__name__}.", field=field)
    turns = []
    for index, turn in enumerate(value):
        if not isinstance(turn, dict) or "role" not in turn or "content" not in turn:
            raise DataError('expected {"role": …, "content": …}.', field=f"{field}[{index}]")
        if turn["role"] not in ROLES:
            raise DataError(
                f"expected one of {', '.join(ROLES)}, found {turn['role']!r}.", field=f"{field}[{index}].role"
            )
        turns.append(Message(turn["role"], _text(turn["content"], f"{field}[{index}].content")))
    return tuple(turns)


def _messages(row: dict[str, Any], source: str) -> list[Record]:
    messages = _turns(row["messages"], "messages")
    if not any(message.role == "assistant" for message in messages):
        raise DataError("no assistant turn, so there is nothing to train on; add one.", field="messages")
    return [Conversation(messages, source)]


def _oasst(row: dict[str, Any], source: str) -> list[Record]:
    if not isinstance(row["prompt"], dict):
        raise DataError(f"expected a message object, found {type(row['prompt']).__name__}.", field="prompt")
    messages = best_path(row["prompt"])
    return [Conversation(messages, source)] if messages else []


def _self_instruct(row: dict[str, Any], source: str) -> list[Record]:
    instruction = _text(row["instruction"], "instruction")
    if not isinstance(row["instances"], list):
        raise DataError("expected a list.", field="instances")
    found: list[Record] = []
    for index, instance in enumerate(row["instances"]):
        if not isinstance(instance, dict):
            raise DataError('expected {"input": …, "output": …}.', field=f"instances[{index}]")
        given = _text(instance.get("input", ""), f"instances[{index}].input")
        asked = f"{instruction}\n\n{given}" if given.strip() else instruction
        answer = _text(instance.get("output", ""), f"instances[{index}].output")
        if answer.strip():
            found.append(_pair(asked, answer, source))
    return found


def _question(row: dict[str, Any], source: str) -> list[Record]:
    return [_pair(_text(row["question"], "question"), _text(row["answer"], "answer"), source)]


def _completion(row: dict[str, Any], source: str) -> list[Record]:
    if isinstance(row["prompt"], list):
        turns = _turns(row["prompt"], "prompt") + _turns(row["completion"], "completion")
        return [Conversation(turns, source)]
    return [_pair(_text(row["prompt"], "prompt"), _text(row["completion"], "completion"), source)]


def _raw(row: dict[str, Any], source: str) -> list[Record]:
    return [Document(_text(row["text"], "text"), source)]


def _pair(asked: str, answer: str, source: str) -> Conversation:
    if not answer.strip():
        raise DataError("the answer is empty, so there is nothing to train on.", field="answer")
    return Conversation((Message("user", asked), Message("assistant", answer)), source)


# A record takes the first layout whose fields it has.
LAYOUTS: list[tuple[str, tuple[str, ...], Callable[[dict[str, Any], str], list[Record]]]] = [
    ("messages", ("messages",), _messages),
    ("OpenAssistant tree", ("message_tree_id", "prompt"), _oasst),
    ("self-instruct", ("instruction", "instances"), _self_instruct),
    ("prompt/completion", ("prompt", "completion"), _completion),
    ("question/answer", ("question", "answer"), _question),
    ("text", ("text",), _raw),
]
