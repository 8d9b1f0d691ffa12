"""What a row is, told from its fields: one table of layouts, and the one door that reads a row of any of them."""

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from json import JSONDecodeError
from typing import Any

from posttrain.data.chats import is_sharegpt, read_chat
from posttrain.data.columns import IN_A_TURN, mapped, names
from posttrain.data.fields import FieldError, Row, kind, refuse_media
from posttrain.data.json_text import decode, explain
from posttrain.data.preferences import KNOWN, is_transcript, prompt_field, read_preference, read_ranking, read_rating
from posttrain.data.questions import (
    has_samples,
    read_alpaca,
    read_pair,
    read_principle,
    read_prompt,
    read_samples,
    read_self_instruct,
    read_task,
    read_text,
    read_truthful,
    read_word_problem,
)
from posttrain.data.trees import UNREADABLE, Raw, read_root, read_tree
from posttrain.errors import DataError
from posttrain.types import ROLES, Record

Reader = Callable[[Row, str], tuple[Record, ...]]


@dataclass(frozen=True, slots=True)
class Parsed:
    """A row's layout by name and its records. Without a record, `left_out` says why."""

    layout: str
    records: tuple[Record, ...]
    left_out: str = ""


@dataclass(frozen=True, slots=True)
class Layout:
    """A name, the fields that tell it, a reader, and a test of the values where fields alone do not tell."""

    name: str
    fields: tuple[str, ...]
    read: Reader
    test: Callable[[Row], bool] = lambda _: True


def _has(field: str) -> Callable[[Row], bool]:
    """The field alone tells the layout; the others have names that many layouts use."""
    return lambda row: row[field] is not None


def _pair(name: str, question: str, answer: str) -> Layout:
    return Layout(name, (question, answer), partial(read_pair, question=question, answer=answer), _has(question))


def _chat(field: str) -> tuple[Layout, Layout]:
    read = partial(read_chat, field=field)
    return Layout("ShareGPT", (field,), read, lambda row: is_sharegpt(row, field)), Layout("messages", (field,), read)


CHATS = (*_chat("messages"), *_chat("conversations"), *_chat("conversation"))
ANSWERED = (
    Layout("Alpaca", ("instruction", "output"), partial(read_alpaca, answer="output")),
    Layout("Alpaca", ("instruction", "response"), partial(read_alpaca, answer="response")),
    Layout(
        "T0/FLAN",
        ("inputs_pretokenized", "targets_pretokenized"),
        partial(read_task, question="inputs_pretokenized", answer="targets_pretokenized"),
    ),
    _pair("T0/FLAN", "inputs", "targets"),
    _pair("T0/FLAN", "input", "target"),
    _pair("prompt/completion", "prompt", "completion"),
    _pair("prompt/completion", "prompt", "response"),
    _pair("question/answer", "question", "answer"),
    _pair("question/answer", "question", "response"),
    _pair("question/answer", "query", "response"),
    _pair("question/answer", "problem", "solution"),
    _pair("input/output", "input", "output"),
)
# A row takes the first layout whose fields it has. Those with a judgement come first: a rejected answer or one with a
# bad label must never be read as an answer to learn.
LAYOUTS = (
    Layout("OpenAssistant tree", ("message_tree_id", "prompt"), read_tree, _has("message_tree_id")),
    Layout("OpenAssistant messages", ("message_id", "parent_id", "role", "text"), read_root, _has("message_id")),
    Layout(
        "HH-RLHF transcripts",
        ("chosen", "rejected"),
        read_preference,
        lambda row: not prompt_field(row) and is_transcript(row),
    ),
    Layout("preference", ("chosen", "rejected"), read_preference, lambda row: bool(prompt_field(row))),
    Layout("preference with implicit prompt", ("chosen", "rejected"), read_preference),
    Layout(
        "preference",
        ("response_j", "response_k"),
        partial(read_preference, chosen="response_j", rejected="response_k"),
    ),
    *(
        Layout("KTO labels", (*base.fields, mark), read_rating(base.read, mark))
        for mark in ("kto_tag", "label")
        for base in CHATS[1::2] + ANSWERED
    ),
    *(
        Layout(
            "ranking",
            (question, answers),
            partial(read_ranking, question=question, answers=answers),
            _has(answers),
        )
        for question in ("prompt", "question", "instruction")
        for answers in ("responses", "completions")
    ),
    *CHATS,
    Layout("self-instruct", ("instruction", "instances"), read_self_instruct),
    # With an answer to learn, from `columns` say, it is a pair like others.
    Layout(
        "HumanEval",
        ("prompt", "entry_point", "test"),
        read_prompt,
        lambda row: row["test"] and not row.get("completion"),
    ),
    Layout("sampled solutions", ("question",), read_samples, has_samples),
    *ANSWERED,
    Layout("TruthfulQA", ("Question", "Best Answer"), read_truthful),
    Layout("TruthfulQA", ("question", "best_answer"), read_truthful),
    Layout("SVAMP", ("Body", "Question", "Answer"), read_word_problem),
    Layout("AdvBench", ("goal", "target"), partial(read_prompt, question="goal")),
    Layout("principle", ("critic", "revision"), partial(read_principle, critique="critic", revision="revision")),
    Layout("principle", ("critique", "revision"), partial(read_principle, critique="critique", revision="revision")),
    Layout("prompt", ("prompt",), read_prompt),
    Layout("text", ("text",), partial(read_text, field="text")),
    Layout("text", ("content",), partial(read_text, field="content")),
)
BESIDE = ("system", "tools", "history", "context", "ranks", "scores", "ground_truth", *KNOWN)
OURS = {field for layout in LAYOUTS for field in layout.fields} | {*BESIDE, *IN_A_TURN, *ROLES}
# What a row most likely was meant to be, where several are equally near.
FAMILIAR = ("text", "prompt", "question/answer", "Alpaca", "prompt/completion", "preference", "ShareGPT", "messages")


def parse_row(raw: Raw, *, file: str, line: int, columns: Mapping[str, str] | None = None) -> Parsed:
    """The records of one row: an undecoded line of JSON, or fields that are parsed already.

    `columns` maps our field names to those of the data. Raises DataError with file, line and field where the row fits
    no layout or cannot be trained on.
    """
    try:
        row = _decoded(raw) if isinstance(raw, bytes) else raw
        if UNREADABLE in row:
            raise FieldError(row[UNREADABLE])
        if columns:
            _check_mapping(columns)
            row = mapped(row, columns)
        layout = layout_of(row)
        if layout is None:
            raise FieldError(_nearest(tuple(row), tuple(name for name in row if row[name] is not None)))
        if layout.name != "text":
            refuse_media(row)
        records = layout.read(row, f"{file}:{line}")
    except FieldError as error:
        raise DataError(error.message, file=file, line=line, field=error.field) from None
    except ValueError as error:
        raise DataError(f"{error}.", file=file, line=line) from None
    return Parsed(layout.name, records, "" if records else "marked as deleted")


def layout_of(row: Row) -> Layout | None:
    """The layout of a row, from its fields: the first that has them all.

    Tables give every row every field, with null for those that it did not have, so a layout that lacks some of its
    fields is passed over for one that explains those it has by others. {"prompt": …, "completion": null} stays a
    broken pair, never a prompt alone.
    """
    broken: Layout | None = None
    for layout in _candidates(tuple(row)):
        filled = [field for field in layout.fields if row[field] is not None]
        if not filled or not layout.test(row):
            continue
        if len(filled) == len(layout.fields):
            if broken is None or _explains(layout, broken, row):
                return layout
        elif broken is None:
            broken = layout
    return broken


def _explains(layout: Layout, broken: Layout, row: Row) -> bool:
    filled = {field for field in broken.fields if row[field] is not None}
    return filled.issubset(layout.fields) and not set(layout.fields).issubset(broken.fields)


@lru_cache(maxsize=1024)
def _candidates(fields: tuple[str, ...]) -> tuple[Layout, ...]:
    """Rows of one file nearly always have the same fields."""
    return tuple(layout for layout in LAYOUTS if set(fields).issuperset(layout.fields))


def _decoded(raw: bytes) -> dict[str, Any]:
    try:
        row = decode(raw.decode("utf-8").removeprefix("\ufeff"))
    except UnicodeDecodeError as error:
        raise FieldError(f"byte {error.start + 1} of the line is no UTF-8 text; save the file as UTF-8.") from None
    except JSONDecodeError as error:
        raise FieldError(f"{explain(error)}; each line must be one complete JSON object.") from None
    except ValueError as error:
        raise FieldError(f"{explain(error)}.") from None
    if not isinstance(row, dict):
        raise FieldError(f"expected a JSON object, found {kind(row)}; each line must be one JSON object.")
    return row


def _check_mapping(columns: Mapping[str, str]) -> None:
    for ours in columns:
        if ours not in OURS:
            near = difflib.get_close_matches(ours, OURS, 1) or ["prompt"]
            raise FieldError(
                f"{ours!r} is no field of any layout (nearest: {near[0]!r}); write OUR FIELD: THEIR COLUMN, with one "
                f"of {', '.join(sorted(OURS))}.",
                "columns",
            )


@lru_cache(maxsize=1024)
def _nearest(fields: tuple[str, ...], filled: tuple[str, ...]) -> str:
    """What was found, the layout that it is nearest to, and what that one lacks. `filled`: the fields without null."""
    columns = filled or fields
    present = set(columns)
    free = {name.lower(): name for name in columns[:100] if len(name) < 100}

    def like(field: str) -> str:
        near = difflib.get_close_matches(field.lower(), free, 1, cutoff=0.75)
        return free[near[0]] if near else ""

    def nearness(layout: Layout) -> tuple[float, ...]:
        has = present.intersection(layout.fields)
        alike = [field for field in layout.fields if field not in has and like(field)]
        familiar = FAMILIAR.index(layout.name) if layout.name in FAMILIAR else -1
        return (len(has) + 0.9 * len(alike)) / len(layout.fields), len(has), familiar

    found = f"the fields {names(fields)} fit no layout"
    best = max((layout for layout in LAYOUTS if layout.test is not has_samples), key=nearness)
    if not nearness(best)[0]:
        known = {layout.name: ", ".join(layout.fields) for layout in reversed(LAYOUTS) if layout.name in FAMILIAR}
        return (
            f"{found}; say which field is which, e.g. columns: {{prompt: YOUR_FIELD, completion: YOUR_FIELD}}. The "
            f"commonest are {'; '.join(f'{name} ({theirs})' for name, theirs in known.items())}."
        )
    missing = [field for field in best.fields if field not in filled]
    lacks = " and ".join(f"`{field}` is {'null' if field in fields else 'missing'}" for field in missing)
    this = f"{found}; this looks like {best.name} ({', '.join(best.fields)}), but {lacks}"
    if set(missing).issubset(fields):
        return f"{this}. Give it a value, or remove the row."
    example = ", ".join(f"{field}: {like(field) or 'YOUR_FIELD'}" for field in missing if field not in fields)
    return f"{this}. Rename the fields, or map them with columns: {{{example}}}."
