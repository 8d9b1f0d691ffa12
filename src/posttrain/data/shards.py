"""Samples as a few flat arrays: how they wait for training, in memory or in a file that is mapped."""

import hashlib
import json
import mmap
import os
import platform
import threading
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import chain, repeat
from pathlib import Path
from typing import Any

import numpy as np

from posttrain.types import Pair, Sample, Segment

Array = np.ndarray[Any, Any]

SUFFIX = ".safetensors"
UNFINISHED = ".tmp"
LISTED = 20  # skipped rows of a shard that are kept word by word; the others are counted
OPEN_SHARDS = 128  # mapped at once; each holds a file descriptor, and macOS gives a process 256
DTYPES = {"I32": np.int32, "I64": np.int64, "U64": np.uint64, "F64": np.float64, "BOOL": np.bool_}


@dataclass
class Notes:
    """What was seen on the way from rows to samples. `skipped`: (row, what is wrong), the first of `num_skipped`;
    `num_long`: samples over the longest length, cut or left out; `num_lost`: those that the cut took the end of an
    answer from, with the token that ends it."""

    layouts: Counter[str] = field(default_factory=Counter)
    left_out: Counter[str] = field(default_factory=Counter)
    skipped: list[tuple[int, str]] = field(default_factory=list)
    num_skipped: int = 0
    num_long: int = 0
    num_lost: int = 0

    def skip(self, row: int, why: str) -> None:
        """Count a row that cannot be read, and list it while there is room."""
        self.num_skipped += 1
        if len(self.skipped) < LISTED:
            self.skipped.append((row, why))


@dataclass(frozen=True)
class Shard:
    """The samples of one block of rows.

    `token_ids`: all tokens in order, int32. `tokens_at`, `runs_at`: where each segment's tokens and runs begin, with
    the end behind the last. `parents`: of each segment, counted from the sample's first. `segments_at`: where each
    sample's segments begin. Weights are runs: `run_length` tokens of `run_weight`, since they change only where
    somebody else speaks. Of each sample `row` in the block, `group` of its prompt, `digest` of its token ids, whether
    it `was_long` and was cut, and whether the cut `lost_stop`, the end of an answer. `records`: how many each row gave.
    Of preference data, `pairs_at` and `scores_at`: where each sample's pairs and scores begin; the rest as in Pair.
    """

    token_ids: Array
    tokens_at: Array
    runs_at: Array
    parents: Array
    segments_at: Array
    run_weight: Array
    run_length: Array
    row: Array
    group: Array
    digest: Array
    was_long: Array
    lost_stop: Array
    pairs_at: Array
    pair_better: Array
    pair_worse: Array
    pair_label: Array
    pair_margin: Array
    pair_weight: Array
    scores_at: Array
    score: Array
    records: Array
    notes: Notes

    def __len__(self) -> int:
        return len(self.row)

    @property
    def length_S(self) -> Array:
        """Tokens of each sample, int32."""
        return np.diff(self.tokens_at[self.segments_at]).astype(np.int32)

    @property
    def trained_S(self) -> Array:
        """Tokens of each sample with a weight other than 0, int32."""
        trained = np.concatenate(([0], np.cumsum(self.run_length * (self.run_weight != 0), dtype=np.int64)))
        return np.diff(trained[self.runs_at[self.segments_at]]).astype(np.int32)

    def sample(self, index: int, source: str) -> Sample:
        """One sample as a record, exactly as it was added."""
        first, stop = int(self.segments_at[index]), int(self.segments_at[index + 1])
        segments = tuple(self._segment(segment) for segment in range(first, stop))
        pairs = slice(int(self.pairs_at[index]), int(self.pairs_at[index + 1]))
        scores = self.score[int(self.scores_at[index]) : int(self.scores_at[index + 1])]
        columns = [getattr(self, f"pair_{name}")[pairs].tolist() for name in PAIR]
        return Sample(segments, source, tuple(map(Pair, *columns)), tuple(scores.tolist()))

    def _segment(self, segment: int) -> Segment:
        start, stop = int(self.tokens_at[segment]), int(self.tokens_at[segment + 1])
        runs = slice(int(self.runs_at[segment]), int(self.runs_at[segment + 1]))
        pairs = zip(self.run_weight[runs].tolist(), self.run_length[runs].tolist(), strict=True)
        weights = tuple(chain.from_iterable(repeat(weight, length) for weight, length in pairs))
        return Segment(tuple(self.token_ids[start:stop].tolist()), weights, int(self.parents[segment]))


class ShardBuilder:
    """Samples in, a Shard out. Each call of `add` turns its samples into arrays, so that few records live at once."""

    def __init__(self) -> None:
        self._columns: dict[str, list[Array]] = {name: [np.empty(0, dtype)] for name, dtype in COLUMNS.items()}

    def add(
        self,
        samples: Sequence[Sample],
        rows: Iterable[int],
        groups: Iterable[int],
        was_long: Iterable[bool],
        lost_stop: Iterable[bool],
    ) -> None:
        """Samples in order, and of each the row it came from, the group of its prompt, and what was cut."""
        segments = [segment for sample in samples for segment in sample.segments]
        lengths = np.fromiter((len(segment.token_ids) for segment in segments), np.int64, len(segments))
        ends = np.cumsum(lengths)
        total = int(lengths.sum())
        token_ids = np.fromiter(chain.from_iterable(segment.token_ids for segment in segments), np.int32, total)
        weights = np.fromiter(chain.from_iterable(segment.weights for segment in segments), np.float64, total)
        begins = np.ones(total, np.bool_)  # of a run; every segment begins one
        begins[1:] = weights[1:] != weights[:-1]
        begins[ends - lengths] = True
        starts = np.flatnonzero(begins)
        sizes = np.fromiter((len(sample.segments) for sample in samples), np.int64, len(samples))
        found = {
            "token_ids": token_ids,
            "segment_tokens": lengths,
            "segment_runs": np.diff(np.searchsorted(starts, ends), prepend=0),
            "parents": [segment.parent for segment in segments],
            "sample_segments": sizes,
            "run_weight": weights[starts],
            "run_length": np.diff(starts, append=total),
            "row": list(rows),
            "group": list(groups),
            "digest": _digests(token_ids, lengths, sizes),
            "was_long": list(was_long),
            "lost_stop": list(lost_stop),
            "sample_pairs": [len(sample.pairs) for sample in samples],
            "sample_scores": [len(sample.scores) for sample in samples],
            "score": [score for sample in samples for score in sample.scores],
        }
        pairs = [pair for sample in samples for pair in sample.pairs]
        found |= {f"pair_{name}": [getattr(pair, name) for pair in pairs] for name in PAIR}
        for name, values in found.items():
            self._columns[name].append(np.asarray(values, COLUMNS[name]))

    def build(self, records: Sequence[int], notes: Notes) -> Shard:
        """Everything that was added; `records` says how many records each row of the block gave."""
        columns = {name: np.concatenate(parts) for name, parts in self._columns.items()}
        return Shard(
            tokens_at=_offsets(columns.pop("segment_tokens")),
            runs_at=_offsets(columns.pop("segment_runs")),
            segments_at=_offsets(columns.pop("sample_segments")),
            pairs_at=_offsets(columns.pop("sample_pairs")),
            scores_at=_offsets(columns.pop("sample_scores")),
            records=np.asarray(records, np.int32),
            notes=notes,
            **columns,
        )


COLUMNS = {
    "token_ids": np.int32,
    "segment_tokens": np.int64,
    "segment_runs": np.int64,
    "parents": np.int32,
    "sample_segments": np.int64,
    "run_weight": np.float64,
    "run_length": np.int32,
    "row": np.int32,
    "group": np.uint64,
    "digest": np.uint64,
    "was_long": np.bool_,
    "lost_stop": np.bool_,
    "sample_pairs": np.int64,
    "pair_better": np.int32,
    "pair_worse": np.int32,
    "pair_label": np.float64,
    "pair_margin": np.float64,
    "pair_weight": np.float64,
    "sample_scores": np.int64,
    "score": np.float64,
}
PAIR = ("better", "worse", "label", "margin", "weight")


def _offsets(sizes: Array) -> Array:
    return np.concatenate((np.zeros(1, np.int64), np.cumsum(sizes, dtype=np.int64)))


def _digests(token_ids: Array, lengths: Array, sizes: Array) -> Array:
    """64 bits of each sample's token ids; of a tree also of where its segments part."""
    digests, token, segment = [], 0, 0
    for size in sizes.tolist():
        parts = lengths[segment : segment + size]
        stop = token + int(parts.sum())
        digest = hashlib.blake2b(token_ids[token:stop].data, digest_size=8)
        if size > 1:
            digest.update(parts.tobytes())
        digests.append(digest.digest())
        token, segment = stop, segment + size
    return np.frombuffer(b"".join(digests), np.uint64)


def save_shard(shard: Shard, path: Path) -> None:
    """Write a shard so that it stands whole or not at all, whoever else writes it at the same time."""
    from safetensors.numpy import save_file

    arrays = {name: value for name, value in vars(shard).items() if name != "notes"}
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = f"{platform.node()}.{os.getpid()}-{threading.get_ident()}"
    unfinished = path.with_name(f"{path.stem}.{writer}{UNFINISHED}")
    try:
        save_file(arrays, unfinished, metadata={"notes": json.dumps(vars(shard.notes))})
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


@lru_cache(maxsize=OPEN_SHARDS)
def open_shard(path: Path) -> Shard:
    """A saved shard, mapped and read-only."""
    with path.open("rb") as file:
        data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:start])
    notes = json.loads(header.pop("__metadata__")["notes"])
    arrays = {
        name: np.ndarray(at["shape"], DTYPES[at["dtype"]], data, start + at["data_offsets"][0])
        for name, at in header.items()
    }
    notes |= {name: Counter(notes[name]) for name in ("layouts", "left_out")}
    notes["skipped"] = [(row, why) for row, why in notes["skipped"]]
    return Shard(**arrays, notes=Notes(**notes))


def is_whole(path: Path) -> bool:
    """Whether a shard stands there that can be opened; a full disk or a lost machine may have left part of one."""
    try:
        return path.exists() and len(open_shard(path)) >= 0
    except (OSError, ValueError, KeyError, TypeError):
        return False
