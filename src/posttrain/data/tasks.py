"""Instruction tuning: tasks said in several natural-language templates, and whole clusters of tasks kept unseen.

The idea is FLAN's (Wei et al., 2022, *Finetuned language models are zero-shot learners*) and T0's (Sanh et al., 2022):
a model that has followed many tasks in many wordings follows tasks that it has never met.
"""

import difflib
import json
import random
import re
import string
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from jinja2 import StrictUndefined, TemplateSyntaxError, UndefinedError
from jinja2 import Template as Compiled
from jinja2.meta import find_undeclared_variables
from jinja2.sandbox import ImmutableSandboxedEnvironment

from posttrain.errors import DataError
from posttrain.types import Conversation, Message

PER_TASK = 3_000
"""Conversations that one task may give, as in FLAN, so that no large task drowns the others."""

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Template:
    """One wording of a task, both sides Jinja over a row's fields (`{{ row['any name'] }}` works for all of them);
    `{{ options }}` is the block of answer options.

    `inverted`: the answer is given, and what it answers is asked for. `letters`: the options carry letters, and the
    letter of the target is the answer. `line`: where it stands in its file, for error messages.
    """

    prompt: str
    target: str
    inverted: bool = False
    letters: bool = False
    line: int | None = None

    @property
    def shows_options(self) -> bool:
        """Whether the options are part of the prompt."""
        return "options" in _parsed(self.prompt)[1]


@dataclass(frozen=True, slots=True)
class Task:
    """Rows, the wordings that turn each into a question and its answer, and the cluster of tasks that are alike.

    `options`: what an answer may be: a list for every row, or the name of the field that holds a row's own.
    `file`: where the task was written, for error messages.
    """

    name: str
    cluster: str
    templates: tuple[Template, ...]
    rows: tuple[Row, ...]
    options: tuple[str, ...] | str = ()
    file: str = ""

    def __post_init__(self) -> None:
        if not (self.name and self.cluster):
            raise ValueError("a task needs a name and a cluster")
        if all(template.inverted for template in self.templates):
            raise ValueError(f"task {self.name!r} needs a template that is not inverted")


@dataclass(frozen=True, slots=True)
class TaskSet:
    """Tasks, the clusters among them that stay unseen, and how conversations are drawn from each (see `expand`)."""

    tasks: tuple[Task, ...]
    hold_out: tuple[str, ...] = ()
    per_task: int = PER_TASK
    per_row: int = 1
    inverted_share: float | None = None
    seed: int = 0

    def conversations(self, *, held_out: bool = False) -> list[Conversation]:
        """Those to train on; or those of the clusters that are held out, which are never asked the wrong way round."""
        trained, unseen = hold_out(self.tasks, self.hold_out)
        if held_out and not unseen:
            raise DataError(
                "no cluster is held out, so there is nothing to measure on; name one: hold_out: [CLUSTER].",
                file=self.tasks[0].file,
                field="hold_out",
            )
        share = 0.0 if held_out else self.inverted_share
        return [
            conversation
            for task in (unseen if held_out else trained)
            for conversation in expand(
                task, per_task=self.per_task, per_row=self.per_row, inverted_share=share, seed=self.seed
            )
        ]


def expand(
    task: Task,
    rows: Sequence[Row] | None = None,
    *,
    per_task: int = PER_TASK,
    per_row: int = 1,
    inverted_share: float | None = None,
    seed: int = 0,
) -> list[Conversation]:
    """At most `per_task` conversations, in the order of the rows; `source` is "task:row:template", counted from 1.

    Each row is said in `per_row` different templates, drawn by the seed and the number of the row, so that rows added
    later change nothing for the others while the cap is not reached. `inverted_share`: how many of the drawn templates
    are inverted; left out, all are drawn alike. A cap below what the rows give draws among them, and says each once
    before any twice. Raises DataError naming the file, the task, the template and the field.
    """
    rows = task.rows if rows is None else rows
    order = list(range(len(rows)))
    random.Random(f"{seed}:{task.name}").shuffle(order)
    times = Counter((order * min(per_row, len(task.templates)))[:per_task])
    found = []
    for number in sorted(times):
        rng = random.Random(f"{seed}:{task.name}:{number}")
        for index in _drawn(task.templates, times[number], inverted_share, rng):
            prompt, answer = say(task, index, rows[number], rng, number=number + 1)
            turns = (Message("user", prompt), Message("assistant", answer))
            found.append(Conversation(turns, f"{task.name}:{number + 1}:{index + 1}"))
    return found


def say(task: Task, index: int, row: Row, rng: random.Random, *, number: int = 1) -> tuple[str, str]:
    """The prompt and the answer of one row in template `index` (from 0); `rng` draws the order of the options.

    `number`: that of the row, for error messages.
    """
    template = task.templates[index]
    place = f"task {task.name!r}, template {index + 1}, row {number}"
    fields, shown = {"row": row, **row}, []
    if template.shows_options:
        shown = _options(task, template, row, place)
        rng.shuffle(shown)
        marks = [f"({letter})" for letter in string.ascii_uppercase] if template.letters else ["-"] * len(shown)
        lines = [f"{mark} {option}" for mark, option in zip(marks, shown, strict=False)]
        fields["options"] = "\n".join(["OPTIONS:", *lines])
    prompt = _filled(template.prompt, fields, task.file, template.line, f"{place}, prompt")
    answer = _filled(template.target, fields, task.file, template.line, f"{place}, target")
    if shown and answer not in shown:
        raise DataError(
            f"{place}: the answer is {answer!r}, which is none of the options {shown}; the target must give one of "
            "them, letter for letter.",
            file=task.file,
            line=template.line,
            field="target",
        )
    return prompt, marks[shown.index(answer)] if template.letters else answer


def check_template(template: Template) -> tuple[str, str]:
    """What is wrong with a template's Jinja and on which side; two empty texts where nothing is."""
    for side, text in (("prompt", template.prompt), ("target", template.target)):
        try:
            _parsed(text)
        except (TemplateSyntaxError, RecursionError) as error:
            return f"this is no valid Jinja ({_one_line(error)})", side
    if template.letters and not template.shows_options:
        return "letters are asked for, but the prompt does not show {{ options }}", "letters"
    return "", ""


def hold_out(tasks: Sequence[Task], clusters: Iterable[str]) -> tuple[list[Task], list[Task]]:
    """The tasks to train on, and those of `clusters`, which stay unseen as a whole.

    Raises DataError where a cluster is unknown, nothing is left to train on, or a row stands on both sides: then the
    tasks are not apart, whatever their clusters are called.
    """
    wanted = list(dict.fromkeys(clusters))
    file = tasks[0].file if tasks else ""
    _check_known(wanted, list(dict.fromkeys(task.cluster for task in tasks)), file)
    trained = [task for task in tasks if task.cluster not in wanted]
    held = [task for task in tasks if task.cluster in wanted]
    if not trained:
        raise DataError("every cluster is held out, so nothing is left to train on.", file=file, field="hold_out")
    seen = {_key(row): (task, number) for task in held for number, row in enumerate(task.rows, 1)}
    for task in trained if held else ():
        for number, row in enumerate(task.rows, 1):
            if (key := _key(row)) in seen:
                other, twin = seen[key]
                raise DataError(
                    f"row {number} of task {task.name!r} (cluster {task.cluster!r}, trained) is the same as row {twin} "
                    f"of task {other.name!r} (cluster {other.cluster!r}, held out), so what is held out would be seen; "
                    "put both tasks into one cluster, or give them different rows.",
                    file=task.file,
                    field="hold_out",
                )
    return trained, held


def _check_known(wanted: Sequence[str], known: Sequence[str], file: str) -> None:
    for cluster in wanted:
        if cluster not in known:
            near = difflib.get_close_matches(cluster, known, n=1)
            mend = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(known)}."
            raise DataError(f"no task is of the cluster {cluster!r}; {mend}", file=file, field="hold_out")


def _drawn(templates: Sequence[Template], count: int, inverted_share: float | None, rng: random.Random) -> list[int]:
    """The numbers of `count` different templates, or of as many as there are."""
    left = list(range(len(templates)))
    chosen: list[int] = []
    while left and len(chosen) < count:
        pool = left
        if inverted_share is not None:
            turned = rng.random() < inverted_share and any(templates[index].inverted for index in left)
            pool = [index for index in left if templates[index].inverted == turned]
        if not pool:
            break
        chosen.append(rng.choice(pool))
        left.remove(chosen[-1])
    return chosen


def _options(task: Task, template: Template, row: Row, place: str) -> list[str]:
    given = row.get(task.options) if isinstance(task.options, str) else task.options
    shown = [str(option).strip() for option in given] if isinstance(given, list | tuple) else []
    if len(shown) < 2 or len(set(shown)) < len(shown) or not all(shown):
        where = f"the row's field {task.options!r}" if isinstance(task.options, str) else "the task"
        fault = f"the template shows options, and {where} gives {given!r}; give a list of at least two different ones"
    elif template.letters and len(shown) > len(string.ascii_uppercase):
        fault = f"there are {len(shown)} options and only {len(string.ascii_uppercase)} letters; leave letters out"
    else:
        return shown
    raise DataError(f"{place}: {fault}.", file=task.file, line=template.line, field="options")


def _filled(text: str, fields: Mapping[str, Any], file: str, line: int | None, place: str) -> str:
    try:
        filled = _parsed(text)[0].render(fields).strip()
    except UndefinedError as error:
        name = re.match(r"'(\w+)' is undefined", str(error))
        has = f"the row has the fields {', '.join(str(field) for field in fields if field not in ('row', 'options'))}"
        fault = f"{place}: {'there is no such field' if name else _one_line(error)}; {has}."
        raise DataError(fault, file=file, line=line, field=name[1] if name else "") from None
    except Exception as error:  # the template is the user's program, and its filters raise what they like
        raise DataError(f"{place}: the template cannot be filled: {_one_line(error)}.", file=file, line=line) from None
    if not filled:
        raise DataError(f"{place}: the template gives no text for this row.", file=file, line=line)
    return filled


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__


@cache
def _parsed(text: str) -> tuple[Compiled, set[str]]:
    """A template ready to be filled, and the names that it takes from outside."""
    environment = _environment()
    return environment.from_string(text), find_undeclared_variables(environment.parse(text))


@cache
def _environment() -> ImmutableSandboxedEnvironment:
    """What a template may do: nothing to the machine, and nothing that does not follow the seed."""
    environment = ImmutableSandboxedEnvironment(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    del environment.filters["random"]
    return environment


def _key(row: Row) -> str:
    """Equal for equal rows, however their text is spaced or capitalised."""
    plain = {str(field): _folded(value) if isinstance(value, str) else value for field, value in row.items()}
    return json.dumps(plain, sort_keys=True, ensure_ascii=False, default=str)


def _folded(text: str) -> str:
    return " ".join(text.split()).casefold()
