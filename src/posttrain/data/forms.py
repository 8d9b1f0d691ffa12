"""A conversation as a chat template takes it: plain dicts in Hugging Face's form, control tokens broken up."""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from posttrain.data.controls import Controls, free_mark
from posttrain.errors import DataError
from posttrain.types import Conversation, Message, ToolCall

THOUGHTS = ("reasoning_content", "thinking", "reasoning")  # keys under which templates look for reasoning


@dataclass(frozen=True)
class Form:
    """Messages and tools for a template, control tokens broken up by `mark` ("": nobody typed one)."""

    messages: list[dict[str, Any]]
    tools: list[Any] | None
    mark: str
    source: str


def form(conversation: Conversation, controls: Controls, template: str, *, arguments_as_text: bool = False) -> Form:
    """The form of one conversation. `template` is the template's source, which says where it looks for reasoning.

    Tool-call arguments are objects, as Hugging Face has them, or text for the templates that put them together as
    such. Raises DataError where a text cannot be kept apart from control tokens.
    """
    try:
        texts = list(_texts(conversation))
        typed = any(controls.typed_in(text, assistant=spoken) for text, spoken in texts)
        mark = free_mark([text for text, _ in texts]) if typed else ""
        thought = next((key for key in THOUGHTS if key in template), "")
        messages = []
        for message in conversation.messages:
            spoken = message.role == "assistant"
            messages.append(_as_dict(message, _escaper(controls, mark, assistant=spoken), thought, arguments_as_text))
        escape = _escaper(controls, mark, assistant=False)
        tools = [_walk(dict(tool), escape) for tool in conversation.tools] or None
    except DataError as error:
        raise DataError(str(error), file=conversation.source) from error
    return Form(messages, tools, mark, conversation.source)


def _escaper(controls: Controls, mark: str, *, assistant: bool) -> Callable[[str], str]:
    if not mark:
        return lambda text: text
    return lambda text: controls.escape(text, mark, assistant=assistant)


def _texts(conversation: Conversation) -> Iterator[tuple[str, bool]]:
    """Every text of a conversation, and whether the assistant says it."""
    for index, message in enumerate(conversation.messages):
        spoken = message.role == "assistant"
        yield message.content, spoken
        yield from ((text, spoken) for text in (message.reasoning, message.name, message.tool_call_id) if text)
        for call in message.tool_calls:
            yield from ((text, True) for text in (call.name, call.id, *_strings(_arguments(call, index))))
    for tool in conversation.tools:
        yield from ((text, False) for text in _strings(tool))


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield str(key)
            yield from _strings(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _strings(item)


def _walk(value: Any, escape: Callable[[str], str]) -> Any:
    """The same JSON value with every text in it escaped."""
    if isinstance(value, str):
        return escape(value)
    if isinstance(value, Mapping):
        return {escape(str(key)): _walk(item, escape) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_walk(item, escape) for item in value]
    return value


def _as_dict(message: Message, escape: Callable[[str], str], thought: str, arguments_as_text: bool) -> dict[str, Any]:
    made: dict[str, Any] = {"role": message.role, "content": escape(message.content)}
    if message.reasoning and thought:
        made[thought] = escape(message.reasoning)
    if message.name:
        made["name"] = escape(message.name)
    if message.tool_call_id:
        made["tool_call_id"] = escape(message.tool_call_id)
    if message.tool_calls:
        made["tool_calls"] = [_call(call, escape, arguments_as_text) for call in message.tool_calls]
    return made


def _call(call: ToolCall, escape: Callable[[str], str], arguments_as_text: bool) -> dict[str, Any]:
    given = _walk(_arguments(call, 0), escape)
    arguments = json.dumps(given, ensure_ascii=False) if arguments_as_text else given
    made = {"type": "function", "function": {"name": escape(call.name), "arguments": arguments}}
    return made | ({"id": escape(call.id)} if call.id else {})


def _arguments(call: ToolCall, index: int) -> Any:
    try:
        return json.loads(call.arguments)
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"the arguments of {call.name} are no JSON object: {call.arguments[:80]!r}.",
            field=f"messages[{index}].tool_calls",
        ) from error
