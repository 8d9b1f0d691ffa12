"""Reading one field of a row. What is wrong with it is a FieldError; `layouts.parse_row` adds the file and the line."""

import math
from collections.abc import Mapping
from typing import Any

from posttrain.data.json_text import decode, explain

Row = Mapping[str, Any]

MEDIA = {
    "image": "pictures", "images": "pictures", "image_url": "pictures", "input_image": "pictures",
    "audio": "sound", "audios": "sound", "input_audio": "sound", "audio_url": "sound",
    "video": "films", "videos": "films", "video_url": "films", "input_video": "films",
}  # fmt: skip
YES = {"true", "yes", "good", "1", "1.0", "desirable"}
NO = {"false", "no", "bad", "0", "0.0", "undesirable"}


class FieldError(Exception):
    """A field of a row that cannot be read: what was found, how to mend it, and which field."""

    def __init__(self, message: str, field: str = "") -> None:
        super().__init__(message)
        self.message, self.field = message, field


def kind(value: Any) -> str:
    """What a value is, in the words of JSON."""
    words = {type(None): "null", bool: "true or false", str: "text", list: "a list", int: "a number", float: "a number"}
    return words.get(type(value), "an object" if isinstance(value, Mapping) else type(value).__name__)


def shown(value: Any) -> str:
    """A value in a message: text in quotes, a number or truth value as it is, else its kind; long ones are cut."""
    if isinstance(value, str):
        return repr(value if len(value) <= 40 else value[:39] + "…")
    return repr(value).lower()[:40] if isinstance(value, int | float) else kind(value)


def is_absent(value: Any) -> bool:
    """Null, empty text, an empty list or object: what tables hold where a row has no such field."""
    return value is None or value == "" or (isinstance(value, list | Mapping) and not value)


def inside(within: str, field: str) -> str:
    """The name of a field inside another."""
    return f"{within}.{field}" if within else field


def text(row: Row, field: str, within: str = "") -> str:
    """The text in a field that must be there; `within` names what holds the field."""
    value = row.get(field)
    if not isinstance(value, str):
        raise FieldError(f"expected text, found {kind(value)}.", inside(within, field))
    return value


def optional_text(row: Row, field: str, within: str = "") -> str:
    """The text in a field that may be absent or null."""
    return "" if row.get(field) is None else text(row, field, within)


def number(value: Any, field: str) -> float:
    """A finite number; text that holds one counts, since a CSV file has nothing else."""
    try:
        found = float(value) if isinstance(value, int | float | str) else math.nan
    except (ValueError, OverflowError):
        found = math.nan
    if not math.isfinite(found):
        raise FieldError(f"expected a number, found {shown(value)}.", field)
    return found


def judgement(value: Any, field: str) -> float:
    """1 for good, 0 for bad, or the number given: a label that says how good an answer is."""
    word = value.strip().lower() if isinstance(value, str) else ""
    if word in YES | NO:
        return float(word in YES)
    if isinstance(value, bool | int | float):
        return number(value, field)
    raise FieldError(
        f"expected true or false beside an answer, found {shown(value)}; if this field says something else, hide it "
        f'with columns: {{{field}: ""}}.',
        field,
    )


def listed(value: Any, field: str, of: str) -> list[Any]:
    """A list; also the JSON text of one (tables of text), or columns of equal length (tables of structs)."""
    if isinstance(value, list):
        return value
    if isinstance(value, str) and value.lstrip().startswith("["):
        value = nested_json(value, field)
        if isinstance(value, list):
            return value
    columns = list(value.values()) if isinstance(value, Mapping) else []
    if columns and all(isinstance(column, list) and len(column) == len(columns[0]) for column in columns):
        return [dict(zip(value, cells, strict=True)) for cells in zip(*columns, strict=True)]
    raise FieldError(f"expected a list of {of}, found {kind(value)}.", field)


def nested_json(value: str, field: str) -> Any:
    """What a text field that holds JSON says."""
    try:
        return decode(value)
    except ValueError as error:
        raise FieldError(f"this text should be JSON, but: {explain(error)}.", field) from None


def refuse_media(row: Row) -> None:
    """Fields beside the text that hold pictures, sound or films."""
    for field in MEDIA.keys() & row.keys():
        if not is_absent(row[field]):
            raise FieldError(f"{MEDIA[field]} cannot be trained on here, only text; remove these rows.", field)


def others(row: Row, *used: str) -> dict[str, Any]:
    """Every other field of the row, for those who verify or judge."""
    return {field: value for field, value in row.items() if field not in used}
