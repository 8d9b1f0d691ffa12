"""`posttrain guard --rules FILE`: what a file of guardrails makes of texts, before a server asks it."""

import json
from collections.abc import Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from rich.console import Console

from posttrain.data.files import find_files, raw_rows
from posttrain.data.json_text import decode, explain
from posttrain.errors import DataError
from posttrain.recipes.config import command
from posttrain.recipes.guard_config import GuardConfig
from posttrain.recipes.guard_figures import Met, figures, lines
from posttrain.recipes.guardrails_file import read_guardrails
from posttrain.serve.guard import Cleaned, Guardrails
from posttrain.types import Message

USER = "posttrain guard"
MAX_SHOWN = 100


def run(config: GuardConfig) -> int:
    """Read the rules, let every text meet them, and say what became of them."""
    say = partial(Console(highlight=False, soft_wrap=True).print, markup=False)
    guard = read_guardrails(config.rules, log=config.log or False, say=say)
    try:
        rows = (row for name in config.input for row in read_rows(name, config))
        met = [_met(guard, text, refuse, config) for text, refuse in islice(rows, config.max_samples)]
    finally:
        guard.close()
    if not config.input:
        say("the rules can be read; give --input FILE to try them on texts")
        return 0
    if not met:
        raise DataError("there is no text to try the rules on.", file=config.input[0])
    for each in sorted(met, key=lambda each: each.action == "allow")[: config.show]:
        say(
            f"{each.action:<7} {each.rule or '-':<20} {_short(each.text)}"
            + (f" → {_short(each.left)}" if each.left else "")
        )
    found = figures(met)
    for line in lines(found):
        say(line)
    if guard.log is not None and guard.log.num_lost:
        say(f"{guard.log.num_lost:,} lines of the log could not be written: {guard.log.last_error}")
    if config.output is not None:
        place = Path(config.output)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(json.dumps({"command": command(config), **found}, indent=1) + "\n", encoding="utf-8")
        say(f"written to {place}")
    return 0


def read_rows(name: str, config: GuardConfig) -> Iterator[tuple[tuple[Message, ...], bool | None]]:
    """The texts of a file, and whether they are to be refused. Raises DataError with file, line and field."""
    for file in find_files(name):
        for line, raw in raw_rows(file):
            try:
                row = decode(raw.decode()) if isinstance(raw, bytes) else raw
            except ValueError as error:
                raise DataError(f"{explain(error)}.", file=str(file), line=line) from None
            if not isinstance(row, dict):
                raise DataError("expected an object with a text.", file=str(file), line=line)
            given = row.get(config.text_field, row.get("messages"))
            try:
                messages = _messages(given, config)
            except (KeyError, TypeError, ValueError):
                has = f"it has {', '.join(map(str, row))}"
                said = f"expected text, or messages with role and content; {has}; name the field with --text-field."
                raise DataError(said, file=str(file), line=line, field=config.text_field) from None
            label = row.get(config.refuse_field)
            is_wanted = None if label is None else str(label).strip().lower() == config.refuse_value.lower()
            yield messages, is_wanted


def _messages(given: Any, config: GuardConfig) -> tuple[Message, ...]:
    if isinstance(given, str):
        return (Message("assistant" if config.on == "output" else config.role, given),)
    found = tuple(Message(each["role"], each["content"]) for each in given)
    if not found:
        raise ValueError("no message")
    return found


def _met(guard: Guardrails, messages: tuple[Message, ...], refuse: bool | None, config: GuardConfig) -> Met:
    text = messages[-1].content
    if config.on == "input":
        ruling = guard.check(messages, USER)
        left = ruling.messages[-1].content if isinstance(ruling, Cleaned) else None
        return Met(text, ruling.action, ruling.rule, ruling.told, refuse, left)
    watch = guard.watch(messages[:-1], USER)
    passed = [watch.feed(text)]
    passed += [watch.end()]
    out = "".join(each.text for each in passed)
    ruled = [each.ruling for each in passed if each.ruling is not None]
    if not ruled:
        return Met(text, "allow", refuse=refuse)
    return Met(text, ruled[-1].action, ruled[-1].rule, ruled[-1].told, refuse, out if out != text else None)


def _short(text: str | None) -> str:
    line = " ".join((text or "").split())
    return line if len(line) <= MAX_SHOWN else f"{line[: MAX_SHOWN - 1]}…"
