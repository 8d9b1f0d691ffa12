"""JSON that is safe to train on: no key twice, no half of a surrogate pair, no bomb of brackets; NaN is null."""

import json
import re
from json import JSONDecodeError
from typing import Any

MAX_NESTING = 256  # deeper values cannot be sent between processes


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key {twice[:40]!r} appears twice in one object; keep one of the two")
    return made


# NaN and Infinity are no JSON, but Python and pandas write them where a value is missing.
_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_constant=lambda _: None)
_SPACE = re.compile(r"[ \t\n\r]*")


def decode(text: str) -> Any:
    """The value that a JSON text holds. ValueError says what is wrong, JSONDecodeError also where."""
    try:
        value = _DECODER.decode(text)
    except RecursionError:
        raise ValueError(f"brackets are nested deeper than {MAX_NESTING} levels") from None
    _check(value, text)
    return value


def decode_at(text: str, start: int) -> tuple[Any, int]:
    """The value that begins at a place of a text, and the place where it ends. Raises as `decode`."""
    try:
        value, end = _DECODER.raw_decode(text, start)
    except RecursionError:
        raise ValueError(f"brackets are nested deeper than {MAX_NESTING} levels") from None
    except StopIteration as error:
        raise JSONDecodeError("Expecting value", text, error.value) from None
    _check(value, text[start:end])
    return value, end


def after_space(text: str, start: int) -> int:
    """The place of the first character that is no white space."""
    found = _SPACE.match(text, start)
    return found.end() if found else start


def explain(error: ValueError) -> str:
    """What a user should read of an error of `decode`."""
    if isinstance(error, JSONDecodeError):
        return f"not valid JSON ({error.msg.removesuffix(' at')} at column {error.colno})"
    if "integer string" in str(error):
        return "a number has too many digits; write it as text"
    return str(error)


def _check(value: Any, text: str) -> None:
    if text.count("[") + text.count("{") > MAX_NESTING or "\\ud" in text or "\\uD" in text:
        _walk(value)


def _walk(value: Any) -> None:
    level = [value]
    for _ in range(MAX_NESTING):
        inner: list[Any] = []
        for one in level:
            if isinstance(one, dict):
                inner += one
                inner += one.values()
            elif isinstance(one, list):
                inner += one
            elif isinstance(one, str) and not one.isascii():
                try:
                    one.encode()
                except UnicodeEncodeError as error:
                    half = f"\\u{ord(one[error.start]):04x}"
                    raise ValueError(
                        f"{half} is half of a surrogate pair and stands alone; it is no character"
                    ) from None
        level = inner
        if not level:
            return
    raise ValueError(f"brackets are nested deeper than {MAX_NESTING} levels")
