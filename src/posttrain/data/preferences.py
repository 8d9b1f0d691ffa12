"""What people preferred: pairs with a prompt of their own or inside both answers, labels, rankings, transcripts."""

import re
from collections.abc import Callable, Mapping
from itertools import takewhile
from typing import Any

from posttrain.data.chats import read_tools, said, turns, with_system
from posttrain.data.fields import FieldError, Row, is_absent, judgement, kind, listed, number, optional_text, text
from posttrain.types import Conversation, Message, Preference, Ranking, Rating, Record

Messages = tuple[Message, ...]
PROMPTS = ("prompt", "conversations", "question", "query", "instruction", "input", "messages")
TEXTS = ("response", "text", "content", "completion", "output")
SCORES = ("overall_score", "score", "scores", "rating")
RANKS = ("ranks", "rank", "ranking")
# What a pair may say of itself beside its answers, and the field of Preference that holds it.
KNOWN = {"chosen_probability": "label", "margin": "margin", "pair_weight": "weight"}
_SPEAKER = re.compile(r"(?:\A\s*|\n\n)(Human|Assistant):")
_SPEAKERS = {"Human": "user", "Assistant": "assistant"}


def asked(row: Row, field: str) -> Messages:
    """A prompt: text, or messages; under the row's system prompt."""
    value = row[field]
    if isinstance(value, str):
        return with_system(row, (Message("user", value),))
    if not isinstance(value, list | Mapping):
        raise FieldError(f"expected text or a list of messages, found {kind(value)}.", field)
    return with_system(row, turns(value, field))


def answered(value: Any, field: str) -> Messages:
    """An answer: text, one message, or several."""
    if isinstance(value, str):
        return (said(value),)
    if isinstance(value, Mapping) and not all(isinstance(column, list) for column in value.values()):
        return turns([value], field)
    if not isinstance(value, list | Mapping):
        raise FieldError(f"expected text or a list of messages, found {kind(value)}.", field)
    return turns(value, field)


def instructed(row: Row) -> Messages:
    """An Alpaca prompt: the instruction, what it is about, and what was said before."""
    instruction = text(row, "instruction")
    given = optional_text(row, "input") or optional_text(row, "context")
    before: list[Message] = []
    for index, pair in enumerate([] if is_absent(row.get("history")) else listed(row["history"], "history", "pairs")):
        if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(part, str) for part in pair):
            raise FieldError("expected a question and its answer, both text.", f"history[{index}]")
        before += [Message("user", pair[0]), said(pair[1])]
    question = "\n\n".join(part for part in (instruction, given) if part.strip())
    if not question:
        raise FieldError("the instruction is empty.", "instruction")
    return with_system(row, (*before, Message("user", question)))


def prompt_field(row: Row) -> str:
    """The field that holds a pair's prompt, or nothing where the prompt is inside both answers."""
    for field in PROMPTS:
        if not is_absent(row.get(field)) and (field != "messages" or not _is_answered(row[field])):
            return field
    return ""


def _is_answered(value: Any) -> bool:
    last = value[-1] if isinstance(value, list) and value else None
    return isinstance(last, Mapping) and last.get("role") == "assistant"


def is_transcript(row: Row, field: str = "chosen") -> bool:
    """Whether an answer is a whole dialogue as text, Human and Assistant in turn."""
    return isinstance(row.get(field), str) and bool(_SPEAKER.match(row[field]))


def read_preference(row: Row, source: str, chosen: str = "chosen", rejected: str = "rejected") -> tuple[Record, ...]:
    """A pair. Answers that repeat the prompt are cut where they part."""
    field = prompt_field(row)
    if not field and isinstance(row[chosen], str) and isinstance(row[rejected], str):
        if is_transcript(row, chosen) and is_transcript(row, rejected):
            pair = _part((), transcript(row, chosen), transcript(row, rejected), chosen)
        else:
            pair = _part_texts(row[chosen], row[rejected], chosen)
    else:
        prompt = _prompt(row, field) if field else ()
        if field and is_transcript(row, field):
            row = {**row, **{name: row[name].strip() for name in (chosen, rejected) if isinstance(row[name], str)}}
        pair = _part(prompt, answered(row[chosen], chosen), answered(row[rejected], rejected), chosen)
    prompt, good, bad = pair
    known = {ours: number(row[field], field) for field, ours in KNOWN.items() if not is_absent(row.get(field))}
    return (Preference(with_system(row, prompt), good, bad, source, read_tools(row), **known),)


def _prompt(row: Row, field: str) -> Messages:
    if field == "instruction":
        return instructed(row)
    if isinstance(row[field], str) and is_transcript(row, field):
        dialogue = transcript(row, field)
        # "… Assistant:" with nothing after it asks for the answer.
        return dialogue[:-1] if dialogue[-1] == Message("assistant", "") else dialogue
    return asked(row, field)


def transcript(row: Row, field: str) -> Messages:
    r"""The messages of "\n\nHuman: … \n\nAssistant: …"; what one speaker says in a row is one message."""
    before, *parts = _SPEAKER.split(text(row, field))
    if before.strip() or not parts:
        raise FieldError('expected text that begins with "\\n\\nHuman: ".', field)
    found: list[tuple[str, str]] = []
    for speaker, words in zip(parts[::2], parts[1::2], strict=True):
        words = words.strip()
        if found and found[-1][0] == speaker:
            words = f"{found.pop()[1]}\n\n{words}"
        found.append((speaker, words))
    return tuple(Message(_SPEAKERS[speaker], words) for speaker, words in found)


def _part(prompt: Messages, chosen: Messages, rejected: Messages, field: str) -> tuple[Messages, Messages, Messages]:
    """Prompt and answers, where the answers may repeat the prompt."""
    length = len(prompt)
    if prompt and chosen[0].role == rejected[0].role == "assistant":
        return prompt, chosen, rejected
    if prompt and chosen[:length] == rejected[:length] == prompt:
        return prompt, chosen[length:], rejected[length:]
    short = min(len(chosen), len(rejected)) - 1
    pairs = zip(chosen[:short], rejected[:short], strict=True)
    shared = [ours for ours, _ in takewhile(lambda pair: pair[0] == pair[1], pairs)]
    while shared and shared[-1].role == "assistant":
        shared.pop()
    if not shared:
        raise FieldError("the two answers share no prompt, and the row has none; give a field `prompt`.", field)
    if prompt and prompt[-1].content.strip() != shared[-1].content.strip():
        raise FieldError("the answers begin with another prompt than that of the row; keep one of the two.", field)
    begin = len(shared)
    return tuple(shared), chosen[begin:], rejected[begin:]


def _part_texts(chosen: str, rejected: str, field: str) -> tuple[Messages, Messages, Messages]:
    """Two texts that begin alike: the prompt is what they share, up to its last line break, else its last space."""
    pairs = zip(chosen, rejected, strict=False)
    common = "".join(ours for ours, _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
    end = common.rfind("\n")
    if end < 0 or not common[:end].strip():
        end = common.rfind(" ")
    if end < 0 or not common[:end].strip():
        raise FieldError("the two answers share no prompt, and the row has none; give a field `prompt`.", field)
    prompt = (Message("user", common[:end].rstrip()),)
    return prompt, (said(chosen[end:].lstrip()),), (said(rejected[end:].lstrip()),)


def read_rating(base: Callable[[Row, str], tuple[Record, ...]], mark: str) -> Callable[[Row, str], tuple[Record, ...]]:
    """A reader of answers with a label: `base` reads the conversation, whose last answer the label is about."""

    def read(row: Row, source: str) -> tuple[Record, ...]:
        score = judgement(row[mark], mark)
        (record,) = base(row, source)
        if not isinstance(record, Conversation) or record.messages[-1].role != "assistant":
            raise FieldError("there is a label, but no answer at the end that it could be about.", mark)
        begin = max((i + 1 for i, m in enumerate(record.messages) if m.role in ("user", "system")), default=0)
        return (Rating(record.messages[:begin], record.messages[begin:], score, source, record.tools),)

    return read


def read_ranking(row: Row, source: str, question: str, answers: str) -> tuple[Record, ...]:
    """Several answers with ranks (low is good) or scores (high is good), beside them or inside them."""
    prompt = instructed(row) if question == "instruction" else asked(row, question)
    entries = listed(row[answers], answers, "answers")
    responses = []
    for index, entry in enumerate(entries):
        here = f"{answers}[{index}]"
        inner = _first(entry, TEXTS) if isinstance(entry, Mapping) and "role" not in entry else ""
        responses.append(answered(entry[inner], f"{here}.{inner}") if inner else answered(entry, here))
    marks = _marks(row, entries, answers)
    places = sorted(set(marks))
    ranks = tuple(float(places.index(mark)) for mark in marks)
    return (Ranking(prompt, tuple(responses), ranks, source, read_tools(row)),)


def _marks(row: Row, entries: list[Any], answers: str) -> list[float]:
    """How bad each answer is: its rank, or its score with the sign turned."""
    name = _first(row, RANKS + SCORES)
    if name and isinstance(row[name], list | str):
        values = listed(row[name], name, "numbers")
        marks = [number(value, f"{name}[{index}]") for index, value in enumerate(values)]
    else:
        name = next((found for entry in entries if (found := _first(entry, RANKS + SCORES))), "")
        if not name:
            raise FieldError(f"no ranks or scores; give a list `ranks` or `scores` beside {answers}.", answers)
        marks = [
            number(entry.get(name) if isinstance(entry, Mapping) else None, f"{answers}[{index}].{name}")
            for index, entry in enumerate(entries)
        ]
    return marks if name in RANKS else [-mark for mark in marks]


def _first(row: Any, names: tuple[str, ...]) -> str:
    return next((name for name in names if isinstance(row, Mapping) and row.get(name) is not None), "")
