"""POST /v1/chat/completions."""

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse

from posttrain.serve.answering import Answering, ClientGone, EventStream, Job, ruled, until_gone
from posttrain.serve.choices import FILTERED, Choice, Delta
from posttrain.serve.doors import Exchange, Ruling
from posttrain.serve.failures import Refused, as_refused, encode, event
from posttrain.serve.keys import hashed_user
from posttrain.serve.logprobs import chat_logprobs
from posttrain.serve.prompts import chat_asked, offered, turns
from posttrain.serve.protocol import Asking, ChatRequest
from posttrain.serve.protocol_answers import ERRORS, ChatAnswer
from posttrain.serve.service import AUTO, Service, caller
from posttrain.serve.spelling import Spelling, spelling
from posttrain.serve.tools import CallReader, syntax_of
from posttrain.types import Message

log = logging.getLogger("posttrain.serve")
DONE = b"data: [DONE]\n\n"
SAMPLED = ("temperature", "top_p", "top_k", "min_p", "seed", "n", "max_tokens", "max_completion_tokens", "stop")
_told: set[str] = set()


def add_chat_routes(app: FastAPI, service: Service) -> None:
    """The address that chats are asked at."""

    @app.post("/v1/chat/completions", response_model=ChatAnswer, responses=STREAMED | ERRORS)
    async def chat_completions(body: ChatRequest, request: Request) -> Any:
        chat = await _chat(service, body, who(body, request))
        return await answered(request, chat, is_stream=bool(body.stream))


class Answers(Protocol):
    """A chat or a text that can be answered at once, or as it grows."""

    @property
    def answering(self) -> Answering: ...

    async def whole(self) -> dict[str, Any]: ...

    def events(self) -> AsyncIterator[bytes]: ...


async def answered(request: Request, asked: Answers, *, is_stream: bool) -> Response:
    """The answer, in one piece or as events; nothing where nobody waits for it any more."""
    try:
        if not is_stream:
            return JSONResponse(await until_gone(request, asked.whole()))
        await until_gone(request, asked.answering.open())
        return EventStream(asked.events())
    except ClientGone:
        return Response(status_code=499)
    except Exception as error:
        raise as_refused(error) from error


def who(body: Asking, request: Request) -> str:
    """Who asks, as everything behind the door knows them. Who gives no name is known by the address."""
    client = request.client.host if request.client else ""
    return hashed_user(caller(request), body.who or f"@{client}")


def tell_unknown(body: Asking) -> None:
    """Say once of every field that it has no meaning here."""
    for name in body.unknown:
        if name not in _told and len(_told) < 1_000:
            _told.add(name)
            log.warning("the field %r of a request is not known and does nothing", name[:100])


@dataclass(eq=False)
class Chat:
    """A chat and the answers to it. `named`: the model's name as the client knows it."""

    body: ChatRequest
    service: Service
    answering: Answering
    messages: tuple[Message, ...]
    user: str
    named: str
    tokenizer: Any

    async def whole(self) -> dict[str, Any]:
        """All answers in one."""
        answering = self.answering
        try:
            await answering.open()
            async for _ in answering.deltas():
                pass
            await self._keep()
        finally:
            await answering.close()
        choices = [self._choice(choice) for choice in answering.choices]
        made = {"id": answering.id, "object": "chat.completion", "created": answering.created, "model": self.named}
        made |= {"choices": choices, "usage": answering.usage}
        if self.body.return_token_ids and answering.jobs:
            made["prompt_token_ids"] = list(answering.jobs[0].asked.request.prompt_ids)
        return made

    async def events(self) -> AsyncIterator[bytes]:
        """The answers as they grow. What fails is the last event, as the status has gone out."""
        answering = self.answering
        try:
            for choice in answering.choices:
                yield self._chunk(choice, {"role": "assistant", "content": ""})
            num_left = len(answering.choices)
            async for choice, delta in answering.deltas():
                for part, more in self._parts(choice, delta):
                    yield self._chunk(choice, part, **more)
                if delta.finish:
                    num_left -= 1
                    if not num_left:
                        await self._keep()
                    yield self._chunk(choice, {}, finish=delta.finish)
            if self.body.wants_usage:
                yield sent(self._frame([]) | {"usage": answering.usage})
        except Exception as error:
            yield sent(event(as_refused(error)))
        finally:
            await answering.close()
        yield DONE

    def _parts(self, choice: Choice, delta: Delta) -> list[tuple[dict[str, Any], dict[str, Any]]]:
        """The deltas of one step, with what stands beside each."""
        parts: list[tuple[dict[str, Any], dict[str, Any]]] = []
        logprobs = self._logprobs(delta.tokens) if delta.tokens else None
        ids = [token.id for token in delta.tokens] if self.body.return_token_ids else []
        if delta.text or logprobs or ids:
            more = {"logprobs": logprobs} | ({"token_ids": ids} if ids else {})
            parts.append(({"content": delta.text}, more))
        for place, call in enumerate(delta.calls):
            head = {"id": call.id or _call_id(choice, place), "type": "function"}
            begun = {"index": place, **head, "function": {"name": call.name, "arguments": ""}}
            parts.append(({"tool_calls": [begun]}, {}))
            parts.append(({"tool_calls": [{"index": place, "function": {"arguments": call.arguments}}]}, {}))
        return parts

    def _chunk(self, choice: Choice, delta: Mapping[str, Any], finish: str = "", **more: Any) -> bytes:
        said = {"index": choice.number, "delta": delta, "logprobs": None, "finish_reason": finish or None} | more
        return sent(self._frame([said]) | ({"usage": None} if self.body.wants_usage else {}))

    def _frame(self, choices: list[Any]) -> dict[str, Any]:
        made = {"id": self.answering.id, "object": "chat.completion.chunk", "created": self.answering.created}
        return made | {"model": self.named, "choices": choices}

    def _choice(self, choice: Choice) -> dict[str, Any]:
        message: dict[str, Any] = {"role": "assistant", "content": choice.text, "refusal": None}
        if choice.calls:
            message["content"] = choice.text or None
            message["tool_calls"] = [
                {
                    "id": call.id or _call_id(choice, place),
                    "type": "function",
                    "function": {"name": call.name, "arguments": call.arguments},
                }
                for place, call in enumerate(choice.calls)
            ]
        made = {"index": choice.number, "message": message, "finish_reason": choice.finish}
        made["logprobs"] = None if choice.is_changed else self._logprobs(choice.shown)
        return made | ({"token_ids": list(choice.token_ids)} if self.body.return_token_ids else {})

    def _logprobs(self, tokens: Sequence[Any]) -> dict[str, Any] | None:
        if self.body.num_top is None:
            return None
        as_ids = bool(self.body.return_tokens_as_token_ids)
        return chat_logprobs(tokens, self._spelt, self.body.num_top, as_ids=as_ids)

    @property
    def _spelt(self) -> Spelling:
        return spelling(self.tokenizer)

    async def _keep(self) -> None:
        """Remember the exchange before its last word goes out: a vote on it may come at once."""
        keeper, jobs = self.service.keeper, self.answering.jobs
        if keeper is None:
            return
        body, choices = self.body, self.answering.choices
        sampled = {name: value for name in SAMPLED if (value := getattr(body, name)) is not None}
        sampled["served_from"] = [self.answering.roots[number] for number in range(len(jobs))]
        arms = [job.arm for job in jobs]
        one = jobs[0] if len({job.model for job in jobs}) == 1 else None
        exchange = Exchange(
            id=self.answering.id,
            user=self.user,
            messages=self.messages,
            answers=tuple(Message("assistant", choice.text, tool_calls=choice.calls) for choice in choices),
            model=one.model if one else self.named,
            arm=one.arm if one else "",
            tools=offered(body.tools),
            # What a guard said is nobody's to learn from.
            may_keep=bool(body.store) and not any(choice.finish == FILTERED for choice in choices),
            parameters=sampled | ({"arms": arms} if len(jobs) > 1 and all(arms) else {}),
            token_ids=tuple(choice.token_ids for choice in choices),
            replaces=(body.metadata or {}).get("replaces", ""),
            created=datetime.now(UTC),
        )
        try:
            await asyncio.to_thread(keeper.keep, exchange)
        except Exception:
            # The answer is the user's whatever the store says; a vote on it will find no such answer, and say so.
            log.exception("the exchange %s is not kept", exchange.id)
            self.service.metrics.not_kept.inc()


async def _chat(service: Service, body: ChatRequest, user: str) -> Chat:
    """What a request asks for, ready to be answered."""
    tell_unknown(body)
    limits, n = service.limits, body.n or 1
    require(len(body.messages) <= limits.max_messages, "messages", f"at most {limits.max_messages:,} of them")
    require(n <= limits.max_n, "n", f"at most {limits.max_n} answers")
    require(not compares(body) or body.n in (None, 2), "n", "2 where two answers are compared, or left out")
    require(len(body.stops) <= limits.max_stops, "stop", f"at most {limits.max_stops} of them")
    messages = turns(body.messages)
    arms = _arms(service, body, user)
    n = max(n, len(arms))
    ruling = await asyncio.to_thread(service.guard.check, messages, user) if service.guard else Ruling("allow")
    if ruling.action != "allow":
        ruled(service, ruling)
    named = AUTO if arms[0][1] else body.model or arms[0][0]
    first = service.engine.model(arms[0][0])
    if ruling.action == "refuse":
        choices = [Choice(number) for number in range(n)]
        for choice in choices:
            choice.refuse(ruling.told or "This was not answered: a rule of the server forbids it.")
        return Chat(body, service, Answering(service, (), choices), messages, user, named, first.tokenizer)
    given = tuple(getattr(ruling, "messages", ())) or messages  # what a guard has blotted out
    jobs = await _jobs(service, body, given, arms, n)
    of_each = [job for job in jobs for _ in job.asked.request.seeds]
    choices = [_made(service, body, given, user, job, number) for number, job in enumerate(of_each)]
    return Chat(body, service, Answering(service, jobs, choices), given, user, named, first.tokenizer)


def compares(body: ChatRequest) -> bool:
    """Whether two answers are wanted, to choose from."""
    return (body.metadata or {}).get("compare") == "true"


def _arms(service: Service, body: ChatRequest, user: str) -> list[tuple[str, str]]:
    """(model, arm) of the answers: one for all, or of two that are to be compared one each, in an order that tells
    nothing."""
    model, arm = service.arm(body.model or "", user)
    if not compares(body):
        return [(model, arm)]
    if service.split is None or not arm or len(service.split.arms) < 2:
        return [(model, arm), (model, arm)]
    other = random.choice([each for each in service.split.arms if each != arm])
    return random.sample([(arm, arm), (other, other)], 2)


async def _jobs(
    service: Service, body: ChatRequest, messages: Sequence[Message], arms: Sequence[tuple[str, str]], n: int
) -> list[Job]:
    """What the engine is asked for: one prompt, or one for each of two arms."""
    engine, limits = service.engine, service.limits
    if len({model for model, _ in arms}) == 1:
        model, arm = arms[0]
        return [Job(model, await service.scribed(chat_asked, body, messages, engine.model(model), limits, n), 0, arm)]
    jobs = []
    for place, (model, arm) in enumerate(arms):
        asked = await service.scribed(chat_asked, body, messages, engine.model(model), limits, 1)
        jobs.append(Job(model, asked, place, arm))
    return jobs


def _made(service: Service, body: ChatRequest, messages: Sequence[Message], user: str, job: Job, number: int) -> Choice:
    guard, reader = service.guard, None
    if body.tools and body.tool_choice != "none":
        syntax = syntax_of(service.engine.model(job.model).tokenizer)
        turn = sum(message.role == "assistant" for message in messages)
        reader = CallReader(syntax, turn, job.asked.decoding.stop_token_ids)
    return Choice(
        number,
        watch=guard.watch(messages, user) if guard else None,
        calls=reader,
        first_call_only=body.parallel_tool_calls is False,
        ruled=lambda ruling: ruled(service, ruling),
        again=(lambda: guard.watch(messages, user)) if guard else None,
    )


def _call_id(choice: Choice, place: int) -> str:
    return f"call_{choice.number}_{place}"


def sent(value: Any) -> bytes:
    """A server-sent event."""
    return b"data: " + encode(value) + b"\n\n"


def require(is_sound: bool, name: str, wanted: str) -> None:
    """Raises Refused naming the field."""
    if not is_sound:
        raise Refused(400, f"{name}: {wanted}.", param=name)


_EVENT = {"type": "object", "required": ["data"], "properties": {"data": {"type": "string"}}}
STREAMED: dict[int | str, dict[str, Any]] = {
    200: {
        "content": {"text/event-stream": {"itemSchema": _EVENT}},
        "description": "The answer; with `stream`, events whose data are chunks in JSON, the last of them `[DONE]`.",
    }
}
