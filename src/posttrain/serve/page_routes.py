"""The chat page: its files, and the one address that tells it what this server offers. All else it asks of the API.

`add_page_routes(app, service)` adds `/`, `/page/NAME` and `/page/settings`. The files are read once; there is no other
way from an address to a file. They need no key: who may ask is decided where something is asked.
"""

from importlib.resources import files
from typing import Any, Protocol

from fastapi import FastAPI, Response
from fastapi.responses import JSONResponse

PAGE = files("posttrain.serve").joinpath("page")
TYPES = {"html": "text/html", "css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
SCRIPTS = ("chat", "chat_icons", "chat_markdown", "chat_memory", "chat_server", "chat_turns")
FILES = {
    "chat.html": "/",
    **{name: f"/page/{name}" for name in ("chat.css", "chat_text.css", "icon.svg")},
    **{f"{name}.js": f"/page/{name}.js" for name in SCRIPTS},
}
# Scripts and styles of this server alone; no text on the page can reach another one.
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}


class Offers(Protocol):
    """What the page asks of a service."""

    @property
    def keeper(self) -> object | None: ...

    @property
    def default_model(self) -> str: ...


def add_page_routes(app: FastAPI, service: Offers) -> None:
    """The page at `/`."""
    for name, address in FILES.items():
        content = PAGE.joinpath(name).read_bytes()
        headers = {**HEADERS, "Content-Type": f"{TYPES[name.rpartition('.')[2]]}; charset=utf-8"}

        def give(content: bytes = content, headers: dict[str, str] = headers) -> Response:
            return Response(content, headers=headers)

        app.add_api_route(address, give, methods=["GET", "HEAD"], response_model=None, include_in_schema=False)

    @app.get("/page/settings", include_in_schema=False)
    def settings() -> JSONResponse:
        told: dict[str, Any] = {"votes": service.keeper is not None, "default_model": service.default_model}
        return JSONResponse(told, headers=HEADERS)
