"""Data to training samples: a small data set in memory, a large one by worker processes into shards that are kept and
found again, so that the same rows are never tokenised twice."""

import os
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from posttrain.data.blocks import Block, Rows, cut_blocks
from posttrain.data.cache import cache_folder, open_cache
from posttrain.data.rendering import Settings, shard_of_block, shard_of_records
from posttrain.data.shards import LISTED, SUFFIX, Array, Notes, Shard, is_whole, open_shard
from posttrain.data.store import Facts, TokenStore, join_facts
from posttrain.data.workers import Workers
from posttrain.errors import DataError
from posttrain.types import Record

SMALL_ROWS, SMALL_BYTES = 5_000, 8 * 2**20  # done in this process about as soon as by two workers, which must start
NEWS_S = 10.0  # between two words on how far it is


@dataclass(frozen=True)
class Prepared:
    """Samples, and what became of the data on the way.

    `layouts`: rows of each. `left_out`: records that give no sample, by reason. `skipped`: the first of `num_skipped`
    rows that cannot be read, each with its place. `num_long`: samples over the longest length, cut or left out;
    `num_lost`: those that lost the end of an answer by it. `inputs`: path, sha256, rows, records and samples of every
    file. `num_made`, `num_found`: shards that were made now and those that lay in the cache; 0 for data in memory.
    """

    store: TokenStore
    layouts: dict[str, int]
    left_out: dict[str, int]
    skipped: tuple[str, ...]
    num_skipped: int
    num_long: int
    num_lost: int
    inputs: list[dict[str, Any]]
    num_made: int = 0
    num_found: int = 0


# A shard, and the file and line of each row of its block.
Part = tuple[Shard | Path, Array, Array]


def prepare(
    data: str | Path | Rows | Sequence[str | Path | Rows],
    tokenizer: Any,
    *,
    max_length: int,
    prompt_weight: float = 0.0,
    train_on: str = "all",
    truncation: str = "keep_start",
    columns: Mapping[str, str] | None = None,
    name: str | None = None,
    split: str = "train",
    on_bad_rows: str = "error",
    kind: str = "text",
    num_proc: int | None = None,
    cache_dir: str | Path | None = None,
    say: Callable[[str], None] | None = None,
) -> Prepared:
    """Samples of files, folders, globs, data sets of the hub (`name`, `split`) and Rows, in the order of the data.

    A small data set (up to 5,000 rows and 8 MB) is made here and kept in memory. Of a larger one `num_proc` processes
    (as many as cores; 0: this process) make blocks of 5,000 rows into shards under `cache_dir` (`cache_folder()`). A
    shard is named after the content of its rows and all that decides what becomes of them, and is not made again.
    The other settings are those of `rendering.Settings`.

    Raises DataError for what cannot be read, PosttrainError where a worker dies or the disk takes no more.
    """
    columns = dict(columns) if columns else None
    settings = Settings(max_length, prompt_weight, train_on, truncation, columns, on_bad_rows, kind)
    inputs: list[dict[str, Any]] = []
    given = [data] if isinstance(data, str | Path | Rows) else data
    blocks = cut_blocks(given, inputs, name=name, split=split)
    head, is_small = _head(blocks)
    if is_small:
        return _collect(((shard_of_block(block, tokenizer, settings), *_places(block)) for block in head), inputs)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    folder = open_cache(Path(cache_dir) if cache_dir else cache_folder(), tokenizer, settings)
    progress = _Progress(say or (lambda _: None))
    with Workers(cores if num_proc is None else num_proc, tokenizer, settings) as workers:
        prepared = _collect(_kept(chain(head, blocks), folder, workers, progress), inputs)
    progress.end(folder)
    return replace(prepared, num_made=progress.num_made, num_found=progress.num_found)


def prepare_records(
    records: Sequence[Record],
    tokenizer: Any,
    *,
    max_length: int,
    prompt_weight: float = 0.0,
    train_on: str = "all",
    truncation: str = "keep_start",
    on_bad_rows: str = "error",
    kind: str = "text",
) -> Prepared:
    """Samples of records that are in memory already, in order."""
    settings = Settings(max_length, prompt_weight, train_on, truncation, None, on_bad_rows, kind)
    files: dict[str, int] = {}
    places = [_place(record.source) for record in records]
    file_R = np.array([files.setdefault(file, len(files)) for file, _ in places], np.int32)
    line_R = np.array([line for _, line in places], np.int64)
    shard = shard_of_records(list(enumerate(records)), len(records), tokenizer, settings, Notes())
    inputs = [{"path": file, "rows": int(count)} for file, count in zip(files, np.bincount(file_R), strict=True)]
    return _collect([(shard, file_R, line_R)], inputs)


def _place(source: str) -> tuple[str, int]:
    """File and line of "file:line"; line 0 where there is none."""
    file, _, line = source.rpartition(":")
    return (file, int(line)) if line.isascii() and line.isdigit() and line[0] != "0" else (source, 0)


def _head(blocks: Iterator[Block]) -> tuple[list[Block], bool]:
    """The first blocks, and whether they are all there is and little enough for this process."""
    head: list[Block] = []
    for block in blocks:
        head.append(block)
        if sum(len(b.rows) for b in head) > SMALL_ROWS or sum(b.num_bytes for b in head) > SMALL_BYTES:
            return head, False
    return head, True


def _places(block: Block) -> tuple[Array, Array]:
    return np.array(block.file_R, np.int32) + np.int32(block.first_file), np.array(block.line_R, np.int64)


def _kept(blocks: Iterable[Block], folder: Path, workers: Workers, progress: "_Progress") -> Iterator[Part]:
    """The shard of every block in order, from the cache or made now; few blocks wait at once."""
    waiting: deque[tuple[Future[None] | None, Part]] = deque()
    for block in blocks:
        path = folder / f"{block.digest}{SUFFIX}"
        made = None if is_whole(path) else workers.submit(block, path)
        waiting.append((made, (path, *_places(block))))
        while len(waiting) > 2 * workers.num:
            yield _next(waiting, progress)
    while waiting:
        yield _next(waiting, progress)


def _next(waiting: deque[tuple[Future[None] | None, Part]], progress: "_Progress") -> Part:
    made, part = waiting.popleft()
    if made is not None:
        made.result()
    progress.add(part, made is not None)
    return part


class _Progress:
    """Counts shards, and says from time to time how far it is."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self.say = say
        self.num_made = self.num_found = self._num_rows = self._num_tokens = 0
        self._began = self._last = time.perf_counter()

    def add(self, part: Part, is_made: bool) -> None:
        path, _, line_R = part
        self._num_rows += len(line_R)
        self.num_made += is_made
        self.num_found += not is_made
        if is_made:
            self._num_tokens += len(open_shard(path).token_ids)
        now = time.perf_counter()
        if now - self._last >= NEWS_S:
            self._last = now
            speed = self._num_tokens / (now - self._began)
            self.say(f"prepared {self._num_rows:,} rows so far, {speed:,.0f} tokens a second")

    def end(self, folder: Path) -> None:
        self.say(f"{self.num_made} parts prepared, {self.num_found} found prepared; they are kept in {folder}")


def _collect(parts: Iterable[Part], inputs: list[dict[str, Any]]) -> Prepared:
    """The store of all parts; `inputs` is complete once they are read."""
    shards: list[Shard | Path] = []
    facts: list[Facts] = []
    notes = Notes()
    skipped: list[str] = []
    records: Counter[int] = Counter()
    for place, file_R, line_R in parts:
        shard = open_shard(place) if isinstance(place, Path) else place
        facts.append(_facts(shard, len(shards), file_R, line_R))
        shards.append(place)
        records.update(dict(enumerate(np.bincount(file_R, shard.records).astype(int).tolist())))
        found = shard.notes
        notes.layouts.update(found.layouts)
        notes.left_out.update(found.left_out)
        notes.num_skipped += found.num_skipped
        notes.num_long += found.num_long
        notes.num_lost += found.num_lost
        for row, why in found.skipped[: LISTED - len(skipped)]:
            skipped.append(f"{inputs[file_R[row]]['path']}, line {line_R[row]}{why}")
    if not notes.layouts and skipped:
        raise DataError(f"none of the {notes.num_skipped:,} rows can be read. The first: {skipped[0]}")
    joined = join_facts(facts)
    samples = np.bincount(joined.file_S, minlength=len(inputs)).tolist()
    return Prepared(
        store=TokenStore(shards, [entry["path"] for entry in inputs], joined),
        layouts=dict(notes.layouts),
        left_out=dict(notes.left_out),
        skipped=tuple(skipped),
        num_skipped=notes.num_skipped,
        num_long=notes.num_long,
        num_lost=notes.num_lost,
        inputs=[
            entry | {"records": records[number], "samples": samples[number]} for number, entry in enumerate(inputs)
        ],
    )


def _facts(shard: Shard, number: int, file_R: Array, line_R: Array) -> Facts:
    return Facts(
        shard_S=np.full(len(shard), number, np.int32),
        at_S=np.arange(len(shard), dtype=np.int32),
        file_S=file_R[shard.row],
        line_S=line_R[shard.row],
        length_S=shard.length_S,
        trained_S=shard.trained_S,
        group_S=shard.group,
        digest_S=shard.digest,
        long_S=shard.was_long,
        lost_S=shard.lost_stop,
    )
