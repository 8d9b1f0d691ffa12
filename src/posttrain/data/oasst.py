"""OpenAssistant conversation trees: every message has replies, and people ranked the replies of each message."""

from typing import Any

from posttrain.errors import DataError
from posttrain.types import Message

ROLES = {"prompter": "user", "assistant": "assistant"}


def best_path(root: dict[str, Any]) -> tuple[Message, ...]:
    """The conversation that follows the best-ranked reply (rank 0) at every step, ending with an assistant turn.

    Deleted messages are passed over; replies without a rank come after ranked ones, in file order. Empty where the
    root has no answer. Source: Koepf et al., 2023 (OpenAssistant Conversations), section 3.
    """
    messages: list[Message] = []
    node: dict[str, Any] | None = root
    while node is not None:
        messages.append(_message(node))
        node = min(_replies(node), key=_rank, default=None)
    while messages and messages[-1].role != "assistant":
        messages.pop()
    return tuple(messages)


def _replies(node: dict[str, Any]) -> list[dict[str, Any]]:
    replies = node.get("replies") or []
    if not isinstance(replies, list) or not all(isinstance(reply, dict) for reply in replies):
        raise DataError("expected a list of messages.", field="replies")
    return [reply for reply in replies if not reply.get("deleted")]


def _rank(reply: dict[str, Any]) -> float:
    rank = reply.get("rank")
    if rank is not None and not isinstance(rank, int | float):
        raise DataError(f"expected a number, found {type(rank).__name__}.", field="rank")
    return float("inf") if rank is None else float(rank)


def _message(node: dict[str, Any]) -> Message:
    role, text = node.get("role"), node.get("text")
    if not isinstance(role, str) or role not in ROLES:
        raise DataError(f"role is {role!r}, expected one of {', '.join(ROLES)}.", field="role")
    if not isinstance(text, str):
        raise DataError(f"expected text, found {type(text).__name__}.", field="text")
    return Message(ROLES[role], text)
