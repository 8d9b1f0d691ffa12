"""Records of `posttrain.data` as tasks: pairs, rankings, ratings and trees become ballots, answers alone do not."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from posttrain.data.fields import Row
from posttrain.data.preferences import Messages
from posttrain.feedback.ballots import SOURCES
from posttrain.feedback.questionnaire import Draft, Task
from posttrain.types import Conversation, MessageTree, Preference, Prompt, Ranking, Rating, Record, Turn

ROUNDING = 1e-9


def tasks_of(records: Iterable[Record], row: Row) -> Iterator[Task]:
    """The tasks of a row's records. `annotator`, `source`, `model` and `models` of the row are kept where they are."""
    said: dict[str, Any] = {}
    annotator = row.get("annotator") if isinstance(row.get("annotator"), str) else ""
    if row.get("ballot_source") in SOURCES:
        said["source"] = row["ballot_source"]
    if isinstance(row.get("comment"), str):
        said["comment"] = row["comment"]
    all_bad = row.get("all_bad") is True
    for record in records:
        extra = {**said, "all_bad": True} if all_bad and isinstance(record, Ranking) else said
        for task in _tasks(record, annotator or "", extra):
            models = row.get("models")
            if isinstance(models, list) and len(models) == len(task.answers):
                task.models = dict(zip(task.answers, map(str, models), strict=True))
            elif isinstance(row.get("model"), str) and len(task.answers) == 1:
                task.models = {name: str(row["model"]) for name in task.answers}
            yield task


def _tasks(record: Record, annotator: str, extra: Mapping[str, Any]) -> Iterator[Task]:
    match record:
        case Preference(prompt, chosen, rejected, _, tools):
            answers = {"0": chosen, "1": rejected}
            ranks, told = _weighed(record)
            yield _ranked(prompt, answers, ranks, annotator, {**extra, "details": told} if told else extra, tools)
        case Ranking(prompt, responses, ranks, _, tools):
            yield _ranked(prompt, _numbered(responses), ranks, annotator, extra, tools)
        case Rating(prompt, response, score, _, tools):
            draft = Draft("rating", ("0",), annotator, "", value=score, extra=extra)
            yield Task(prompt, {"0": response}, [draft], tools=tools)
        case Prompt():
            fields = {**record.fields, **({"answer": record.answer} if record.answer else {})}
            yield Task(record.messages, tools=record.tools, fields=fields)
        case Conversation(messages, _, tools) if messages[-1].role == "assistant" and len(messages) > 1:
            yield Task(messages[:-1], {"0": messages[-1:]}, tools=tools)
        case MessageTree(root):
            yield from _grown(root, (), annotator, extra)
        case _:
            yield Task((), left_out=Counter({f"{type(record).__name__.lower()} without a prompt and an answer": 1}))


def _weighed(pair: Preference) -> tuple[tuple[float, float], dict[str, float]]:
    """The places of `chosen` and `rejected`, by the side that is the likelier to be better; and what a ballot cannot
    say of a pair, for its details: `label`, the probability that `chosen` is the better one, `margin` and `weight`."""
    label = pair.label
    tied = abs(label - 0.5) < ROUNDING
    told = {"label": label} if not tied and label not in (0, 1) else {}
    told |= {"margin": pair.margin} if pair.margin else {}
    told |= {"weight": pair.weight} if pair.weight != 1 else {}
    return (0.0, 0.0) if tied else (0.0, 1.0) if label > 0.5 else (1.0, 0.0), told


def _numbered(responses: Iterable[Messages]) -> dict[str, Messages]:
    return {str(index): response for index, response in enumerate(responses)}


def _ranked(
    prompt: Messages,
    answers: dict[str, Messages],
    ranks: tuple[float, ...],
    annotator: str,
    extra: Mapping[str, Any],
    tools: tuple[Mapping[str, Any], ...] = (),
) -> Task:
    draft = Draft("ranking", tuple(answers), annotator, "", ranks, extra=extra)
    return Task(prompt, answers, [draft], tools=tools)


def _grown(root: Turn, before: Messages, annotator: str, extra: Mapping[str, Any]) -> Iterator[Task]:
    """Every message of a tree whose replies are an assistant's, with those that were ranked."""
    waiting = [(root, before)]
    while waiting:
        turn, path = waiting.pop()
        path = (*path, turn.message)
        waiting += [(reply, path) for reply in reversed(turn.replies)]
        answers = [reply for reply in turn.replies if reply.message.role == "assistant"]
        if turn.message.role == "assistant" or not answers:
            continue
        ranked = [reply for reply in answers if reply.rank is not None]
        unranked = [reply for reply in answers if reply.rank is None]
        numbered = _numbered((reply.message,) for reply in (*ranked, *unranked))
        task = Task(path, numbered)
        if len(ranked) > 1:
            ranks = tuple(float(reply.rank or 0) for reply in ranked)
            task.drafts.append(Draft("ranking", tuple(numbered)[: len(ranked)], annotator, "", ranks, extra=extra))
        yield task
