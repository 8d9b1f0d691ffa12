"""POST /v1/completions: a text, or token ids, that is gone on with; what evaluation harnesses and samplers ask."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from fastapi import FastAPI, Request

from posttrain.serve.answering import Answering, Job, ruled
from posttrain.serve.chat import DONE, STREAMED, answered, require, sent, tell_unknown, who
from posttrain.serve.choices import Choice, Delta
from posttrain.serve.doors import Ruling, Token
from posttrain.serve.failures import as_refused, event
from posttrain.serve.logprobs import text_logprobs
from posttrain.serve.prompts import text_asked
from posttrain.serve.protocol import CompletionRequest
from posttrain.serve.protocol_answers import ERRORS, CompletionAnswer
from posttrain.serve.service import AUTO, Service
from posttrain.serve.spelling import spelling
from posttrain.types import Message


def add_completion_routes(app: FastAPI, service: Service) -> None:
    """The address that texts are asked at."""

    @app.post("/v1/completions", response_model=CompletionAnswer, responses=STREAMED | ERRORS)
    async def completions(body: CompletionRequest, request: Request) -> Any:
        text = await _text(service, body, who(body, request))
        return await answered(request, text, is_stream=bool(body.stream))


@dataclass(eq=False)
class Text:
    """Prompts and what goes on behind them. `echoes`: the prompts' texts, where they are to be said again."""

    body: CompletionRequest
    answering: Answering
    named: str
    tokenizer: Any
    echoes: Sequence[str]
    _offsets: dict[int, int] = field(default_factory=dict)  # by choice: where its next token begins in the text

    async def whole(self) -> dict[str, Any]:
        """All answers in one."""
        answering = self.answering
        try:
            await answering.open()
            async for _ in answering.deltas():
                pass
        finally:
            await answering.close()
        choices = [self._choice(choice) for choice in answering.choices]
        return self._frame(choices) | {"usage": self._usage}

    async def events(self) -> AsyncIterator[bytes]:
        """The answers as they grow."""
        answering, begun = self.answering, set()
        try:
            async for choice, delta in answering.deltas():
                lead: tuple[Token, ...] = ()
                text = "" if self._is_bare else delta.text
                tokens = () if self._is_bare else delta.tokens
                if choice.number not in begun:
                    begun.add(choice.number)
                    lead, text = self._prompt(choice), self._echo(choice) + text
                if text or tokens or lead or delta.finish:
                    yield self._chunk(choice, text, (*lead, *tokens), delta)
            if self.body.wants_usage:
                yield sent(self._frame([]) | {"usage": self._usage})
        except Exception as error:
            yield sent(event(as_refused(error)))
        finally:
            await answering.close()
        yield DONE

    def _chunk(self, choice: Choice, text: str, tokens: Sequence[Token], delta: Delta) -> bytes:
        said: dict[str, Any] = {"index": choice.number, "text": text, "finish_reason": self._finish(delta.finish)}
        said["logprobs"] = self._logprobs(tokens, choice.number) if tokens else None
        if self.body.return_token_ids:
            said["token_ids"] = [token.id for token in delta.tokens]
        return sent(self._frame([said]) | ({"usage": None} if self.body.wants_usage else {}))

    def _choice(self, choice: Choice) -> dict[str, Any]:
        text = self._echo(choice) + ("" if self._is_bare else choice.text)
        made = {"index": choice.number, "text": text, "finish_reason": self._finish(choice.finish)}
        tokens = [] if self._is_bare else choice.shown
        shown = [*self._prompt(choice), *tokens]
        made["logprobs"] = None if choice.is_changed else self._logprobs(shown, choice.number)
        if self.body.return_token_ids:
            made["token_ids"] = [] if self._is_bare else list(choice.token_ids)
            jobs = self.answering.jobs
            made["prompt_token_ids"] = list(jobs[self._job(choice)].asked.request.prompt_ids) if jobs else []
        return made

    def _logprobs(self, tokens: Sequence[Token], number: int) -> dict[str, Any] | None:
        if self.body.logprobs is None:
            return None
        spelt, begins = spelling(self.tokenizer), self._offsets.get(number, 0)
        self._offsets[number] = begins + sum(len(spelt.text(token.id)) for token in tokens)
        return text_logprobs(tokens, spelt, as_ids=bool(self.body.return_tokens_as_token_ids), offset=begins)

    def _finish(self, finish: str) -> str | None:
        return ("length" if self._is_bare else finish) if finish else None

    def _job(self, choice: Choice) -> int:
        return choice.number // (self.body.n or 1)

    def _echo(self, choice: Choice) -> str:
        return self.echoes[self._job(choice)] if self.body.echo else ""

    def _prompt(self, choice: Choice) -> tuple[Token, ...]:
        """The scored tokens of a choice's prompt."""
        piece = self.answering.prompts.get(self._job(choice))
        return piece.prompt if piece else ()

    @property
    def _is_bare(self) -> bool:
        """Whether the prompt alone is wanted. The engine writes a token at least; nobody is shown it."""
        return self.body.max_tokens == 0

    @property
    def _usage(self) -> dict[str, int]:
        usage = self.answering.usage
        if self._is_bare:
            usage |= {"completion_tokens": 0, "total_tokens": usage["prompt_tokens"]}
        return usage

    def _frame(self, choices: list[Any]) -> dict[str, Any]:
        made = {"id": self.answering.id, "object": "text_completion", "created": self.answering.created}
        return made | {"model": self.named, "choices": choices}


async def _text(service: Service, body: CompletionRequest, user: str) -> Text:
    """What a request asks for, ready to be answered."""
    tell_unknown(body)
    limits, n, prompts = service.limits, body.n or 1, body.prompts
    require(1 <= len(prompts) <= limits.max_prompts, "prompt", f"1 to {limits.max_prompts:,} of them")
    require(n <= limits.max_n, "n", f"at most {limits.max_n} answers")
    require(body.best_of in (None, n), "best_of", "the same as n; this server gives every answer that it writes")
    require(len(body.stops) <= limits.max_stops, "stop", f"at most {limits.max_stops} of them")
    model, arm = service.arm(body.model or "", user)
    served = service.engine.model(model)
    jobs = []
    for number, prompt in enumerate(prompts):
        asked = await service.scribed(text_asked, body, prompt, served, limits)
        jobs.append(Job(model, asked, number * n, arm))
    before = [p if isinstance(p, str) else _read(served.tokenizer, p) for p in prompts]
    choices, texts = await _guarded(service, prompts, before, user, n)
    for number, text in enumerate(texts):
        if text != before[number]:  # the model is given what a guard has left of it
            asked = await service.scribed(text_asked, body, text, served, limits)
            jobs[number] = replace(jobs[number], asked=asked)
    named = AUTO if arm else body.model or model
    whole = any(choice.finish for choice in choices)
    answering = Answering(service, () if whole else jobs, choices, "cmpl")
    return Text(body, answering, named, served.tokenizer, texts)


async def _guarded(
    service: Service, prompts: Sequence[str | list[int]], texts: Sequence[str], user: str, n: int
) -> tuple[list[Choice], list[str]]:
    """(the choices, the texts as the guard lets them through). A guard that refuses one of the prompts refuses them
    all: they are one request."""
    guard = service.guard
    if guard is None:
        return [Choice(number) for number in range(len(texts) * n)], list(texts)
    choices, given, told = list[Choice](), list[str](), ""
    for place, text in enumerate(texts):
        turns: tuple[Message, ...] = (Message("user", text),)
        ruling: Ruling = await asyncio.to_thread(guard.check, turns, user)
        if ruling.action != "allow":
            ruled(service, ruling)
            clean = tuple(getattr(ruling, "messages", ()))
            if clean and ruling.action == "redact" and isinstance(prompts[place], str):
                turns = clean
            else:  # there is no other text to give the engine in place of ids
                told = told or ruling.told or "This was not answered: a rule of the server forbids it."
        given.append(turns[-1].content)
        for number in range(place * n, place * n + n):
            watch = guard.watch(turns, user)
            choices.append(Choice(number, watch=watch, ruled=lambda ruling: ruled(service, ruling)))
    for choice in choices if told else ():
        choice.refuse(told)
    return choices, given


def _read(tokenizer: Any, ids: Sequence[int]) -> str:
    text: str = tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return text
