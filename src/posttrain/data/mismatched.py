"""Answers behind prompts that they do not belong to: what KTO measures its baseline on."""

from collections.abc import Sequence
from dataclasses import replace
from typing import overload

import numpy as np

from posttrain.data.branches import limit_paths
from posttrain.data.store import TokenStore
from posttrain.errors import DataError
from posttrain.types import Sample


class Mismatched(Sequence[Sample]):
    """Sample i is the prompt of sample i of a store with the answer of another prompt's, cut at `max_length` tokens.
    Each answer is used once, in a seeded order (Ethayarajh et al., 2024, section 4.1)."""

    def __init__(self, store: TokenStore, *, max_length: int, seed: int = 0) -> None:
        self.store, self.max_length = store, max_length
        self.partner_S = _partners(store.group_S, seed)

    def __len__(self) -> int:
        return len(self.store)

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Sample]: ...
    def __getitem__(self, index: int | slice) -> Sample | Sequence[Sample]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        own, other = self.store[index], self.store[int(self.partner_S[index])]
        mixed = replace(own, segments=(own.segments[0], other.segments[1]))
        if mixed.num_tokens <= self.max_length:
            return mixed
        cut = limit_paths(mixed, self.max_length)
        assert cut is not None, "a prompt leaves room for the first token of an answer"
        return replace(cut, scores=own.scores)


def _partners(group_S: np.ndarray, seed: int) -> np.ndarray:
    """For each sample the number of another with another prompt; nearly a permutation."""
    order = np.random.default_rng(seed).permutation(len(group_S))
    partner = np.empty(len(order), np.int64)
    partner[order] = np.roll(order, -1)
    for shift in range(2, len(order) + 1):
        same = order[group_S[partner[order]] == group_S[order]]
        if not len(same):
            return partner
        if shift == len(order):
            break
        place = np.empty(len(order), np.int64)
        place[order] = np.arange(len(order))
        partner[same] = order[(place[same] + shift) % len(order)]
    raise DataError("all answers are to one prompt, and KTO's baseline needs those of another; add other prompts.")
