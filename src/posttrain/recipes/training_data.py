"""From the data keys of a recipe to rendered samples, saying aloud what was read and what was left out."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from posttrain.data.batch import pack
from posttrain.data.packing import plan_rows
from posttrain.data.sources import Record, read
from posttrain.data.branches import fit
from posttrain.data.template import render, render_document
from posttrain.errors import DataError
from posttrain.pocket.chat import chat_conversations, eval_conversations
from posttrain.pocket.world import build_world
from posttrain.types import Batch, Conversation, Sample


@dataclass(frozen=True)
class TrainingData:
    """Samples to train, packed batches to hold out, conversations to show, and what was read (for run.json)."""

    train: list[Sample]
    held_out: list[Batch]
    preview: list[Conversation]
    inputs: list[dict[str, Any]]


def load_records(names: str | Sequence[str], say: Callable[[str], None]) -> tuple[list[Record], list[dict[str, Any]]]:
    """Records of every named file, folder or glob, and a line for each in run.json."""
    records: list[Record] = []
    inputs: list[dict[str, Any]] = []
    for name in [names] if isinstance(names, str) else names:
        if name == "pocket" and not Path(name).exists():
            found = chat_conversations(build_world())
            say(f"read {len(found):,} conversations of the pocket world")
            records += found
            inputs.append({"path": "pocket", "records": len(found)})
            continue
        for source in read(name):
            layouts = ", ".join(f"{count:,} {layout}" for layout, count in source.layouts.items())
            left = "".join(f"; left out {count:,}: {why}" for why, count in source.left_out.items())
            say(f"read {source.path}: {layouts} records{left}")
            records += source.records
            inputs.append({"path": source.path, "sha256": source.sha256, "records": len(source.records)})
    return records, inputs


def load_data(config: Any, tokenizer: Any, say: Callable[[str], None]) -> TrainingData:
    """Everything a training verb needs to know of its data. Raises DataError where nothing is left to train."""
    records, inputs = load_records(config.dataset, say)
    random.Random(config.seed).shuffle(records)
    records = records[: config.max_samples]
    held: list[Record] = []
    if config.eval_dataset == "pocket":
        held = list(eval_conversations(build_world()))
    elif config.eval_dataset:
        held, more = load_records(config.eval_dataset, say)
        inputs += more
    elif config.eval_split:
        count = max(1, round(len(records) * config.eval_split))
        held, records = records[:count], records[count:]
    preview = [record for record in held or records if isinstance(record, Conversation)]
    return TrainingData(
        _samples(records, config, tokenizer, say, "to train"),
        _rows(_samples(held, config, tokenizer, say, "held out"), config.max_length) if held else [],
        preview[: config.num_preview_samples],
        inputs,
    )


def _rows(samples: list[Sample], max_length: int) -> list[Batch]:
    rows = plan_rows([sample.num_tokens for sample in samples], max_length, seed=0)
    return [pack([samples[i] for i in row]) for row in rows]


def _samples(
    records: Sequence[Record], config: Any, tokenizer: Any, say: Callable[[str], None], what: str
) -> list[Sample]:
    samples: list[Sample] = []
    long = lost = 0
    for record in records:
        if isinstance(record, Conversation):
            whole = render(record, tokenizer, prompt_weight=config.prompt_loss_weight, train_on=config.train_on)
        else:
            whole = render_document(record, tokenizer)
        is_long = whole.num_tokens > config.max_length
        kept = [] if is_long and config.truncation == "drop" else fit(whole, config.max_length)
        long += is_long
        lost += not kept
        samples += kept
    if not samples:
        raise DataError(
            f"nothing is left {what}: of {len(records):,} records {long:,} are over max_length ({config.max_length} "
            "tokens) and no trained token of any fits; raise max_length or shorten the prompts.",
            field="dataset",
        )
    tokens, trained = sum(s.num_tokens for s in samples), sum(s.num_trained for s in samples)
    cut = f"; {long:,} were over {config.max_length} tokens and cut, {lost:,} of them left out" if long else ""
    say(f"{len(samples):,} samples {what}: {tokens:,} tokens, {trained:,} of them trained{cut}")
    return samples
