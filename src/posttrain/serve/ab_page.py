"""The page on which the owner watches an A/B test.

`GET /ab` is the page and holds nothing of the test; `GET /ab/state`, with the owner's key, is what it shows. The
figures come from a callable that the recipe passes: this room knows no statistics.
"""

import asyncio
import time
from collections.abc import Callable
from importlib import resources
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse

from posttrain.serve.failures import Refused
from posttrain.serve.service import Service, require_owner

FILES = {"/ab": "ab.html", "/page/ab.css": "ab.css", "/page/ab.js": "ab.js", "/page/ab_chart.js": "ab_chart.js"}
MEDIA = {"html": "text/html; charset=utf-8", "css": "text/css; charset=utf-8", "js": "text/javascript; charset=utf-8"}
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
REST = 10.0
"""The figures are made anew after as many times the seconds that making them took, and at least after SHORTEST."""
SHORTEST_S = 2.0

State = Callable[[], dict[str, Any]]


class _Kept:
    """The figures, made by one thread at a time and kept a while, so that many readers cost as one."""

    def __init__(self, make: State) -> None:
        self._make = make
        self._lock = asyncio.Lock()
        self._found: dict[str, Any] = {}
        self._until = 0.0

    async def get(self) -> dict[str, Any]:
        async with self._lock:
            if time.monotonic() >= self._until:
                began = time.monotonic()
                self._found = await asyncio.to_thread(self._make)
                took = time.monotonic() - began
                self._until = time.monotonic() + max(REST * took, SHORTEST_S)
            return self._found


def add_ab_routes(app: FastAPI, service: Service, state: State | None = None) -> None:
    """Add the page and its figures. `state`: makes the figures (recipes.ab_state.live_state); None where no test is
    under way, and /ab/state says so."""
    kept = _Kept(state) if state is not None else None

    @app.get("/ab/state", response_class=JSONResponse)
    async def figures(request: Request) -> Any:
        require_owner(service, request)
        if kept is None:
            said = "no A/B test is under way: serve two models or more and keep the votes (--store)."
            raise Refused(404, said, code="no_test")
        return JSONResponse(await kept.get())

    for path, name in FILES.items():
        _add_file(app, path, name)


def _add_file(app: FastAPI, path: str, name: str) -> None:
    text = resources.files("posttrain.serve").joinpath("page", name).read_bytes()
    media = MEDIA[name.rpartition(".")[2]]

    @app.get(path, include_in_schema=False, name=name)
    async def file() -> Response:
        return Response(text, media_type=media, headers=HEADERS)
