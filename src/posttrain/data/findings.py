"""What a check of data says: findings with a level, counted rows, the mend, and examples by file and line."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

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
    Turn,
)

Level = Literal["pass", "warn", "refuse"]
LEVELS: tuple[Level, ...] = ("pass", "warn", "refuse")

MAX_EXAMPLES = 5
EXCERPT = 72
"""Characters of an example: enough to recognise a row, and one line of a terminal together with its place."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at. `code` names the check for machines, `message` says what was found and how often,
    `mend` how to mend it (empty where nothing is wrong), `examples` are lines of the form "file:line: what"."""

    level: Level
    code: str
    message: str
    mend: str = ""
    examples: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault that a row may have: what to call it, how to mend it, and the share of rows from which it is a warning
    or a refusal (exceeded, not reached; None: never). A share of 0 means from the first row."""

    title: str
    mend: str
    warn: float | None = 0.0
    refuse: float | None = None


def verdict(findings: Iterable[Finding]) -> Level:
    """The worst level of all; `pass` where there is none."""
    return max((finding.level for finding in findings), key=LEVELS.index, default="pass")


def judge(
    code: str, fault: Fault, count: int, total: int, examples: Sequence[str] = (), *, unit: str = "rows", note: str = ""
) -> Finding:
    """The finding for a fault that `count` of `total` rows have."""
    said = f"{fault.title}: {count:,} of {total:,} {unit} ({percent(count, total)}){note}"
    share = count / max(total, 1)
    level: Level = "pass"
    if fault.warn is not None and share > fault.warn:
        level = "warn"
    if fault.refuse is not None and share > fault.refuse:
        level = "refuse"
    if not count:
        return Finding("pass", code, f"{fault.title}: none in {total:,} {unit}")
    return Finding(level, code, said, fault.mend, tuple(examples[:MAX_EXAMPLES]))


class Tally:
    """Rows by fault, with the first few examples of each. A row counts once for each fault, however often it has it."""

    def __init__(self) -> None:
        self.count: Counter[str] = Counter()
        self.examples: dict[str, list[str]] = {}

    def add(self, source: str, found: Iterable[tuple[str, str]]) -> None:
        """Count the (code, excerpt) pairs found in one row."""
        once = dict(reversed(list(found)))
        for code, excerpt in once.items():
            self.count[code] += 1
            shown = self.examples.setdefault(code, [])
            if len(shown) < MAX_EXAMPLES:
                shown.append(example(source, excerpt))

    def findings(self, faults: Mapping[str, Fault], total: int, *, unit: str = "rows") -> list[Finding]:
        """One finding a fault of the table, found or not."""
        return [
            judge(code, fault, self.count[code], total, self.examples.get(code, ()), unit=unit)
            for code, fault in faults.items()
        ]


def percent(count: int, total: int) -> str:
    """A share for people: two figures, and never 0 % or 100 % where it is not so.

    >>> percent(1, 3), percent(1, 100_000), percent(99_999, 100_000), percent(0, 7), percent(7, 7)
    ('33 %', '0.001 %', '99.999 %', '0 %', '100 %')
    """
    share = 100 * count / max(total, 1)
    if 99 < share < 100:
        return f"{share:.3f} %"
    return f"{share:.0f} %" if share >= 10 or not count else f"{share:.2g} %"


def example(source: str, text: str, around: int = 0) -> str:
    """ "file:line: text", with the text on one line and cut to the part around character `around`."""
    start = max(0, min(around - EXCERPT // 2, len(text) - EXCERPT))
    cut = text[start : start + EXCERPT]
    shown = "".join(c if c.isprintable() else _visible(c) for c in cut)
    return f"{source}: {'…' if start else ''}{shown}{'…' if start + EXCERPT < len(text) else ''}"


def _visible(character: str) -> str:
    return " " if character in "\n\t\u00a0\u2028" else f"\\u{ord(character):04x}"


def dialogues(record: Record) -> Iterator[tuple[tuple[Message, ...], tuple[Message, ...]]]:
    """Every (prompt, answer) that a record holds, each a run of messages. A conversation is one, cut before its last
    run of assistant and tool turns; a preference is two; a tree one for each leaf. A document has none."""
    match record:
        case Conversation():
            yield split_answer(record.messages)
        case Prompt():
            yield record.messages, ()
        case Preference():
            yield record.prompt, record.chosen
            yield record.prompt, record.rejected
        case Rating():
            yield record.prompt, record.response
        case Ranking():
            yield from ((record.prompt, response) for response in record.responses)
        case MessageTree():
            yield from map(split_answer, _paths(record.root))
        case Document() | Principle():
            return


def split_answer(messages: Sequence[Message]) -> tuple[tuple[Message, ...], tuple[Message, ...]]:
    """A conversation's prompt and the answer to it: what follows the last user or system turn."""
    start = len(messages)
    while start and messages[start - 1].role in ("assistant", "tool"):
        start -= 1
    return tuple(messages[:start]), tuple(messages[start:])


def _paths(turn: Turn) -> Iterator[tuple[Message, ...]]:
    if not turn.replies:
        yield (turn.message,)
    for reply in turn.replies:
        yield from ((turn.message, *rest) for rest in _paths(reply))


def asked(prompt: Sequence[Message]) -> str:
    """The text of a prompt without its system message, which many rows share."""
    return "\n\n".join(message.content for message in prompt if message.role != "system")


def said(answer: Sequence[Message]) -> str:
    """The text of an answer: what the assistant says and calls, without its reasoning and without tool results."""
    parts = []
    for message in answer:
        if message.role == "assistant":
            parts += [message.content, *(f"{call.name}({call.arguments})" for call in message.tool_calls)]
    return "\n\n".join(part for part in parts if part)


def texts(record: Record) -> Iterator[str]:
    """Every text of a record that may reach a model, each once."""
    match record:
        case Document():
            yield record.text
        case Principle():
            yield from (record.critique, record.revision)
        case _:
            yield from dict.fromkeys(text for both in dialogues(record) for part in both for text in _said_in(part))


def _said_in(messages: Sequence[Message]) -> Iterator[str]:
    for message in messages:
        yield message.content
        if message.reasoning:
            yield message.reasoning
        yield from (call.arguments for call in message.tool_calls)
