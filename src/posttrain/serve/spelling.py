"""What a single token is as text and as bytes, for answers that show tokens one by one."""

from functools import cache
from typing import Any

KEPT = "_posttrain_spelling"
HALF = "\ufffd"  # what a decoder shows for bytes that are no whole character


@cache
def _byte_letters() -> dict[str, int]:
    """The letter that byte-level BPE writes for each byte (GPT-2's table)."""
    plain = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in plain]
    return {chr(byte): byte for byte in plain} | {chr(256 + place): byte for place, byte in enumerate(others)}


class Spelling:
    """The tokens of one tokenizer."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self._known: dict[int, tuple[str, list[int]]] = {}
        found = tokenizer.encode("a", add_special_tokens=False)
        # Some decoders drop the space at the start of a text, so a token is read behind another one.
        self._lead = list(found[-1:])
        self._lead_text = self._decoded([])
        self._vocabulary = len(tokenizer)

    def text(self, token_id: int) -> str:
        """A token's text; U+FFFD stands for a part of a character."""
        return self._spelt(token_id)[0]

    def bytes(self, token_id: int) -> list[int]:
        """A token's UTF-8 bytes: those of an answer's tokens, joined, are the answer."""
        return self._spelt(token_id)[1]

    def _spelt(self, token_id: int) -> tuple[str, list[int]]:
        kept = self._known.get(token_id)
        if kept is None:
            kept = self._known[token_id] = self._read(token_id)
        return kept

    def _read(self, token_id: int) -> tuple[str, list[int]]:
        if not 0 <= token_id < self._vocabulary:  # a model may have more rows than its tokenizer has tokens
            return "", []
        shown = self._decoded([token_id])
        text = shown.removeprefix(self._lead_text) if shown.startswith(self._lead_text) else shown
        raw = self.tokenizer.convert_ids_to_tokens(token_id)
        if HALF not in text or not isinstance(raw, str):
            return text, list(text.encode("utf-8", "replace"))
        if len(raw) == 6 and raw.startswith("<0x"):  # a byte that a sentence-piece vocabulary falls back to
            return text, [int(raw[3:5], 16)]
        letters = _byte_letters()
        return text, [letters[one] for one in raw] if all(one in letters for one in raw) else list(text.encode())

    def _decoded(self, ids: list[int]) -> str:
        text: str = self.tokenizer.decode(
            self._lead + ids, skip_special_tokens=False, clean_up_tokenization_spaces=False
        )
        return text


def spelling(tokenizer: Any) -> Spelling:
    """The spelling of a tokenizer, made once. It is kept by the tokenizer itself and goes with it."""
    found: Spelling | None = vars(tokenizer).get(KEPT)
    if found is None:
        found = vars(tokenizer)[KEPT] = Spelling(tokenizer)
    return found
