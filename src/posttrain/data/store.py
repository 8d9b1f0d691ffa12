"""Samples ready for training, as one sequence over shards in memory and on disk, of one data set or of several."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import overload

import numpy as np

from posttrain.data.shards import Array, Shard, open_shard
from posttrain.errors import DataError
from posttrain.types import Sample


@dataclass(frozen=True)
class Facts:
    """What is known of each sample without reading its tokens; 46 bytes a sample, which are kept in memory.

    `shard_S`, `at_S`: which shard, and which of its samples. `file_S`, `line_S`: the place in the data, line 0 where
    the name of the file says it all. The others are the store's own arrays.
    """

    shard_S: Array  # int32
    at_S: Array  # int32
    file_S: Array  # int32
    line_S: Array  # int64
    length_S: Array  # int32
    trained_S: Array  # int32
    group_S: Array  # uint64
    digest_S: Array  # uint64
    long_S: Array  # bool
    lost_S: Array  # bool

    def __getitem__(self, index: Array | slice) -> "Facts":
        return Facts(*(getattr(self, name)[index] for name in NAMES))


NAMES = tuple(field.name for field in fields(Facts))
DTYPES = (np.int32, np.int32, np.int32, np.int64, np.int32, np.int32, np.uint64, np.uint64, np.bool_, np.bool_)


def join_facts(parts: Sequence[Facts]) -> Facts:
    """One after another."""
    if not parts:
        return Facts(*(np.empty(0, dtype) for dtype in DTYPES))
    return Facts(*(np.concatenate([getattr(part, name) for part in parts]) for name in NAMES))


class TokenStore(Sequence[Sample]):
    """Samples by number, made when they are asked for, and facts about all of them as arrays:

    `length_S`: tokens. `trained_S`: those with a weight other than 0. `group_S`: equal where the prompts are.
    `digest_S`: of the token ids, equal for exact duplicates. `long_S`: was over the longest length and cut. `lost_S`:
    the cut took the end of an answer, with the token that ends it.

    A shard is in memory, or a file that is mapped while it is in use.
    """

    def __init__(self, shards: Sequence[Shard | Path], files: Sequence[str], facts: Facts) -> None:
        self._shards, self._files, self._facts = tuple(shards), tuple(files), facts
        self.length_S, self.trained_S = facts.length_S, facts.trained_S
        self.group_S, self.digest_S = facts.group_S, facts.digest_S
        self.long_S, self.lost_S = facts.long_S, facts.lost_S

    def __len__(self) -> int:
        return len(self.length_S)

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> "TokenStore": ...
    def __getitem__(self, index: int | slice) -> "Sample | TokenStore":
        if isinstance(index, slice):
            return TokenStore(self._shards, self._files, self._facts[index])
        return self._shard(int(self._facts.shard_S[index])).sample(int(self._facts.at_S[index]), self.source(index))

    def __iter__(self) -> Iterator[Sample]:
        return (self[index] for index in range(len(self)))

    def source(self, index: int) -> str:
        """Where a sample came from: "file:line"."""
        file, line = self._files[self._facts.file_S[index]], self._facts.line_S[index]
        return f"{file}:{line}" if line else file

    def select(self, indices: Array | Sequence[int]) -> "TokenStore":
        """The samples of these numbers in this order, one as often as it is named. Nothing is copied but facts."""
        return TokenStore(self._shards, self._files, self._facts[np.asarray(indices, np.int64)])

    def _shard(self, number: int) -> Shard:
        shard = self._shards[number]
        if not isinstance(shard, Path):
            return shard
        try:
            return open_shard(shard)
        except FileNotFoundError:
            raise DataError(
                "this part of the prepared data was deleted while it was in use; start again, and it is prepared anew.",
                file=str(shard),
            ) from None

    @staticmethod
    def join(stores: Sequence["TokenStore"]) -> "TokenStore":
        """Several stores as one sequence: sample i of the second is number len(first) + i."""
        shards: list[Shard | Path] = []
        files: list[str] = []
        parts: list[Facts] = []
        for store in stores:
            shard_S = store._facts.shard_S + np.int32(len(shards))
            file_S = store._facts.file_S + np.int32(len(files))
            parts.append(replace(store._facts, shard_S=shard_S, file_S=file_S))
            shards += store._shards
            files += store._files
        return TokenStore(shards, files, join_facts(parts))
