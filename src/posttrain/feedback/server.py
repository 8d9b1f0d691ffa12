"""The annotation page over HTTP: the page's files, and the few addresses that it asks.

Everybody has a token, sent as `Authorization: Bearer TOKEN`; in a link it stands behind the #, which browsers keep to
themselves, so it is in no log. What goes to an annotator names neither models nor response ids: answers are known by
their place on the screen. Fails by status: 403 no such token, 409 the page is behind or the store has no place
for the vote, 413 too much, 422 not understood, 503 the database is away and the same request may be sent again.
"""

import hmac
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from importlib.resources import files
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Header, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field

from posttrain.errors import StoreAway, StoreError
from posttrain.feedback.ballots import Assignment, Ballot
from posttrain.feedback.markdown import safe_html
from posttrain.feedback.queue import Queue
from posttrain.feedback.store import Store
from posttrain.feedback.summary import feedback_statistics
from posttrain.feedback.verdicts import Stale, Verdict
from posttrain.types import Message

PAGE = files("posttrain.feedback").joinpath("page")
TYPES = {"html": "text/html", "css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
FILES = {
    "annotate.html": "/",
    "stats.html": "/stats",
    **{
        name: f"/page/{name}"
        for name in ("annotate.css", "annotate.js", "ranking.js", "sending.js", "stats.js", "stats.css", "icon.svg")
    },
}
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}
MAX_BODY = 1 << 20  # bytes of one request
MAX_TEXT = 100_000  # characters of a better answer
RETRY_AFTER_S = 2
FRESH_S = 10.0  # the statistics are counted again after this
NO_ENTRY = (
    "This link does not open anything. Its token is wrong or was replaced by a new one: "
    "ask whoever runs this page for your link, and open it in full, with all that stands behind the #."
)


MAX_ID = 2**53  # what a browser can count to; a database's integers go further


class Forbidden(Exception):
    """No such token."""


class NotUnderstood(Exception):
    """A request that does not fit what it is about."""


class VoteBody(BaseModel):
    """What the page sends of one item. `places[i]`: the place of the i-th answer on the screen, 0 the best."""

    model_config = ConfigDict(extra="forbid")

    kind: str
    key: str = Field(min_length=8, max_length=100)
    assignment: int | None = Field(None, ge=0, lt=MAX_ID)
    replaces: int = Field(0, ge=0, lt=MAX_ID)
    places: list[Annotated[int, Field(ge=0, le=9)] | None] = Field(default_factory=list, max_length=8)
    all_bad: bool = False
    reason: str = Field("", max_length=2_000)
    better: str = Field("", max_length=MAX_TEXT)
    comment: str = Field("", max_length=5_000)
    seconds: float | None = Field(None, ge=0, le=1e6, allow_inf_nan=False)
    guidelines: int | None = Field(None, ge=0, lt=MAX_ID)


class AliveBody(BaseModel):
    """A sign of life."""

    assignment: int = Field(ge=0, lt=MAX_ID)


class _Desk:
    """What the addresses share: the queue, the owner's token, the statistics of the last few seconds."""

    def __init__(self, store: Store, queue: Queue, owner_token: str) -> None:
        self.store, self.queue, self.owner_token = store, queue, owner_token
        self._counting = threading.Lock()
        self._statistics: tuple[float, dict[str, Any]] | None = None

    def annotator(self, authorization: Annotated[str, Header()] = "") -> str:
        """Who asks; raises Forbidden."""
        name = self.store.annotator(authorization.removeprefix("Bearer ").strip())
        if name is None:
            raise Forbidden
        return name

    def owner(self, authorization: Annotated[str, Header()] = "") -> None:
        """Raises Forbidden unless the owner asks."""
        given = authorization.removeprefix("Bearer ").strip()
        if not hmac.compare_digest(given.encode(), self.owner_token.encode()):
            raise Forbidden

    def statistics(self) -> dict[str, Any]:
        """Counted at most every FRESH_S, by one thread at a time."""
        with self._counting:
            if self._statistics is None or time.monotonic() - self._statistics[0] > FRESH_S:
                found = feedback_statistics(self.store)
                voted = {row["name"] for row in found["annotators"]}
                found["silent"] = [one.name for one in self.store.annotators() if one.name not in voted]
                self._statistics = (time.monotonic(), found)
            return self._statistics[1]

    def shown(self, annotator: str, prompt_id: int, order: Sequence[int]) -> dict[str, Any]:
        """A prompt and its answers, in this order, without a word about where they come from."""
        prompt = self.store.prompt(prompt_id)
        return {
            "annotator": annotator,
            "prompt": [_message(message) for message in prompt.messages],
            "answers": [[_answer(message) for message in self.store.response(id).messages] for id in order],
            "guidelines": self.guidelines(),
            "progress": self.queue.progress(annotator),
        }

    def guidelines(self) -> dict[str, Any] | None:
        """The newest, as HTML, with their version."""
        found = self.store.guidelines()
        return None if found is None else {"version": found[0], "html": safe_html(found[1])}

    def on_screen(self, annotator: str, assignment: Assignment) -> dict[str, Any]:
        """The item of an assignment."""
        prompt_id = self.store.response(assignment.order[0]).prompt_id
        return {"assignment": assignment.id, **self.shown(annotator, prompt_id, assignment.order)}

    def earlier(self, annotator: str, ballot: Ballot) -> dict[str, Any]:
        """An item that was voted on, with the vote."""
        order = list(ballot.details.get("shown", ballot.response_ids))
        rank_of = dict(zip(ballot.response_ids, ballot.ranks or (), strict=False))
        said = {
            "kind": ballot.kind,
            "places": [rank_of.get(id) for id in order],
            "all_bad": ballot.all_bad,
            "reason": ballot.value if isinstance(ballot.value, str) else "",
            "comment": ballot.comment,
            "better": self.queue.better(annotator, ballot.item_id or 0),
        }
        return {"replaces": ballot.id, "said": said, **self.shown(annotator, ballot.prompt_id, order)}


def create_app(store: Store, queue: Queue, owner_token: str) -> FastAPI:
    """The application. `owner_token` opens the statistics; annotators' tokens are the store's."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None, title="posttrain annotate")
    desk = _Desk(store, queue, owner_token)
    _add_page(app)
    _add_failures(app)
    _add_questions(app, desk)
    app.middleware("http")(_guard)
    return app


def _add_questions(app: FastAPI, desk: _Desk) -> None:
    """The addresses that answer with JSON."""
    Name = Annotated[str, Depends(desk.annotator)]

    @app.get("/api/next")
    def next_item(name: Name) -> dict[str, Any]:
        assignment = desk.queue.next(name)
        if assignment is None:
            about = {"annotator": name, "guidelines": desk.guidelines(), "progress": desk.queue.progress(name)}
            return {"assignment": None, **about}
        return desk.on_screen(name, assignment)

    @app.get("/api/earlier")
    def earlier(name: Name, before: Annotated[int | None, Query(ge=0, lt=MAX_ID)] = None) -> dict[str, Any]:
        ballot = desk.queue.before(name, before)
        return {"replaces": None} if ballot is None else desk.earlier(name, ballot)

    @app.post("/api/vote")
    def vote(name: Name, body: VoteBody) -> dict[str, Any]:
        said = body.model_dump(exclude={"assignment", "replaces", "places"})
        try:
            verdict = Verdict(places=tuple(body.places), **said)
            ballot = desk.queue.vote(name, verdict, assignment_id=body.assignment, replaces=body.replaces)
        except ValueError as error:
            raise NotUnderstood(str(error)) from error
        return {"ballot": ballot, "progress": desk.queue.progress(name)}

    @app.post("/api/alive")
    def alive(name: Name, body: AliveBody) -> dict[str, Any]:
        return {"yours": desk.queue.alive(name, body.assignment), "progress": desk.queue.progress(name)}

    @app.get("/api/stats", dependencies=[Depends(desk.owner)])
    def stats() -> dict[str, Any]:
        return desk.statistics()


def _add_page(app: FastAPI) -> None:
    """The page's own files, read once; there is no other way from an address to a file."""
    for name, address in FILES.items():
        content = PAGE.joinpath(name).read_bytes()
        media = f"{TYPES[name.rpartition('.')[2]]}; charset=utf-8"

        def give(content: bytes = content, media: str = media) -> Response:
            return Response(content, headers={"Content-Type": media})

        app.add_api_route(address, give, methods=["GET", "HEAD"], response_model=None)


def _add_failures(app: FastAPI) -> None:
    """Exceptions to statuses, each with a sentence for the reader."""

    @app.exception_handler(Forbidden)
    def forbidden(_: Request, __: Exception) -> JSONResponse:
        return JSONResponse({"error": "token", "message": NO_ENTRY}, 403)

    @app.exception_handler(Stale)
    def stale(_: Request, error: Stale) -> JSONResponse:
        return JSONResponse({"error": error.reason, "message": str(error)}, 409)

    # What these two say names the database, which is the owner's business alone.

    @app.exception_handler(StoreError)
    def refused(_: Request, __: Exception) -> JSONResponse:
        message = "The store has no place for this: it does not hold what the page shows. Here is what it holds now."
        return JSONResponse({"error": "refused", "message": message}, 409)

    @app.exception_handler(StoreAway)
    def away(_: Request, __: Exception) -> JSONResponse:
        message = "The database does not answer at the moment. Nothing is lost: the same request may be sent again."
        return JSONResponse({"error": "away", "message": message}, 503, {"Retry-After": str(RETRY_AFTER_S)})

    @app.exception_handler(RequestValidationError)
    def not_understood(_: Request, error: RequestValidationError) -> JSONResponse:
        said = "; ".join(f"{'.'.join(map(str, one['loc'][1:]))}: {one['msg']}" for one in error.errors())
        return JSONResponse({"error": "request", "message": f"The request was not understood: {said}."}, 422)

    @app.exception_handler(NotUnderstood)
    def wrong(_: Request, error: Exception) -> JSONResponse:
        return JSONResponse({"error": "request", "message": f"The request was not understood: {error}."}, 422)


async def _guard(request: Request, follow: Callable[[Request], Awaitable[Response]]) -> Response:
    """Nothing too large comes in, and everything goes out with HEADERS."""
    length = request.headers.get("content-length", "")
    has_body = request.method not in ("GET", "HEAD")
    # A body in chunks is as long as it likes, whatever else its headers say.
    unknown = not length.isdecimal() or len(length) > 15 or "transfer-encoding" in request.headers
    if has_body and (unknown or int(length) > MAX_BODY):
        response: Response = JSONResponse({"error": "size", "message": f"At most {MAX_BODY:,} bytes, please."}, 413)
    else:
        response = await follow(request)
    response.headers.update(HEADERS)
    return response


def _answer(message: Message) -> dict[str, Any]:
    """A turn with its text as well, for whoever writes a better one."""
    return {**_message(message), "text": message.content}


def _message(message: Message) -> dict[str, Any]:
    """A turn for the page: `html` is safe to insert, all else is text."""
    shown: dict[str, Any] = {"role": message.role, "html": safe_html(message.content)}
    if message.reasoning:
        shown["reasoning"] = safe_html(message.reasoning)
    if message.tool_calls:
        shown["calls"] = [{"name": call.name, "arguments": call.arguments} for call in message.tool_calls]
    return shown
