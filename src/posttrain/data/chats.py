"""Conversations as data sets write them: OpenAI's messages and ShareGPT's turns, with tools, calls and reasoning."""

import json
import re
from collections.abc import Mapping
from typing import Any

from posttrain.data.fields import (
    MEDIA,
    FieldError,
    Row,
    is_absent,
    kind,
    listed,
    nested_json,
    number,
    optional_text,
    others,
    shown,
)
from posttrain.types import Conversation, Message, Prompt, Record, ToolCall

ROLE_WORDS = {
    "system": "system", "developer": "system",
    "user": "user", "human": "user", "prompter": "user",
    "assistant": "assistant", "gpt": "assistant", "chatgpt": "assistant", "model": "assistant",
    "function_call": "assistant", "tool_call": "assistant",
    "tool": "tool", "function": "tool", "observation": "tool", "ipython": "tool", "tool_response": "tool",
}  # fmt: skip
_PLAIN = {"human": "user", "gpt": "assistant", "system": "system"}
CALLS = ("function_call", "tool_call")  # ShareGPT: the turn's text is the JSON of a call
REASONING = ("reasoning_content", "reasoning", "thinking")
TEXT_PARTS = ("text", "input_text", "output_text")
# Thoughts at the start of an answer, closed; what has no end is left in the text.
_THOUGHT = re.compile(r"\s*<think>(.*?)</think>\s*", re.DOTALL)
TURN = 'expected {"role": …, "content": …} or {"from": …, "value": …}'


def read_chat(row: Row, source: str, field: str) -> tuple[Record, ...]:
    """A conversation, or a prompt where the assistant says nothing."""
    messages = with_system(row, turns(row[field], field))
    tools = read_tools(row)
    for message in messages:
        if message.role == "assistant":
            return (Conversation(messages, source, tools),)
    return (Prompt(messages, source, tools, fields=others(row, field, "tools", "functions", "system")),)


def is_sharegpt(row: Row, field: str) -> bool:
    """Whether the turns say from/value."""
    value = row[field]
    if isinstance(value, str):
        return '"from"' in value
    first = value[0] if isinstance(value, list) and value else value
    return isinstance(first, Mapping) and "from" in first and "role" not in first


def turns(value: Any, field: str) -> tuple[Message, ...]:
    """The messages of a list of turns. Raises FieldError where one is no message that can be trained on."""
    if type(value) is not list:
        value = listed(value, field, "messages")
    if not value:
        raise FieldError("the list of messages is empty.", field)
    messages = []
    for index, turn in enumerate(value):
        # Nearly every turn of nearly every data set: two fields, plain text.
        if type(turn) is dict and len(turn) == 2:
            role = turn.get("role") or _PLAIN.get(str(turn.get("from")))
            content = turn.get("content", turn.get("value"))
            if type(content) is str:
                if role == "user" or role == "system":
                    messages.append(Message(role, content))
                    continue
                if role == "assistant":
                    messages.append(said(content))
                    continue
        messages.append(_message(turn, f"{field}[{index}]"))
    return tuple(messages)


def said(content: str) -> Message:
    """An assistant's message; closed <think> tags at its start become its reasoning."""
    thought = _THOUGHT.match(content)
    if thought:
        return Message("assistant", content[thought.end() :], thought[1].strip())
    return Message("assistant", content)


def with_system(row: Row, messages: tuple[Message, ...]) -> tuple[Message, ...]:
    """The messages under the system prompt that the row gives in a field of its own."""
    for field in ("system", "system_prompt"):
        if row.get(field) is None:
            continue
        system = optional_text(row, field)
        if not system.strip():
            continue
        if messages and messages[0].role == "system":
            if messages[0].content != system:
                raise FieldError("this is another system prompt than that of the messages; keep one of the two.", field)
            return messages
        return (Message("system", system), *messages)
    return messages


def read_tools(row: Row) -> tuple[Mapping[str, Any], ...]:
    """The functions on offer, each in the form {"type": "function", "function": {…}}; the row may hold JSON text."""
    for field in ("tools", "functions"):
        value = row.get(field)
        if is_absent(value):
            continue
        if isinstance(value, str) and not value.strip():
            continue
        offered = [value] if isinstance(value, Mapping) and "name" in value else listed(value, field, "functions")
        return tuple(_tool(tool, f"{field}[{index}]") for index, tool in enumerate(offered))
    return ()


def _tool(value: Any, field: str) -> Mapping[str, Any]:
    tool = nested_json(value, field) if isinstance(value, str) else value
    function = tool.get("function") or tool if isinstance(tool, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise FieldError('expected a function such as {"name": …, "description": …, "parameters": …}.', field)
    if function is not tool:
        return tool
    return {"type": "function", "function": {key: part for key, part in tool.items() if key != "type"}}


def _message(turn: Any, field: str) -> Message:
    if not isinstance(turn, Mapping):
        raise FieldError(f"{TURN}, found {kind(turn)}.", field)
    role_field, content_field = ("role", "content") if turn.get("role") is not None else ("from", "value")
    word = turn.get(role_field)
    if word is None:
        raise FieldError(f"{TURN}, found the fields {', '.join(map(shown, list(turn)[:8])) or '(none)'}.", field)
    role = ROLE_WORDS.get(word.strip().lower()) if isinstance(word, str) else None
    if role is None:
        raise FieldError(
            f"found the role {shown(word)}, expected one of {', '.join(ROLE_WORDS)}; columns can map other words "
            "(user: THEIR WORD).",
            f"{field}.{role_field}",
        )
    content = turn.get(content_field, turn.get("content"))
    if str(word).strip().lower() in CALLS:
        return Message(role, "", tool_calls=_calls(content, f"{field}.{content_field}"))
    if role == "assistant":
        return _answer(turn, content, field, content_field)
    return _other(turn, role, content, field, content_field)


def _answer(turn: Row, content: Any, field: str, content_field: str) -> Message:
    calls: tuple[ToolCall, ...] = ()
    for name in ("tool_calls", "function_call"):
        if not calls and not is_absent(turn.get(name)):
            calls = _calls(turn[name], f"{field}.{name}")
    reasoning = next((found for name in REASONING if (found := optional_text(turn, name, field))), "")
    weight = turn.get("weight")
    quiet = content is None and bool(calls)
    whole = "" if quiet else _content(content, f"{field}.{content_field}")
    message = said(whole)
    # Thoughts that a field of their own tells otherwise stay where they are.
    apart = reasoning in ("", message.reasoning)
    return Message(
        "assistant",
        message.content if apart else whole,
        reasoning or message.reasoning,
        calls,
        name=optional_text(turn, "name", field),
        weight=None if weight is None else number(weight, f"{field}.weight"),
    )


def _other(turn: Row, role: str, content: Any, field: str, content_field: str) -> Message:
    if role == "tool" and isinstance(content, Mapping):
        content = json.dumps(content, ensure_ascii=False, default=str)
    for name in ("tool_calls", "function_call", *REASONING):
        if not is_absent(turn.get(name)):
            raise FieldError(f"only an assistant's message may have {name}, this is a {role}'s.", f"{field}.{name}")
    if turn.get("weight") is not None and number(turn["weight"], f"{field}.weight"):
        raise FieldError(f"only an assistant's message may have a weight, this is a {role}'s.", f"{field}.weight")
    return Message(
        role,
        _content(content, f"{field}.{content_field}"),
        tool_call_id=optional_text(turn, "tool_call_id", field),
        name=optional_text(turn, "name", field),
    )


def _content(value: Any, field: str) -> str:
    """Text, or the texts of a list of parts, joined as they stand."""
    if isinstance(value, str):
        return value
    if not isinstance(value, list):
        raise FieldError(f"expected text, found {kind(value)}.", field)
    return "".join(_part(part, f"{field}[{index}]") for index, part in enumerate(value))


def _part(part: Any, field: str) -> str:
    if isinstance(part, str):
        return part
    if not isinstance(part, Mapping):
        raise FieldError(f'expected {{"type": "text", "text": …}}, found {kind(part)}.', field)
    what = part.get("type", "text")
    if what in TEXT_PARTS and isinstance(part.get("text"), str):
        return part["text"]
    media = {
        what if isinstance(what, str) else "",
        *(name for name in part if not is_absent(part[name])),
    } & MEDIA.keys()
    if media:
        raise FieldError(f"{MEDIA[media.pop()]} cannot be trained on here, only text; remove these rows.", field)
    raise FieldError(f'expected {{"type": "text", "text": …}}, found a part of type {shown(what)}.', field)


def _calls(value: Any, field: str) -> tuple[ToolCall, ...]:
    """One call or several, as objects or as JSON text."""
    value = nested_json(value, field) if isinstance(value, str) else value
    calls = [value] if isinstance(value, Mapping) else value
    if not isinstance(calls, list) or not calls:
        raise FieldError(f'expected calls such as {{"name": …, "arguments": …}}, found {kind(value)}.', field)
    found = []
    for index, call in enumerate(calls):
        here = f"{field}[{index}]" if calls is value else field
        call = nested_json(call, here) if isinstance(call, str) else call
        function = call.get("function") or call if isinstance(call, Mapping) else None
        if not isinstance(function, Mapping) or not isinstance(function.get("name"), str) or not function["name"]:
            raise FieldError('expected a call such as {"name": …, "arguments": …}.', here)
        arguments = _arguments(function.get("arguments"), f"{here}.arguments")
        found.append(ToolCall(function["name"], arguments, optional_text(call, "id", here)))
    return tuple(found)


def _arguments(value: Any, field: str) -> str:
    """The text of a JSON object; text is kept to the letter."""
    if value is None or (isinstance(value, str) and not value.strip()):
        return "{}"
    given = nested_json(value, field) if isinstance(value, str) else value
    if not isinstance(given, Mapping):
        raise FieldError(f"expected a JSON object, found {kind(given)}.", field)
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
