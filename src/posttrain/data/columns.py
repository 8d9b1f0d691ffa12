"""A user's mapping, OUR field -> THEIR column, laid over a row before its layout is recognised."""

from collections.abc import Collection, Mapping
from itertools import islice
from typing import Any

from posttrain.data.fields import FieldError, Row, is_absent, listed, shown
from posttrain.types import ROLES

IN_A_TURN = ("role", "content", "name", "weight", "reasoning", "tool_calls", "tool_call_id")
LISTS = ("messages", "conversations", "conversation", "prompt", "completion", "chosen", "rejected")


def mapped(row: Row, columns: Mapping[str, str]) -> dict[str, Any]:
    """The row under our names. An empty name hides a field.

    Names that are no column of the row, but a field of a message (`role: speaker`) or a role (`user: customer`), are
    looked for inside its lists of messages. Raises FieldError for what is found nowhere, naming what there is.
    """
    theirs = set(columns.values()) - {""}
    made = {name: value for name, value in row.items() if name not in theirs and columns.get(name) != ""}
    inner = {}
    for ours, name in columns.items():
        if name and name in row:
            made[ours] = row[name]
        elif ours in IN_A_TURN or ours in ROLES:
            inner[ours] = name
        elif name:
            raise FieldError(f"there is no column {shown(name)} for {ours}; the columns are {names(row)}.", "columns")
    if not inner:
        return made
    found = [field for field in LISTS if isinstance(made.get(field), list) or _is_json_list(made.get(field))]
    if not found:
        ours, name = next(iter(inner.items()))
        raise FieldError(f"there is no column {shown(name)} for {ours}; the columns are {names(row)}.", "columns")
    for field in found:
        turns = listed(made[field], field, "messages")
        made[field] = [_turn(turn, inner, f"{field}[{index}]") for index, turn in enumerate(turns)]
    return made


def names(fields: Collection[str]) -> str:
    """Fields for a message: a dozen of them, none longer than a line can hold."""
    found = [name if len(name) <= 40 else f"{name[:39]}…" for name in islice(fields, 12)]
    more = [f"and {len(fields) - 12} more"] if len(fields) > 12 else []
    return ", ".join(found + more) or "(none)"


def _is_json_list(value: Any) -> bool:
    return isinstance(value, str) and value.lstrip().startswith("[{")


def _turn(turn: Any, inner: Mapping[str, str], field: str) -> Any:
    if not isinstance(turn, Mapping):
        return turn
    made = {name: value for name, value in turn.items() if name not in inner.values()}
    for ours in IN_A_TURN:
        name = inner.get(ours)
        if name is None:
            continue
        if name in turn:
            made[ours] = turn[name]
        elif ours in ("role", "content"):
            raise FieldError(f"there is no {shown(name)} in this message; its fields are {names(turn)}.", field)
    words = {inner[role]: role for role in ROLES if role in inner}
    for speaker in ("role", "from"):
        if not is_absent(made.get(speaker)):
            made[speaker] = words.get(str(made[speaker]), made[speaker])
    return made
