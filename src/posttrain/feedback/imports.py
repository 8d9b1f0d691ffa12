"""Files of other tools, and of our own, into the store: all of a file or nothing, and twice is the same as once.

Door: `load_file(store, file)`. A row is a line of a full dump, an Argilla record, a Label Studio task, or any layout
that `posttrain.data` reads. DataError names file, line, field and the mend; whatever gives no ballot is counted.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from posttrain.data.fields import FieldError, Row
from posttrain.data.files import raw_rows
from posttrain.data.json_text import decode, explain
from posttrain.data.layouts import parse_row
from posttrain.data.trees import UNREADABLE
from posttrain.errors import DataError
from posttrain.feedback.argilla import is_record, read_record
from posttrain.feedback.ballots import Ballot
from posttrain.feedback.dump import Restorer
from posttrain.feedback.label_studio import is_task, read_task
from posttrain.feedback.layouts import tasks_of
from posttrain.feedback.questionnaire import Draft, Task
from posttrain.feedback.store import Store
from posttrain.feedback.tables import digest

KEY = "import:"


@dataclass(slots=True)
class Loaded:
    """What became of a file: rows by format, rows of the store that are new or were there already, by table; what
    gave no ballot, by reason; and (line, reason) of every row that could not be read."""

    formats: Counter[str] = field(default_factory=Counter)
    new: Counter[str] = field(default_factory=Counter)
    known: Counter[str] = field(default_factory=Counter)
    left_out: Counter[str] = field(default_factory=Counter)
    skipped: list[tuple[int, str]] = field(default_factory=list)


def load_file(
    store: Store,
    file: str | Path,
    *,
    annotator: str = "",
    source: str = "person",
    prompt_field: str = "",
    answer_fields: Sequence[str] = (),
    on_bad_rows: Literal["error", "skip"] = "error",
) -> Loaded:
    """Read a file into the store, in one transaction.

    `annotator`, `source`: whose ballots they are, where a row does not say; the file's name by default. `prompt_field`,
    `answer_fields`: the fields of Argilla and Label Studio records, where their names do not tell. Raises DataError at
    the first bad row, with nothing stored; with `on_bad_rows="skip"` bad rows are listed and the others stored.
    """
    path = Path(file)
    loaded = Loaded()
    with store.batch() as connection:
        loader = _Loader(store, loaded, annotator or path.name, source)
        restorer = Restorer(connection)
        # Nothing else may close the transaction before the last row is in.
        with closing(raw_rows(path)) as rows:
            for line, raw in rows:
                try:
                    row = _decoded(raw)
                    if "table" in row:
                        with connection.begin_nested():
                            table, made = restorer.take(row)
                        loaded.formats["store"] += 1
                        if table != "posttrain":
                            (loaded.new if made else loaded.known)[table] += 1
                        continue
                    name, tasks = _tasks(row, path, line, prompt_field, answer_fields)
                    with connection.begin_nested():
                        loader.take(tasks)
                    loaded.formats[name] += 1
                except (FieldError, DataError, ValueError) as error:
                    fault = _fault(error, path, line)
                    if on_bad_rows == "error":
                        raise fault from None
                    loaded.skipped.append((line, str(fault)))
        try:
            restorer.finish()
        except FieldError as error:
            raise DataError(error.message, file=str(path), field=error.field) from None
        if not loaded.formats:
            why = f" The first: {loaded.skipped[0][1]}" if loaded.skipped else ""
            raise DataError(f"no row of the file could be read.{why}", file=str(path))
    return loaded


def _decoded(raw: bytes | Mapping[str, Any]) -> Row:
    if not isinstance(raw, bytes):
        if UNREADABLE in raw:
            raise FieldError(raw[UNREADABLE])
        return raw
    try:
        text = raw.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise FieldError(f"byte {error.start + 1} of the line is no UTF-8 text; save the file as UTF-8.") from None
    try:
        # A dump holds what the store holds, characters that nothing can train on included.
        row = json.loads(text) if text.startswith('{"table":') else decode(text)
    except ValueError as error:
        raise FieldError(f"{explain(error)}; each line must be one complete JSON object.") from None
    if not isinstance(row, dict):
        raise FieldError("each line must be one JSON object.")
    return row


def _tasks(row: Row, path: Path, line: int, prompt_field: str, answer_fields: Sequence[str]) -> tuple[str, list[Task]]:
    """What kind of row it is, and what it holds."""
    if is_record(row):
        return "Argilla", [read_record(row, prompt_field=prompt_field, answer_fields=answer_fields)]
    if is_task(row):
        return "Label Studio", [read_task(row, prompt_field=prompt_field, answer_fields=answer_fields)]
    parsed = parse_row(dict(row), file=str(path), line=line)
    tasks = list(tasks_of(parsed.records, row))
    if not tasks:
        tasks.append(Task((), left_out=Counter({parsed.left_out or "a tree without an answer": 1})))
    return parsed.layout, tasks


def _fault(error: Exception, path: Path, line: int) -> DataError:
    if isinstance(error, DataError):
        return error
    if isinstance(error, FieldError):
        return DataError(error.message, file=str(path), line=line, field=error.field)
    return DataError(f"{error}; correct the row or leave it out with --on-bad-rows skip.", file=str(path), line=line)


class _Loader:
    """Puts tasks into the store; remembers which ballots were imported before."""

    def __init__(self, store: Store, loaded: Loaded, annotator: str, source: str) -> None:
        self._store, self._loaded, self._annotator, self._source = store, loaded, annotator, source
        self._keys: set[str] = set()
        self._current: dict[str, tuple[int, str]] = {}  # origin: the ballot that counts, and its key
        self._times: Counter[str] = Counter()
        self._row: list[tuple[str, str, tuple[int, str] | None]] = []  # (key, origin, ballot before) of the row at hand
        for ballot in store.ballots(include_replaced=True):
            if ballot.key.startswith(KEY) and ballot.id is not None:
                self._keys.add(ballot.key)
                if ballot.replaced_by is None:
                    self._current[ballot.key.split(":")[1]] = (ballot.id, ballot.key)

    def take(self, tasks: Sequence[Task]) -> None:
        """Store what a row holds. Where it fails, nothing of the row is remembered; the caller rolls back."""
        counted = Counter(self._loaded.left_out), Counter(self._loaded.new), Counter(self._loaded.known)
        self._row.clear()
        try:
            for task in tasks:
                self._take(task)
        except BaseException:
            self._loaded.left_out, self._loaded.new, self._loaded.known = counted
            for key, origin, before in reversed(self._row):
                self._keys.discard(key)
                self._current.pop(origin, None)
                if before is not None:
                    self._current[origin] = before
            raise

    def _take(self, task: Task) -> None:
        """Store a prompt, its answers, and what was said of them."""
        self._loaded.left_out += task.left_out
        if not task.prompt:
            return
        prompt = self._store.add_prompt(task.prompt, tools=task.tools, fields=task.fields)
        ids = {
            name: self._store.add_response(prompt, messages, model=str(task.models.get(name, "")))
            for name, messages in task.answers.items()
        }
        if len(set(ids.values())) < len(ids):
            self._loaded.left_out["an answer that is there twice under one prompt"] += len(ids) - len(set(ids.values()))
        if not task.drafts and not task.left_out:
            self._loaded.left_out["nobody has judged it; prompt and answers are stored"] += 1
        for draft in task.drafts:
            self._vote(prompt, ids, draft)

    def _vote(self, prompt: int, ids: Mapping[str, int], draft: Draft) -> None:
        shown = tuple(ids[name] for name in draft.names)
        if len(set(shown)) < len(shown):
            self._loaded.left_out[f"a {draft.kind} of equal answers"] += 1
            return
        extra = {"source": self._source, **draft.extra}
        value = ids.get(draft.value, draft.value) if draft.kind == "choice" else draft.value
        said = (draft.kind, shown, draft.ranks, value, extra.get("comment", ""), extra.get("all_bad", False))
        origin = draft.origin or digest(prompt, said, draft.annotator)
        if not draft.origin:  # rows without a name of their own: the second of two equal rows is another ballot
            self._times[origin] += 1
            origin = digest(origin, self._times[origin])
        key = f"{KEY}{origin}:{digest(said)}"
        annotator = draft.annotator or self._annotator
        before = self._current.get(origin)
        if before and before[1].partition("~")[0] == key:
            self._loaded.known["ballots"] += 1
            return
        if key in self._keys:  # said before, corrected since, and now said again
            key += f"~{len(self._keys)}"
        ballot = Ballot(draft.kind, prompt, shown, annotator, ranks=draft.ranks, value=value, key=key, **extra)
        self._current[origin] = (self._store.vote(ballot, replaces=before[0] if before else None), key)
        self._keys.add(key)
        self._row.append((key, origin, before))
        self._loaded.new["ballots"] += 1
        if before is not None:
            self._loaded.left_out["a ballot that a newer answer corrects; it is kept, marked"] += 1
