"""What can be wrong with the order of turns and with tool calls."""

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

from posttrain.data.findings import Fault, Finding, Tally, dialogues
from posttrain.types import Conversation, Message, Prompt, Record

FAULTS = {
    "system_not_first": Fault(
        "a system message that is not the first", "move it to the front; most templates refuse it elsewhere."
    ),
    "user_twice": Fault("two user turns in a row", "join them, or find the answer that was lost between them."),
    "assistant_twice": Fault(
        "two assistant turns in a row", "join them, or find the question that was lost between them."
    ),
    "starts_with_assistant": Fault(
        "an assistant turn that nobody asked for comes first",
        "add the question, or make it a system message; the model would learn to speak first.",
    ),
    "ends_with_question": Fault(
        "a last turn that is not the assistant's", "add the answer or remove the turn: nothing of it is trained."
    ),
    "result_without_call": Fault(
        "a tool result without a call", "add the assistant's tool_calls before it, or check the tool_call_id."
    ),
    "call_without_result": Fault(
        "a tool call that the conversation goes on from without its result",
        "add the tool's message; the model would learn to make results up.",
    ),
    "unknown_tool": Fault(
        "a call to a tool that the row does not offer", "add the tool's schema to the row, or mend its name."
    ),
    # What cannot be parsed cannot be run; over one row in a hundred the model learns to break its own tools.
    "bad_arguments": Fault(
        "tool calls whose arguments are no JSON object", "write the arguments as a JSON object.", 0.0, 0.01
    ),
}


def check_roles(records: Sequence[Record]) -> list[Finding]:
    """Findings on the order of turns in every record."""
    tally = Tally()
    for record in records:
        tally.add(record.source, _record_faults(record))
    return tally.findings(FAULTS, len(records))


def _record_faults(record: Record) -> Iterator[tuple[str, str]]:
    offered = _names(getattr(record, "tools", ()))
    for prompt, answer in dialogues(record):
        turns = (*prompt, *answer)
        yield from order_faults(turns)
        yield from tool_faults(turns, offered)
        # A prompt has no answer on purpose, and a tree may end with a question that nobody has answered yet.
        if isinstance(record, Conversation) and turns[-1].role != "assistant":
            yield "ends_with_question", f"ends with {turns[-1].role}: {turns[-1].content}"
        if not isinstance(record, Prompt) and next((t.role for t in turns if t.role != "system"), "") == "assistant":
            yield "starts_with_assistant", turns[0].content


def order_faults(turns: Sequence[Message]) -> Iterator[tuple[str, str]]:
    """Codes of what is wrong with the order of roles, each with the turn where it shows."""
    for place, turn in enumerate(turns):
        if turn.role == "system" and place:
            yield "system_not_first", f"turn {place + 1}: {turn.content}"
    for place, (before, turn) in enumerate(pairwise(turns), 2):
        if before.role == turn.role == "user":
            yield "user_twice", f"turns {place - 1} and {place}: {turn.content}"
        if before.role == turn.role == "assistant" and not before.tool_calls:
            yield "assistant_twice", f"turns {place - 1} and {place}: {turn.content}"


def tool_faults(turns: Sequence[Message], offered: set[str]) -> Iterator[tuple[str, str]]:
    """Codes of what is wrong with tool calls and results, in order; `offered` are the names of the row's tools."""
    waiting, ids = 0, set[str]()
    for place, turn in enumerate(turns, 1):
        if turn.role == "tool":
            if not waiting or (turn.tool_call_id and ids and turn.tool_call_id not in ids):
                yield "result_without_call", f"turn {place}: {turn.content}"
            waiting = max(0, waiting - 1)
            continue
        if waiting:
            yield "call_without_result", f"turn {place} ({turn.role}): {turn.content}"
        waiting = len(turn.tool_calls)
        ids |= {call.id for call in turn.tool_calls if call.id}
        for call in turn.tool_calls:
            if call.name not in offered:
                yield "unknown_tool", f"turn {place}: {call.name}, offered: {', '.join(sorted(offered)) or 'none'}"
            if not _is_object(call.arguments):
                yield "bad_arguments", f"turn {place}: {call.name}({call.arguments})"


def _is_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except ValueError:
        return False


def _names(tools: Sequence[Mapping[str, Any]]) -> set[str]:
    """Names of the offered functions; a schema may stand alone or under "function", as in OpenAI's API."""
    inner = [tool.get("function", tool) for tool in tools]
    return {str(schema.get("name", "")) for schema in inner if isinstance(schema, Mapping)}
