"""Tool calls of an answer while it is streamed: text goes out up to where a call may begin, calls when it is whole."""

from collections.abc import Sequence
from typing import Any

from posttrain.data.tool_syntax import ToolSyntax, tool_syntax
from posttrain.errors import DataError
from posttrain.serve.doors import Piece
from posttrain.serve.failures import Refused
from posttrain.types import ToolCall


class CallReader:
    """Reads one answer. `turn`: its number in the conversation."""

    def __init__(self, syntax: ToolSyntax, turn: int, stop_ids: Sequence[int]) -> None:
        self.syntax, self.turn, self.stop_ids = syntax, turn, frozenset(stop_ids)
        marks = [mark for mark in (syntax.shape.open, syntax.shape.other_open) if mark]
        added = syntax.tokenizer.added_tokens_decoder
        self._mark_ids = {id for id, token in added.items() if token.special and any(token.content in m for m in marks)}
        shown = [mark for mark in marks if not any(added[id].content in mark for id in self._mark_ids)]
        self._marks = shown if syntax.shape.open else [*shown, "{"]
        self._is_bare = not syntax.shape.open  # then a call is a whole answer, and begins with it
        self._said = self._waiting = ""
        self._is_held = False

    @property
    def holds(self) -> bool:
        """Whether text waits."""
        return bool(self._waiting)

    def feed(self, piece: Piece) -> str:
        """What may go out now."""
        self._said += piece.text
        self._waiting += piece.text
        self._is_held = self._is_held or any(token.id in self._mark_ids for token in piece.tokens)
        if self._is_held:
            return ""
        place = self._free()
        free, self._waiting = self._waiting[:place], self._waiting[place:]
        return free

    def end(self, token_ids: Sequence[int], finish: str) -> tuple[str, tuple[ToolCall, ...]]:
        """(the last of the text, the calls). An answer with calls that cannot be read has its text alone."""
        ids = token_ids[:-1] if finish == "stop" and token_ids and token_ids[-1] in self.stop_ids else token_ids
        said = self.syntax.read(ids, text=self._said, turn=self.turn)
        if not said.message.tool_calls:
            return self._waiting, ()
        gone = len(self._said) - len(self._waiting)
        return said.message.content[gone:], said.message.tool_calls

    def _free(self) -> int:
        """Up to where nothing can be a call, nor the white space before one."""
        text = self._waiting
        if self._is_bare:
            whole = self._said.lstrip()
            if not whole or any(whole.startswith(mark) or mark.startswith(whole) for mark in self._marks):
                return 0
            return len(text)
        ends = [len(text)]
        for mark in self._marks:
            place = text.find(mark)
            if place >= 0:
                ends.append(place)
                self._is_held = True
            else:
                ends.append(len(text) - next((n for n in range(len(mark) - 1, 0, -1) if text.endswith(mark[:n])), 0))
        place = min(ends)
        return len(text[:place].rstrip())


def syntax_of(tokenizer: Any) -> ToolSyntax:
    """How a model writes calls. Raises Refused where its template cannot."""
    try:
        return tool_syntax(tokenizer)
    except DataError as error:
        raise Refused(400, f"this model cannot be offered tools: {error}", param="tools") from None
