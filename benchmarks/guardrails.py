"""How many characters a second the watch of an answer takes, by the size of its pieces: figures of docs/guardrails.md.

    python benchmarks/guardrails.py [TEXTS.csv --field goal]

Fifty patterns: forty lists of five phrases and ten regular expressions. `watch`: ours. `search`: the same patterns as
one expression of Python's `re`, run at every piece over what the widest pattern spans and released behind that: the
plain way to be safe. `hostile`: texts that are full of beginnings of matches. With TEXTS: of how many the shipped rules
(examples/serving/guardrails.yaml) refuse as they are, and in disguise. One core, about half a minute.
"""

import argparse
import csv
import json
import random
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from posttrain.recipes.guardrails_file import read_guardrails
from posttrain.serve.guard_patterns import PatternRule, Patterns
from posttrain.serve.guard_regex import of_phrases, read_regex
from posttrain.types import Message
from process import hardware

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results" / "guardrails.json"
ALPHABET = (
    "alpha bravo charlie delta echo foxtrot golf hotel india juliet kilo lima mike november oscar papa quebec romeo "
    "sierra tango uniform victor whiskey xray yankee zulu"
)
WORDS = ALPHABET.split()
PIECES = (4, 20, 1_000_000)
"""Characters in a piece: about a token, some, everything at once."""
DISGUISES: dict[str, Callable[[str], str]] = {
    "as they are": lambda text: text,
    "capitals": str.upper,
    "zero-width space in every word": lambda text: re.sub(r"(\w)(\w)", "\\1\u200b\\2", text),
    "full-width letters": lambda text: "".join(chr(ord(c) + 0xFEE0) if "!" <= c <= "~" else c for c in text),
    "accents": lambda text: re.sub(r"([aeiou])", "\\1\u0301", text),
    "line breaks for blanks": lambda text: text.replace(" ", " \n "),
    "letters apart (not caught)": lambda text: " ".join(text),
}


def rules() -> list[PatternRule]:
    """The fifty."""
    rng = random.Random(0)
    found = [of_phrases([" ".join(rng.sample(WORDS, 3)) for _ in range(5)]) for _ in range(40)]
    found += [read_regex(rf"\b{rng.choice(WORDS)} (?:\w{{1,20}} ){{0,4}}{rng.choice(WORDS)}x") for _ in range(10)]
    return [PatternRule(name=f"{number}", expression=each) for number, each in enumerate(found)]


def texts() -> dict[str, str]:
    """Prose, and texts that are hostile."""
    pages = sorted((ROOT / "docs").glob("*.md"))[:8]
    rng = random.Random(1)
    return {
        "prose": " ".join(" ".join(page.read_text(encoding="utf-8").split()) for page in pages)[:100_000],
        "hostile: beginnings": " ".join(f"{rng.choice(WORDS)} {rng.choice(WORDS)} a" for _ in range(2_000)),
        "hostile: one letter": "a" * 20_000,
        "hostile: zero-width": "\u200b" * 20_000,
    }


def watch(patterns: Patterns, text: str, size: int) -> int:
    """Characters let out by ours."""
    stage = patterns.stage()
    out = sum(len(stage.feed(text[at : at + size])) for at in range(0, len(text), size))
    return out + len(stage.end())


def search(patterns: Patterns, text: str, size: int) -> int:
    """Characters let out by the plain way, which folds nothing but case."""
    regex, reach = patterns.together(frozenset(range(len(patterns.rules)))), patterns.reach
    held, out = "", 0
    for at in range(0, len(text), size):
        held += text[at : at + size]
        if regex.search(held):
            return out
        free = max(0, len(held) - reach)
        out, held = out + free, held[free:]
    return out + len(held)


def speed(way: Callable[[Patterns, str, int], int], patterns: Patterns, text: str, size: int) -> int:
    """Characters a second, the best of three."""
    best = 0.0
    for _ in range(3):
        began = time.perf_counter()
        way(patterns, text, size)
        best = max(best, len(text) / (time.perf_counter() - began))
    return int(best)


def disguised(path: str, field: str) -> dict[str, int]:
    """How many of the texts are refused."""
    guard = read_guardrails(ROOT / "examples" / "serving" / "guardrails.yaml", log=False)
    with open(path, encoding="utf-8") as file:
        rows = [row[field] for row in csv.DictReader(file)]
    found = {"texts": len(rows)}
    for name, disguise in DISGUISES.items():
        asked = ([Message("user", disguise(text))] for text in rows)
        found[name] = sum(guard.check(messages, "").action == "refuse" for messages in asked)
    return found


def main() -> None:
    """Measure, print, write down."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("texts", nargs="?")
    parser.add_argument("--field", default="goal")
    given = parser.parse_args()
    patterns = Patterns(rules())
    record: dict[str, Any] = {"hardware": hardware(), "patterns": len(patterns.rules), "characters_per_second": {}}
    for name, text in texts().items():
        row = {f"watch, pieces of {size:,}": speed(watch, patterns, text, size) for size in PIECES}
        if not name.startswith("hostile"):
            row |= {f"search, pieces of {size:,}": speed(search, patterns, text[:20_000], size) for size in PIECES}
        record["characters_per_second"][name] = row
        print(name, *(f"  {way}: {value:,}" for way, value in row.items()), sep="\n")
    if given.texts:
        record["disguises"] = disguised(given.texts, given.field)
        print(*(f"{count:6,}  {name}" for name, count in record["disguises"].items()), sep="\n")
    RESULTS.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
