"""Records of Argilla 2: fields, and answers to ranking, rating, label and text questions with a status.

Reads what its client exports (`responses`: question to a list of value and user), what its server sends (`responses`: a
list of values, status and user), and the flat rows of an exported data set (`question.responses`). Writes the client's
form, which `Record.from_dict` takes back. An Argilla ranking knows ties in the server's form alone, so a ranking with
ties is written with `rank` beside `value`, ranks from 1.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from uuid import UUID

from posttrain.data.fields import FieldError, Row, is_absent, kind
from posttrain.feedback.ballots import Ballot
from posttrain.feedback.questionnaire import (
    REMARK,
    Draft,
    Task,
    as_field,
    groups,
    names_of,
    remark,
    replace_extra,
    say,
    task_of,
    user_number,
)
from posttrain.feedback.store import Store
from posttrain.feedback.tables import digest

STATUSES = ("submitted", "discarded", "draft")
NOT_VECTORS = ("id", "status", "_server_id", "inserted_at", "updated_at", "external_id")


def is_record(row: Row) -> bool:
    """Whether a row is an Argilla record, nested or flat."""
    if isinstance(row.get("fields"), Mapping):
        return "responses" in row or "suggestions" in row or "_server_id" in row
    return any(name.endswith((".responses", ".responses.users")) for name in row)


def read_record(row: Row, *, prompt_field: str = "", answer_fields: Sequence[str] = ()) -> Task:
    """The task of a record. Suggestions, drafts and vectors are counted as left out; a discarded record is a skip."""
    nested = row if isinstance(row.get("fields"), Mapping) else _nested(row)
    task = task_of(nested["fields"], "fields", prompt_field=prompt_field, answer_fields=answer_fields)
    metadata = nested.get("metadata")
    extra = dict(metadata) if isinstance(metadata, Mapping) else {}
    known = dict(line.split(" ", 1) for line in extra.pop("annotators", []) if isinstance(line, str) and " " in line)
    task.models = {name: extra.pop(f"model-{name}") for name in task.answers if f"model-{name}" in extra}
    task.fields = extra
    record = str(nested.get("id") or nested.get("_server_id") or digest(nested["fields"]))
    remarks: list[tuple[str, str]] = []
    bad: set[str] = set()
    for question, user, value, status in _responses(nested.get("responses")):
        annotator = known.get(user, user)
        origin = digest("argilla", record, question, user)
        if status == "draft":
            task.left_out["a draft that was not submitted"] += 1
        elif status == "discarded":
            origin = digest("argilla", record, "discarded", user)
            if all(draft.origin != origin for draft in task.drafts):  # one skip, of however many questions
                reason = value if question == "skip" and isinstance(value, str) and value else None
                task.drafts.append(Draft("skip", tuple(task.answers), annotator, origin, value=reason))
        elif question == "all_bad":
            bad.add(annotator)
        elif isinstance(value, str) and REMARK.search(question):
            remarks.append((annotator, value))
        elif question == "flag" and isinstance(value, str):
            task.drafts.append(Draft("flag", tuple(task.answers), annotator, origin, value=value))
        else:
            say(task, question, value, annotator, origin, {})
    task.drafts = [
        replace_extra(draft, all_bad=True) if draft.kind == "ranking" and draft.annotator in bad else draft
        for draft in task.drafts
    ]
    for annotator, text in remarks:
        remark(task, annotator, text)
    if not is_absent(nested.get("suggestions")):
        task.left_out["a suggestion, which nobody submitted"] += len(nested["suggestions"])
    return task


def _nested(row: Row) -> dict[str, Any]:
    """A row of an exported data set, in the nested form. Fields and metadata cannot be told apart there."""
    responses: dict[str, list[dict[str, Any]]] = {}
    for name in row:
        if name.endswith(".responses") and not is_absent(row[name]):
            question = name.removesuffix(".responses")
            users = row.get(f"{name}.users") or [None] * len(row[name])
            states = row.get(f"{name}.status") or [None] * len(row[name])
            if not len(users) == len(states) == len(row[name]):
                raise FieldError("values, users and status are not of the same number.", name)
            answers = zip(row[name], users, states, strict=True)
            responses[question] = [
                {"value": value, "user_id": user, "status": status} for value, user, status in answers
            ]
    fields = {name: value for name, value in row.items() if "." not in name and name not in NOT_VECTORS}
    suggested = {name for name in row if name.endswith(".suggestion") and not is_absent(row[name])}
    return {"id": row.get("id"), "fields": fields, "responses": responses, "suggestions": dict.fromkeys(suggested)}


def _responses(value: Any) -> Iterator[tuple[str, str, Any, str]]:
    """(question, user, value, status) of both forms. A status that is not told counts as submitted."""
    if isinstance(value, Mapping):
        yield from _by_question(value)
    elif isinstance(value, list):
        yield from _by_user(value)
    elif value is not None:
        raise FieldError(f"expected an object or a list, found {kind(value)}.", "responses")


def _by_question(value: Mapping[str, Any]) -> Iterator[tuple[str, str, Any, str]]:
    for question, answers in value.items():
        for index, answer in enumerate(answers if isinstance(answers, list) else [answers]):
            place = f"responses.{question}[{index}]"
            if not isinstance(answer, Mapping) or "value" not in answer:
                raise FieldError(f'expected {{"value": …, "user_id": …}}, found {kind(answer)}.', place)
            yield question, _user(answer), answer["value"], _status(answer, place)


def _by_user(value: list[Any]) -> Iterator[tuple[str, str, Any, str]]:
    for index, answer in enumerate(value):
        place = f"responses[{index}]"
        if not isinstance(answer, Mapping):
            raise FieldError(f'expected {{"values": …, "status": …}}, found {kind(answer)}.', place)
        values = answer.get("values") or {}
        if not isinstance(values, Mapping) or not all(isinstance(one, Mapping) for one in values.values()):
            raise FieldError('expected {"question": {"value": …}}.', f"{place}.values")
        status = _status(answer, place)
        if status == "discarded" and not values:
            yield "discarded", _user(answer), None, status
        for question, one in values.items():
            yield question, _user(answer), one.get("value"), status


def _user(answer: Mapping[str, Any]) -> str:
    return str(answer.get("user_id") or "unknown")


def _status(answer: Mapping[str, Any], place: str) -> str:
    status = str(answer.get("status") or "submitted").rpartition(".")[2]
    if status not in STATUSES:
        raise FieldError(f"the status is {status!r}, expected one of {', '.join(STATUSES)}.", f"{place}.status")
    return status


def argilla_rows(store: Store) -> Iterator[dict[str, Any]]:
    """A record for each prompt, or item, that was voted on; somebody's second ballot about it stands in another."""
    for group in groups(store):
        names = names_of(group.responses)
        fields: dict[str, Any] = {"prompt": as_field(group.prompt.messages, "user")}
        metadata: dict[str, Any] = dict(group.prompt.fields)
        for response in group.responses:
            fields[names[response.id]] = as_field(response.messages, "assistant")
            if response.model:
                metadata[f"model-{names[response.id]}"] = response.model
        users = {ballot.annotator: _uuid(ballot.annotator) for ballot in group.ballots}
        metadata["annotators"] = [f"{number} {name}" for name, number in users.items()]
        answers: dict[str, list[dict[str, Any]]] = {}
        for ballot in group.ballots:
            status = "discarded" if ballot.kind == "skip" else "submitted"
            for question, value in _answers(ballot, names):
                entry = {"value": value, "user_id": users[ballot.annotator], "status": status}
                answers.setdefault(question, []).append(entry)
        yield {
            "id": group.name,
            "fields": fields,
            "metadata": metadata,
            "suggestions": {},
            "responses": answers,
            "vectors": {},
            "_server_id": None,
        }


def _uuid(name: str) -> str:
    try:
        return str(UUID(name))
    except ValueError:
        return user_number(name)


def _answers(ballot: Ballot, names: Mapping[int, str]) -> Iterator[tuple[str, Any]]:
    """The questions that a ballot answers, with the values."""
    shown = [names[id] for id in ballot.response_ids]
    one = f"-{shown[0]}" if len(shown) == 1 else ""
    if ballot.kind == "ranking":
        ranked = sorted(zip(ballot.ranks or (), shown, strict=True))
        tied = len(set(ballot.ranks or ())) < len(shown)
        places = {rank: place for place, rank in enumerate(sorted(set(ballot.ranks or ())), 1)}
        yield "ranking", [{"value": name, "rank": places[rank]} if tied else name for rank, name in ranked]
        if ballot.all_bad:
            yield "all_bad", "yes"
    elif ballot.kind == "choice":
        yield "choice", names[ballot.value]
    elif ballot.kind == "skip":
        yield "skip", ballot.value or ""
    elif ballot.kind == "flag":
        yield "flag", ballot.value or ""
    else:
        yield f"{ballot.kind}{one}", ballot.value
    if ballot.comment:
        yield "comment", ballot.comment
