"""Tasks of Label Studio with their annotations: Pairwise, Ranker, Rating, Choices and TextArea results.

Reads the JSON export. An export does not hold the labelling configuration, so the answer that a result is about is told
by its `to_name`, by its own name, or by there being one; a Pairwise of other names is left out. Writes tasks that Label
Studio imports with their annotations. A Ranker knows no ties, so a ranking with ties is written as its columns "1",
"2", … of equal answers.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from posttrain.data.fields import FieldError, Row, is_absent, kind
from posttrain.data.preferences import answered
from posttrain.feedback.ballots import Ballot
from posttrain.feedback.questionnaire import (
    REMARK,
    Draft,
    Task,
    as_field,
    groups,
    moment,
    names_of,
    remark,
    say,
    task_of,
)
from posttrain.feedback.store import Store
from posttrain.feedback.tables import digest

OURS = ("meta_models", "meta_posttrain")  # what a task says that we wrote
UNTOLD = "a Pairwise whose left answer cannot be told; name the answers' fields, left to right, with --answer-fields"
TEXTS = ("body", "html", "text", "title")  # what an item of a Ranker shows, the fullest first


def is_task(row: Row) -> bool:
    """Whether a row is a Label Studio task."""
    return isinstance(row.get("data"), Mapping) and any(
        name in row for name in ("annotations", "completions", "predictions")
    )


def refuse_min(row: Row) -> None:
    """FieldError for a row of Label Studio's JSON-MIN, in which a Pairwise is "left" of nobody knows what."""
    if "annotation_id" in row and "annotations" not in row and "data" not in row:
        raise FieldError(
            "this is Label Studio's JSON-MIN, which does not say what a result is about; export as JSON.",
            "annotation_id",
        )


def read_task(row: Row, *, prompt_field: str = "", answer_fields: Sequence[str] = ()) -> Task:
    """The task with everybody's answers. Predictions and results of other kinds are counted as left out."""
    data: Mapping[str, Any] = row["data"]
    lists = {name: value for name, value in data.items() if _is_items(value)}
    plain = {name: value for name, value in data.items() if name not in lists}
    task = task_of(plain, "data", prompt_field=prompt_field, answer_fields=answer_fields)
    for name, items in lists.items():
        for index, item in enumerate(items):
            text = next((item[field] for field in TEXTS if not is_absent(item.get(field))), "")
            task.answers.setdefault(str(item["id"]), answered(text, f"data.{name}[{index}]"))
    models = data.get("meta_models")
    task.models = models if isinstance(models, Mapping) else {}
    task.fields = {name: value for name, value in plain.items() if name.startswith("meta_") and name not in OURS}
    own = data.get("meta_posttrain")
    number = str(own or row.get("id") or digest(dict(data)))
    annotations = row.get("annotations") or row.get("completions") or []
    if not isinstance(annotations, list):
        raise FieldError(f"expected a list, found {kind(annotations)}.", "annotations")
    for index, annotation in enumerate(annotations):
        if own and isinstance(annotation, Mapping):  # everybody has one, whose id is that of the newest correction
            annotation = {**annotation, "id": None}
        _read_annotation(task, annotation, number, f"annotations[{index}]", answer_fields)
    if not is_absent(row.get("predictions")):
        task.left_out["a prediction, which nobody submitted"] += len(row["predictions"])
    return task


def _is_items(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(one, Mapping) and "id" in one for one in value)


def _read_annotation(task: Task, annotation: Any, number: str, place: str, order: Sequence[str]) -> None:
    if not isinstance(annotation, Mapping):
        raise FieldError(f"expected an object, found {kind(annotation)}.", place)
    annotator, extra = _annotator(annotation), _told(annotation, place)
    origin = digest("label studio", number, annotation.get("id") or annotator)
    results = _results_of(annotation, f"{place}.result")
    if annotation.get("was_cancelled"):
        task.drafts.append(Draft("skip", tuple(task.answers), annotator, origin, extra=extra))
        return
    if not results:
        task.left_out["an annotation without a result"] += 1
    if any(result.get("from_name") == "all_bad" for result in results):
        extra["all_bad"] = True
    for result in results:
        if result.get("from_name") != "all_bad" and not _remark(result):
            name = digest(origin, result.get("from_name"), result.get("to_name"))
            _read_result(task, result, annotator, name, extra, order)
    if texts := [text for result in results if (text := _remark(result))]:
        remark(task, annotator, "\n".join(texts))


def _results_of(annotation: Mapping[str, Any], place: str) -> list[Mapping[str, Any]]:
    results = annotation.get("result") or []
    if not isinstance(results, list):
        raise FieldError(f"expected a list, found {kind(results)}.", place)
    for index, result in enumerate(results):
        if not isinstance(result, Mapping) or not isinstance(result.get("value", {}), Mapping):
            raise FieldError('expected {"type": …, "value": {…}}.', f"{place}[{index}]")
    return results


def _told(annotation: Mapping[str, Any], place: str) -> dict[str, Any]:
    """Time taken and date of an annotation, where it says them."""
    extra: dict[str, Any] = {}
    if isinstance(annotation.get("lead_time"), int | float):
        extra["seconds"] = float(annotation["lead_time"])
    created = moment(annotation.get("created_at"), f"{place}.created_at")
    return extra if created is None else {**extra, "created": created}


def _annotator(annotation: Mapping[str, Any]) -> str:
    by = annotation.get("completed_by")
    if isinstance(by, Mapping):
        by = by.get("email") or by.get("username") or by.get("id")
    return "unknown" if by is None else str(by)


def _remark(result: Mapping[str, Any]) -> str:
    """The text of a comment field."""
    texts = _texts(result.get("value", {}).get("text"))
    named = REMARK.search(str(result.get("from_name", "")))
    return "\n".join(texts) if result.get("type") == "textarea" and named else ""


def _texts(value: Any) -> list[str]:
    return [one for one in (value if isinstance(value, list) else [value]) if isinstance(one, str)]


def _read_result(
    task: Task,
    result: Mapping[str, Any],
    annotator: str,
    origin: str,
    extra: Mapping[str, Any],
    order: Sequence[str],
) -> None:
    value, what = result.get("value", {}), result.get("type")
    question = f"{result.get('from_name', '')} {result.get('to_name', '')}"
    rest = {name: told for name, told in extra.items() if name != "all_bad"}
    if what == "pairwise" and value.get("selected") in ("left", "right"):
        if shown := _pair(task, str(result.get("to_name", "")), order):
            chosen = shown[0 if value["selected"] == "left" else 1]
            task.drafts.append(Draft("choice", shown, annotator, origin, value=chosen, extra=rest))
        else:
            task.left_out[UNTOLD] += 1
    elif what == "ranker" and (places := _places(value.get("ranker"), tuple(task.answers))):
        ranks = tuple(places.values())
        task.drafts.append(Draft("ranking", tuple(places), annotator, origin, ranks, extra=extra))
    elif what == "rating" and isinstance(value.get("rating"), int | float):
        say(task, question, value["rating"], annotator, origin, rest)
    elif what == "choices" and (texts := _texts(value.get("choices"))):
        if result.get("from_name") == "flag":
            task.drafts.append(
                Draft("flag", _flagged(task, result), annotator, origin, value="; ".join(texts), extra=rest)
            )
        else:
            say(task, question, texts[0] if len(texts) == 1 else texts, annotator, origin, rest)
    elif what == "textarea" and (texts := _texts(value.get("text"))):
        say(task, question, "\n".join(texts), annotator, origin, rest)
    else:
        task.left_out[f"a result of type {what!r} that cannot be read here"] += 1


def _pair(task: Task, to_name: str, order: Sequence[str]) -> tuple[str, ...]:
    """The two answers that stand left and right: those that the result names, else the two of `order`. Empty where
    neither tells; the order of the data's fields says nothing about the screen."""
    for names in (tuple(name.strip() for name in to_name.split(",")), tuple(order)):
        if len(names) == 2 and all(name in task.answers for name in names):
            return names
    return ()


def _flagged(task: Task, result: Mapping[str, Any]) -> tuple[str, ...]:
    return _pair(task, str(result.get("to_name", "")), ()) or tuple(task.answers)


def _places(value: Any, names: Sequence[str]) -> dict[str, float]:
    """Ids in order; in one column; or in columns that are numbered, equal answers in one. Empty where none of these."""
    if isinstance(value, Mapping):
        columns = {name: ids for name, ids in value.items() if ids and name != "_"} or {"_": value.get("_", [])}
        if len(columns) > 1 or all(name.isdigit() for name in columns):
            if not all(name.isdigit() for name in columns):
                return {}
            placed = [(str(one), float(name)) for name, ids in columns.items() for one in ids]
            best = min(place for _, place in placed)
            value = None
            places = {name: place - best for name, place in placed}
        else:
            value = next(iter(columns.values()))
    if isinstance(value, list):
        places = {str(one): float(place) for place, one in enumerate(value)}
    elif value is not None:
        return {}
    return places if len(places) > 1 and all(name in names for name in places) else {}


def label_studio_rows(store: Store) -> Iterator[dict[str, Any]]:
    """A task for each prompt, or item, that was voted on, with everybody's annotations."""
    for group in groups(store):
        names = names_of(group.responses)
        texts = {names[response.id]: as_field(response.messages, "assistant") for response in group.responses}
        items = [{"id": name, "title": name, "body": text} for name, text in texts.items()]
        data: dict[str, Any] = {"prompt": as_field(group.prompt.messages, "user"), **texts, "items": items}
        data["meta_models"] = {names[response.id]: response.model for response in group.responses if response.model}
        annotations = []
        for ballot in group.ballots:
            annotations.append(
                {
                    "id": ballot.id,
                    "completed_by": {"email": ballot.annotator},
                    "was_cancelled": ballot.kind == "skip",
                    "lead_time": ballot.seconds,
                    "created_at": ballot.created.isoformat() if ballot.created else None,
                    "result": list(_written(ballot, names)),
                }
            )
        data["meta_posttrain"] = group.name  # Label Studio numbers tasks anew
        yield {"data": data, "annotations": annotations, "predictions": []}


def _written(ballot: Ballot, names: Mapping[int, str]) -> Iterator[dict[str, Any]]:
    shown = [names[id] for id in ballot.response_ids]
    to_name = ",".join(shown)

    def result(name: str, what: str, value: Any) -> dict[str, Any]:
        return {"from_name": name, "to_name": to_name, "type": what, "value": {what: value}}

    match ballot.kind:
        case "ranking":
            yield _ranking(ballot, shown)
        case "choice" if len(shown) == 2:
            side = "left" if ballot.value == ballot.response_ids[0] else "right"
            yield {"from_name": "choice", "to_name": to_name, "type": "pairwise", "value": {"selected": side}}
        case "choice":
            yield result("choice", "choices", [names[ballot.value]])
        case "rating":
            yield result("rating", "rating", ballot.value)
        case "label":
            yield result("label", "choices", [ballot.value] if isinstance(ballot.value, str) else list(ballot.value))
        case "edit":
            yield {"from_name": "edit", "to_name": to_name, "type": "textarea", "value": {"text": [ballot.value]}}
        case "flag":
            yield result("flag", "choices", [ballot.value or "flag"])
    yield from _asides(ballot)


def _asides(ballot: Ballot) -> Iterator[dict[str, Any]]:
    if ballot.all_bad:
        yield {"from_name": "all_bad", "to_name": "prompt", "type": "choices", "value": {"choices": ["all_bad"]}}
    if ballot.comment:
        yield {"from_name": "comment", "to_name": "prompt", "type": "textarea", "value": {"text": [ballot.comment]}}


def _ranking(ballot: Ballot, shown: Sequence[str]) -> dict[str, Any]:
    ranks = ballot.ranks or ()
    columns: dict[str, list[str]] = {}
    for place, rank in enumerate(sorted(set(ranks)), 1):
        columns[str(place)] = [name for name, theirs in zip(shown, ranks, strict=True) if theirs == rank]
    tied = len(columns) < len(shown)
    value = columns if tied else {"rank": [name for ids in columns.values() for name in ids]}
    return {"from_name": "ranking", "to_name": "items", "type": "ranker", "value": {"ranker": value}}
