"""One entry of `dataset:` to prepared samples, saying aloud what was read and what was left out."""

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode

from posttrain.data.blocks import Rows
from posttrain.data.convert import for_sft
from posttrain.data.files import find_files, raw_rows
from posttrain.data.hub import hub_rows, is_hub_name
from posttrain.data.layouts import parse_row
from posttrain.data.prepare import Prepared, prepare, prepare_records
from posttrain.data.split import group_key
from posttrain.data.task_file import is_task_file, read_tasks
from posttrain.errors import DataError
from posttrain.feedback.ballots import SOURCES
from posttrain.feedback.records import training_records
from posttrain.feedback.store import Store
from posttrain.recipes.dataset_config import DatasetEntry
from posttrain.recipes.dataset_pocket import corpus_documents, of_pocket
from posttrain.types import Conversation, Record

STORE = "store:"
AGGREGATES = ("ballots", "pairs", "ranked_pairs", "soft")


@dataclass(frozen=True)
class Loaded:
    """Prepared samples of one entry; `records` where they were made in memory rather than read from files."""

    entry: DatasetEntry
    prepared: Prepared
    records: Sequence[Record] = ()

    def conversation(self, index: int) -> Conversation | None:
        """The conversation that sample `index` was rendered from; None where it came from a document."""
        store = self.prepared.store
        file, _, line = store.source(index).rpartition(":")
        records = self.records or self._row(file, int(line) if line.isdigit() else 0)
        items = [for_sft(record)[0] for record in records]
        chats = (item for item in items if isinstance(item, Conversation))
        return next((chat for chat in chats if group_key(chat) == int(store.group_S[index])), None)

    def _row(self, file: str, line: int) -> Sequence[Record]:
        if not Path(file).is_file():
            return ()
        rows = raw_rows(Path(file))
        raw = next((raw for number, raw in rows if number == line), None)
        return () if raw is None else parse_row(raw, file=file, line=line, columns=self.entry.columns or None).records


def load_entry(
    entry: DatasetEntry, config: Any, tokenizer: Any, say: Callable[[str], None], *, held_out: bool = False
) -> Loaded:
    """Read and tokenise one entry; with `held_out` the held-out conversations of the pocket or of a task file."""
    shape = config.rendering()
    records = made_here(entry, held_out, shape.get("kind", "text"), say)
    if records:
        prepared = prepare_records(records, tokenizer, **shape)
        say(f"{len(records):,} records of {entry.path}")
        told: dict[str, Any] = {"path": entry.path, "records": len(records), "samples": len(prepared.store)}
        if entry.path.startswith(STORE):  # a database goes on growing
            told["sha256"] = hashlib.sha256(repr(records).encode("utf-8", "surrogatepass")).hexdigest()
        if Path(entry.path).is_file():
            told["sha256"] = hashlib.sha256(Path(entry.path).read_bytes()).hexdigest()
        return Loaded(entry, replace(prepared, inputs=[told]), records)
    columns = entry.columns or None
    prepared = prepare(_opened(entry), tokenizer, columns=columns, num_proc=config.dataset_num_proc, say=say, **shape)
    _report(entry, prepared, say)
    return Loaded(entry, prepared)


def made_here(
    entry: DatasetEntry, held_out: bool, kind: str = "text", say: Callable[[str], None] = lambda _: None
) -> list[Record]:
    """The records of an entry that is no data file: the pocket world, a store of feedback, or a file of tasks."""
    if entry.path.startswith(STORE):
        return _of_store(entry, say)
    if entry.path == "pocket" and not Path("pocket").exists():
        return of_pocket(entry, held_out or entry.split == "test", kind)
    if entry.path == "pocket-corpus" and not Path("pocket-corpus").exists():
        return list(corpus_documents(held_out=held_out or entry.split == "test"))
    if is_task_file(entry.path):
        return list(read_tasks(entry.path, held_out=held_out))
    return []


def _of_store(entry: DatasetEntry, say: Callable[[str], None]) -> list[Record]:
    """What people said, as `training_records` puts it together; the entry's `name` says how, `?source=` whose word
    counts (person, judge, verifier or serving), `model=` about whose served answers."""
    place, sources, folders = _options(entry.path)
    how = entry.name or "ballots"
    if how not in AGGREGATES:
        raise DataError(f"name is {how!r}, expected one of {', '.join(AGGREGATES)}.", file=entry.path)
    if "://" not in place and not Path(place).exists():
        raise DataError("there is no such store; give the file that `posttrain annotate` wrote.", file=entry.path)
    counts: Counter[str] = Counter()
    with Store.open(place) as store:
        records = list(training_records(store, aggregate=how, sources=sources, served_from=folders, counts=counts))
    seen = "; ".join(f"{count:,} {why.replace('_', ' ')}" for why, count in counts.items())
    if seen:
        say(f"of {entry.path}: {seen}")
    if not records:
        seen = seen or "no ballot"
        raise DataError(f"it holds nothing to train on ({seen}).", file=entry.path)
    return list(records)


def _options(path: str) -> tuple[str, list[str] | None, list[str] | None]:
    """(the store's own address, the sources that are named behind it, the folders of models), of
    `store:FILE?source=serving&model=FOLDER`."""
    place, _, query = path.removeprefix(STORE).partition("?")
    options = parse_qsl(query, keep_blank_values=True)
    sources = [value for name, value in options if name == "source"]
    folders = [value for name, value in options if name == "model"]
    others = [(name, value) for name, value in options if name not in ("source", "model")]
    if unknown := [source for source in sources if source not in SOURCES]:
        raise DataError(f"source is {unknown[0]!r}, expected one of {', '.join(SOURCES)}.", file=path)
    return place + (f"?{urlencode(others)}" if others else ""), sources or None, folders or None


def _opened(entry: DatasetEntry) -> list[Path | Rows]:
    if not is_hub_name(entry.path):
        return list(find_files(entry.path, split=entry.split))
    return [Rows(entry.path, hub_rows(entry.path, config=entry.name, split=entry.split))]


def _report(entry: DatasetEntry, prepared: Prepared, say: Callable[[str], None]) -> None:
    layouts = ", ".join(f"{count:,} {layout}" for layout, count in prepared.layouts.items())
    left = "".join(f"; left out {count:,}: {why}" for why, count in prepared.left_out.items())
    say(f"read {entry.path}: {layouts} records{left}")
    if prepared.num_skipped:
        say(f"skipped {prepared.num_skipped:,} rows of {entry.path} that cannot be read:")
        for line in prepared.skipped[:5]:
            say(f"  {line}")
