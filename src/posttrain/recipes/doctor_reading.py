"""What `posttrain doctor` looks at: every record, what fine-tuning takes of it, and a part where it is too much."""

import random
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any, TypeVar

from posttrain.data.convert import for_sft
from posttrain.data.sources import read
from posttrain.recipes.dataset_config import DatasetEntry
from posttrain.recipes.dataset_reading import made_here
from posttrain.recipes.doctor_config import DoctorConfig
from posttrain.types import Conversation, Document, Record

Item = TypeVar("Item")
ROW_CHARACTERS = 1_000  # of a row on average: max_rendered rows of novels would be more than anybody waits for


@dataclass
class Data:
    """What was read. `skipped`: place and reason of rows that cannot be read; `left_out`: rows that give nothing to
    train on, by reason, among `num_rows` that can be read."""

    records: list[Record] = field(default_factory=list)
    inputs: list[dict[str, Any]] = field(default_factory=list)
    layouts: Counter[str] = field(default_factory=Counter)
    skipped: list[tuple[str, str]] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)
    num_rows: int = 0


def read_entries(entries: Sequence[DatasetEntry], *, held_out: bool = False) -> Data:
    """Everything of the named data. `held_out`: what the pocket is asked for are its held-out conversations."""
    data = Data()
    for entry in entries:
        if made := made_here(entry, held_out):
            data.records += made
            data.inputs.append({"path": entry.path, "records": len(made)})
            data.layouts[entry.path] += len(made)
            continue
        columns = entry.columns or None
        for source in read(entry.path, columns=columns, name=entry.name, split=entry.split, on_bad_rows="skip"):
            data.records += source.records
            data.left_out.update(source.left_out)
            for line, why in source.skipped:
                place = f"{source.path}, line {line}"
                data.skipped.append((f"{source.path}:{line}", why.removeprefix(place).lstrip(":, ")))
            data.inputs.append({"path": source.path, "sha256": source.sha256, "records": len(source.records)})
            data.layouts.update(source.layouts)
    data.num_rows = len(data.records) + data.left_out.total()
    return data


def to_train(data: Data) -> tuple[list[Conversation], list[Document]]:
    """What fine-tuning would take of each record; counts in `data.left_out` why it would leave some."""
    taken = list[Conversation | Document]()
    for record in data.records:
        made, why = for_sft(record)
        if made is None:
            data.left_out[why] += 1
        else:
            taken.append(made)
    chats = [made for made in taken if isinstance(made, Conversation)]
    return chats, [made for made in taken if isinstance(made, Document)]


def sampled(items: Sequence[Item], size: Callable[[Item], int], config: DoctorConfig, notes: list[str]) -> list[Item]:
    """Of many or long rows a seeded sample, in order; a note says so."""
    order, room = list(range(len(items))), ROW_CHARACTERS * config.max_rendered
    random.Random(config.seed).shuffle(order)
    filled = list(accumulate(size(items[place]) for place in order))
    kept = order[: max(1, min(config.max_rendered, bisect_right(filled, room)))]
    if len(kept) < len(items):
        notes.append(
            f"{len(kept):,} of {len(items):,} rows, drawn with seed {config.seed}, were looked at in tokens; raise "
            "max_rendered for more. Text was looked at in all"
        )
    return [items[place] for place in sorted(kept)]
