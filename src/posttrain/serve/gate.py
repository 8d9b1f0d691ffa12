"""The gate that everything passes: hosts, keys, sizes, times.

It is plain ASGI: it answers what it refuses itself, in OpenAI's form, and hands on the rest with its whole body.
"""

import asyncio
import json
import logging
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from posttrain.serve.failures import Refused, Stopping, error_body
from posttrain.serve.limits import depth
from posttrain.serve.service import Service

log = logging.getLogger("posttrain.serve")

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

OPEN = frozenset({"/", "/ab", "/health", "/favicon.ico"})
"""Addresses that need no key: pages, which browsers ask for without one, and whether the server is well."""
OPEN_BELOW = "/page/"
WELL = frozenset({"/health", "/metrics"})
WHILE_STOPPING = frozenset({"/v1/feedback"})
ASKED = ("/v1/chat/completions", "/v1/completions")
POSTED = frozenset({*ASKED, "/v1/feedback", "/v1/load_lora_adapter", "/v1/unload_lora_adapter"})
LINGER_S, LINGER_BYTES = 2.0, 64 * 1024 * 1024
HEADERS = [(b"x-content-type-options", b"nosniff"), (b"cache-control", b"no-store")]


class Gate:
    """What every request passes before it is looked at."""

    def __init__(self, app: App, service: Service) -> None:
        self.app, self.service = app, service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start, status, service = time.perf_counter(), 499, self.service

        async def sent(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                known = {name for name, _ in message["headers"]}
                more = [(name, value) for name, value in HEADERS if name not in known]
                message = {**message, "headers": [*message["headers"], *more]}
            await send(message)

        is_asked = scope["path"] in ASKED
        service.num_open += is_asked
        try:
            await self._through(scope, receive, sent)
        finally:
            service.num_open -= is_asked
            route = getattr(scope.get("route"), "path", scope["path"] if is_asked else "other")
            service.metrics.requests.labels(route, str(status)).inc()
            log.info("%s %s %d %.3f s", scope["method"], route, status, time.perf_counter() - start)
            if is_asked:
                service.metrics.whole_s.labels(route).observe(time.perf_counter() - start)

    async def _through(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            self._check(scope)
            body = b"" if scope["method"] in ("GET", "HEAD") else await self._body(scope, receive)
        except _Gone:
            return
        except Refused as error:
            await _refuse(error, receive, send)
            return
        is_given = False

        async def whole() -> Message:
            nonlocal is_given
            if is_given:
                return await receive()
            is_given = True
            return {"type": "http.request", "body": body, "more_body": False}

        await self.app(scope, whole, send)

    def _check(self, scope: Scope) -> None:
        """Raises Refused for what is known to be wrong before the body is read."""
        service, path = self.service, scope["path"]
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        host = headers.get(b"host", "")
        if not service.hosts.knows(host):
            said = f"this server does not go by the name {host[:100]!r}; start it with --allowed-hosts to add a name."
            raise Refused(403, said, code="host")
        origin = headers.get(b"origin", "")
        if origin and scope["method"] not in ("GET", "HEAD") and not service.hosts.lets(origin, host):
            raise Refused(403, "a page from elsewhere may not ask here (--allowed-origins).", code="origin")
        name = service.keys.name(headers.get(b"authorization", ""))
        if name is None and path not in OPEN and not path.startswith(OPEN_BELOW):
            told = {"WWW-Authenticate": "Bearer"}
            raise Refused(
                401, "the API key is missing or not one of this server's.", code="invalid_api_key", headers=told
            )
        scope.setdefault("state", {})["caller"] = name or ""
        if service.state == "starting" and path not in WELL:
            raise Refused(503, "the models are being loaded.", code="starting", headers={"Retry-After": "2"})
        if service.state == "stopping" and scope["method"] == "POST" and path not in WHILE_STOPPING:
            raise Stopping
        if path in ASKED and service.num_open > service.limits.max_requests:
            raise Refused(429, "too many requests are under way.", code="busy", headers={"Retry-After": "1"})

    async def _body(self, scope: Scope, receive: Receive) -> bytes:
        """The whole body, counted as it comes."""
        limits = self.service.limits
        headers = dict(scope["headers"])
        declared = headers.get(b"content-length", b"0")
        if not declared.isdigit() or len(declared) > 15 or int(declared) > limits.max_body:
            raise _too_large(limits.max_body)
        if scope["method"] == "POST" and scope["path"] in POSTED:
            kind = headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
            if kind != b"application/json":
                raise Refused(415, "the body must come as Content-Type: application/json.")
        body = bytearray()
        try:
            async with asyncio.timeout(limits.body_s):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise _Gone
                    body += message.get("body", b"")
                    if len(body) > limits.max_body:
                        raise _too_large(limits.max_body)
                    if not message.get("more_body", False):
                        break
        except TimeoutError:
            said = f"the body was not whole after {limits.body_s:g} s."
            raise Refused(408, said, code="slow_body", headers={"Connection": "close"}) from None
        if depth(body) > limits.max_depth:
            raise Refused(400, f"the body's brackets are nested deeper than {limits.max_depth} levels.", code="depth")
        return bytes(body)


class _Gone(Exception):
    """The client went away in the midst of its body."""


def _too_large(limit: int) -> Refused:
    return Refused(413, f"at most {limit:,} bytes, please.", headers={"Connection": "close"})


async def _refuse(error: Refused, receive: Receive, send: Send) -> None:
    """Answer, and take in for a moment what is still being sent: a client that writes does not yet read."""
    content = json.dumps(error_body(error.status, str(error), error.param, error.code)).encode()
    headers = [(name.lower().encode(), value.encode()) for name, value in error.headers.items()]
    headers += [(b"content-type", b"application/json"), (b"content-length", str(len(content)).encode())]
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    closes = error.headers.get("Connection") == "close"
    await send({"type": "http.response.body", "body": content, "more_body": closes})
    if not closes:
        return
    taken = 0
    try:
        async with asyncio.timeout(LINGER_S):
            while taken < LINGER_BYTES:
                message = await receive()
                taken += len(message.get("body", b""))
                if message["type"] == "http.disconnect" or not message.get("more_body", False):
                    break
    except TimeoutError:
        pass
    await send({"type": "http.response.body", "body": b"", "more_body": False})
