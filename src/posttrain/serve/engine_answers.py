"""The way of an answer from the thread that writes it to the task that reads it.

The writer never waits: what the reader has not fetched yet grows together into one piece an answer, so that a slow
reader holds at most the answers that it asked for.
"""

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from posttrain.rollouts.decode_rows import Growth
from posttrain.serve.doors import Piece, Token


@dataclass
class _Grown:
    """What one answer has grown by since it was last fetched."""

    texts: list[str] = field(default_factory=list)
    tokens: list[Token] = field(default_factory=list)
    prompt: tuple[Token, ...] = ()
    finish: str = ""

    @property
    def is_worth(self) -> bool:
        """Tokens whose text is held back go with the text."""
        return bool(self.finish or self.prompt or any(self.texts))


class Buffer:
    """Where a job's growth lies until it is fetched: filled by the engine's thread, emptied by the reader's."""

    def __init__(self, loop: asyncio.AbstractEventLoop, prompt_ids: tuple[int, ...], num: int) -> None:
        """`num`: answers that are to come."""
        self.loop, self.prompt_ids, self.open = loop, prompt_ids, num
        self.lock, self.event = threading.Lock(), asyncio.Event()
        self.grown: dict[int, _Grown] = {}
        self.error: Exception | None = None

    def add(self, growth: Growth) -> bool:
        """Whether the reader should look."""
        with self.lock:
            if growth.error is not None:
                self.error, self.open = self.error or growth.error, 0
                return True
            grown = self.grown.setdefault(growth.number, _Grown())
            grown.tokens.append(Token(growth.token_id, growth.logp, growth.top))
            if growth.text:
                grown.texts.append(growth.text)
            if growth.prompt:
                scored = zip(self.prompt_ids, growth.prompt, strict=True)
                grown.prompt = tuple(Token(token, logp, top) for token, (logp, top) in scored)
            if growth.finish:
                grown.finish, self.open = growth.finish, self.open - 1
            return grown.is_worth

    def take(self) -> list[Piece]:
        """All that is worth telling."""
        with self.lock:
            worth = [number for number, grown in self.grown.items() if grown.is_worth]
            taken = [(number, self.grown.pop(number)) for number in worth]
        return [
            Piece(number, "".join(grown.texts), tuple(grown.tokens), grown.finish, grown.prompt)
            for number, grown in taken
        ]


class Answers:
    """The reader's end: an async iterator over pieces. Ends the answers when it is closed, cancelled or forgotten."""

    def __init__(self, buffer: Buffer, leave: Callable[[], None]) -> None:
        self.buffer, self.leave = buffer, leave
        self.ready: deque[Piece] = deque()
        self.is_over = False

    def __aiter__(self) -> "Answers":
        return self

    async def __anext__(self) -> Piece:
        while not self.is_over:
            if self.ready:
                return self.ready.popleft()
            is_last = not self.buffer.open  # looked at first: what came with the end is taken below
            self.ready.extend(self.buffer.take())
            if self.ready:
                continue
            if is_last:
                self.is_over = True
                if self.buffer.error is not None:
                    raise self.buffer.error
                break
            self.buffer.event.clear()
            try:
                await self.buffer.event.wait()
            except asyncio.CancelledError:
                await self.aclose()
                raise
        raise StopAsyncIteration

    async def aclose(self) -> None:
        """End the answers, if they have not ended."""
        self._end()

    def _end(self) -> None:
        self.ready.clear()
        if not self.is_over:
            self.is_over = True
            if self.buffer.open:
                self.leave()

    def __del__(self) -> None:
        self._end()


def wake(buffers: Iterable[Buffer]) -> list[Buffer]:
    """Have the readers look, one call for each event loop. Those whose loop is closed: nobody will read them."""
    by_loop: dict[asyncio.AbstractEventLoop, list[Buffer]] = {}
    for buffer in buffers:
        by_loop.setdefault(buffer.loop, []).append(buffer)
    lost: list[Buffer] = []
    for loop, found in by_loop.items():
        try:
            loop.call_soon_threadsafe(_set, found)
        except RuntimeError:
            lost += found
    return lost


def _set(buffers: list[Buffer]) -> None:
    for buffer in buffers:
        buffer.event.set()
