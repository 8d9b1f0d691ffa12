"""From the data keys of a recipe to what a training loop takes: one store of samples, the mixture, held-out rows."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from posttrain.data.batch import pack
from posttrain.data.mixture import Part
from posttrain.data.packing import plan_rows
from posttrain.data.split import split_groups
from posttrain.data.store import TokenStore
from posttrain.errors import DataError
from posttrain.recipes.data_guard import guard
from posttrain.recipes.dataset_reading import Loaded, load_entry
from posttrain.recipes.mixing import Pool, mixture_parts
from posttrain.types import Batch, Conversation, Sample


@dataclass(frozen=True)
class TrainingData:
    """Samples to train and how they are mixed (None: each once an epoch), samples to hold out, conversations to show,
    and what was read (for run.json)."""

    train: TokenStore
    parts: list[Part] | None
    held_out: TokenStore
    preview: list[Conversation]
    inputs: list[dict[str, Any]]


def load_data(config: Any, tokenizer: Any, say: Callable[[str], None]) -> TrainingData:
    """Everything a training verb needs to know of its data. Raises DataError where it is not fit to be trained on."""
    pool = Pool.of([load_entry(entry, config, tokenizer, say) for entry in config.dataset])
    _require_samples(pool, config, "to train")
    rng = np.random.default_rng(config.seed)
    kept = np.concatenate([_some(rng, *span, each.entry.max_samples) for span, each in pool.spans()])
    kept = kept[_some(rng, 0, len(kept), config.max_samples)]
    held_pool = Pool.of([load_entry(entry, config, tokenizer, say, held_out=True) for entry in config.eval_dataset])
    if config.eval_dataset:
        _require_samples(held_pool, config, "held out")
        held = np.concatenate([_some(rng, *span, each.entry.max_samples) for span, each in held_pool.spans()])
    elif config.eval_split:
        inner, outer = split_groups(pool.store.group_S[kept], config.eval_split, seed=config.seed)
        held_pool, held, kept = pool, kept[outer], kept[inner]
    else:
        held = np.arange(0)
    held_store = held_pool.store.select(held)
    train = pool.store.select(kept)
    for store, what in ((train, "to train"), (held_store, "held out")):
        if len(store):
            tokens, trained = store.length_S.sum(), store.trained_S.sum()
            say(f"{len(store):,} samples {what}: {tokens:,} tokens, {trained:,} of them trained")
    reasons = [reason for each in pool.loaded for reason in each.prepared.left_out.items()]
    guard(
        train,
        tokenizer,
        mode=config.data_checks,
        say=say,
        held_out=held_store if len(held_store) else None,
        num_too_long=sum(count for why, count in reasons if "before max_length" in why),
        prompt_weight=config.rendering().get("prompt_weight", 0.0),
        seed=config.seed,
    )
    replay = Pool.of([load_entry(entry, config, tokenizer, say) for entry in config.replay])
    shown = (held_pool, held) if len(held) else (pool, kept)
    return TrainingData(
        TokenStore.join([train, replay.store]) if config.replay else train,
        mixture_parts(config, pool, kept, replay),
        held_store,
        shown[0].conversations(rng.permutation(shown[1]), config.num_preview_samples),
        [one for each in (*pool.loaded, *_others(held_pool, pool), *replay.loaded) for one in each.prepared.inputs],
    )


def _others(held_pool: Pool, pool: Pool) -> list[Loaded]:
    return [] if held_pool is pool else held_pool.loaded


def _some(rng: np.random.Generator, start: int, stop: int, count: int | None) -> np.ndarray:
    """`count` of the numbers from start to stop, at random but rising; all of them where it is None."""
    if count is None or count >= stop - start:
        return np.arange(start, stop)
    return np.sort(rng.permutation(stop - start)[:count]) + start


def _require_samples(pool: Pool, config: Any, what: str) -> None:
    if len(pool.store):
        return
    left = [(count, why) for each in pool.loaded for why, count in each.prepared.left_out.items()]
    mend = (
        f"raise max_length ({config.max_length} tokens) or shorten the prompts"
        if any("max_length" in why for _, why in left)
        else config.mend
    )
    raise DataError(
        f"nothing is left {what}: {'; '.join(f'{count:,} rows: {why}' for count, why in left)}; {mend}.",
        file=", ".join(each.entry.path for each in pool.loaded),
    )


def held_batches(
    samples: Sequence[Sample],
    length_S: np.ndarray,
    row_length: int,
    collate: Callable[[list[int]], Batch] | None = None,
) -> list[Batch]:
    """Held-out samples in packed rows, those over `row_length` in rows of their own. `collate` makes a batch of the
    samples of these numbers, `pack` where it is left out."""
    rows = plan_rows(np.minimum(length_S, row_length).tolist(), row_length, seed=0) if len(length_S) else []
    return [collate(row) if collate else pack([samples[i] for i in row]) for row in rows]
