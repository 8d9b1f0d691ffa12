"""The whole store as JSON lines and back, nothing lost: one row of a table a line, tokens as their hashes.

`store_rows(store)` out, `Restorer(connection).take(row)` in. A row that is there already, by its content or key, is
found and not made again, so that the same file may be read twice; where its key is another ballot's, it gets one of its
own. Ids are kept where they are free, else made anew and followed wherever a row names them.
"""

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Table, func, select, text

from posttrain.data.fields import FieldError
from posttrain.feedback import tables
from posttrain.feedback.ballots import Ballot
from posttrain.feedback.rows import fill_in, insert_once
from posttrain.feedback.store import Store
from posttrain.feedback.tables import Moment, digest, messages_of

FORMAT = 1
# Parents before children; what makes a row the same one.
ORDER: tuple[tuple[Table, str], ...] = (
    (tables.prompts, "digest"),
    (tables.responses, "digest"),
    (tables.items, "digest"),
    (tables.annotators, "name"),
    (tables.guidelines, "id"),
    (tables.ballots, "key"),
    (tables.assignments, "id"),
    (tables.served, "exchange"),
    (tables.served_votes, "key"),
)
TABLES = {table.name: (table, key) for table, key in ORDER}
PARENTS = {"prompt_id": "prompts", "item_id": "items", "guidelines": "guidelines", "ballot_id": "ballots"}
# What a newer dump may add to a row that is there.
FILLED = {
    "prompts": ("source", "fields"),
    "responses": ("parameters", "token_ids", "scores"),
    "assignments": ("closed",),
}
# What two ballots with one key must have in common to be one.
SAID = ("prompt_id", "response_ids", "annotator", "kind", "ranks", "value")
MANY_PARENTS = {"response_ids": "responses", "shown": "responses"}


def store_rows(store: Store) -> Iterator[dict[str, Any]]:
    """Every row of the store as JSON can hold it, in one view. The first says what the file is."""
    yield {"table": "posttrain", "format": FORMAT}
    with store.snapshot() as connection:
        for table, _ in ORDER:
            for row in connection.execute(select(table).order_by(table.c.id)):
                cells = {name: _plain(value) for name, value in row._mapping.items()}
                yield {"table": table.name, **cells}


def _plain(value: Any) -> Any:
    return value.isoformat(timespec="microseconds") if isinstance(value, datetime) else value


class Restorer:
    """Puts the rows of a dump into a store, inside one transaction of the caller's."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._begun = False
        self._ids: dict[str, dict[int, int]] = {name: {} for name in TABLES}
        self._replaced: dict[tuple[str, int], int] = {}

    def take(self, row: Mapping[str, Any]) -> tuple[str, bool]:
        """(table, whether the row is new). FieldError where it is no row of a dump, or names one that is not there."""
        name = row.get("table")
        if name == "posttrain":
            if row.get("format") != FORMAT:
                raise FieldError(
                    f"this dump has format {row.get('format')!r}, known is {FORMAT}; use a newer posttrain."
                )
            return "posttrain", False
        if name not in TABLES:
            raise FieldError(f"there is no table {name!r}; expected one of {', '.join(TABLES)}.", "table")
        if not self._begun and self._connection.dialect.name == "postgresql":
            # Nobody may take an id between our look and our insert.
            self._connection.execute(text(f"LOCK TABLE {', '.join(TABLES)} IN SHARE ROW EXCLUSIVE MODE"))
        self._begun = True
        table, key = TABLES[name]
        values = self._values(table, row)
        old = values.pop("id")
        replaced = values.pop("replaced_by", None)
        new, made = self._put(table, key, old, values)
        self._ids[name][old] = new
        if replaced is not None:
            self._replaced[str(name), new] = replaced
        if not made and name in FILLED:
            fill_in(self._connection, table, new, {column: values[column] for column in FILLED[name]})
        return str(name), made

    def finish(self) -> None:
        """What needs every row: corrections, and PostgreSQL's counters, which do not follow ids that are given."""
        for (name, new), replaced in self._replaced.items():
            table, target = TABLES[name][0], self._ids[name].get(replaced)
            if target is None:
                raise FieldError(
                    f"row {replaced} of {name}, which replaces another, is not in the file.", "replaced_by"
                )
            mine = (table.c.id == new, table.c.replaced_by.is_(None))
            self._connection.execute(table.update().where(*mine).values(replaced_by=target))
        if self._begun and self._connection.dialect.name == "postgresql":
            for table, _ in ORDER:
                counter = f"pg_get_serial_sequence('{table.name}', 'id')"
                largest = f"SELECT max(id) FROM {table.name}"
                self._connection.execute(text(f"SELECT setval({counter}, ({largest})) WHERE ({largest}) IS NOT NULL"))

    def _values(self, table: Table, row: Mapping[str, Any]) -> dict[str, Any]:
        """The cells of a row as the table takes them, ids followed."""
        names = {column.name for column in table.c}
        for wrong, what in ((set(row) - names - {"table"}, "unknown"), (names - set(row), "missing")):
            if wrong:
                raise FieldError(f"the field is {what} in a row of {table.name}.", min(wrong))
        values = {name: row[name] for name in names}
        for name, value in values.items():
            try:
                if isinstance(table.c[name].type, Moment) and value is not None:
                    values[name] = datetime.fromisoformat(value)
                elif name in PARENTS and value is not None:
                    values[name] = self._ids[PARENTS[name]][value]
                elif name in MANY_PARENTS and value is not None:
                    values[name] = [self._ids[MANY_PARENTS[name]][one] for one in value]
            except (KeyError, TypeError, ValueError):
                raise FieldError(f"{value!r} names nothing that stands before it in the file.", name) from None
        self._check(table, values)
        return values

    def _check(self, table: Table, values: dict[str, Any]) -> None:
        """Refuse what the store itself would, and make digests anew, since they are made of ids too."""
        try:
            if type(values["id"]) is not int:
                raise ValueError("id must be a whole number")
            if table is tables.ballots:
                if values["kind"] == "choice":
                    values["value"] = self._ids["responses"].get(values["value"])
                values["details"] = self._followed(values["details"])
                Ballot(**{**values, "replaced_by": None})
            elif "messages" in values:
                messages_of(values["messages"])
            if table is tables.prompts:
                values["digest"] = digest(values["messages"], values["tools"])
            elif table is tables.responses:
                values["digest"] = digest(values["prompt_id"], values["messages"], values["model"])
            elif table is tables.items:
                values["digest"] = digest(values["prompt_id"], sorted(values["response_ids"]))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise FieldError(f"this is no row of {table.name}: {error}.") from None

    def _followed(self, details: Mapping[str, Any]) -> dict[str, Any]:
        """The details of a ballot; the order in which its page showed the answers is ids too."""
        shown, ids = details.get("shown"), self._ids["responses"]
        if not isinstance(shown, list) or not all(type(one) is int and one in ids for one in shown):
            return dict(details)
        return {**details, "shown": [ids[one] for one in shown]}

    def _put(self, table: Table, key: str, id: int, values: dict[str, Any]) -> tuple[int, bool]:
        """The id of the row, found by its content or made."""
        if key == "id":
            wanted = [table.c[name] == value for name, value in values.items() if name != "closed"]
            found = self._connection.execute(select(table.c.id).where(*wanted)).scalar()
        else:
            if table is tables.ballots:
                values["key"] = self._own_key(values)
            found = self._connection.execute(select(table.c.id).where(table.c[key] == values[key])).scalar()
        if found is not None:
            return int(found), False
        taken = self._connection.execute(select(func.count()).where(table.c.id == id)).scalar()
        # The one conflict left is an item that is on the same annotator's screen already.
        return insert_once(self._connection, table, values if taken else {"id": id, **values})

    def _own_key(self, values: Mapping[str, Any]) -> str:
        """The ballot's key; where that is another ballot's here, one with what this one says, the same every time."""
        known = self._connection.execute(select(tables.ballots).where(tables.ballots.c.key == values["key"])).first()
        if known is None or all(getattr(known, name) == values[name] for name in SAID):
            return str(values["key"])
        return f"{values['key']}~{digest(*(values[name] for name in SAID))}"
