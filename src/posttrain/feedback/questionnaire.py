"""What annotation tools share: a record shows a prompt and named answers, and people answer named questions about them.

`Task` is one record, read; `Draft` is what one person said of it, answers by the names that they have in the record.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from posttrain.data.fields import FieldError, Row, is_absent
from posttrain.data.preferences import PROMPTS, Messages, answered, asked
from posttrain.feedback.ballots import Ballot, StoredPrompt, StoredResponse
from posttrain.feedback.store import Store
from posttrain.feedback.tables import digest
from posttrain.types import Message

PROMPT_NAMES = (*PROMPTS, "context", "text", "chat", "task", "user_prompt", "user")
ANSWER = re.compile(
    r"(response|answer|completion|reply|generation|output|candidate|chosen|rejected|text)([-_ ]?\w+)?",
    re.IGNORECASE,
)
BETTER = re.compile(r"edit|correct|better|rewrit|rewrote|improve|fix", re.IGNORECASE)
REMARK = re.compile(r"comment|reason|feedback|rationale|why|note|explanation", re.IGNORECASE)
TIES = {"tie", "equal", "same", "draw", "both", "both_good", "both good", "neither", "both_bad", "both bad"}
ALL_BAD = {"neither", "both_bad", "both bad"}


@dataclass(frozen=True, slots=True)
class Draft:
    """A ballot before the store knows its prompt and answers. `names`: the answers, by name, as they were shown.
    `origin`: which question of which record this person answered; the same origin with another value is a
    correction. `extra`: further fields of a ballot."""

    kind: str
    names: tuple[str, ...]
    annotator: str
    origin: str
    ranks: tuple[float, ...] | None = None
    value: Any = None
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class Task:
    """A record: the prompt, its answers by name, what was said of them, and what could not be taken, by reason."""

    prompt: Messages
    answers: dict[str, Messages] = field(default_factory=dict)
    drafts: list[Draft] = field(default_factory=list)
    models: Mapping[str, str] = field(default_factory=dict)
    tools: Sequence[Mapping[str, Any]] = ()
    fields: Mapping[str, Any] = field(default_factory=dict)
    left_out: Counter[str] = field(default_factory=Counter)


def task_of(row: Row, place: str, *, prompt_field: str = "", answer_fields: Sequence[str] = ()) -> Task:
    """The prompt and the answers of a record's fields. They are told by their names, unless the names are given.

    FieldError where no field is the prompt, or a field that was named is not there.
    """
    for name in (*([prompt_field] if prompt_field else []), *answer_fields):
        if is_absent(row.get(name)):
            raise FieldError(f"there is no such field; the record has {', '.join(row) or 'none'}.", f"{place}.{name}")
    prompt = prompt_field or next((name for name in PROMPT_NAMES if not is_absent(row.get(name))), "")
    if not prompt:
        raise FieldError(
            f"no field is the prompt, among {', '.join(row) or 'none'}; name it with --prompt-field.", place
        )
    named = answer_fields or [
        name for name in row if name != prompt and ANSWER.fullmatch(name) and row[name] and _is_said(row[name])
    ]
    task = Task(asked({prompt: row[prompt]}, prompt))
    for name in named:
        task.answers[name] = answered(row[name], f"{place}.{name}")
    return task


def _is_said(value: Any) -> bool:
    """Text or messages, as opposed to a number or a list of labels."""
    return isinstance(value, str) or (isinstance(value, list) and all(isinstance(one, Mapping) for one in value))


def about(task: Task, question: str) -> tuple[str, ...]:
    """The answers that a question is about: those that its name contains, else all of them."""
    inside = [name for name in task.answers if re.search(rf"(?<!\w){re.escape(name)}(?!\w)", question, re.IGNORECASE)]
    return tuple(inside) or tuple(name for name in task.answers if name in question) or tuple(task.answers)


def say(task: Task, question: str, value: Any, annotator: str, origin: str, extra: Mapping[str, Any]) -> None:
    """Add what one person answered to one question: a ranking, a choice, a rating, an edit or a label, by its value."""
    if isinstance(value, str):
        task.drafts.append(_said(task, question, value, annotator, origin, extra))
        return
    one = about(task, question)
    places = places_of(value, tuple(task.answers)) if isinstance(value, list) else {}
    if len(places) > 1:
        ranks = tuple(places.values())
        task.drafts.append(Draft("ranking", tuple(places), annotator, origin, ranks, extra=extra))
    elif isinstance(value, list) and value and all(isinstance(text, str) for text in value):
        task.drafts.append(Draft("label", one, annotator, origin, value=value, extra=extra))
    elif isinstance(value, bool) or not isinstance(value, int | float):
        task.left_out[f"question {question!r}: no value that is read here"] += 1
    elif len(one) == 1:
        task.drafts.append(Draft("rating", one, annotator, origin, value=value, extra=extra))
    else:
        task.left_out[f"question {question!r}: which answer it rates cannot be told; put the field's name in it"] += 1


def _said(task: Task, question: str, text: str, annotator: str, origin: str, extra: Mapping[str, Any]) -> Draft:
    """What a text means: an answer's name, a tie, a better answer, or a label."""
    names = tuple(task.answers)
    if text in names and len(names) > 1:
        return Draft("choice", names, annotator, origin, value=text, extra=extra)
    if text.strip().lower() in TIES and len(names) > 1:
        bad = text.strip().lower() in ALL_BAD
        return Draft("ranking", names, annotator, origin, (0.0,) * len(names), extra={**extra, "all_bad": bad})
    what = "edit" if BETTER.search(question) and text.strip() else "label"
    return Draft(what, about(task, question), annotator, origin, value=text, extra=extra)


def places_of(value: list[Any], names: Sequence[str]) -> dict[str, float]:
    """The places that a list gives to answers, 0 the best: names in order, or {"value": name, "rank": from 1}.
    Empty where it is no such list."""
    if value and all(isinstance(one, str) and one in names for one in value) and len(set(value)) == len(value):
        return {name: float(place) for place, name in enumerate(value)}
    if not value or not all(isinstance(one, Mapping) and one.get("value") in names for one in value):
        return {}
    ranks = [one.get("rank") for one in value]
    if all(rank is None for rank in ranks):
        ranks = list(range(1, len(value) + 1))
    if not all(isinstance(rank, int | float) and not isinstance(rank, bool) for rank in ranks):
        return {}
    best = min(rank for rank in ranks if rank is not None)
    return {one["value"]: float(rank - best) for one, rank in zip(value, ranks, strict=True) if rank is not None}


def remark(task: Task, annotator: str, text: str) -> None:
    """Put a comment on every ballot of one person about this record; without one it becomes a label."""
    mine = [draft for draft in task.drafts if draft.annotator == annotator]
    for draft in mine:
        task.drafts[task.drafts.index(draft)] = replace_extra(draft, comment=text)
    if not mine:
        origin = digest("comment", annotator, text)
        task.drafts.append(
            Draft("label", tuple(task.answers), annotator, origin, value="comment", extra={"comment": text})
        )


def replace_extra(draft: Draft, **more: Any) -> Draft:
    """The same draft with more fields of a ballot."""
    return Draft(
        draft.kind, draft.names, draft.annotator, draft.origin, draft.ranks, draft.value, {**draft.extra, **more}
    )


def as_field(messages: Sequence[Message], role: str) -> str | list[dict[str, str]]:
    """Messages for a tool to show: text where it is one message of the role, else a chat of roles and contents."""
    if len(messages) == 1 and messages[0] == Message(role, messages[0].content):
        return messages[0].content
    return [{"role": message.role, "content": _whole(message)} for message in messages]


def _whole(message: Message) -> str:
    thought = f"<think>{message.reasoning}</think>\n" if message.reasoning else ""
    calls = "".join(f"\n{call.name}({call.arguments})" for call in message.tool_calls)
    return f"{thought}{message.content}{calls}"


def moment(value: Any, place: str) -> datetime | None:
    """A point in time as ISO 8601 text; without a zone it is UTC."""
    if is_absent(value):
        return None
    try:
        found = datetime.fromisoformat(value)
    except (TypeError, ValueError):
        raise FieldError(f"expected a date such as 2026-01-31T12:00:00Z, found {value!r}.", place) from None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def user_number(name: str) -> str:
    """A UUID (version 8) for a name, for tools whose users are numbers: the same name, the same number."""
    raw = bytearray(hashlib.sha256(name.encode()).digest()[:16])
    raw[6], raw[8] = raw[6] & 0x0F | 0x80, raw[8] & 0x3F | 0x80
    text = raw.hex()
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


@dataclass(frozen=True, slots=True)
class Group:
    """What a tool's record holds: a prompt, the answers that were voted on, and at most one ballot a person."""

    name: str
    prompt: StoredPrompt
    responses: tuple[StoredResponse, ...]
    ballots: tuple[Ballot, ...]


def groups(store: Store) -> Iterator[Group]:
    """The ballots that count, by prompt and item; somebody's second ballot about the same goes into a second group."""
    prompts = {prompt.id: prompt for prompt in store.prompts()}
    responses: dict[int, list[StoredResponse]] = {}
    for response in store.responses():
        responses.setdefault(response.prompt_id, []).append(response)
    items = {item.id: item.response_ids for item in store.items()}
    found: dict[tuple[int, int, int], list[Ballot]] = {}
    seen: Counter[tuple[int, int, str]] = Counter()
    for ballot in store.ballots():
        key = (ballot.prompt_id, ballot.item_id or 0)
        seen[(*key, ballot.annotator)] += 1
        found.setdefault((*key, seen[(*key, ballot.annotator)]), []).append(ballot)
    for (prompt, item, number), ballots in sorted(found.items()):
        name = f"prompt-{prompt}" + (f"-item-{item}" if item else "") + (f"-{number}" if number > 1 else "")
        shown = [one for one in responses.get(prompt, []) if not item or one.id in items[item]]
        yield Group(name, prompts[prompt], tuple(shown), tuple(ballots))


def names_of(responses: Sequence[StoredResponse]) -> dict[int, str]:
    """What the answers of a group are called, by their ids: response-1, response-2, …"""
    return {response.id: f"response-{number}" for number, response in enumerate(responses, 1)}
