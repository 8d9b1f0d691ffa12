"""OpenAssistant conversation trees: every message has replies, and people ranked the replies of each message."""

from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from typing import Any

from posttrain.data.fields import FieldError, Row, inside, kind, number, shown, text
from posttrain.data.json_text import decode
from posttrain.types import Message, MessageTree, Record, Turn

ROLES = {"prompter": "user", "assistant": "assistant"}
MAX_TURNS = 100  # on one path; a tree is sent between processes, which takes a few levels of the stack for each
FLAT = ("message_id", "parent_id", "text", "role")
Raw = bytes | dict[str, Any]  # an undecoded line of JSON, or a row that is parsed already
UNREADABLE = "\0unreadable"  # the one field of a row that could not be taken apart: why


def read_tree(row: Row, source: str) -> tuple[Record, ...]:
    """The export form: one tree a row, its first message under `prompt`. Nothing where that message was deleted."""
    root = row["prompt"]
    if not isinstance(root, Mapping):
        raise FieldError(f"expected a message object, found {kind(root)}.", "prompt")
    return () if _deleted(root) else (MessageTree(_grow(root, "prompt", 1), source),)


def read_root(row: Row, source: str) -> tuple[Record, ...]:
    """The messages form: the first message of a tree with its replies inside."""
    if row["parent_id"] not in (None, ""):
        raise FieldError(
            f"this message answers {shown(row['parent_id'])}, which stands in no tree of this file, or its own "
            "message_id is there twice; give whole trees.",
            "parent_id",
        )
    return () if _deleted(row) else (MessageTree(_grow(row, "", 1), source),)


def best_path(tree: MessageTree) -> tuple[Message, ...]:
    """The conversation that follows the best-ranked reply (rank 0) at every step, ending with an assistant turn.

    Replies without a rank come after ranked ones, in file order. Empty where nobody answered. Source: Koepf et al.,
    2023 (OpenAssistant Conversations), section 3.
    """
    messages: list[Message] = []
    turn: Turn | None = tree.root
    while turn is not None:
        messages.append(turn.message)
        turn = min(turn.replies, key=lambda reply: float("inf") if reply.rank is None else reply.rank, default=None)
    while messages and messages[-1].role != "assistant":
        messages.pop()
    return tuple(messages)


def gathered(rows: Iterable[tuple[int, Raw]]) -> Iterator[tuple[int, Raw]]:
    """Rows as they come; where the first is one message of a tree, trees in place of messages.

    A table of messages names each one's parent, so the whole of it is held in memory. What stands in no tree comes as
    it was, and is refused as a row of its own.
    """
    rows = iter(rows)
    first = next(rows, None)
    if first is None:
        return
    rows = chain([first], rows)
    yield from rows if _flat(first[1]) is None else _trees(list(rows))


def _trees(rows: list[tuple[int, Raw]]) -> list[tuple[int, Raw]]:
    messages: dict[int, dict[str, Any]] = {}
    by_id: dict[str, int] = {}
    for index, (_, raw) in enumerate(rows):
        message = _flat(raw)
        if message is not None and message["message_id"] not in by_id:
            by_id[message["message_id"]] = index
            messages[index] = {**message, "replies": []}
    replies: dict[int, list[int]] = {}
    roots: list[int] = []
    for index, message in messages.items():
        parent = message["parent_id"]
        if parent in (None, ""):
            roots.append(index)
        elif isinstance(parent, str) and parent in by_id:
            replies.setdefault(by_id[parent], []).append(index)
    within: set[int] = set()
    level = roots
    while level:
        within.update(level)
        for index in level:
            messages[index]["replies"] = [messages[reply] for reply in replies.get(index, ())]
        level = [reply for index in level for reply in replies.get(index, ())]
    standing: dict[int, Raw] = {index: raw for index, (_, raw) in enumerate(rows) if index not in within}
    standing |= {index: messages[index] for index in roots}
    return [(rows[index][0], standing[index]) for index in sorted(standing)]


def _flat(raw: Raw) -> dict[str, Any] | None:
    """The row, if it is one message of a tree without its replies."""
    if isinstance(raw, bytes):
        if b'"parent_id"' not in raw or b'"message_id"' not in raw:
            return None
        try:
            row = decode(raw.decode("utf-8-sig"))
        except ValueError:
            return None
    else:
        row = raw
    if not isinstance(row, dict) or "replies" in row or not all(field in row for field in FLAT):
        return None
    return row if isinstance(row["message_id"], str) else None


def _deleted(node: Row) -> bool:
    """Whether moderators took the message away, and with it what answers it."""
    return str(node.get("deleted")).lower() == "true"


def _grow(node: Row, field: str, depth: int) -> Turn:
    if depth > MAX_TURNS:
        raise FieldError(f"this conversation has over {MAX_TURNS} turns; cut it.", field)
    role = node.get("role")
    if not isinstance(role, str) or role not in ROLES:
        raise FieldError(f"expected one of {', '.join(ROLES)}, found {shown(role)}.", inside(field, "role"))
    replies = node.get("replies")
    replies = [] if replies is None else replies
    if not isinstance(replies, list) or not all(isinstance(reply, Mapping) for reply in replies):
        raise FieldError(f"expected a list of messages, found {kind(replies)}.", inside(field, "replies"))
    rank = node.get("rank")
    return Turn(
        Message(ROLES[role], text(node, "text", field)),
        None if rank in (None, "") else number(rank, inside(field, "rank")),
        tuple(
            _grow(reply, inside(field, f"replies[{index}]"), depth + 1)
            for index, reply in enumerate(replies)
            if not _deleted(reply)
        ),
    )
