"""The store as rows that others read: `posttrain.data`, Argilla, Label Studio, or a store again.

Door: `write_file(store, path, format)`. `ranking` has a row a ballot, with ties; `preference` a row a pair; `rating` a
row a rated answer; `store` everything. Superseded ballots are in `store` alone; ballots of kinds that a format cannot
hold are counted and returned.
"""

import contextlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from posttrain.errors import StoreError
from posttrain.feedback.argilla import argilla_rows
from posttrain.feedback.ballots import Ballot, StoredPrompt, StoredResponse
from posttrain.feedback.dump import store_rows
from posttrain.feedback.label_studio import label_studio_rows
from posttrain.feedback.records import training_records
from posttrain.feedback.store import Store
from posttrain.feedback.tables import message_rows
from posttrain.types import Message, Preference


@dataclass(slots=True)
class Written:
    """How many rows were written, and how many ballots of each kind have no place in them."""

    rows: int = 0
    left_out: Counter[str] = field(default_factory=Counter)


def write_file(store: Store, path: str | Path, format: str, *, aggregate: str = "soft") -> Written:
    """Write the store in one of FORMATS: lines of JSON, or one array where the name ends in .json (`store` is always
    lines). A file that is there is replaced once the new one is whole. `aggregate`: how `preference` makes one of
    several ballots, as `posttrain.feedback.records` says."""
    written, target = Written(), Path(path)
    fresh = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with fresh.open("w", encoding="utf-8") as handle:
            rows = (
                preference_rows(store, written, aggregate)
                if format == "preference"
                else FORMATS[format](store, written)
            )
            whole = format == "store"  # half surrogate pairs included, which only lines on their own may hold
            array = target.suffix == ".json" and not whole
            _write(map(json.dumps if whole else _readable, rows), handle, written, array=array)
            handle.flush()
            os.fsync(handle.fileno())
        fresh.replace(target)
    except OSError as error:
        raise StoreError(f"{target}: the file cannot be written ({error.strerror}). Choose another place.") from None
    finally:
        with contextlib.suppress(OSError):
            fresh.unlink()
    return written


def _readable(row: dict[str, Any]) -> str:
    """JSON as people read it. Half a surrogate pair, which no reader takes, becomes the replacement character."""
    text = json.dumps(row, ensure_ascii=False)
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _write(rows: Iterator[str], handle: TextIO, written: Written, *, array: bool) -> None:
    for row in rows:
        handle.write("" if not array else ",\n" if written.rows else "[\n")
        handle.write(row + ("" if array else "\n"))
        written.rows += 1
    if array:
        handle.write("\n]\n" if written.rows else "[]\n")


class _Reader:
    """The prompts and answers of a store by id, read once."""

    def __init__(self, store: Store) -> None:
        self.prompts: dict[int, StoredPrompt] = {prompt.id: prompt for prompt in store.prompts()}
        self.responses: dict[int, StoredResponse] = {response.id: response for response in store.responses()}

    def head(self, ballot: Ballot) -> dict[str, Any]:
        prompt = self.prompts[ballot.prompt_id]
        tools = {"tools": list(prompt.tools)} if prompt.tools else {}
        return {"prompt": chat(prompt.messages), **tools}

    def tail(self, ballot: Ballot) -> dict[str, Any]:
        models = [self.responses[id].model for id in ballot.response_ids]
        told: dict[str, Any] = {"models": models} if any(models) else {}
        if ballot.comment:
            told["comment"] = ballot.comment
        return {**told, "annotator": ballot.annotator, "ballot_source": ballot.source, "ballot": ballot.id}


def chat(messages: tuple[Message, ...]) -> list[dict[str, Any]]:
    """Messages as OpenAI writes them, which every reader of `posttrain.data` takes."""
    rows = message_rows(messages)
    for row in rows:
        if "reasoning" in row:
            row["reasoning_content"] = row.pop("reasoning")
        if calls := row.pop("tool_calls", None):
            row["tool_calls"] = [
                {
                    "id": call["id"],
                    "type": "function",
                    "function": {"name": call["name"], "arguments": call["arguments"]},
                }
                for call in calls
            ]
    return rows


def ranking_rows(store: Store, written: Written) -> Iterator[dict[str, Any]]:
    """A row a ballot that compares: the answers as they were shown, places from 0, equal places tie. Of a choice the
    chosen answer has place 0 and the others 1."""
    with store.snapshot():
        reader = _Reader(store)
        for ballot in store.ballots():
            if ballot.kind not in ("ranking", "choice"):
                written.left_out[ballot.kind] += 1
                continue
            ranks = ballot.ranks or tuple(float(id != ballot.value) for id in ballot.response_ids)
            responses = [chat(reader.responses[id].messages) for id in ballot.response_ids]
            bad = {"all_bad": True} if ballot.all_bad else {}
            yield {**reader.head(ballot), "responses": responses, "ranks": list(ranks), **bad, **reader.tail(ballot)}


def rating_rows(store: Store, written: Written) -> Iterator[dict[str, Any]]:
    """A row a rated answer: prompt, completion, and the rating as its label."""
    with store.snapshot():
        reader = _Reader(store)
        for ballot in store.ballots():
            if ballot.kind != "rating":
                written.left_out[ballot.kind] += 1
                continue
            answer = chat(reader.responses[ballot.response_ids[0]].messages)
            yield {**reader.head(ballot), "completion": answer, "label": ballot.value, **reader.tail(ballot)}


def preference_rows(store: Store, written: Written, aggregate: str = "soft") -> Iterator[dict[str, Any]]:
    """A row a pair of answers: one of what several people said, as `posttrain.feedback.records` puts it together."""
    counts: Counter[str] = Counter()
    with store.snapshot():
        for record in training_records(store, aggregate=aggregate, counts=counts):
            if isinstance(record, Preference):
                yield _pair_row(record)
            else:
                written.left_out[type(record).__name__.lower()] += 1
    written.left_out += Counter({name: number for name, number in counts.items() if name not in ("ballots", "records")})


def _pair_row(pair: Preference) -> dict[str, Any]:
    row: dict[str, Any] = {"prompt": chat(pair.prompt), "chosen": chat(pair.chosen), "rejected": chat(pair.rejected)}
    if pair.tools:
        row["tools"] = list(pair.tools)
    return {**row, "chosen_probability": pair.label, "margin": pair.margin, "pair_weight": pair.weight}


FORMATS: dict[str, Callable[[Store, Written], Iterator[dict[str, Any]]]] = {
    "ranking": ranking_rows,
    "preference": preference_rows,
    "rating": rating_rows,
    "store": lambda store, _: store_rows(store),
    "argilla": lambda store, _: argilla_rows(store),
    "label-studio": lambda store, _: label_studio_rows(store),
}
