"""JSON over HTTP to one server: many requests at a time, each with an end, and what fails does not take others along.

The key goes into one header and nowhere else: no message, log line or `repr` holds it, and redirects are not followed.
"""

import asyncio
import json
import random
import threading
import time
from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar

import httpx

from posttrain.errors import PosttrainError

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 30.0
AGAIN = frozenset({408, 425, 429, 500, 502, 503, 504, 529})
LARGEST_ANSWER = 64 * 1024 * 1024  # bytes; a server that goes on and on is not read to its end
Found = TypeVar("Found")
Json = dict[str, Any]


class ServerError(PosttrainError):
    """A server did not answer, or not as asked. `is_for_all`: whether no other request can fare better (no such model,
    a key that is not taken, nobody listens)."""

    def __init__(self, message: str, *, is_for_all: bool = False) -> None:
        super().__init__(message)
        self.is_for_all = is_for_all


class _TryAgain(Exception):
    """A failure that may pass. `after_s`: what the server asked to wait."""

    def __init__(self, error: ServerError, after_s: float = 0.0) -> None:
        super().__init__(str(error))
        self.error, self.after_s = error, after_s


@dataclass
class Usage:
    """What was asked of a server so far. Tokens are counted by the server, where it says so."""

    requests: int = 0
    retries: int = 0
    failures: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0


class Endpoint:
    """`timeout_s` for an attempt, `retries` more attempts, and `deadline_s` for all of them with their pauses;
    `concurrency` requests are under way at a time."""

    def __init__(
        self,
        base_url: str,
        *,
        api_key: str | None = None,
        timeout_s: float = 120.0,
        retries: int = 4,
        deadline_s: float | None = None,
        concurrency: int = 32,
    ) -> None:
        try:
            url = httpx.URL(base_url)
        except httpx.InvalidURL as error:
            raise ServerError(f"the server's address cannot be read ({error}); expected http://HOST:PORT/v1.") from None
        if api_key is not None and not (api_key.isascii() and api_key.isprintable()):
            raise ServerError("the API key holds a line break or a character that no HTTP header can; give it anew.")
        if url.scheme not in ("http", "https") or not url.host:
            raise ServerError(
                f"{url.scheme or base_url}: a server's address begins with http:// or https:// and a host."
            )
        if url.query:
            raise ServerError(f"{url.host}: the address holds a query (?...); give what is before it.")
        if url.userinfo:
            raise ServerError(f"{url.host}: the address holds a password; leave it out and give it as the API key.")
        self.base_url = str(url).rstrip("/")
        self.timeout_s, self.retries, self.concurrency = timeout_s, retries, concurrency
        self.deadline_s = (timeout_s + LONGEST_PAUSE_S) * (retries + 1) if deadline_s is None else deadline_s
        self.usage = Usage()
        self._key = api_key
        self._lock = threading.Lock()
        self._random = random.Random()  # the spread of pauses is no part of a run's randomness

    def __repr__(self) -> str:
        return f"Endpoint({self.base_url!r})"

    def ask_all(
        self, path: str, bodies: Sequence[Mapping[str, Any]], read: Callable[[int, Json], Found]
    ) -> list[Found | ServerError]:
        """POST every body; what `read(number, answer)` makes of each, or its error.

        Raises ServerError where an error is for all, or every request failed.
        """
        found = self.ask_each(path, bodies, read)
        if found and all(isinstance(each, ServerError) for each in found):
            raise next(each for each in found if isinstance(each, ServerError))
        return found

    def ask_each(
        self, path: str, bodies: Sequence[Mapping[str, Any]], read: Callable[[int, Json], Found]
    ) -> list[Found | ServerError]:
        """`ask_all` for callers that count errors: raises ServerError only where an error is for all."""
        found, fatal = run_apart(self._all(path, bodies, read))
        if fatal is not None:
            raise fatal
        return found

    async def _all(
        self, path: str, bodies: Sequence[Mapping[str, Any]], read: Callable[[int, Json], Found]
    ) -> tuple[list[Found | ServerError], ServerError | None]:
        gate = asyncio.Semaphore(self.concurrency)
        fatal: ServerError | None = None
        num_through = 0
        headers = {} if self._key is None else {"Authorization": f"Bearer {self._key}"}
        limits = httpx.Limits(max_connections=self.concurrency, max_keepalive_connections=self.concurrency)

        async def one(number: int, body: Mapping[str, Any]) -> Found | ServerError:
            nonlocal fatal, num_through
            async with gate:
                if fatal is not None:
                    return fatal
                try:
                    found = await self._ask(client, path, body, lambda answer: read(number, answer))
                except ServerError as error:
                    self._count(failures=1)
                    # What fails for all cannot have succeeded for one: then it is that request's own bad luck.
                    fatal = error if error.is_for_all and not num_through else fatal
                    return error
                num_through += 1
                return found

        # An attempt is timed as a whole, in `_attempt`: a server that sends a byte now and then is slow all the same.
        async with httpx.AsyncClient(headers=headers, timeout=None, limits=limits) as client:
            under_way = [asyncio.create_task(one(number, body)) for number, body in enumerate(bodies)]
            try:
                found = await asyncio.gather(*under_way)
            finally:
                await _end(under_way)  # before the client closes
        # One that was under way when another failed may have come through after all: its answer is not thrown away.
        return list(found), None if num_through else fatal

    async def _ask(
        self, client: httpx.AsyncClient, path: str, body: Mapping[str, Any], read: Callable[[Json], Found]
    ) -> Found:
        ends = time.monotonic() + self.deadline_s
        for attempt in range(self.retries + 1):
            self._count(requests=1, retries=int(attempt > 0))
            try:
                answer = await self._attempt(client, path, body, min(self.timeout_s, ends - time.monotonic()))
                return _understood(read, answer)
            except _TryAgain as failure:
                spread = self._random.uniform(0.5, 1.5)
                pause = max(failure.after_s, min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2**attempt) * spread)
                if attempt == self.retries or time.monotonic() + pause >= ends:
                    raise failure.error from None
            await asyncio.sleep(pause)
        raise AssertionError("the last attempt returns or raises")

    async def _attempt(self, client: httpx.AsyncClient, path: str, body: Mapping[str, Any], left_s: float) -> Json:
        place = f"{self.base_url}{path}"
        try:
            async with asyncio.timeout(left_s), client.stream("POST", place, json=body) as stream:
                response = await self._whole(place, stream)
        except TimeoutError:
            raise _TryAgain(ServerError(f"{place}: no answer within {left_s:.3g} seconds.")) from None
        except httpx.ConnectError as error:
            why = self._clean(str(error))
            said = f"{self.base_url}: nobody answers there ({why}). Start the server, or mend base_url."
            raise _TryAgain(ServerError(said, is_for_all=True)) from None
        except UnicodeEncodeError:
            raise ServerError("the text holds half a character (a lone surrogate), which no request can.") from None
        except httpx.RequestError as error:
            said = f"{place}: the connection broke off ({self._clean(str(error)) or type(error).__name__})."
            raise _TryAgain(ServerError(said)) from None
        if response.status_code != 200:
            raise self._refusal(place, response, str(body.get("model", "")))
        try:
            answer = response.json()
        except (json.JSONDecodeError, UnicodeDecodeError):
            raise _TryAgain(ServerError(f"{place}: the answer is not JSON: {self._clean(response.text)!r}")) from None
        if not isinstance(answer, dict) or not isinstance(answer.get("choices"), list) or not answer["choices"]:
            # Some gateways say what failed behind them with status 200.
            has_error = isinstance(answer, dict) and "error" in answer
            told = f" It says: {self._clean(_message(response))}" if has_error else ""
            raise ServerError(
                f"{place}: the answer has no `choices`; is this the address of an OpenAI-compatible server?{told}"
            )
        self._count_tokens(answer.get("usage"))
        return answer

    async def _whole(self, place: str, stream: httpx.Response) -> httpx.Response:
        """The answer with all that it says, which has a bound."""
        content = bytearray()
        async for piece in stream.aiter_bytes():
            content += piece
            if len(content) > LARGEST_ANSWER:
                raise ServerError(f"{place}: the answer has more than {LARGEST_ANSWER:,} bytes, and was left there.")
        headers = {name: value for name, value in stream.headers.items() if name.lower() == "retry-after"}
        return httpx.Response(stream.status_code, headers=headers, content=bytes(content))

    def _refusal(self, place: str, response: httpx.Response, model: str) -> Exception:
        status, said = response.status_code, self._clean(_message(response))
        if status == 429 and "insufficient_quota" in response.text:
            return ServerError(f"{place}: HTTP 429, the account has no credit left: {said}", is_for_all=True)
        if status in AGAIN:
            error = ServerError(f"{place}: HTTP {status}: {said}")
            return _TryAgain(error, _wait_s(response.headers.get("Retry-After", "")))
        if status in (401, 403):
            return ServerError(f"{place}: HTTP {status}, the key is missing or not taken: {said}", is_for_all=True)
        if status == 404:
            mend = f"no such model ({model}) or no such path; see {self.base_url}/models"
            return ServerError(f"{place}: HTTP 404, {mend}: {said}", is_for_all=True)
        if 300 <= status < 400:
            return ServerError(f"{place}: HTTP {status}; give the address it redirects to.", is_for_all=True)
        return ServerError(f"{place}: HTTP {status}: {said}")

    def _clean(self, text: str) -> str:
        """What a server said, short, fit for every terminal, and without the key, which some repeat."""
        text = " ".join(text.split()).encode("utf-8", "backslashreplace").decode()
        return (text if not self._key else text.replace(self._key, "***"))[:300]

    def _count(self, **more: int) -> None:
        with self._lock:
            for name, value in more.items():
                setattr(self.usage, name, getattr(self.usage, name) + value)

    def _count_tokens(self, usage: Any) -> None:
        if isinstance(usage, dict):
            counts = {name: usage.get(name) for name in ("prompt_tokens", "completion_tokens")}
            self._count(**{name: count for name, count in counts.items() if isinstance(count, int)})


def run_apart(work: Coroutine[Any, Any, Found]) -> Found:
    """Run to its end in a thread with an event loop of its own, whatever loop the caller may have; an interrupt of the
    caller ends it."""
    loop, done = asyncio.new_event_loop(), threading.Event()
    task = loop.create_task(work)

    def to_the_end() -> None:
        try:
            loop.run_until_complete(asyncio.wait([task]))
            loop.run_until_complete(_end(asyncio.all_tasks(loop)))
            loop.run_until_complete(loop.shutdown_asyncgens())
        finally:
            loop.close()
            done.set()

    threading.Thread(target=to_the_end, daemon=True).start()
    try:
        done.wait()
    except BaseException:
        with suppress(RuntimeError):  # it has just come to its end
            loop.call_soon_threadsafe(task.cancel)
        done.wait()
        raise
    return task.result()


async def _end(tasks: Collection[asyncio.Task[Any]]) -> None:
    """Cancel those that still run and wait for them: a task that its loop forgets never closes its connection."""
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks)


def _understood(read: Callable[[Json], Found], answer: Json) -> Found:
    try:
        return read(answer)
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        said = f"the server's answer is not laid out as OpenAI's ({type(error).__name__}: {error})."
        raise ServerError(said[:300]) from error


def _message(response: httpx.Response) -> str:
    """What the server says of an error, in any of the usual places."""
    try:
        found = response.json()
    except (json.JSONDecodeError, UnicodeDecodeError):
        return response.text
    if isinstance(found, dict):
        inner = found.get("error", found)
        found = inner.get("message", inner) if isinstance(inner, dict) else inner
    return str(found)


def _wait_s(header: str) -> float:
    """Seconds of a Retry-After header, which holds a number or a date."""
    try:
        return max(0.0, float(header))
    except ValueError:
        pass
    try:
        return max(0.0, (parsedate_to_datetime(header) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):
        return 0.0
