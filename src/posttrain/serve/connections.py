"""Connections that wait for nobody for ever: bounds of their number, of the time until a request's headers are whole,
and of the time for which a client may leave unread what it is sent."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from posttrain.serve.failures import error_body
from posttrain.serve.limits import Limits

MAX_HEADERS = 32 * 1024  # bytes


class Connection(H11Protocol):
    """uvicorn's connection with an end to every wait. Bodies have theirs in limits.py."""

    limits = Limits()

    def connection_made(self, transport: Any) -> None:
        """See asyncio.Protocol."""
        super().connection_made(transport)
        self._timers: dict[str, asyncio.TimerHandle] = {}
        if len(self.connections) > self.limits.max_connections:
            transport.abort()
            return
        self._start("header", self.limits.header_s)

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio.Protocol."""
        for name in list(self._timers):
            self._stop(name)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol."""
        is_idle = self.cycle is None or self.cycle.response_complete
        if is_idle and "header" not in self._timers:
            self._start("header", self.limits.header_s)
        super().data_received(data)
        if self.cycle is not None and not self.cycle.response_complete:
            self._stop("header")

    def on_response_complete(self) -> None:
        """See H11Protocol."""
        super().on_response_complete()
        # The next request of this connection has uvicorn's keep-alive time to begin, then a time to be whole.
        self._stop("header")

    def pause_writing(self) -> None:
        """The client does not read: what it is sent waits here."""
        super().pause_writing()
        self._start("stall", self.limits.stall_s)

    def resume_writing(self) -> None:
        """The client reads again."""
        super().resume_writing()
        self._stop("stall")

    def send_400_response(self, msg: str) -> None:
        """What is no HTTP is told so in the form of every other error."""
        content = json.dumps(error_body(400, msg)).encode()
        headers = [("content-type", "application/json"), ("content-length", str(len(content))), ("connection", "close")]
        for part in (h11.Response(status_code=400, headers=headers), h11.Data(data=content), h11.EndOfMessage()):
            self.transport.write(self.conn.send(part) or b"")
        self.transport.close()

    def _start(self, name: str, after_s: float) -> None:
        self._stop(name)
        self._timers[name] = self.loop.call_later(after_s, self.transport.abort)

    def _stop(self, name: str) -> None:
        timer = self._timers.pop(name, None)
        if timer is not None:
            timer.cancel()


def connections(limits: Limits) -> Callable[..., Connection]:
    """The class of connections with these bounds, for uvicorn's `http`."""
    return type("BoundedConnection", (Connection,), {"limits": limits})
