"""Regular expressions that are safe to run on anybody's text: bounded in width, and in steps at every character.

Python's `re` goes back and tries again, and has no time limit. So an expression is read with Python's own parser and
written anew for folded text: every repeat has an end, and how many steps a match may take at most from one place is
worked out beforehand. What may take too many, or refers to what it matched before, is refused when the rules are read.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from re import _constants as sre  # type: ignore[attr-defined]
from re import _parser as sre_parser  # type: ignore[attr-defined]
from typing import Any

from posttrain.serve.guard_automaton import NOTHING, Tree, repeated
from posttrain.serve.guard_text import fold_char

MAX_STEPS = 20_000
"""Steps that a match may take at most from one place of a text."""
MAX_WIDTH = 4_000
"""Characters that a match may span at most."""
MAX_PHRASE = 300
"""Characters of a phrase."""
_FLAGS = re.MULTILINE | re.ASCII | re.LOCALE
_REPEATS = (sre.MAX_REPEAT, sre.MIN_REPEAT, sre.POSSESSIVE_REPEAT)
_AT = {sre.AT_BEGINNING: r"\A", sre.AT_BEGINNING_STRING: r"\A", sre.AT_END: r"\Z", sre.AT_END_STRING: r"\Z",
       sre.AT_BOUNDARY: r"\b", sre.AT_NON_BOUNDARY: r"\B"}  # fmt: skip
_CATEGORY = {sre.CATEGORY_DIGIT: r"\d", sre.CATEGORY_NOT_DIGIT: r"\D", sre.CATEGORY_SPACE: r"\s",
             sre.CATEGORY_NOT_SPACE: r"\S", sre.CATEGORY_WORD: r"\w", sre.CATEGORY_NOT_WORD: r"\W"}  # fmt: skip
_PLANE = "".join(map(chr, (*range(0xD800), *range(0xE000, 0x10000), 0x10400, 0x1F600)))


@dataclass(frozen=True, slots=True)
class Expression:
    """An expression for folded text, to be run with re.IGNORECASE.

    `least`, `width`: how many folded characters a match spans. `behind`, `ahead`: how many more it may look at before
    and after. `ends`: in how many ways a match may go through it at most; `steps`: how many it takes to try them all.
    `first`: with which characters a match begins, where it is not empty; None where that is not known. `single`: each
    of its characters is one of `first`. `tree`: what the automaton makes of it.
    """

    text: str
    least: int = 0
    width: int = 0
    behind: int = 0
    ahead: int = 0
    ends: int = 1
    steps: int = 1
    first: frozenset[str] | None = None
    single: bool = False
    tree: Tree = NOTHING


def read_regex(regex: str, *, holds: int | None = None) -> Expression:
    """An expression as its author wrote it, for folded text. `holds`: repeats without an end go on as often at most.

    Raises ValueError, as a sentence with the mend, where it is no expression, may match nothing at all, has no bound,
    or may take more than MAX_STEPS steps.
    """
    try:
        tree = sre_parser.parse(regex, 0)
        re.compile(regex)
        found = _sequence(tree, holds) if not tree.state.flags & _FLAGS else Expression("")
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError(f"is no regular expression: {error}") from None
    if tree.state.flags & _FLAGS:
        raise ValueError("has a flag that folded text does not know; of (?aLimsux) take i, s and x alone")
    if found.least < 1:
        raise ValueError("may match nothing at all, which is everywhere; ask for at least one character")
    if found.width > MAX_WIDTH:
        raise ValueError(f"may span {found.width:,} characters, the most is {MAX_WIDTH:,}; give its repeats an end")
    if found.steps > MAX_STEPS:
        many = f"{found.steps:,}" if found.steps < 10**9 else "more than a thousand million"
        raise ValueError(
            f"may take {many} steps at every character of a hostile text, the most is {MAX_STEPS:,}; do not nest "
            "repeats, and give wide ones an end, as in .{0,40}"
        )
    re.compile(found.text, re.IGNORECASE)
    return found


def one_of(expressions: Sequence[Expression]) -> Expression:
    """The first of several that matches."""
    return _branch(list(expressions))


def of_phrases(phrases: Iterable[str], *, borders: bool = True) -> Expression:
    """Any of some folded phrases, the longest that fits. `borders`: not inside of a word, where words have borders:
    Chinese, Japanese, Thai and the like are written without blanks.

    >>> import re
    >>> found = re.compile(of_phrases(["bomb", "bomb threat"]).text)
    >>> found.search("a bomb threat").group(), found.search("bombastic")
    ('bomb threat', None)
    """
    trie: dict[str, Any] = {}
    longest, phrases = 0, tuple(phrases)
    for phrase in phrases:
        longest = max(longest, len(phrase))
        node = trie
        for char in phrase:
            node = node.setdefault(char, {})
        node[""] = {}
    text = _trie(trie, borders)
    first = frozenset(trie) - {""}
    # The one way down the tree of letters, with at most one place to stop at each.
    tree = ("words", phrases, borders)
    return Expression(text, 1, longest, int(borders), int(borders), longest, 3 * longest, first, tree=tree)


def _trie(node: dict[str, Any], borders: bool, before: str = "") -> str:
    ways = [
        (rf"(?<!\w){re.escape(char)}" if borders and not before and _has_borders(char) else re.escape(char))
        + _trie(rest, borders, char)
        for char, rest in sorted(node.items())
        if char
    ]
    if "" in node:
        ways.append(r"(?!\w)" if borders and _has_borders(before) else "")
    return ways[0] if len(ways) == 1 else f"(?:{'|'.join(ways)})"


@lru_cache(maxsize=1 << 12)
def _has_borders(char: str) -> bool:
    """Whether a letter belongs to a script that puts blanks between words."""
    code = ord(char)
    unspaced = 0x0E00 <= code <= 0x0EFF or 0x1000 <= code <= 0x109F or 0x1780 <= code <= 0x17FF
    cjk = 0x1100 <= code <= 0x11FF or 0x2E80 <= code <= 0xD7FF or 0xF900 <= code <= 0xFAFF or 0x20000 <= code <= 0x3FFFF
    return (char.isalnum() or char == "_") and not (unspaced or cjk)


def _sequence(nodes: Iterable[Any], holds: int | None) -> Expression:
    """One after the other, put together from the end: what follows says how often going back can lead anywhere."""
    found = Expression("")
    for op, value in reversed(list(nodes)):
        found = _then(_node(op, value, holds), found)
    return found


def _then(one: Expression, rest: Expression) -> Expression:
    if not rest.text:
        return one
    behind = rest.tree[1] if rest.tree[0] == "all" else (rest.tree,)
    tree: Tree = ("all", (one.tree, *behind))
    if one.text == r"\b" and rest.first is not None and rest.least and rest.first <= _set(r"\w"):
        tree = ("all", (("border",), *behind))
    ends, steps = one.ends * rest.ends, one.steps + one.ends * rest.steps
    # Of the ways through a repeat of one character, only the longest can be followed by another character.
    if one.single and one.first is not None and rest.first is not None and one.first.isdisjoint(rest.first):
        ends, steps = rest.ends, one.steps + one.ends + rest.steps
    first = one.first
    if one.least == 0:
        known = rest.first if one.width == 0 else one.first
        first = known | rest.first if known is not None and rest.first is not None else None
    return Expression(
        one.text + rest.text,
        one.least + rest.least,
        one.width + rest.width,
        max(one.behind, rest.behind),
        max(one.ahead, rest.ahead),
        min(ends, 10**30),
        min(steps, 10**30),
        first,
        tree=tree,
    )


def _branch(ways: list[Expression]) -> Expression:
    sets = [way.first for way in ways]
    known = [chars for chars in sets if chars is not None]
    exclusive = len(known) == len(sets) and sum(map(len, known)) == len(frozenset().union(*known))
    exclusive = exclusive and all(way.least for way in ways)
    return Expression(
        f"(?:{'|'.join(way.text for way in ways)})",
        min(way.least for way in ways),
        max(way.width for way in ways),
        max(way.behind for way in ways),
        max(way.ahead for way in ways),
        max(way.ends for way in ways) if exclusive else sum(way.ends for way in ways),
        sum(way.steps for way in ways) if not exclusive else len(ways) + max(way.steps for way in ways),
        frozenset().union(*known) if len(known) == len(sets) and all(way.least for way in ways) else None,
        tree=("any", tuple(way.tree for way in ways)),
    )


def _node(op: Any, value: Any, holds: int | None) -> Expression:
    if op in (sre.LITERAL, sre.NOT_LITERAL, sre.ANY, sre.IN):
        return _characters(op, value)
    if op is sre.BRANCH:
        return _branch([_sequence(way, holds) for way in value[1]])
    if op is sre.SUBPATTERN:
        _, added, dropped, inner = value
        if (added | dropped) & ~(re.IGNORECASE | re.DOTALL | re.VERBOSE | re.UNICODE):
            raise ValueError("has a flag that folded text does not know; of (?aLimsux) take i, s and x alone")
        found = _sequence(inner, holds)
        return replace(found, text=f"(?:{found.text})")
    if op in _REPEATS:
        return _repeat(op, value, holds)
    if op is sre.AT:
        edge = value not in (sre.AT_BEGINNING, sre.AT_BEGINNING_STRING)
        return Expression(_AT[value], behind=1, ahead=int(edge))
    if op in (sre.ASSERT, sre.ASSERT_NOT):
        return _look(op, value, holds)
    if op is sre.ATOMIC_GROUP:
        found = _sequence(value, holds)
        return replace(found, text=f"(?>{found.text})", ends=1)
    raise ValueError("refers to what it matched before, which no bound on time can be given for; write it out")


def _repeat(op: Any, value: Any, holds: int | None) -> Expression:
    least, most, inner = value
    body = _sequence(inner, holds)
    if most is sre.MAXREPEAT:
        if holds is None:
            raise ValueError(
                "has a repeat without an end (*, + or {n,}), so that nothing could be let out before the answer is "
                "whole; write an end, as in .{0,40}, or add `holds: 40`, how often such a repeat goes on at most"
            )
        most = max(least, holds)
    if body.ends == 1:
        ends, steps = most - least + 1, most * (body.steps + 1)
    else:
        ends = min(body.ends ** min(most + 1, 100), 10**30)
        steps = ends * body.steps
    sign = {sre.MAX_REPEAT: "", sre.MIN_REPEAT: "?", sre.POSSESSIVE_REPEAT: "+"}[op]
    return Expression(
        f"(?:{body.text}){{{least},{most}}}{sign}",
        body.least * least,
        body.width * most,
        body.behind,
        body.ahead,
        1 if op is sre.POSSESSIVE_REPEAT else ends,
        min(steps, 10**30),
        body.first,
        body.single,
        repeated(body.tree, least, most),
    )


def _look(op: Any, value: Any, holds: int | None) -> Expression:
    direction, inner = value
    body = _sequence(inner, holds)
    sign = "=" if op is sre.ASSERT else "!"
    if direction > 0:
        return Expression(f"(?{sign}{body.text})", behind=body.behind, ahead=body.width + body.ahead, steps=body.steps)
    if body.least != body.width:
        raise ValueError("looks behind over a varying width; give it a fixed one")
    return Expression(f"(?<{sign}{body.text})", behind=body.width + body.behind, ahead=body.ahead, steps=body.steps)


def _characters(op: Any, value: Any) -> Expression:
    """One character of some kind; or a letter that folds to several, as ß does."""
    if op is sre.LITERAL:
        parts = _folded(chr(value))
        text = "".join(map(re.escape, parts))
        if len(parts) != 1:
            tree: Tree = ("all", tuple(("one", re.escape(part)) for part in parts))
            first = _set(re.escape(parts[:1]))
            return Expression(f"(?:{text})", len(parts), len(parts), steps=max(1, len(parts)), first=first, tree=tree)
        return Expression(text, 1, 1, first=_set(text), single=True, tree=("one", text))
    if op is sre.ANY:
        text = r"[\s\S]"
    elif op is sre.NOT_LITERAL:
        text = f"[^{_one(value)}]"
    else:
        text = f"[{''.join(map(_member, value))}]"
    return Expression(text, 1, 1, first=_set(text), single=True, tree=("one", text))


def _member(member: Any) -> str:
    op, value = member
    if op is sre.NEGATE:
        return "^"
    if op is sre.CATEGORY:
        return _CATEGORY[value]
    if op is sre.RANGE:
        low, high = value
        if high < 128:
            return f"{re.escape(chr(low))}-{re.escape(chr(high))}"
        low_text, high_text = _one(low), _one(high)
        if low_text > high_text:
            raise ValueError(f"has the range {chr(low)}-{chr(high)}, of which folded text has none; write its letters")
        return f"{low_text}-{high_text}"
    return _one(value)


def _one(code: int) -> str:
    found = _folded(chr(code))
    if len(found) != 1:
        raise ValueError(f"has {chr(code)!r} among its characters, which folded text writes {found!r}; write it apart")
    return re.escape(found)


def _folded(char: str) -> str:
    """ASCII stays: upper case is met by re.IGNORECASE. All white space is a blank."""
    return char if char.isascii() and not char.isspace() else fold_char(char)


@lru_cache(maxsize=256)
def _set(text: str) -> frozenset[str]:
    return frozenset(re.findall(text, _PLANE, re.IGNORECASE)) if text else frozenset()
