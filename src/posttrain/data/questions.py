"""Questions with answers, questions alone, tasks, plain text, and the rules of a constitution."""

import re
from typing import Any

from posttrain.data.chats import read_tools
from posttrain.data.fields import FieldError, Row, is_absent, judgement, kind, optional_text, others, text
from posttrain.data.preferences import answered, asked, instructed
from posttrain.types import Conversation, Document, Message, Principle, Prompt, Rating, Record

GOLD = ("answer", "solution", "ground_truth", "reference", "canonical_solution")


def read_pair(row: Row, source: str, question: str, answer: str) -> tuple[Record, ...]:
    """A prompt and the answer to train; each may be text or messages."""
    said = answered(row[answer], answer)
    if not any(message.content.strip() or message.tool_calls for message in said):
        raise FieldError("the answer is empty, so there is nothing to train on.", answer)
    return (Conversation(asked(row, question) + said, source, read_tools(row)),)


def read_task(row: Row, source: str, question: str, answer: str) -> tuple[Record, ...]:
    """As `read_pair`, for text that was cut out of a longer one and keeps its outer white space."""
    return read_pair(
        {**row, question: text(row, question).strip(), answer: text(row, answer).strip()}, source, question, answer
    )


def read_alpaca(row: Row, source: str, answer: str) -> tuple[Record, ...]:
    """instruction and input, then the output; `history` and `system` where given."""
    said = answered(row[answer], answer)
    if not any(message.content.strip() for message in said):
        raise FieldError("the answer is empty, so there is nothing to train on.", answer)
    return (Conversation(instructed(row) + said, source, read_tools(row)),)


def read_self_instruct(row: Row, source: str) -> tuple[Record, ...]:
    """One conversation an instance; an instance without output is a prompt."""
    if not isinstance(row["instances"], list) or not row["instances"]:
        raise FieldError(f"expected a list of instances, found {kind(row['instances'])}.", "instances")
    found: list[Record] = []
    for index, instance in enumerate(row["instances"]):
        here = f"instances[{index}]"
        if not isinstance(instance, dict):
            raise FieldError(f'expected {{"input": …, "output": …}}, found {kind(instance)}.', here)
        prompt = instructed({**row, "input": optional_text(instance, "input", here)})
        output = optional_text(instance, "output", here)
        if output.strip():
            found.append(Conversation(prompt + answered(output, here), source))
        else:
            found.append(Prompt(prompt, source))
    return tuple(found)


def read_samples(row: Row, source: str) -> tuple[Record, ...]:
    """One question and several sampled solutions, each known to be right or wrong."""
    prompt = asked(row, "question")
    return tuple(
        Rating(
            prompt,
            answered(text(value, "solution", field), field),
            judgement(value["is_correct"], f"{field}.is_correct"),
            source,
        )
        for field, value in row.items()
        if _is_solution(value)
    )


def has_samples(row: Row) -> bool:
    """Whether a field holds a sampled solution."""
    return any(map(_is_solution, row.values()))


def _is_solution(value: Any) -> bool:
    return isinstance(value, dict) and "is_correct" in value and "solution" in value


def read_prompt(row: Row, source: str, question: str = "prompt") -> tuple[Record, ...]:
    """A prompt alone. What else the row says goes into `fields`, a gold answer into `answer`."""
    messages = asked(row, question)
    if not any(message.content.strip() for message in messages):
        raise FieldError("the prompt is empty.", question)
    field = next((name for name in GOLD if not is_absent(row.get(name))), "")
    answer = _gold(row[field]) if field else ""
    return (Prompt(messages, source, read_tools(row), answer, others(row, question, "tools", "functions")),)


def read_truthful(row: Row, source: str) -> tuple[Record, ...]:
    """A question with its best answer, and lists of true and false ones (`correct`, `incorrect`)."""
    question, best, right, wrong = (
        ("Question", "Best Answer", "Correct Answers", "Incorrect Answers")
        if "Question" in row
        else ("question", "best_answer", "correct_answers", "incorrect_answers")
    )
    fields = others(row, question, best, right, wrong) | {
        "correct": _answers(row, right),
        "incorrect": _answers(row, wrong),
    }
    return (Prompt((Message("user", text(row, question)),), source, answer=text(row, best), fields=fields),)


def _answers(row: Row, field: str) -> list[str]:
    value = row.get(field)
    parts = re.split(r";\s*", value) if isinstance(value, str) else [] if value is None else value
    if not isinstance(parts, list) or not all(isinstance(part, str) for part in parts):
        raise FieldError(f"expected answers with semicolons between them, found {kind(value)}.", field)
    return [part for part in parts if part.strip()]


def read_word_problem(row: Row, source: str) -> tuple[Record, ...]:
    """SVAMP: a story, a question about it, and a number."""
    asked_for = f"{text(row, 'Body').strip()} {text(row, 'Question').strip()}"
    fields = others(row, "Body", "Question", "Answer")
    return (Prompt((Message("user", asked_for),), source, answer=_gold(row["Answer"]), fields=fields),)


def _gold(value: Any) -> str:
    """A gold answer as text: 51.0 is 51."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return value if isinstance(value, str) else str(value) if isinstance(value, int | float) else ""


def read_principle(row: Row, source: str, critique: str, revision: str) -> tuple[Record, ...]:
    """How to criticise an answer, and how to revise it."""
    return (Principle(text(row, critique), text(row, revision), source),)


def read_text(row: Row, source: str, field: str) -> tuple[Record, ...]:
    """A document."""
    return (Document(text(row, field), source),)
