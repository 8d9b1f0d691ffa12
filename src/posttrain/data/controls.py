"""Text is text: what a person typed never becomes a control token. Control tokens come from the chat template alone.

A control token's text is broken up by a private-use character, the mark, before the template is rendered; the mark's
own tokens are taken out of the ids afterwards.
"""

import re
from collections.abc import Iterable, Sequence
from typing import Any

from posttrain.errors import DataError

# Private-use characters; one that the text does not use becomes the mark.
MARKS = "\ue000\ue001\ue002\ue003"
ATTEMPTS = 64  # look-alikes broken up in one text before it is given up


class Controls:
    """The texts that a tokenizer turns into control tokens, and how to keep them text.

    Special tokens are controls in every message. Added tokens that are not special (Qwen's `<think>`, `<tool_call>`)
    are controls where the template writes them (`shown`: its source, and what it rendered), but an assistant may say
    them: they are part of what it is trained to write.
    """

    def __init__(self, tokenizer: Any, backend: Any, shown: str) -> None:
        added = tokenizer.added_tokens_decoder
        special = {token.content for token in added.values() if token.special}
        written = {token.content for token in added.values() if token.content in shown and token.content.strip()}
        self.texts = tuple(sorted(special | written, key=lambda text: (-len(text), text)))
        self.ids = frozenset(number for number, token in added.items() if token.content in special | written)
        self._backend = backend
        self._special, self._all = _pattern(special), _pattern(special | written)
        self._single = frozenset(text for text in special if len(text) == 1)
        # A normaliser may turn other characters into a control token's.
        self._disguised = backend.normalizer is not None and any(
            token.normalized for token in added.values() if token.content in special | written
        )

    def typed_in(self, text: str, *, assistant: bool = False) -> bool:
        """Whether a text holds the characters of a control token."""
        found = (self._special if assistant else self._all).search(text)
        return self._disguised or found is not None or not self._single.isdisjoint(text)

    def escape(self, text: str, mark: str, *, assistant: bool = False) -> str:
        """The text with `mark` inside every control token's characters. Raises DataError where that is impossible."""
        if self._single and not self._single.isdisjoint(text):
            (typed, *_) = sorted(self._single & set(text))
            raise DataError(f"the text holds {typed!r}, which this tokenizer can only write as a control token.")
        pattern = self._special if assistant else self._all
        while pattern.search(text):  # breaking one up may leave another that overlapped it
            text = pattern.sub(lambda found: found[0][0] + mark + found[0][1:], text)
        return self._unmask(text, mark, assistant=assistant) if self._disguised else text

    def _unmask(self, text: str, mark: str, *, assistant: bool) -> str:
        """Break up characters that only the tokenizer's normaliser makes a control token of."""
        controls = self._special_ids() if assistant else self.ids
        for _ in range(ATTEMPTS):
            encoding = self._backend.encode(text, add_special_tokens=False)
            places = (place for token, place in zip(encoding.ids, encoding.offsets, strict=True) if token in controls)
            place = next(places, None)
            if place is None:
                return text
            middle = max(place[0] + 1, (place[0] + place[1]) // 2)
            text = text[:middle] + mark + text[middle:]
        raise DataError("the text holds characters that the tokenizer turns into a control token; remove them.")

    def _special_ids(self) -> frozenset[int]:
        known = self._backend.get_added_tokens_decoder()
        return frozenset(number for number in self.ids if known[number].special)


def free_mark(texts: Sequence[str]) -> str:
    """A mark that none of the texts uses. Raises DataError where they use them all."""
    used = set().union(*texts)
    mark = next((mark for mark in MARKS if mark not in used), None)
    if mark is None:
        raise DataError("the text uses every private-use character from U+E000 to U+E003; remove one.")
    return mark


def _pattern(texts: Iterable[str]) -> re.Pattern[str]:
    longest_first = sorted((text for text in texts if len(text) > 1), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")
