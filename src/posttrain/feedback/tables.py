"""The tables of the store at the newest schema, for queries, and what stands in their columns.

`migrations` makes them; a test compares the two. Structured values are JSON in text columns, in ASCII: every character
of an answer survives, the NUL that PostgreSQL refuses and half surrogate pairs included.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import BigInteger, Boolean, Column, Dialect, Float, Integer, MetaData, Table, Text
from sqlalchemy.types import TypeDecorator

from posttrain.types import Message, ToolCall


class JsonText(TypeDecorator[Any]):
    """A JSON value; None is NULL."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Dialect) -> str | None:  # noqa: ARG002
        return None if value is None else as_json(value)

    def process_result_value(self, value: str | None, dialect: Dialect) -> Any:  # noqa: ARG002
        return None if value is None else json.loads(value)


class Moment(TypeDecorator[datetime]):
    """A point in time as ISO 8601 text in UTC, to the microsecond: it sorts as text, in every database."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> str | None:  # noqa: ARG002
        return None if value is None else value.astimezone(UTC).isoformat(timespec="microseconds")

    def process_result_value(self, value: str | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        return None if value is None else datetime.fromisoformat(value)


def _table(name: str, *columns: Column[Any]) -> Table:
    return Table(name, METADATA, Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True), *columns)


METADATA = MetaData()
schema_version = Table(
    "schema_version", METADATA, Column("version", BigInteger, primary_key=True), Column("made", Moment)
)
prompts = _table(
    "prompts",
    Column("digest", Text),
    Column("messages", JsonText),
    Column("tools", JsonText),
    Column("source", Text),
    Column("fields", JsonText),
)
responses = _table(
    "responses",
    Column("prompt_id", BigInteger),
    Column("digest", Text),
    Column("messages", JsonText),
    Column("model", Text),
    Column("parameters", JsonText),
    Column("token_ids", JsonText),
    Column("scores", JsonText),
)
items = _table(
    "items",
    Column("prompt_id", BigInteger),
    Column("digest", Text),
    Column("response_ids", JsonText),
    Column("overlap", BigInteger),
)
annotators = _table(
    "annotators",
    Column("name", Text),
    Column("source", Text),
    Column("token_hash", Text),
    Column("created", Moment),
)
guidelines = _table("guidelines", Column("text", JsonText), Column("created", Moment))
ballots = _table(
    "ballots",
    Column("key", Text),
    Column("kind", Text),
    Column("prompt_id", BigInteger),
    Column("item_id", BigInteger),
    Column("response_ids", JsonText),
    Column("annotator", Text),
    Column("source", Text),
    Column("ranks", JsonText),
    Column("all_bad", Boolean),
    Column("value", JsonText),
    Column("comment", Text),
    Column("guidelines", BigInteger),
    Column("seconds", Float),
    Column("details", JsonText),
    Column("created", Moment),
    Column("replaced_by", BigInteger),
)
assignments = _table(
    "assignments",
    Column("item_id", BigInteger),
    Column("annotator", Text),
    Column("shown", JsonText),
    Column("opened", Moment),
    Column("closed", Moment),
)
served = _table(
    "served",
    Column("exchange", Text),
    Column("annotator", Text),
    Column("model", Text),
    Column("arm", Text),
    Column("arms", JsonText),
    Column("may_keep", Boolean),
    Column("prompt_id", BigInteger),
    Column("response_ids", JsonText),
    Column("pii", JsonText),
    Column("replaces", Text),
    Column("served_from", JsonText),
    Column("created", Moment),
)
served_votes = _table(
    "served_votes",
    Column("key", Text),
    Column("annotator", Text),
    Column("kind", Text),
    Column("slot", Text),
    Column("chosen", JsonText),
    Column("ballot_id", BigInteger),
    Column("outcomes", JsonText),
    Column("created", Moment),
    Column("replaced_by", BigInteger),
)


def as_json(value: Any, name: str = "value") -> str:
    """ASCII JSON, keys in the order given. ValueError where JSON has no such value."""
    try:
        return json.dumps(value, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"{name} cannot be kept as JSON: {error}") from None


def digest(*parts: Any) -> str:
    """SHA-256 of JSON values, the order of their keys aside: equal content, equal digest."""
    try:
        return hashlib.sha256(json.dumps(parts, separators=(",", ":"), sort_keys=True).encode()).hexdigest()
    except (TypeError, RecursionError) as error:
        raise ValueError(f"the content cannot be kept as JSON: {error}") from None


def message_rows(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """Messages as JSON objects of their own fields, those at their default left out."""
    rows = []
    for message in messages:
        row: dict[str, Any] = {"role": message.role, "content": message.content}
        for name in ("reasoning", "tool_call_id", "name", "weight"):
            if getattr(message, name) not in ("", None):
                row[name] = getattr(message, name)
        if message.tool_calls:
            row["tool_calls"] = [
                {"name": call.name, "arguments": call.arguments, "id": call.id} for call in message.tool_calls
            ]
        rows.append(row)
    return rows


def messages_of(rows: Sequence[Mapping[str, Any]]) -> tuple[Message, ...]:
    """The inverse of `message_rows`. Raises TypeError, KeyError or ValueError where a row is no message."""
    found = []
    for row in rows:
        calls = tuple(ToolCall(**call) for call in row.get("tool_calls", ()))
        found.append(Message(**{**row, "tool_calls": calls}))
    return tuple(found)
