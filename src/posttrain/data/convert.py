"""Records of any kind to what supervised fine-tuning trains on, or the reason why a record is left out."""

from dataclasses import replace
from typing import assert_never

from posttrain.data.trees import best_path
from posttrain.types import (
    Conversation,
    Document,
    Message,
    MessageTree,
    Preference,
    Principle,
    Prompt,
    Ranking,
    Rating,
    Record,
)


def for_sft(record: Record) -> tuple[Conversation | Document | None, str]:
    """(what to train on, ""), or (None, why the record is left out).

    A preference trains its chosen answer, a ranking the best (the first of equals), a rating its answer where the
    score is 1, a tree its best path. What an assistant said before such an answer has weight 0: nobody judged it.
    """
    match record:
        case Document():
            return record, ""
        case Conversation():
            return (record, "") if _says_something(record.messages) else (None, "no assistant says anything")
        case Prompt():
            return None, "a prompt without an answer to train on"
        case Preference(prompt, chosen):
            return _judged(prompt, chosen, record, "the chosen answer is empty")
        case Ranking(prompt, responses, ranks):
            best = responses[min(range(len(ranks)), key=ranks.__getitem__)]
            return _judged(prompt, best, record, "the best answer is empty")
        case Rating(prompt, response, score):
            if score != 1:
                return None, "the answer is rated bad" if score == 0 else "the rating is neither good (1) nor bad (0)"
            return _judged(prompt, response, record, "the answer rated good is empty")
        case MessageTree():
            path = best_path(record)
            return (Conversation(path, record.source), "") if path else (None, "a tree without an answer")
        case Principle():
            return None, "a principle, which is for revising answers"
    assert_never(record)


def _judged(
    prompt: tuple[Message, ...],
    answer: tuple[Message, ...],
    record: Preference | Ranking | Rating,
    empty: str,
) -> tuple[Conversation | None, str]:
    if not _says_something(answer):
        return None, empty
    before = tuple(replace(turn, weight=0.0) if turn.role == "assistant" else turn for turn in prompt)
    return Conversation(before + answer, record.source, record.tools), ""


def _says_something(messages: tuple[Message, ...]) -> bool:
    return any(turn.role == "assistant" and (turn.content.strip() or turn.tool_calls) for turn in messages)
