"""Tasks from a YAML file: templates beside a path to the rows, so that a data set needs no conversion first."""

import difflib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from posttrain.data.fields import kind
from posttrain.data.files import find_files, raw_rows
from posttrain.data.hub import hub_rows
from posttrain.data.json_text import decode, explain
from posttrain.data.tasks import PER_TASK, Row, Task, TaskSet, Template, check_template
from posttrain.data.trees import UNREADABLE, Raw
from posttrain.errors import DataError
from posttrain.types import Conversation

ENDINGS = (".yaml", ".yml")
SEPARATOR = "|||"
"""Between the two sides of a template that is written as one text, as in T0's."""
SET_KEYS = ("tasks", "hold_out", "per_task", "per_row", "inverted_share", "seed")
TASK_KEYS = ("name", "cluster", "data", "hub", "config", "split", "rows", "options", "templates")
TEMPLATE_KEYS = ("prompt", "target", "inverted", "letters")

Place = tuple[str | int, ...]


def is_task_file(path: str | Path) -> bool:
    """Whether a path means a file of tasks: its ending says so."""
    return str(path).lower().endswith(ENDINGS)


def read_tasks(path: str | Path, *, held_out: bool = False) -> list[Conversation]:
    """The conversations of a task file, drawn as it says: those to train on, or those of the clusters held out."""
    return read_task_set(path).conversations(held_out=held_out)


def read_task_set(path: str | Path) -> TaskSet:
    """The tasks of a YAML file with their rows. Paths of data are meant from the file's own folder.

    Raises DataError naming the file, the line, the task, the template and the field.
    """
    file = _TaskFile(Path(path))
    values = file.mapping(file.values, SET_KEYS, (), "the file")
    entries = values.get("tasks")
    if not isinstance(entries, list) or not entries:
        raise file.error("expected a list of tasks", ("tasks",))
    tasks = tuple(file.task(entry, ("tasks", number)) for number, entry in enumerate(entries))
    names = [task.name for task in tasks]
    for number, name in enumerate(names):
        if name in names[:number]:
            raise file.error(f"there are two tasks of the name {name!r}; rename one", ("tasks", number, "name"))
    return TaskSet(
        tasks,
        tuple(file.texts(values.get("hold_out") or [], ("hold_out",))),
        file.count(values, "per_task", PER_TASK),
        file.count(values, "per_row", 1),
        file.share(values, "inverted_share"),
        file.count(values, "seed", 0, least=0),
    )


class _TaskFile:
    """One YAML file while it is read: its values, the line of each, and the errors that name them."""

    def __init__(self, path: Path) -> None:
        self.path, self.lines = path, dict[Place, int]()
        try:
            text = path.read_text(encoding="utf-8-sig")
            node = yaml.compose(text, Loader=yaml.SafeLoader)
            self.values = yaml.safe_load(text)
        except OSError as error:
            raise DataError(f"cannot be read: {error.strerror}.", file=str(path)) from None
        except UnicodeDecodeError as error:
            raise DataError(f"byte {error.start + 1} is no UTF-8 text.", file=str(path)) from None
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark
            raise DataError(
                f"this is not valid YAML: {error.problem or error.context}; put texts that hold ': ', '#', quotes or "
                "braces into quotes or below a |.",
                file=str(path),
                line=mark.line + 1 if mark else None,
            ) from None
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            raise DataError(f"this is not valid YAML: {' '.join(str(error).split())}.", file=str(path)) from None
        if node is not None:
            for place, line in _lines(node, (), set()):
                first = self.lines.get(place)
                self.lines[place] = line
                if first is not None:
                    raise self.error(f"the key {place[-1]!r} was already given on line {first}; keep one", place)

    def error(self, message: str, place: Place, task: str = "") -> DataError:
        """`message` with the place: its line, the task and the template by number, and the field."""
        line = next((self.lines[place[:end]] for end in range(len(place), 0, -1) if place[:end] in self.lines), None)
        numbers = [part for part in place if isinstance(part, int)]
        named = [f"task {task!r}" if task else f"task {numbers[0] + 1}"] if numbers else []
        named += [f"template {numbers[1] + 1}"] if "templates" in place and len(numbers) > 1 else []
        field = next((part for part in reversed(place) if isinstance(part, str)), "")
        message = f"{', '.join(named)}: {message}" if named else message
        end = "" if message.endswith("?") else "."
        return DataError(f"{message}{end}", file=str(self.path), line=line, field=field)

    def mapping(self, value: Any, keys: tuple[str, ...], place: Place, what: str, task: str = "") -> Mapping[str, Any]:
        """A mapping of known keys."""
        if not isinstance(value, dict):
            raise self.error(f"{what} is {kind(value)}, expected `key: value` lines", place, task)
        for key in value:
            if key not in keys:
                near = difflib.get_close_matches(str(key), keys, n=1)
                mend = f"did you mean {near[0]}?" if near else f"its keys are {', '.join(keys)}"
                raise self.error(f"{what} has no key {key!r}; {mend}", (*place, str(key)), task)
        return value

    def task(self, value: Any, place: Place) -> Task:
        given = self.mapping(value, TASK_KEYS, place, "a task")
        name = self.text(given.get("name"), (*place, "name"))
        cluster = self.text(given.get("cluster"), (*place, "cluster"), name)
        entries = given.get("templates")
        if not isinstance(entries, list) or not entries:
            raise self.error("expected a list of templates", (*place, "templates"), name)
        templates = tuple(
            self.template(entry, (*place, "templates", number), name) for number, entry in enumerate(entries)
        )
        if all(template.inverted for template in templates):
            raise self.error("every template is inverted; add one that asks straight", (*place, "templates"), name)
        options = given.get("options", [])
        if not isinstance(options, str):
            options = tuple(self.texts(options, (*place, "options"), name))
        return Task(name, cluster, templates, self.rows(given, place, name), options, str(self.path))

    def template(self, value: Any, place: Place, task: str) -> Template:
        """A template from its mapping, or from one text with ||| between prompt and target."""
        if isinstance(value, str):
            prompt, mark, target = value.partition(SEPARATOR)
            if not mark:
                raise self.error(f"the text has no {SEPARATOR} between prompt and target", place, task)
            value = {"prompt": prompt, "target": target}
        given = self.mapping(value, TEMPLATE_KEYS, place, "a template", task)
        for key in ("inverted", "letters"):
            if not isinstance(given.get(key, False), bool):
                raise self.error(f"expected true or false, found {kind(given[key])}", (*place, key), task)
        template = Template(
            self.text(given.get("prompt"), (*place, "prompt"), task),
            self.text(given.get("target"), (*place, "target"), task),
            given.get("inverted", False),
            given.get("letters", False),
            self.lines.get(place),
        )
        fault, side = check_template(template)
        if fault:
            raise self.error(fault, (*place, side), task)
        return template

    def rows(self, given: Mapping[str, Any], place: Place, task: str) -> tuple[Row, ...]:
        if sum(key in given for key in ("data", "hub", "rows")) != 1:
            raise self.error("give one of data (a path), hub (the name of a data set) and rows (a list)", place, task)
        if "rows" in given:
            rows = given["rows"]
            if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) and row for row in rows):
                raise self.error("expected a list of rows, each with its fields", (*place, "rows"), task)
            return tuple(rows)
        key = "data" if "data" in given else "hub"
        name, split = (self.text(given.get(each, "train"), (*place, each), task) for each in (key, "split"))
        config = self.text(given["config"], (*place, "config"), task) if "config" in given else None
        found: tuple[Row, ...]
        if key == "hub":
            found = tuple(row for _, row in hub_rows(name, config=config, split=split))
        else:
            found = tuple(_read(self.path.parent / name, split))
        if not found:
            raise self.error(f"{name} holds no row", (*place, key), task)
        return found

    def text(self, value: Any, place: Place, task: str = "") -> str:
        if not isinstance(value, str) or not value.strip():
            found = "nothing" if value is None or value == "" else kind(value)
            raise self.error(f"expected text, found {found}", place, task)
        return value

    def texts(self, values: Any, place: Place, task: str = "") -> list[str]:
        """A list of texts; numbers count as text, and what YAML reads as true or false has to be quoted."""
        if not isinstance(values, list):
            raise self.error(f"expected a list, found {kind(values)}", place, task)
        for value in values:
            if isinstance(value, bool):
                raise self.error("YAML reads yes, no, on and off as true and false; put them into quotes", place, task)
            if not isinstance(value, str | int | float) or value == "":
                raise self.error(f"expected texts, found {kind(value)}", place, task)
        return [str(value) for value in values]

    def count(self, values: Mapping[str, Any], key: str, default: int, *, least: int = 1) -> int:
        value = values.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise self.error(f"found {value!r}, expected a whole number of at least {least}", (key,))
        return value

    def share(self, values: Mapping[str, Any], key: str) -> float | None:
        value = values.get(key)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1):
            raise self.error(f"found {value!r}, expected a number from 0 to 1", (key,))
        return value


def _lines(node: yaml.Node, place: Place, seen: set[int]) -> Iterator[tuple[Place, int]]:
    """The line of every key and list entry, by its path. A node that an alias repeats is walked once."""
    if id(node) in seen:
        return
    seen.add(id(node))
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            inner = (*place, str(key.value))
            yield inner, key.start_mark.line + 1
            yield from _lines(value, inner, seen)
    elif isinstance(node, yaml.SequenceNode):
        for number, value in enumerate(node.value):
            yield (*place, number), value.start_mark.line + 1
            yield from _lines(value, (*place, number), seen)


def _read(path: Path, split: str) -> Iterator[Row]:
    for file in find_files(str(path), split=split):
        for line, raw in raw_rows(file):
            yield _fields(raw, str(file), line)


def _fields(raw: Raw, file: str, line: int) -> Row:
    try:
        row = decode(raw.decode("utf-8").removeprefix("\ufeff")) if isinstance(raw, bytes) else raw
    except UnicodeDecodeError as error:
        raise DataError(f"byte {error.start + 1} of the line is no UTF-8 text.", file=file, line=line) from None
    except ValueError as error:
        raise DataError(f"{explain(error)}.", file=file, line=line) from None
    if not isinstance(row, Mapping):
        raise DataError(f"expected a JSON object, found {kind(row)}.", file=file, line=line)
    if UNREADABLE in row:
        raise DataError(row[UNREADABLE], file=file, line=line)
    return row
