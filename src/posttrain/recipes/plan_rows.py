"""What a recipe's batches hold: read from its data where that is at hand, else full rows."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from posttrain.errors import PosttrainError
from posttrain.planning.job import Micro
from posttrain.recipes.plan_config import NOTHING
from posttrain.recipes.plan_shape import tokenizer_place

LOOKED_AT = 24  # steps whose batches are packed to be counted


@dataclass(frozen=True)
class Batches:
    """The largest micro-batch and the usual one, how many a step has, the steps of the recipe (None: not known), and
    positions of the whole data."""

    most: Micro
    mean: Micro
    micros: float
    steps: int | None
    tokens: float | None = None


def read_batches(config: Any, context: int, say: Callable[[str], None]) -> Batches:
    """The batches of a recipe that learns from data."""
    length = min(config.max_length, context)
    found = _from_data(config, length, say)
    if found is not None:
        return found
    say(f"rows are taken to be full: {length} positions each, all of them trained")
    answers = 2.0 * config.per_device_train_batch_size
    full = Micro.rows(length, config.per_device_train_batch_size)
    full = Micro(full.positions, full.trained, full.pairs, full.span, answers)
    steps = config.max_steps if config.max_steps > 0 else None
    return Batches(full, full, float(config.gradient_accumulation_steps), steps)


def reader_of(config: Any) -> str | None:
    """Where the tokenizer lies that reads the recipe's data; None where data or tokenizer are not on this disk, or are
    not to be read."""
    named = [entry.path for entry in config.dataset]
    here = all(path == "pocket" or Path(path).exists() or any(c in path for c in "*?") for path in named)
    is_readable = config.read_data and named != [NOTHING] and here
    return tokenizer_place(config.model) if is_readable else None


def _from_data(config: Any, length: int, say: Callable[[str], None]) -> Batches | None:
    place = reader_of(config)
    if place is None:
        return None
    from posttrain.data.template import install_template
    from posttrain.models.load import load_tokenizer
    from posttrain.recipes.mixing import open_stream
    from posttrain.recipes.training_data import load_data

    tokenizer = load_tokenizer(place)
    if config.chat_template == "raw":
        tokenizer.chat_template = None
    elif config.chat_template or tokenizer.chat_template is None:
        install_template(tokenizer, config.chat_template or "chatml")
    config = config.model_copy(update={"max_length": length})
    data = load_data(config, tokenizer, say)
    stream = open_stream(config, data.train, data.parts, say, may_exceed=config.stage != "sft")
    steps = config.max_steps if config.max_steps > 0 else stream.num_steps(config.num_train_epochs)
    looked = [stream.step(step) for step in range(min(LOOKED_AT, steps))]
    micros = [_micro(batch) for batches in looked for batch in batches]
    if not micros:
        raise PosttrainError(f"{', '.join(entry.path for entry in config.dataset)}: nothing in it is trained.")
    most = max(micros, key=lambda micro: (micro.positions, micro.trained))
    return Batches(most, _mean(micros), fmean(map(len, looked)), steps, float(data.train.length_S.sum()))


def _micro(batch: Any) -> Micro:
    """What a packed batch holds; a span sees itself up to each position, and its ancestors whole."""
    pairs, squares = 0.0, 0.0
    depths: list[int] = []
    for span in batch.spans:
        size = span.stop - span.start
        before = 0 if span.parent < 0 else depths[span.parent]
        depths.append(before + size)
        pairs += size * (size + 1) / 2 + size * before
        squares += size**2
    answers = 0 if batch.judged is None else len(batch.judged.last_A)
    return Micro(batch.num_tokens, batch.num_trained, pairs, squares / batch.num_tokens, answers)


def _mean(micros: list[Micro]) -> Micro:
    names = ("positions", "trained", "pairs", "span", "answers")
    return Micro(*(fmean(getattr(micro, name) for micro in micros) for name in names))
