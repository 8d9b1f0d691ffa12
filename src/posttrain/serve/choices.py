"""One answer on its way out: past the guard, with its tool calls read, and its tokens only where its text went out as
it was written."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from posttrain.serve.doors import Passed, Piece, Ruling, Token, Watch
from posttrain.serve.tools import CallReader
from posttrain.types import ToolCall

FILTERED, CALLED = "content_filter", "tool_calls"


@dataclass(frozen=True, slots=True)
class Delta:
    """What goes out of an answer. `tokens`: those behind the text so far, for log-probabilities. `finish`: as OpenAI
    names it, '' while the answer goes on."""

    text: str = ""
    tokens: tuple[Token, ...] = ()
    calls: tuple[ToolCall, ...] = ()
    finish: str = ""


class Choice:
    """`number`: its place among the answers. `watch`, `calls`: None where nothing guards, and no tools are offered.
    `first_call_only`: of several calls of an answer the first one goes out. `ruled`: told of every ruling."""

    def __init__(
        self,
        number: int,
        *,
        watch: Watch | None = None,
        calls: CallReader | None = None,
        first_call_only: bool = False,
        ruled: Callable[[Ruling], None] = lambda _: None,
        again: Callable[[], Watch] | None = None,
    ) -> None:
        self.number, self.watch, self.reader = number, watch, calls
        self.first_call_only, self.ruled, self.again = first_call_only, ruled, again
        self.text = self.finish = ""
        self.tokens: list[Token] = []  # all that were written
        self.shown: list[Token] = []  # those that went out
        self.calls: tuple[ToolCall, ...] = ()
        self.is_changed = False  # the guard has let out something else than was written
        self._held = ""  # fed to the guard, not let out yet
        self._waiting: list[Token] = []

    @property
    def token_ids(self) -> tuple[int, ...]:
        """The ids of the answer; none where the guard changed it: they would tell what it took out."""
        return () if self.is_changed else tuple(token.id for token in self.tokens)

    def refuse(self, told: str) -> Delta:
        """The answer is what the guard says."""
        self.text, self.finish, self.is_changed = told, FILTERED, True
        return Delta(told, finish=FILTERED)

    async def take(self, piece: Piece) -> Delta:
        """What goes out after one more piece."""
        if self.finish:
            return Delta()
        self.tokens += piece.tokens
        self._waiting += piece.tokens
        text = piece.text if self.reader is None else self.reader.feed(piece)
        finish, calls = piece.finish, tuple[ToolCall, ...]()
        if finish and self.reader is not None:
            rest, calls = self.reader.end([token.id for token in self.tokens], finish)
            text += rest
        out, refusal = await self._past(text, is_whole=bool(finish))
        if not refusal and calls:
            calls, refusal = await self._calls_past(calls)
            finish = CALLED
        if refusal:
            # What went out stands; the sentence why there is no more of it is a paragraph of its own.
            out += f"\n\n{refusal}" if (self.text + out).strip() else refusal
            finish, calls = FILTERED, ()
        self.text, self.finish, self.calls = self.text + out, finish, calls
        return Delta(out, self._released(), calls, finish)

    def _released(self) -> tuple[Token, ...]:
        """Tokens whose text went out."""
        if self.is_changed:
            self._waiting.clear()
        if self._held or (self.watch is not None and self.reader is not None and self.reader.holds and not self.finish):
            return ()
        out, self._waiting = tuple(self._waiting), []
        self.shown += out
        return out

    async def _past(self, text: str, *, is_whole: bool) -> tuple[str, str]:
        """(what the guard lets out, the sentence of its refusal or '')."""
        if self.watch is None:
            return text, ""
        self._held += text
        out = ""
        for passed in await _asked(self.watch, text, is_whole):
            out += passed.text
            if passed.ruling is not None:
                self.ruled(passed.ruling)
                self.is_changed = True
                if passed.ruling.action == "refuse":
                    self._held = ""
                    return out, passed.ruling.told or "This answer was stopped by a rule of the server."
        if self._held.startswith(out):
            self._held = self._held[len(out) :]
        else:
            self.is_changed = True
        if self.is_changed:
            self._held = ""
        return out, ""

    async def _calls_past(self, calls: tuple[ToolCall, ...]) -> tuple[tuple[ToolCall, ...], str]:
        """The calls, where the guard lets their arguments out as they are."""
        calls = calls[:1] if self.first_call_only else calls
        if self.again is None:
            return calls, ""
        for call in calls:
            found = await _asked(self.again(), f"{call.name} {call.arguments}", True)
            rulings = [passed.ruling for passed in found if passed.ruling is not None]
            for ruling in rulings:
                self.ruled(ruling)
            if rulings:  # arguments with something blotted out would be another call
                self.is_changed = True
                return (), rulings[-1].told or "A tool call of this answer was stopped by a rule of the server."
        return calls, ""


async def _asked(watch: Watch, text: str, is_whole: bool) -> list[Passed]:
    """The guard's word on more of an answer. Rules that ask a model take their time, in a thread."""

    def work() -> list[Passed]:
        found = [watch.feed(text)] if text else []
        ended = any(each.ruling is not None and each.ruling.action == "refuse" for each in found)
        return [*found, watch.end()] if is_whole and not ended else found

    if not text and not is_whole:
        return []
    return await asyncio.to_thread(work) if getattr(watch, "may_wait", True) else work()


def top_of(token: Token) -> list[tuple[int, float]]:
    """A token and the likeliest in its place, itself among them with its own log-probability."""
    own: list[Any] = [] if token.logp is None else [(token.id, token.logp)]
    return own + [(id, logp) for id, logp in token.top if id != token.id]
