"""What can go wrong with a request, in the form that OpenAI's clients read: {"error": {message, type, param, code}}."""

import json
import logging
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from posttrain.errors import DataError, PosttrainError, StoreAway
from posttrain.serve.doors import Busy, Stopped, TooLong, UnknownExchange, UnknownModel

log = logging.getLogger("posttrain.serve")

INVALID, NOT_FOUND, SERVER = "invalid_request_error", "not_found_error", "server_error"
TYPES = {401: "authentication_error", 403: "permission_error", 404: NOT_FOUND, 408: "timeout_error"} | {
    429: "rate_limit_error",
    504: "timeout_error",
}
CODES = {
    400: "invalid_request",
    404: "not_found",
    405: "method_not_allowed",
    413: "too_large",
    415: "media_type",
    500: "server_error",
}
SHOWN = 300  # characters of what a client sent that an error says again


class Refused(Exception):
    """A request that is not answered, with the status and what the client is told. `param`: the field at fault."""

    def __init__(
        self, status: int, message: str, *, param: str | None = None, code: str = "", headers: Any = None
    ) -> None:
        super().__init__(message)
        self.status, self.param, self.code = status, param, code
        self.headers: dict[str, str] = dict(headers or {})


class TimeLimit(Refused):
    """An answer took longer than a request may."""

    def __init__(self, limit_s: float) -> None:
        said = (
            f"the answer was not whole after {limit_s:g} s, the longest that a request may take; ask for fewer tokens."
        )
        # Asked again it would take as long: OpenAI's clients heed this header.
        super().__init__(504, said, code="time_limit", headers={"x-should-retry": "false"})


class Stopping(Refused):
    """The server is being stopped."""

    def __init__(self) -> None:
        super().__init__(503, "this server is stopping.", code="stopping", headers={"Retry-After": "5"})


def error_body(status: int, message: str, param: str | None = None, code: str = "") -> dict[str, Any]:
    """The body of an answer with an error status."""
    kind = TYPES.get(status, SERVER if status >= 500 else INVALID)
    known = code or CODES.get(status, "error")
    return {"error": {"message": _fit(message), "type": kind, "param": param, "code": known}}


def as_refused(error: Exception) -> Refused:
    """Any failure as one that a client is told of; what is the program's fault is logged with its trace."""
    if isinstance(error, Refused):
        return error
    if isinstance(error, Busy):
        wait = max(1, round(error.retry_after_s))
        return Refused(429, str(error), code="busy", headers={"Retry-After": str(wait)})
    if isinstance(error, UnknownModel):
        return Refused(404, str(error), param="model", code="model_not_found")
    if isinstance(error, UnknownExchange):
        return Refused(404, str(error), param="completion_id", code="unknown_completion")
    if isinstance(error, TooLong):
        return Refused(400, str(error), param="messages", code="context_length_exceeded")
    if isinstance(error, Stopped):
        return Stopping()
    if isinstance(error, DataError):
        return Refused(400, str(error), param="messages")
    if isinstance(error, StoreAway):  # what it says names the database, which is the owner's business alone
        log.warning("%s", error)
        said = "the store does not answer at the moment; the same request may be sent again."
        return Refused(503, said, code="store_away", headers={"Retry-After": "2"})
    log.error("a request failed", exc_info=error)
    return _failed()


def _failed() -> Refused:
    return Refused(500, "something in this server failed; its log says what.")


def response(error: Refused) -> JSONResponse:
    """The answer that tells of an error."""
    return JSONResponse(error_body(error.status, str(error), error.param, error.code), error.status, error.headers)


def event(error: Refused) -> dict[str, Any]:
    """What is sent in the midst of a stream, whose status has gone out long ago."""
    return error_body(error.status, str(error), error.param, error.code)


def add_failures(app: FastAPI) -> None:
    """Every exception of a route becomes an answer of OpenAI's form."""

    async def told(request: Request, error: Exception) -> JSONResponse:
        found = as_refused(error)
        if found.param == "messages" and request.url.path == "/v1/completions":
            found.param = "prompt"
        return response(found)

    async def broken(_: Request, __: Exception) -> JSONResponse:
        return response(_failed())  # its trace is in the log: whoever runs the application is handed it as well

    for kind in (Refused, PosttrainError):
        app.add_exception_handler(kind, told)
    app.add_exception_handler(Exception, broken)

    @app.exception_handler(RequestValidationError)
    async def not_understood(_: Request, error: RequestValidationError) -> JSONResponse:
        param, said = _first(error.errors())
        return response(Refused(400, said, param=param))

    @app.exception_handler(HTTPException)
    async def of_http(request: Request, error: HTTPException) -> JSONResponse:
        said = str(error.detail)
        if error.status_code == 404:
            said = f"there is nothing at {request.url.path[:SHOWN]!r}."
        elif error.status_code == 405:
            said = f"{request.method[:20]} is not how {request.url.path[:SHOWN]!r} is asked."
        return response(Refused(error.status_code, said, headers=error.headers))


def _first(errors: Any) -> tuple[str | None, str]:
    """(field, sentence) of the deepest fault: of a union every member has one, and the deepest is what was meant."""
    found: Mapping[str, Any] = max(errors, key=lambda one: len(one["loc"]), default={"loc": (), "msg": "no body"})
    place = [part for part in found["loc"][1:] if _is_name(part)]
    if found.get("type") == "json_invalid":
        return None, f"the body is not valid JSON ({found['ctx']['error']} at character {found['loc'][-1]})."
    param = ".".join(map(str, place)) or None
    said = str(found["msg"]).removeprefix("Value error, ").removeprefix("Input should be ")
    if said != str(found["msg"]) and str(found["msg"]).startswith("Input should be "):
        said = f"expected {said}"
    if found.get("type") == "missing":
        said = "it is required"
    return param, f"{param or 'the body'}: {said}."


def _is_name(part: Any) -> bool:
    """Whether a part of a place is a key or a number in the body, not the name of a type that was tried."""
    return isinstance(part, int) or (isinstance(part, str) and part.isidentifier() and part not in _KINDS)


_KINDS = frozenset({"str", "int", "float", "bool", "TextPart", "ToolFunction", "NamedTool", "literal", "list", "dict"})


def _fit(text: str) -> str:
    """Text that every client can show: whole characters, no endless ones."""
    text = text.encode("utf-8", "backslashreplace").decode()
    return text if len(text) <= 2_000 else f"{text[:2_000]}…"


def encode(value: Any) -> bytes:
    """JSON in ASCII alone: some clients break lines at U+2028 and its like."""
    return _ENCODER.encode(value).encode("ascii")


_ENCODER = json.JSONEncoder(separators=(",", ":"), allow_nan=False)
