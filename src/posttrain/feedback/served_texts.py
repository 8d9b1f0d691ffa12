"""What of an exchange may stand in the store: its texts as rows, without personal data."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from posttrain.feedback.personal_data import redact, redact_value
from posttrain.feedback.tables import as_json, message_rows
from posttrain.types import Message


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer's messages as rows, and its token ids where its text is what was sampled."""

    rows: list[dict[str, Any]]
    token_ids: list[int] | None
    pii: dict[str, int]


@dataclass(frozen=True, slots=True)
class Texts:
    """Everything of an exchange that is text. `pii`: how many pieces of each kind were blotted out of prompt
    and tools."""

    prompt: list[dict[str, Any]]
    tools: list[Any]
    answers: list[Answer]
    parameters: dict[str, Any]
    pii: dict[str, int] = field(default_factory=dict)
    parameters_pii: dict[str, int] = field(default_factory=dict)

    def all_pii(self) -> dict[str, int]:
        """Of everything together."""
        total = Counter(self.pii) + Counter(self.parameters_pii)
        for answer in self.answers:
            total.update(answer.pii)
        return dict(total)


def texts_of(
    messages: Sequence[Message],
    answers: Sequence[Message],
    *,
    tools: Sequence[Mapping[str, Any]] = (),
    parameters: Mapping[str, Any] | None = None,
    token_ids: Sequence[Sequence[int]] = (),
    redacting: bool = True,
) -> Texts:
    """The rows of a prompt and its answers. ValueError where the parameters are no JSON."""
    counts, others = Counter[str](), Counter[str]()
    offered: Any = [dict(tool) for tool in tools]
    given: Any = dict(parameters or {})
    as_json([offered, given], "tools and parameters")
    prompt = message_rows(messages)
    if redacting:
        prompt = [redacted_row(row, counts) for row in prompt]
        offered, given = redact_value(offered, counts), redact_value(given, others)
    kept = []
    for number, answer in enumerate(answers):
        ids = [int(token) for token in token_ids[number]] if number < len(token_ids) and token_ids[number] else None
        found: Counter[str] = Counter()
        rows = message_rows([answer])
        if redacting:
            rows = [redacted_row(row, found) for row in rows]
        # The ids would say what the text no longer says.
        kept.append(Answer(rows, None if found else ids, dict(found)))
    return Texts(prompt, offered, kept, given, dict(counts), dict(others))


def redacted_row(row: Mapping[str, Any], counts: Counter[str]) -> dict[str, Any]:
    """A message without personal data: content, reasoning, a speaker's name, arguments of calls. Arguments that were
    JSON are JSON afterwards."""
    changed = dict(row)
    for name in ("content", "reasoning", "name"):
        if name in row:
            changed[name] = redact_value(row[name], counts)
    if "tool_calls" in row:
        changed["tool_calls"] = [
            {**call, "arguments": _arguments(call["arguments"], counts)} for call in row["tool_calls"]
        ]
    return changed


def _arguments(text: str, counts: Counter[str]) -> str:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return str(redact_value(text, counts))
    found: Counter[str] = Counter()
    clean = redact_value(value, found)
    counts.update(found)
    return json.dumps(clean, ensure_ascii=False) if found else text


def clean_text(text: str, counts: Counter[str], *, redacting: bool = True) -> str:
    """A user's own words."""
    if not redacting:
        return text
    done = redact(text)
    counts.update(done.counts)
    return done.text
