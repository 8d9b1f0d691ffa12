"""The pieces of one request's streams, in the order of their coming, with an end in time."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing
from typing import Any

from posttrain.serve.doors import Piece
from posttrain.serve.failures import TimeLimit

Open = Callable[[], AsyncIterator[Piece]]


class Flow:
    """Reads streams side by side, `at_once` of them. What one raises ends them all.

    Reading goes on while the client is slow: what is written is bounded by the tokens that were asked for, and an
    engine that waits for one client would let the others wait too.
    """

    def __init__(self, streams: Sequence[Open], *, at_once: int, limit_s: float) -> None:
        self._queue: asyncio.Queue[tuple[int, Piece] | Exception | None] = asyncio.Queue()
        self._gate = asyncio.Semaphore(at_once)
        self._open = len(streams)
        self._tasks = [asyncio.ensure_future(self._read(number, stream)) for number, stream in enumerate(streams)]
        self._timer = asyncio.get_running_loop().call_later(limit_s, self.fail, TimeLimit(limit_s))

    def fail(self, error: Exception) -> None:
        """End with this error, behind what has come so far."""
        for task in self._tasks:
            task.cancel()
        self._queue.put_nowait(error)

    async def pieces(self) -> AsyncIterator[tuple[int, Piece]]:
        """(number of the stream, piece); raises what a stream raised."""
        while self._open:
            found = await self._queue.get()
            if found is None:
                self._open -= 1
            elif isinstance(found, Exception):
                raise found
            else:
                yield found

    async def close(self) -> None:
        """Let go of the streams, which ends what is still being written."""
        self._timer.cancel()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _read(self, number: int, stream: Open) -> None:
        try:
            async with self._gate:
                pieces: Any = stream()
                async with aclosing(pieces):
                    async for piece in pieces:
                        self._queue.put_nowait((number, piece))
        except Exception as error:
            self._queue.put_nowait(error)
        else:
            self._queue.put_nowait(None)
