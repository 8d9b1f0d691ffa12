"""One vLLM server (https://docs.vllm.ai) seen from a trainer: what is asked of it, and the calls that change what it
serves. Over plain HTTP; vLLM itself is not imported, so it may live in another environment or on another machine.

Paths are those of vLLM 0.32: `/v1/load_lora_adapter` and `/v1/unload_lora_adapter` (VLLM_ALLOW_RUNTIME_LORA_UPDATING),
`/collective_rpc`, `/pause`, `/resume`, `/reset_prefix_cache`, `/weight_info` and `/update_weight_version`
(VLLM_SERVER_DEV_MODE).
"""

import asyncio
import json
import math
import ssl
import time
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from typing import Any

import httpx

from posttrain.rollouts.endpoint import LARGEST_ANSWER, Endpoint, Json, ServerError, _message, run_apart
from posttrain.rollouts.http import HttpSampler
from posttrain.rollouts.sampling import Completion, Decoding, Request

CALL_S = 30.0  # a call that moves no weights


class NoSuchPath(ServerError):
    """The server does not know the path: another version of it, or started without what opens the path."""


class NoSuchModel(ServerError):
    """The server does not know the adapter that was handed to it: it was started anew, or has dropped it."""


class VllmServer(HttpSampler):
    """`base_url` ends in /v1. `base_model`: the name that the server gives the model it was started with; `model`: what
    requests name, that model or the newest adapter. `connection`: of rollouts; questions of a few tokens end after
    CALL_S, whatever it says."""

    def __init__(self, base_url: str, model: str, *, tokenizer: Any = None, **connection: Any) -> None:
        super().__init__(base_url, model, tokenizer=tokenizer, **connection | {"deadline_s": CALL_S})
        self.url = self.endpoint.base_url
        self.base_model = model
        self._door = _Door(base_url, **connection)

    async def answer(self, client: httpx.AsyncClient, request: Request, seed: int, decoding: Decoding) -> Completion:
        """One answer. Raises ServerError where it did not come, or is none; NoSuchModel where nobody there knows the
        adapter."""
        body = self._body(request, seed, decoding)
        try:
            return await self._door.one(
                client, "/completions", body, lambda found: self._read(request, decoding, found)
            )
        except ServerError as error:
            if "HTTP 404" in str(error):
                raise NoSuchModel(str(error)) from None
            raise

    def client(self) -> httpx.AsyncClient:
        """A client with this server's key, for `answer`."""
        return self._door.client()

    def require_processed(self, decoding: Decoding, prompt: Sequence[int]) -> None:
        """Raises ServerError where log-probabilities are those from before temperature."""
        self._check(Request(tuple(prompt), (0,)), decoding)

    # --- what it is ---

    def name_of_version(self) -> str:
        """What the server calls itself, for messages; empty where it does not say."""
        try:
            return str((self.call("GET", "/version", timeout_s=CALL_S) or {}).get("version", ""))
        except ServerError:
            return ""

    def models(self) -> dict[str, Json]:
        """Names that it serves, with what it tells of each."""
        found = self.call("GET", "/v1/models", timeout_s=CALL_S) or {}
        rows = found.get("data")
        if not isinstance(rows, list) or not all(isinstance(row, dict) and "id" in row for row in rows):
            raise ServerError(f"{self.url}/models: no list of models; is this the address of a vLLM server?")
        return {str(row["id"]): row for row in rows}

    def read_text(self, text: str) -> list[int] | None:
        """The ids that the server's own tokenizer makes of a text; None where it does not tell."""
        body = {"model": self.base_model, "prompt": text, "add_special_tokens": False}
        try:
            found = self.call("POST", "/tokenize", body, timeout_s=CALL_S)
        except NoSuchPath:
            return None
        ids = (found or {}).get("tokens")
        if isinstance(ids, list) and not all(isinstance(id, int) for id in ids):
            raise ServerError(
                f"{self.url}: /tokenize gives tokens that are no ids; is this the address of a vLLM server?"
            )
        return ids if isinstance(ids, list) else None

    def weights_are(self) -> str:
        """The mark that the last one to hand weights over has left (`mark_weights`); empty where there is none."""
        try:
            return str((self.call("GET", "/weight_info", timeout_s=CALL_S) or {}).get("weight_version") or "")
        except NoSuchPath:
            return ""

    def mark_weights(self, mark: str) -> None:
        """Leave a mark, where the server takes one."""
        try:
            self.call("POST", "/update_weight_version", {"new_version": mark}, timeout_s=CALL_S)
        except NoSuchPath:
            return

    # --- what it says ---

    def score(self, ids: Sequence[int], num_prompt: int, *, timeout_s: float = CALL_S) -> list[float]:
        """Log-probabilities, at temperature 1, of the tokens behind the first `num_prompt`."""
        body = {"model": self.model, "prompt": list(ids), "max_tokens": 1, "temperature": 1.0, "prompt_logprobs": 0}
        found = self.call("POST", "/v1/completions", body, timeout_s=timeout_s) or {}
        try:
            rows = found["choices"][0]["prompt_logprobs"]
            logps = [float(row[str(id)]["logprob"]) for row, id in zip(rows[1:], ids[1:], strict=True)]
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise ServerError(
                f"{self.url}: it gives no prompt_logprobs of a probe, so nobody can tell which weights it serves "
                f"({type(error).__name__}: {error}); use vLLM from 0.10.2."
            ) from None
        if not all(map(math.isfinite, logps)):
            raise ServerError(f"{self.url}: its log-probabilities of a few probe tokens are not numbers.")
        return logps[num_prompt - 1 :]

    def draw(self, prompt: Sequence[int], decoding: Decoding, seed: int) -> Completion:
        """One answer, on the path that rollouts take, prefix cache included."""

        async def once() -> Completion:
            try:
                async with asyncio.timeout(CALL_S), self.client() as client:
                    return await self.answer(client, Request(tuple(prompt), (seed,)), seed, decoding)
            except TimeoutError:
                raise ServerError(f"{self.url}: no answer of a few tokens within {CALL_S:g} seconds.") from None

        return run_apart(once())

    # --- what changes it ---

    def load_adapter(self, name: str, path: str, *, timeout_s: float) -> None:
        """Serve the adapter in a folder that the server can read, under a name that it has never had: a prefix cache
        goes by the name."""
        self.call("POST", "/v1/load_lora_adapter", {"lora_name": name, "lora_path": path}, timeout_s=timeout_s)

    def unload_adapter(self, name: str) -> None:
        """Forget an adapter."""
        self.call("POST", "/v1/unload_lora_adapter", {"lora_name": name}, timeout_s=CALL_S)

    def reload(self, path: str, *, timeout_s: float) -> None:
        """Serve the weights of a model folder that the server can read. Requests that are under way end first.
        `timeout_s`: for all of it; a server that fails or is late is told to go on before that is said."""
        ends = time.monotonic() + timeout_s
        body = {"method": "reload_weights", "kwargs": {"weights_path": path}}
        try:
            for place, told in (("/pause?mode=wait", None), ("/collective_rpc", body), ("/reset_prefix_cache", None)):
                self.call("POST", place, told, timeout_s=max(0.0, ends - time.monotonic()))
        except ServerError:
            with suppress(ServerError):  # what failed first is what is said; a late /pause may have paused it
                self.call("POST", "/resume", timeout_s=CALL_S)
            raise
        self.call("POST", "/resume", timeout_s=CALL_S)

    def call(self, method: str, path: str, body: Json | None = None, *, timeout_s: float) -> Json | None:
        """One call, once, with an end. Raises ServerError, NoSuchPath or NoSuchModel."""
        return run_apart(self._door.call(method, path, body, timeout_s))


@cache
def _certificates() -> ssl.SSLContext:
    """Read once: it takes longer than a request."""
    return httpx.create_ssl_context()


class _Door(Endpoint):
    """The same connection, for single requests and for calls that are no completions."""

    def client(self) -> httpx.AsyncClient:
        headers = {} if self._key is None else {"Authorization": f"Bearer {self._key}"}
        limits = httpx.Limits(max_connections=self.concurrency, max_keepalive_connections=self.concurrency)
        return httpx.AsyncClient(headers=headers, timeout=None, limits=limits, verify=_certificates())

    async def one(self, client: httpx.AsyncClient, path: str, body: Json, read: Any) -> Any:
        return await self._ask(client, path, body, read)

    async def call(self, method: str, path: str, body: Json | None, timeout_s: float) -> Json | None:
        place = f"{self.base_url.removesuffix('/v1')}{path}"
        try:
            async with (
                asyncio.timeout(timeout_s),
                self.client() as client,
                client.stream(method, place, json=body) as stream,
            ):
                response = await self._whole(place, stream)
        except TimeoutError:
            raise ServerError(f"{place}: no answer within {timeout_s:.3g} seconds.") from None
        except httpx.ConnectError as error:
            said = f"{self.base_url}: nobody answers there ({self._clean(str(error))}). Start the server."
            raise ServerError(said, is_for_all=True) from None
        except httpx.RequestError as error:
            said = f"{place}: the connection broke off ({self._clean(str(error)) or type(error).__name__})."
            raise ServerError(said) from None
        if response.status_code == 200:
            return _object(response)
        self._raise(place, response)
        return None

    def _raise(self, place: str, response: httpx.Response) -> None:
        status, said = response.status_code, self._clean(_message(response))
        if status in (401, 403):
            mend = "name the environment variable that holds it as sampler_api_key_env"
            raise ServerError(f"{place}: HTTP {status}, the key is missing or not taken ({said}): {mend}.")
        if status in (404, 405) and "does not exist" in said:
            raise NoSuchModel(f"{place}: HTTP {status}: {said}")
        # A 404 may also be about what was asked for: an adapter, or the folder it should be in.
        if status == 405 or (status == 404 and (not said or "not found" in said.lower())):
            raise NoSuchPath(f"{place}: HTTP {status}, the server does not know this path.")
        raise ServerError(f"{place}: HTTP {status}: {said}")


def _object(response: httpx.Response) -> Json | None:
    """The JSON object of an answer; None where it is none (some calls answer with a sentence)."""
    assert len(response.content) <= LARGEST_ANSWER
    try:
        found = response.json()
    except (json.JSONDecodeError, UnicodeDecodeError):
        return None
    return found if isinstance(found, dict) else None
