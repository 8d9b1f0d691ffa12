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
from posttrain.feedback.label_studio import is_task, read_task, refuse_min
from posttrain.feedback.layouts import tasks_of
from posttrain.feedback.questionnaire import Draft, Task
from posttrain.feedback.store import Store
from posttrain.feedback.tables import digest, message_rows

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
            raise _nothing(path, [reason for _, reason in loaded.skipped])
    return loaded


def is_new(address: str | Path) -> bool:
    """Whether to open a store would make it: a file that is not there. Of a server nothing is known."""
    return "://" not in str(address) and not Path(address).exists()


def check_file(
    file: str | Path, *, prompt_field: str = "", answer_fields: Sequence[str] = (), on_bad_rows: str = "error"
) -> None:
    """Raise what `load_file` would of a file that cannot be read, before there is a store."""
    path, good, fault = Path(file), False, None
    with closing(raw_rows(path)) as rows:
        for line, raw in rows:
            try:
                row = _decoded(raw)
                if "table" not in row:
                    _tasks(row, path, line, prompt_field, answer_fields)
            except (FieldError, DataError, ValueError) as error:
                fault = fault or _fault(error, path, line)
                if on_bad_rows == "error":
                    raise fault from None
            else:
                good = True
                if on_bad_rows == "skip":
                    return
    if not good:
        raise _nothing(path, [str(fault)] if fault else [])


def _nothing(path: Path, faults: Sequence[str]) -> DataError:
    why = f" The first: {faults[0]}" if faults else ""
    return DataError(f"no row of the file could be read.{why}", file=str(path))


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
    refuse_min(row)
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


@dataclass(frozen=True, slots=True)
class _Vote:
    """A ballot that was imported and counts. `key` without what tells it from an equal one said before."""

    id: int
    key: str
    prompt: int
    shown: frozenset[int]


class _Loader:
    """Puts tasks into the store; remembers which ballots were imported before."""

    def __init__(self, store: Store, loaded: Loaded, annotator: str, source: str) -> None:
        self._store, self._loaded, self._annotator, self._source = store, loaded, annotator, source
        self._keys: set[str] = set()
        # By origin. Tools count their records from 1 in every project, so ballots on several prompts may share one.
        self._current: dict[str, tuple[_Vote, ...]] = {}
        self._times: Counter[str] = Counter()
        self._row: list[tuple[str, str, tuple[_Vote, ...]]] = []  # (key, origin, those before) of the row at hand
        for ballot in store.ballots(include_replaced=True):
            if ballot.key.startswith(KEY) and ballot.id is not None:
                self._keys.add(ballot.key)
                if ballot.replaced_by is None:
                    self._remember(ballot.key.split(":")[1], ballot, ballot.id)

    def _remember(self, origin: str, ballot: Ballot, id: int, corrected: _Vote | None = None) -> None:
        vote = _Vote(id, ballot.key.partition("~")[0], ballot.prompt_id, frozenset(ballot.response_ids))
        others = (one for one in self._current.get(origin, ()) if one is not corrected)
        self._current[origin] = (*others, vote)

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
            self._vote(prompt, ids, task, draft)

    def _vote(self, prompt: int, ids: Mapping[str, int], task: Task, draft: Draft) -> None:
        shown = tuple(ids[name] for name in draft.names)
        if len(set(shown)) < len(shown):
            self._loaded.left_out[f"a {draft.kind} of equal answers"] += 1
            return
        extra = {"source": self._source, **draft.extra}
        value = ids.get(draft.value, draft.value) if draft.kind == "choice" else draft.value
        said = _said(task, draft)
        origin = draft.origin or digest(said, draft.annotator)
        if not draft.origin:  # rows without a name of their own: the second of two equal rows is another ballot
            self._times[origin] += 1
            origin = digest(origin, self._times[origin])
        key = f"{KEY}{origin}:{digest(said)}"
        annotator = draft.annotator or self._annotator
        theirs = self._current.get(origin, ())
        if any(one.key == key for one in theirs):
            self._loaded.known["ballots"] += 1
            return
        # The same question of a record with other answers is another record's, whatever number the tool gave it.
        everything = set(ids.values())
        before = next((one for one in theirs if one.prompt == prompt and one.shown <= everything), None)
        if key in self._keys:  # said before, corrected since, and now said again
            key += f"~{len(self._keys)}"
        ballot = Ballot(draft.kind, prompt, shown, annotator, ranks=draft.ranks, value=value, key=key, **extra)
        self._row.append((key, origin, theirs))
        self._remember(origin, ballot, self._store.vote(ballot, replaces=before.id if before else None), before)
        self._keys.add(key)
        self._loaded.new["ballots"] += 1
        if before is not None:
            self._loaded.left_out["a ballot that a newer answer corrects; it is kept, marked"] += 1


def _said(task: Task, draft: Draft) -> tuple[Any, ...]:
    """What a draft says, of contents and not of ids, which are another store's for the same."""
    answers = {name: (message_rows(task.answers[name]), str(task.models.get(name, ""))) for name in draft.names}
    value = answers.get(draft.value, draft.value) if draft.kind == "choice" else draft.value
    asked = (message_rows(task.prompt), [dict(tool) for tool in task.tools])
    extra = draft.extra
    aside = (extra.get("comment", ""), extra.get("all_bad", False), extra.get("details", {}))
    return (draft.kind, asked, list(answers.values()), draft.ranks, value, *aside)
