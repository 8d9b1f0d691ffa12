"""Answers behind prompts that they do not belong to: what KTO measures its baseline on."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from posttrain.data.branches import limit_paths
from posttrain.data.made import MadeSamples
from posttrain.data.store import TokenStore
from posttrain.errors import DataError
from posttrain.types import Sample


class Mismatched(MadeSamples):
    """Sample i is the prompt of sample i of a store with the answer of another prompt's, cut at `max_length` tokens.
    Each answer is used once, in a seeded order (Ethayarajh et al., 2024, section 4.1)."""

    def __init__(self, store: TokenStore, *, max_length: int, seed: int = 0) -> None:
        self.store, self.max_length = store, max_length
        self.partner_S = _partners(store.group_S, seed)
        # Answers hold all trained tokens but may hold others too, so cut ones are counted one by one.
        sizes = [self._sizes(index) for index in range(len(store))]
        self.length_S, self.trained_S = (np.array(column, np.int64) for column in zip(*sizes, strict=True))

    def content(self) -> Iterator[bytes]:
        """What tells these samples from others."""
        store = self.store
        yield f"mismatched {self.max_length}".encode()
        yield from (array.tobytes() for array in (store.digest_S, store.length_S, store.trained_S, self.partner_S))

    def _sizes(self, index: int) -> tuple[int, int]:
        sample = self[index]
        return sample.num_tokens, sample.num_trained

    def __len__(self) -> int:
        return len(self.store)

    def make(self, index: int) -> Sample:
        """Sample number `index`."""
        own, other = self.store[index], self.store[int(self.partner_S[index])]
        mixed = replace(own, segments=(own.segments[0], other.segments[1]))
        if mixed.num_tokens <= self.max_length:
            return mixed
        cut = limit_paths(mixed, self.max_length)
        assert cut is not None, "a prompt leaves room for the first token of an answer"
        return replace(cut, scores=own.scores)


def _partners(group_S: np.ndarray, seed: int) -> np.ndarray:
    """For each sample the number of another with another prompt. Every one is somebody's partner once, unless more than
    half of all answers are to one prompt."""
    key_G, group_of_S, count_G = np.unique(group_S, return_inverse=True, return_counts=True)
    if len(key_G) < 2:
        raise DataError("all answers are to one prompt, and KTO's baseline needs those of another; add other prompts.")
    rng = np.random.default_rng(seed)
    # Prompt after prompt in random order: so many places on, there is another prompt.
    order = np.lexsort((rng.random(len(group_S)), rng.random(len(key_G))[group_of_S]))
    partner = np.empty(len(order), np.int64)
    partner[order] = np.roll(order, -int(count_G.max()))
    same = np.flatnonzero(group_S[partner] == group_S)
    if len(same):
        others = np.flatnonzero(group_of_S != count_G.argmax())
        partner[same] = others[np.arange(len(same)) % len(others)]
    return partner
