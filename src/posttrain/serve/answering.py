"""One request while it is answered: what the engine writes, past guard and tools, counted, kept, and ended in time."""

import asyncio
import logging
import time
import uuid
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

from fastapi import Request
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from posttrain.serve.choices import Choice, Delta
from posttrain.serve.doors import Asked, Piece, Ruling
from posttrain.serve.failures import Refused, Stopping
from posttrain.serve.flow import Flow
from posttrain.serve.service import Service

log = logging.getLogger("posttrain.serve")
Found = TypeVar("Found")
AT_ONCE = 16  # prompts of one request that the engine is given at a time


@dataclass(frozen=True)
class Job:
    """A prompt for a model. `first`: the place among the choices of its first answer. `arm`: '' outside a test."""

    model: str
    asked: Asked
    first: int = 0
    arm: str = ""


@dataclass(eq=False)
class Answering:
    """The answers to one request. `jobs`: none where a guard has refused it and the choices are whole already."""

    service: Service
    jobs: Sequence[Job]
    choices: Sequence[Choice]
    kind: str = "chatcmpl"
    id: str = ""
    created: int = field(default_factory=lambda: int(time.time()))
    started: float = field(default_factory=time.perf_counter)
    prompts: dict[int, Piece] = field(default_factory=dict)  # by job: the piece that scores the prompt
    roots: dict[int, str] = field(default_factory=dict)  # by job: the folder of the model that answers
    first_at: float = 0.0
    _flow: Flow | None = None
    _first: tuple[int, Piece] | None = None
    _pieces: Any = None

    def __post_init__(self) -> None:
        self.id = self.id or f"{self.kind}-{uuid.uuid4().hex}"

    async def open(self) -> None:
        """Wait for the first piece, so that what the engine refuses has a status of its own."""
        if not self.jobs:
            return
        if self.service.state == "stopping":
            raise Stopping
        streams = [partial(self._stream, number) for number in range(len(self.jobs))]
        self._flow = Flow(streams, at_once=AT_ONCE, limit_s=self.service.limits.request_s)
        self.service.under_way.add(self._flow)
        self._pieces = self._flow.pieces()
        try:
            self._first = await anext(self._pieces, None)
        except BaseException as error:
            await self.close()
            if isinstance(error, ValueError):  # what the engine cannot be asked for
                raise Refused(400, f"{error}") from error
            raise
        self._seen(0)

    def _stream(self, number: int) -> AsyncIterator[Piece]:
        """A name may stand for one folder today and for another tomorrow, or for none: what counts is this moment."""
        job, engine = self.jobs[number], self.service.engine
        self.roots[number] = engine.model(job.model).root
        return engine.stream(job.model, job.asked)

    async def close(self) -> None:
        """Let go of the engine, on every way out."""
        if self._flow is not None:
            self.service.under_way.discard(self._flow)
            await self._flow.close()

    async def deltas(self) -> AsyncIterator[tuple[Choice, Delta]]:
        """Everything that goes out, until all choices are whole."""
        if not self.jobs:
            for choice in self.choices:
                yield choice, Delta(choice.text, finish=choice.finish)
            return
        left = sum(not choice.finish for choice in self.choices)
        async for number, piece in self._all():
            job = self.jobs[number]
            if piece.prompt:
                self.prompts[number] = piece
            choice = self.choices[job.first + piece.number]
            if choice.finish:
                continue
            delta = await choice.take(piece)
            yield choice, delta
            if delta.finish:
                self._ended(choice, job)
                left -= 1
                if not left:
                    return
        raise RuntimeError("the engine ended before the answers did")

    @property
    def usage(self) -> dict[str, int]:
        """The tokens of the request."""
        prompt = sum(len(job.asked.request.prompt_ids) for job in self.jobs)
        written = sum(len(choice.tokens) for choice in self.choices)
        return {"prompt_tokens": prompt, "completion_tokens": written, "total_tokens": prompt + written}

    async def _all(self) -> AsyncIterator[tuple[int, Piece]]:
        if self._first is not None:
            yield self._first
        async for found in self._pieces:
            yield found

    def _seen(self, number: int) -> None:
        metrics, job = self.service.metrics, self.jobs[number]
        self.first_at = time.perf_counter()
        metrics.first_s.labels(job.model).observe(self.first_at - self.started)
        for each in self.jobs:
            metrics.prompt_tokens.labels(each.model).inc(len(each.asked.request.prompt_ids))

    def _ended(self, choice: Choice, job: Job) -> None:
        metrics = self.service.metrics
        metrics.finished.labels(job.model, choice.finish).inc()
        metrics.completion_tokens.labels(job.model).inc(len(choice.tokens))
        if job.arm:
            metrics.arms.labels(job.arm).inc()
        if len(choice.tokens) > 1:
            spent = time.perf_counter() - self.first_at
            metrics.token_s.labels(job.model).observe(spent / (len(choice.tokens) - 1))


def ruled(service: Service, ruling: Ruling) -> None:
    """Count what the guard decided."""
    service.metrics.rulings.labels(ruling.where, ruling.action, ruling.rule).inc()


class EventStream(StreamingResponse):
    """Server-sent events; what makes them is closed whichever way it ends."""

    media_type = "text/event-stream"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        made: Any = self.body_iterator
        async with aclosing(made):
            await super().__call__(scope, receive, send)


class ClientGone(Exception):
    """Nobody waits for the answer any more."""


async def until_gone(request: Request, work: Coroutine[Any, Any, Found]) -> Found:
    """What the work gives; it ends with the connection of whoever asked."""
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise ClientGone
    finally:
        for each in (task, gone):
            each.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await each


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
