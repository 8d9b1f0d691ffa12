"""Rules that need a whole passage: a model's opinion of it, personal data in it. Text is let out block by block.

A block ends with the first sentence that ends after `every` characters, at twice as many at the latest, where a run of
letters is not cut by that. Where blocks end depends on the text alone, and so does what is let out.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from posttrain.serve.guard_stage import Found, Rule
from posttrain.types import Message

Redact = Callable[[str], tuple[str, Mapping[str, int]]]
"""A text without its personal data, and how many of which kind there were."""
_END = re.compile(r"[.!?…][\"'”’»)\]]*\s|[\n。！？]")
_OPENS, _CLOSES, _MOST_OPEN = "-----BEGIN", "-----END", 20_000
"""What stands between these lines, a key, is one piece of up to so many characters."""
_REST_OF_LINE = 20
_DIGITS_NEAR = 40
"""Characters around a hard cut in which no digit may stand, where that can be: numbers are not cut in two."""
_BREAK = re.compile(r"[\s,;|<>(){}\[\]\"']|[^\x00-\x7f]")
_MOST_RUN = 10_000
"""What no address, number or key goes across; without one, a run of up to so many characters is not cut."""
_LEAD = 64
"""Characters in front of a block that may tell what its first ones are: "Tel." ends a sentence."""


class Look(Protocol):
    """What looks at a block. `before`: the text in front of it, as far as the look wants it."""

    def __call__(self, before: str, block: str, conversation: Sequence[Message]) -> tuple[str, Found | None]:
        """What goes on of the block, and what was done."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockRule(Rule):
    """`look`: at each block of about `every` characters, beside up to `window` characters in front of it."""

    look: Look
    every: int = 200
    window: int = 2000
    kind: str = "judge"

    def stage(self, conversation: Sequence[Message]) -> "BlockStage":
        """See Rule."""
        return BlockStage(self, conversation)


class BlockStage:
    """See Stage."""

    def __init__(self, rule: BlockRule, conversation: Sequence[Message]) -> None:
        self.rule, self.conversation = rule, conversation
        self.found: list[Found] = []
        self._before = self._held = ""
        self._sent = 0
        self._is_over = False

    def feed(self, text: str) -> str:
        """See Stage."""
        if self._is_over:
            return ""
        self._held += text
        out, start = [], 0
        while not self._is_over and (size := block_size(self._held, start, self.rule.every)):
            out.append(self._looked(self._held[start : start + size]))
            start += size
        self._held = self._held[start:]
        return "".join(out)

    def end(self) -> str:
        """See Stage."""
        if self._is_over:
            return ""
        out = self._looked(self._held) if self._held else ""
        self._held, self._is_over = "", True
        return out

    def _looked(self, block: str) -> str:
        text, found = self.rule.look(self._before, block, self.conversation)
        if found is not None:
            details = {"kind": self.rule.kind, "characters": len(block), **found.details}
            self.found.append(Found(self.rule.name, found.action, self.rule.told, self._sent, details))
        if found is not None and found.action == "refuse":
            self._is_over, self._held = True, ""
            return ""
        self._sent += len(block)
        self._before = (self._before + block)[-self.rule.window :] if self.rule.window else ""
        return text


def block_size(text: str, start: int, every: int) -> int:
    """How long the block is that begins at a place of a text, 0 while that is not known."""
    size, scan = _sentences(text, start, every), start
    while size and (opened := text.find(_OPENS, scan, start + size)) >= 0:
        closed = text.find(_CLOSES, opened, opened + _MOST_OPEN)
        if closed < 0 and len(text) - opened < _MOST_OPEN:
            return 0
        scan = opened + len(_OPENS)
        if closed >= 0:
            scan = closed + len(_CLOSES)
            size = _sentences(text, start, max(every, scan + _REST_OF_LINE - start))
    return size


def _sentences(text: str, start: int, every: int) -> int:
    most = 2 * every
    ended = _END.search(text, start + every - 1, min(len(text), start + most))
    if ended:
        return ended.end() - start
    if len(text) - start < most:
        return 0
    gaps = [place for place in range(start + most - 1, start + every - 1, -1) if text[place].isspace()]
    for place in gaps:
        if not any(map(str.isdigit, text[max(start, place - _DIGITS_NEAR) : min(place + _DIGITS_NEAR, start + most)])):
            return place + 1 - start
    return gaps[0] + 1 - start if gaps else _run(text, start, every)


def _run(text: str, start: int, every: int) -> int:
    """Of a text without blanks: up to the last break within 2 `every` characters, else to the end of the run."""
    breaks = [found.end() for found in _BREAK.finditer(text, start + every - 1, start + 2 * every)]
    if breaks:
        return breaks[-1] - start
    most = max(_MOST_RUN, 2 * every)
    found = _BREAK.search(text, start + 2 * every, start + most)
    if found:
        return found.end() - start
    return most if len(text) - start >= most else 0


def redacting(redact: Redact, *, refuses: bool = False) -> Look:
    """Blots personal data out of every block, or refuses it."""

    def look(before: str, block: str, conversation: Sequence[Message]) -> tuple[str, Found | None]:  # noqa: ARG001
        text, counts = redact(block)
        if before and any(map(str.isdigit, block)):
            lead, _ = redact(before[-_LEAD:])
            whole, found = redact(lead + block)
            if whole.startswith(lead) and sum(found.values()) > sum(counts.values()):
                text, counts = whole[len(lead) :], found
        if not any(counts.values()) and text == block:
            return block, None
        return text, Found("", "refuse" if refuses else "redact", details={"counts": dict(counts)})

    return look


@dataclass(frozen=True, slots=True, kw_only=True)
class LengthRule(Rule):
    """Refuses what is longer than `most` characters; of an answer these go out."""

    most: int

    def stage(self, conversation: Sequence[Message]) -> "LengthStage":  # noqa: ARG002 (what was asked is no matter)
        """See Rule."""
        return LengthStage(self)


class LengthStage:
    """See Stage."""

    def __init__(self, rule: LengthRule) -> None:
        self.rule = rule
        self.found: list[Found] = []
        self._left = rule.most

    def feed(self, text: str) -> str:
        """See Stage."""
        if self._left < 0:
            return ""
        taken = text[: self._left]
        self._left -= len(text)
        if self._left < 0:
            details = {"kind": "length", "most": self.rule.most}
            self.found.append(Found(self.rule.name, "refuse", self.rule.told, self.rule.most, details))
        return taken

    def end(self) -> str:
        """See Stage."""
        return ""
