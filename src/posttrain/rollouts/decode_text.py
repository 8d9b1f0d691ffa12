"""The text of an answer while it grows: whole characters only, and nothing that may become a stop string."""

import re
from dataclasses import dataclass
from typing import Any

from posttrain.rollouts.decode_stops import Answer

HALF = "\ufffd"  # what decoding makes of bytes that are no character, or not yet
WINDOW = 24  # tokens that are read again at every new one, at most, before the window moves on by half
ENOUGH = 8  # characters from a window's start that do not depend on where it starts: half a character is 4 bytes
BYTE = re.compile(r"<0x[0-9A-Fa-f]{2}>")


@dataclass(frozen=True)
class Vocabulary:
    """What must be known of a tokenizer. `bytes`: the tokens of single bytes of one that falls back on them (those of a
    byte-level one are none of these). `special`: what decoding leaves out."""

    bytes: frozenset[int]
    special: frozenset[int]

    @classmethod
    def of(cls, tokenizer: Any) -> "Vocabulary":
        """Both from the tokenizer's own lists."""
        tokens = tokenizer.get_vocab() if hasattr(tokenizer, "get_vocab") else {}
        singles = frozenset(token for text, token in tokens.items() if BYTE.fullmatch(text))
        return cls(singles, frozenset(getattr(tokenizer, "all_special_ids", ())))


class Speech:
    """Says what an answer has become, piece by piece. The pieces joined are `answer.completion().text`.

    A tokenizer's text is not the sum of its tokens' texts: characters straddle tokens, a blank is dropped in front, and
    a byte token that is wrong undoes those before it. So a window of tokens is decoded together, and what is new in it
    is said: not a last half character (one mark, whatever its bytes), and nothing while tokens of single bytes go on.
    """

    def __init__(self, answer: Answer, vocabulary: Vocabulary) -> None:
        self.answer, self.vocabulary = answer, vocabulary
        self.start, self.known = 0, ""  # the window's first token, and what was read in it
        self.held, self.said = "", 0  # text that waits; characters that are out
        self.unheeded: int | None = None if answer.min_tokens > 1 else 0
        self.longest = max(map(len, answer.decoding.stop_strings), default=0)

    def more(self) -> str:
        """What may be said since the last call, now that `answer` has more tokens; all the rest where it is over."""
        if self.answer.finish:
            rest = self.answer.completion().text[self.said :]
            self.said, self.held = self.said + len(rest), ""
            return rest
        self.held += self._new()
        out = self.held[: self._free()]
        self.said, self.held = self.said + len(out), self.held[len(out) :]
        return out

    def _new(self) -> str:
        ids = self.answer.token_ids
        if self.vocabulary.bytes and self._is_in_bytes(ids):
            return ""
        text = self.answer.text_of(ids[self.start :])
        whole = text.removesuffix(HALF)
        if not whole.startswith(self.known):
            return ""
        new, self.known = whole[len(self.known) :], whole
        if len(ids) - self.start > WINDOW:
            self._move_on(ids)
        return new

    def _move_on(self, ids: list[int]) -> None:
        """Begin the window later, outside a run of single bytes, where enough stands behind to be read alike."""
        place, single = len(ids) - WINDOW // 2, self.vocabulary.bytes
        while place > self.start and (ids[place] in single or ids[place - 1] in single):
            place -= 1
        behind = self.answer.text_of(ids[place:]) if place > self.start else ""
        if len(behind) >= ENOUGH:
            self.start, self.known = place, behind.removesuffix(HALF)

    def _is_in_bytes(self, ids: list[int]) -> bool:
        special = self.vocabulary.special
        return next((token for token in reversed(ids) if token not in special), None) in self.vocabulary.bytes

    def _free(self) -> int:
        """How much of the held text is not, and cannot become, a stop string. Nothing behind a whole one is free."""
        if not self.longest:
            return len(self.held)
        if self.unheeded is None:
            if len(self.answer.token_ids) < self.answer.min_tokens - 1:
                return max(0, len(self.held) - self.longest + 1)
            self.unheeded = self.answer.unheeded()
        free = len(self.held)
        for string in self.answer.decoding.stop_strings:
            place = self.held.find(string, max(0, self.unheeded - self.said - len(string) + 1))
            free = place if 0 <= place < free else free
        for string in self.answer.decoding.stop_strings:
            longest = min(len(string) - 1, len(self.held))
            ends = (length for length in range(longest, 0, -1) if self.held.endswith(string[:length]))
            free = min(free, len(self.held) - next(ends, 0))
        return free
