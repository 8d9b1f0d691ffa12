"""Entries of `dataset:` side by side, and who gives how much to an epoch."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from posttrain.data.mixture import Part, describe
from posttrain.data.store import TokenStore
from posttrain.data.stream import Stream
from posttrain.recipes.dataset_reading import Loaded
from posttrain.train import distributed
from posttrain.types import Batch, Conversation, Sample


@dataclass(frozen=True)
class Pool:
    """Entries joined to one index space; `starts[i]` is where entry i begins."""

    loaded: list[Loaded]
    store: TokenStore
    starts: list[int]

    @staticmethod
    def of(loaded: Sequence[Loaded]) -> "Pool":
        stores = [each.prepared.store for each in loaded]
        starts = np.cumsum([0, *(len(store) for store in stores)]).tolist()
        return Pool(list(loaded), TokenStore.join(stores), starts)

    def conversations(self, indices: np.ndarray, count: int) -> list[Conversation]:
        """The conversations behind the first of these samples, at most `count`."""
        found: list[Conversation] = []
        for index in indices[: 4 * count].tolist():
            number = int(np.searchsorted(self.starts, index, side="right")) - 1
            chat = self.loaded[number].conversation(index - self.starts[number])
            found += [] if chat is None or len(found) >= count else [chat]
        return found

    def spans(self) -> list[tuple[tuple[int, int], Loaded]]:
        """Every entry with the first index that is its own and the first that is not."""
        return [((a, b), each) for a, b, each in zip(self.starts, self.starts[1:], self.loaded, strict=False)]


def mixture_parts(config: Any, pool: Pool, kept: np.ndarray, replay: Pool) -> list[Part] | None:
    """Who gives how much; None where every sample comes once an epoch. Indices are of the joined training store."""
    entries = config.dataset
    plain = config.mixing_temperature == 1 and config.mixing_cap is None and not config.replay
    if plain and all(entry.weight is None and entry.epochs is None for entry in entries):
        return None
    parts = []
    for (start, stop), each in pool.spans():
        indices = np.flatnonzero((kept >= start) & (kept < stop))
        entry, cap = each.entry, config.mixing_cap
        parts.append(Part(indices, weight=entry.weight, epochs=entry.epochs, cap=cap, name=entry.path))
    for (start, stop), each in replay.spans():
        share = config.replay_ratio / len(replay.loaded)
        name = f"{each.entry.path} (replay)"
        parts.append(Part(np.arange(start, stop) + len(kept), replay=share, name=name))
    return parts


def open_stream(
    config: Any,
    samples: Sequence[Sample],
    parts: list[Part] | None,
    say: Callable[[str], None],
    *,
    may_exceed: bool = False,
    collate: Callable[[list[int]], Batch] | None = None,
) -> Stream:
    """The training steps over these samples; says what an epoch of a mixture holds. `may_exceed`, `collate`: those of
    `Stream`."""
    stream = Stream(
        samples,
        max_length=config.max_length,
        batch_size=config.per_device_train_batch_size,
        accumulation=config.gradient_accumulation_steps * distributed.world(),
        packing=config.packing,
        seed=config.seed,
        parts=parts,
        temperature=config.mixing_temperature,
        may_exceed=may_exceed,
        collate=collate,
        deal=distributed.share,
    )
    for line in describe(stream.mixture()) if parts is not None else ():
        say(line)
    return stream
