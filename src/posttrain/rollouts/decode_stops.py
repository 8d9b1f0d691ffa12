"""When an answer ends, and what it says as text."""

from typing import Any

from posttrain.rollouts.sampling import Completion, Decoding


class Answer:
    """One answer while it grows. Stop tokens and stop strings that are complete before `min_tokens` do not end it."""

    def __init__(self, decoding: Decoding, limit: int, tokenizer: Any, *, min_tokens: int = 0) -> None:
        self.decoding, self.limit, self.tokenizer, self.min_tokens = decoding, limit, tokenizer, min_tokens
        self.token_ids: list[int] = []
        self.logps: list[float] = []
        self.finish = ""
        self.opened_at: int | None = None
        # A stop string of n bytes lies in the last n tokens when it is completed: no text before is read again.
        self.tail = max((len(text.encode()) for text in decoding.stop_strings), default=0)

    def add(self, token_id: int, logp: float) -> bool:
        """Take one more token; True where it is the last."""
        self.token_ids.append(token_id)
        self.logps.append(logp)
        is_heeded = len(self.token_ids) >= self.min_tokens
        if is_heeded and (token_id in self.decoding.stop_token_ids or (self.tail and self._is_stopped())):
            self.finish = "stop"
        elif len(self.token_ids) >= self.limit:
            self.finish = "length"
        return bool(self.finish)

    def put(self, token_id: int, logp: float) -> None:
        """Take a token that was not drawn, and that ends nothing."""
        self.token_ids.append(token_id)
        self.logps.append(logp)

    def unheeded(self) -> int:
        """Characters of text before the first token whose stop strings count."""
        return len(self.text_of(self.token_ids[: self.min_tokens - 1])) if self.min_tokens > 1 else 0

    def text_of(self, token_ids: list[int]) -> str:
        """What tokens say, without special ones."""
        said: str = self.tokenizer.decode(token_ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return said

    def completion(self) -> Completion:
        """The answer as it is now."""
        is_stop = bool(self.token_ids) and self.token_ids[-1] in self.decoding.stop_token_ids
        text = self.text_of(self.token_ids[:-1] if is_stop else self.token_ids)
        ends = self._ends(text, self.unheeded()) if self.finish == "stop" else []
        if ends:
            text = text[: min(ends)]
        return Completion(tuple(self.token_ids), tuple(self.logps), self.finish, text, self.opened_at)

    def _is_stopped(self) -> bool:
        first = max(0, len(self.token_ids) - self.tail - 1)
        text = self.text_of(self.token_ids[first:])
        early = self.token_ids[first : self.min_tokens - 1] if self.min_tokens > 1 else []
        return bool(self._ends(text, len(self.text_of(early)) if early else 0))

    def _ends(self, text: str, unheeded: int) -> list[int]:
        """Where stop strings begin that end behind the first `unheeded` characters."""
        found = [text.find(string, max(0, unheeded - len(string) + 1)) for string in self.decoding.stop_strings]
        return [place for place in found if place >= 0]
