"""The whole way of a block of rows: as they were read, records, rendered samples, a shard. It touches no file."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from posttrain.data.blocks import Block
from posttrain.data.branches import chunk, fit
from posttrain.data.convert import for_sft
from posttrain.data.judged import Choice, for_pairs, for_ratings, render_choices
from posttrain.data.layouts import parse_row
from posttrain.data.shards import Notes, Shard, ShardBuilder
from posttrain.data.split import group_key
from posttrain.data.template import render_document, render_many
from posttrain.errors import DataError
from posttrain.types import Conversation, Document, Prompt, Record, Sample

NO_ROOM = "an answer without a word of its own before max_length"
TOGETHER = 256  # records rendered in one call; an encoding takes about a hundred bytes a token while it lives


@dataclass(frozen=True)
class Settings:
    """What decides how a row becomes samples. `truncation`: a conversation over `max_length` tokens keeps its start
    ('keep_start') or is left out ('drop'); documents are cut into windows. `columns`: which field of a row is what.
    `on_bad_rows`: 'error' stops at a row that cannot be read, 'skip' counts and lists it. `kind`: 'text' samples are
    what an assistant should say; 'pairs' are trees of answers that were compared, 'ratings' of one answer with its
    score."""

    max_length: int
    prompt_weight: float = 0.0
    train_on: str = "all"
    truncation: str = "keep_start"
    columns: Mapping[str, str] | None = None
    on_bad_rows: str = "error"
    kind: str = "text"


def shard_of_block(block: Block, tokenizer: Any, settings: Settings) -> Shard:
    """Raises DataError at the first row that cannot be read or rendered, unless such rows are to be skipped."""
    notes = Notes()
    found: list[tuple[int, Record]] = []
    places = zip(block.rows, block.file_R, block.line_R, strict=True)
    for row, (raw, file, line) in enumerate(places):
        try:
            parsed = parse_row(raw, file=block.files[file], line=line, columns=settings.columns)
        except DataError as error:
            _skip(row, error, notes, settings)
            continue
        notes.layouts[parsed.layout] += 1
        if parsed.left_out:
            notes.left_out[f"{parsed.layout}: {parsed.left_out}"] += 1
        found += [(row, record) for record in parsed.records]
    return shard_of_records(found, len(block.rows), tokenizer, settings, notes)


def shard_of_records(
    found: Sequence[tuple[int, Record]], num_rows: int, tokenizer: Any, settings: Settings, notes: Notes
) -> Shard:
    """Records with the row of each, to samples; `notes` takes down what is left out on the way."""
    records = [0] * num_rows
    for row, _ in found:
        records[row] += 1
    builder = ShardBuilder()
    make = _texts if settings.kind == "text" else _judged
    for kept in make(found, tokenizer, settings, notes):
        if kept:
            builder.add(*zip(*kept, strict=True))
    return builder.build(records, notes)


Kept = tuple[Sample, int, int, bool, bool]  # a sample, its row, the group of its prompt, was long, lost its end


def _texts(
    found: Sequence[tuple[int, Record]], tokenizer: Any, settings: Settings, notes: Notes
) -> Iterator[list[Kept]]:
    """What an assistant should say, and documents."""
    items: list[tuple[int, Conversation | Document]] = []
    for row, record in found:
        item, why = for_sft(record)
        if item is None:
            notes.left_out[why] += 1
        else:
            items.append((row, item))
    for start in range(0, len(items), TOGETHER):
        piece = items[start : start + TOGETHER]
        yield [
            (sample, row, group, is_long, lost_stop)
            for (row, item), whole in zip(piece, _render(piece, tokenizer, settings, notes), strict=True)
            if whole is not None
            for group in [group_key(item)]
            for sample, is_long, lost_stop in _fit(whole, isinstance(item, Document), settings, notes)
        ]


def _judged(
    found: Sequence[tuple[int, Record]], tokenizer: Any, settings: Settings, notes: Notes
) -> Iterator[list[Kept]]:
    """Answers that were compared or rated, as trees."""
    items: list[tuple[int, Choice]] = []
    read = for_pairs if settings.kind == "pairs" else for_ratings
    for row, run in groupby(found, key=lambda pair: pair[0]):
        for choice, why in read([record for _, record in run]):
            if choice is None:
                notes.left_out[why] += 1
            else:
                items.append((row, choice))
    for start in range(0, len(items), TOGETHER):
        piece = items[start : start + TOGETHER]
        rendered = render_choices(
            [choice for _, choice in piece],
            tokenizer,
            max_length=settings.max_length,
            truncation=settings.truncation,
        )
        kept: list[Kept] = []
        for (row, choice), outcome in zip(piece, rendered, strict=True):
            if isinstance(outcome, DataError):
                _skip(row, outcome, notes, settings)
            elif outcome is None:
                notes.num_long += 1
                dropped = f"over max_length ({settings.max_length} tokens)"
                notes.left_out[dropped if settings.truncation == "drop" else NO_ROOM] += 1
            else:
                sample, is_long, lost_stop = outcome
                notes.num_long += is_long
                notes.num_lost += lost_stop
                kept.append((sample, row, group_key(Prompt(choice.prompt)), is_long, lost_stop))
        yield kept


def _render(
    items: Sequence[tuple[int, Conversation | Document]], tokenizer: Any, settings: Settings, notes: Notes
) -> Iterator[Sample | None]:
    """A sample for each item in order; None where it cannot be rendered and is skipped."""
    conversations = [item for _, item in items if isinstance(item, Conversation)]
    rendered = iter(
        render_many(conversations, tokenizer, prompt_weight=settings.prompt_weight, train_on=settings.train_on)
        if conversations
        else []
    )
    for row, item in items:
        try:
            sample = next(rendered) if isinstance(item, Conversation) else render_document(item, tokenizer)
            if isinstance(sample, DataError):
                raise sample
            yield sample
        except DataError as error:
            _skip(row, error, notes, settings)
            yield None


def _fit(whole: Sample, is_document: bool, settings: Settings, notes: Notes) -> Iterator[tuple[Sample, bool, bool]]:
    """What is kept of a sample, whether it was cut, and whether the cut took the end of an answer."""
    is_long, lost_stop = (False, False) if is_document else _cut(whole, settings)
    notes.num_long += is_long
    if is_long and settings.truncation == "drop":
        notes.left_out[f"over max_length ({settings.max_length} tokens)"] += 1
        return
    if whole.num_tokens <= settings.max_length:
        kept = [whole] if any(any(segment.weights) for segment in whole.segments) else []
    else:
        kept = (chunk if is_document else fit)(whole, settings.max_length)
    if not kept:
        why = "a single token, which nothing predicts" if is_document else "no trained token before max_length"
        notes.left_out[why] += 1
        return
    notes.num_lost += lost_stop
    for sample in kept:
        yield sample, is_long, lost_stop


def _cut(whole: Sample, settings: Settings) -> tuple[bool, bool]:
    """Whether some path of a sample is over the longest length, and whether the cut goes through an answer, whose end
    is then never trained."""
    if whole.num_tokens <= settings.max_length:
        return False, False
    ends: list[int] = []
    is_long = lost_stop = False
    for segment in whole.segments:
        start = 0 if segment.parent < 0 else ends[segment.parent]
        ends.append(start + len(segment.token_ids))
        is_long = is_long or ends[-1] > settings.max_length
        if start < settings.max_length < ends[-1]:
            last, following = segment.weights[settings.max_length - start - 1 :][:2]
            lost_stop = lost_stop or (last != 0 and last == following and last != settings.prompt_weight)
    return is_long, lost_stop


def _skip(row: int, error: DataError, notes: Notes, settings: Settings) -> None:
    if settings.on_bad_rows != "skip":
        raise error
    # A shard is found again wherever its rows are read, so the place of the row is left to the reader.
    place = error.file if error.line is None else f"{error.file}, line {error.line}"
    notes.skip(row, str(error).removeprefix(place) if place else f": {error}")
