"""A server from start to stop: the first signal lets running answers end, the second ends at once."""

import asyncio
import contextlib
import logging
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import uvicorn

from posttrain.errors import ConfigError
from posttrain.serve.connections import MAX_HEADERS, connections
from posttrain.serve.failures import Stopping
from posttrain.serve.service import Service

log = logging.getLogger("posttrain.serve")
SIGNALS = (signal.SIGINT, signal.SIGTERM)
LAST_S = 2  # for what is under way when everything is told to end


class Server(uvicorn.Server):
    """`grace_s`: how long answers that are being written may go on after the first signal. `say`: told of stopping."""

    def __init__(
        self, app: Any, service: Service, *, grace_s: float = 30.0, say: Callable[[str], None] = lambda _: None
    ) -> None:
        settings = uvicorn.Config(
            app,
            http=connections(service.limits),  # type: ignore[arg-type]
            access_log=False,
            log_config=None,
            server_header=False,
            proxy_headers=False,
            ws="none",
            timeout_graceful_shutdown=LAST_S,
            h11_max_incomplete_event_size=MAX_HEADERS,
        )
        super().__init__(settings)
        self.service, self.grace_s, self.say = service, grace_s, say
        self._loop: asyncio.AbstractEventLoop | None = None
        self._draining: asyncio.Task[None] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """See uvicorn.Server."""
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002 (uvicorn's signature)
        """The first signal stops taking requests, the second ends what is under way, one more waits for nothing."""
        if self.service.state == "stopping":
            self.force_exit = self.should_exit
            self.should_exit = True
        else:
            self.stop()

    def stop(self) -> None:
        """Take no more requests, and end when those under way have. May be called from any thread."""
        self.service.state = "stopping"
        if self._loop is None:
            self.should_exit = True
        else:
            self._loop.call_soon_threadsafe(self._drain)

    def _drain(self) -> None:
        if self._draining is None:
            self._draining = asyncio.ensure_future(self._drained())

    async def _drained(self) -> None:
        service = self.service
        if service.num_open:
            self.say(f"stopping: {service.num_open:,} requests have {self.grace_s:g} s to end (Ctrl-C again: at once)")
        ends = asyncio.get_running_loop().time() + self.grace_s
        while service.num_open and asyncio.get_running_loop().time() < ends and not self.should_exit:
            await asyncio.sleep(0.05)
        service.end_all(Stopping())
        self.should_exit = True

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """The signals are ours while the server runs; they are not raised again behind it, as uvicorn does: what
        stands behind it closes engine and store."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {each: signal.signal(each, self.handle_exit) for each in SIGNALS}
        try:
            yield
        finally:
            for each, handler in before.items():
                signal.signal(each, handler)


def listen(host: str, port: int) -> socket.socket:
    """The socket, before anything else: a port that is taken should be known at once. Raises ConfigError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(1_024)
    except OSError as error:
        listener.close()
        raise ConfigError(
            f"cannot listen on {host}, port {port}: {error.strerror or error}. "
            "Give another --port (0 takes a free one), or another --host."
        ) from None
    return listener
