"""Chats over HTTP, against an engine that says what it is told to: OpenAI's layout, streams, tools, guards, votes."""

import asyncio
import gc
import json
import random
import threading
import time
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import httpx
import openai
import pytest

from posttrain.data.tool_syntax import tool_syntax
from posttrain.serve.app import Service
from posttrain.serve.doors import Busy, Exchange, Outcome, Passed, Ruling, UnknownExchange, Vote
from posttrain.serve.guard import Cleaned
from posttrain.serve.keys import hashed_user
from posttrain.serve.prompts import ask_ids
from posttrain.serve.protocol_answers import ChatAnswer, ErrorAnswer
from posttrain.serve.spelling import spelling
from posttrain.types import Message

HI = [{"role": "user", "content": "hi"}]


@dataclass
class Book:
    """A keeper in a list."""

    kept: list[Exchange] = field(default_factory=list)
    votes: list[Vote] = field(default_factory=list)

    def keep(self, exchange: Exchange) -> None:
        self.kept.append(exchange)

    def vote(self, vote: Vote) -> list[Outcome]:
        found = next((one for one in self.kept if one.id == vote.exchange), None)
        if found is None:
            raise UnknownExchange(f"there is no answer {vote.exchange!r}")
        self.votes.append(vote)
        return [Outcome(vote.user, found.arm, 1.0, vote.kind)]

    def outcomes(self) -> list[Outcome]:
        return []


@dataclass
class Coin:
    """Users of an even first digit are given the first arm."""

    arms: tuple[str, ...] = ("old", "new")
    told: list[Outcome] = field(default_factory=list)

    def arm(self, user: str) -> str:
        return self.arms[int(user[0], 16) % 2]

    def heard(self, outcomes: Sequence[Outcome]) -> None:
        self.told += outcomes

    def state(self) -> dict[str, Any]:
        return {}


class Words:
    """Refuses what asks for a bomb; of answers it holds back a word until the next begins, blots out `secret` and ends
    at `poison`."""

    def check(self, messages: Sequence[Message], user: str) -> Ruling:
        assert len(user) == 32
        asks = any("bomb" in message.content for message in messages)
        return Ruling("refuse", "weapons", "Not that.") if asks else Ruling("allow")

    def watch(self, *_: Any) -> "Words":
        made = Words()
        made.waiting = ""
        return made

    def feed(self, text: str) -> Passed:
        self.waiting += text
        *whole, self.waiting = self.waiting.split(" ")
        return self._passed("".join(word + " " for word in whole))

    def end(self) -> Passed:
        text, self.waiting = self.waiting, ""
        return self._passed(text)

    def _passed(self, text: str) -> Passed:
        before, poison, _ = text.partition("poison")
        if poison:
            return Passed(before, Ruling("refuse", "poisons", "No more of this.", "output"))
        if "secret" in text:
            return Passed(text.replace("secret", "[...]"), Ruling("redact", "secrets", "", "output"))
        return Passed(text)


@pytest.fixture(scope="module")
def stage(scripted_engine: Any, running: Any) -> Iterator[tuple[Service, openai.OpenAI, str]]:
    """A server without guard, split and keeper; tests put their own into the service, and take them out again."""
    service = Service(scripted_engine("tiny", "old", "new"))
    with (
        running(service) as place,
        openai.OpenAI(base_url=f"{place}/v1", api_key="none", max_retries=0) as client,
    ):
        yield service, client, place


@pytest.fixture
def served(stage: tuple[Service, openai.OpenAI, str]) -> Iterator[tuple[Service, openai.OpenAI, str]]:
    service, engine = stage[0], stage[0].engine
    script = engine.script
    yield stage
    engine.script, engine.error, engine.pause_s = script, None, 0.0
    engine.asked.clear()
    service.guard = service.split = service.keeper = None


def events(place: str, **body: Any) -> list[Any]:
    """The events of a streamed chat, read as they stand on the wire."""
    body = {"model": "tiny", "messages": HI, "stream": True} | body
    with httpx.stream("POST", f"{place}/v1/chat/completions", json=body) as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        lines = [line for line in answer.iter_lines() if line]
    assert all(line.startswith("data: ") for line in lines)
    assert lines[-1] == "data: [DONE]"
    return [json.loads(line[6:]) for line in lines[:-1]]


def test_whole_answer_has_openais_layout(served: Any) -> None:
    _, client, place = served
    answer = client.chat.completions.create(model="tiny", messages=HI, n=2, seed=3)
    assert [choice.message.content for choice in answer.choices] == ["Hello you", "Hello you"]
    assert [choice.index for choice in answer.choices] == [0, 1]
    assert {choice.finish_reason for choice in answer.choices} == {"stop"}
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    raw = httpx.post(f"{place}/v1/chat/completions", json={"messages": HI}).json()
    assert ChatAnswer.model_validate(raw).model_dump(exclude_unset=True) == raw


def test_stream_says_the_role_first_and_the_usage_last(served: Any) -> None:
    *chunks, last = events(served[2], stream_options={"include_usage": True})
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks) == "Hello you"
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None] * (len(chunks) - 1) + ["stop"]
    assert last["choices"] == []
    assert last["usage"]["completion_tokens"] == 9
    assert {chunk["usage"] for chunk in chunks} == {None}
    assert len({chunk["id"] for chunk in chunks}) == 1
    assert "usage" not in events(served[2])[-1]


def test_streams_of_several_answers_are_told_apart(served: Any) -> None:
    served[0].engine.script = lambda _, number: [f"{number}", " and", f" {number}"][: 2 + number]
    texts: dict[int, str] = {0: "", 1: ""}
    for chunk in events(served[2], n=2):
        texts[chunk["choices"][0]["index"]] += chunk["choices"][0]["delta"].get("content", "")
    assert texts == {0: "0 and", 1: "1 and 1"}


def test_many_streams_at_once_are_not_mixed_up(served: Any) -> None:
    service, _, place = served
    service.engine.script = lambda asked, _: [f" {asked.request.seeds[0]}"] * 5
    service.engine.pause_s = 0.001

    async def one(client: openai.AsyncOpenAI, seed: int) -> str:
        stream = await client.chat.completions.create(model="tiny", messages=HI, seed=seed, stream=True)
        return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

    async def all_of_them() -> list[str]:
        async with openai.AsyncOpenAI(base_url=f"{place}/v1", api_key="none") as client:
            return await asyncio.gather(*[one(client, seed) for seed in range(40)])

    assert asyncio.run(all_of_them()) == [f" {seed}" * 5 for seed in range(40)]


def test_what_is_asked_reaches_the_engine(served: Any) -> None:
    service, client, _ = served
    extra = {"top_k": 5, "min_p": 0.1, "stop_token_ids": [7], "min_tokens": 2}
    client.chat.completions.create(
        model="tiny", messages=HI, n=3, seed=11, temperature=0.5, top_p=0.9, stop=["a", "b"], max_completion_tokens=9,
        logit_bias={"5": -100}, logprobs=True, top_logprobs=4, extra_body=extra,
    )  # fmt: skip
    (model, asked), decoding = service.engine.asked[-1], service.engine.asked[-1][1].decoding
    assert (model, asked.request.seeds, asked.num_top, asked.min_tokens) == ("tiny", (11, 12, 13), 4, 2)
    assert (decoding.temperature, decoding.top_p, decoding.top_k, decoding.min_p) == (0.5, 0.9, 5, 0.1)
    assert (decoding.stop_strings, decoding.max_new_tokens, asked.logit_bias) == (("a", "b"), 9, {5: -100.0})
    tokenizer = service.engine.tokenizer
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert decoding.stop_token_ids == (end, tokenizer.eos_token_id, 7)
    client.chat.completions.create(model="tiny", messages=HI, extra_body={"ignore_eos": True, "stop_token_ids": [7]})
    assert service.engine.asked[-1][1].decoding.stop_token_ids == (7,)


def test_typed_control_tokens_stay_text(served: Any) -> None:
    service, client, _ = served
    client.chat.completions.create(model="tiny", messages=[{"role": "user", "content": "<|im_end|>"}])
    ids = service.engine.asked[-1][1].request.prompt_ids
    end = service.engine.tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert ids.count(end) == 1  # the template's own


def test_logprobs_stand_beside_their_tokens(served: Any) -> None:
    service, client, place = served
    service.engine.script = lambda *_: ["é", " day"]
    answer = client.chat.completions.create(model="tiny", messages=HI, logprobs=True, top_logprobs=2)
    content = answer.choices[0].logprobs.content
    *said, stop = content
    assert bytes(byte for token in said for byte in token.bytes).decode() == "é day"
    assert stop.token == "<|im_end|>"
    assert all(len(token.top_logprobs) == 2 and token.top_logprobs[0].token == token.token for token in content)
    streamed = [chunk["choices"][0]["logprobs"] for chunk in events(place, logprobs=True, top_logprobs=2)]
    joined = [token for logprobs in streamed if logprobs for token in logprobs["content"]]
    assert joined == [token.model_dump() for token in content]
    assert all(chunk["choices"][0]["logprobs"] is None for chunk in events(place))


@pytest.mark.parametrize(
    ("change", "status", "param"),
    [
        ({"model": "../../etc/passwd"}, 404, "model"),
        ({"messages": []}, 400, "messages"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, 400, "messages.0.content.0.type"),
        ({"messages": [{"role": "king", "content": "a"}]}, 400, "messages.0.role"),
        ({"messages": [HI[0] | {"tool_calls": [{"function": {"name": "f"}}]}]}, 400, "messages.0"),
        ({"temperature": -1}, 400, "temperature"),
        ({"temperature": "hot"}, 400, "temperature"),
        ({"presence_penalty": 0.5}, 400, "presence_penalty"),
        ({"frequency_penalty": 1}, 400, "frequency_penalty"),
        ({"repetition_penalty": 1.1}, 400, "repetition_penalty"),
        ({"tool_choice": "required"}, 400, "tool_choice"),
        ({"tool_choice": {"type": "function", "function": {"name": "f"}}}, 400, "tool_choice"),
        ({"response_format": {"type": "json_object"}}, 400, "response_format.type"),
        ({"functions": [{"name": "f"}]}, 400, None),
        ({"n": 17}, 400, "n"),
        ({"max_tokens": 0}, 400, "max_tokens"),
        ({"n": 0}, 400, "n"),
        ({"top_logprobs": 21}, 400, "top_logprobs"),
        ({"stop": [""]}, 400, "stop.0"),
        ({"stop": ["a"] * 65}, 400, "stop"),
        ({"logit_bias": {"a": 1}}, 400, "logit_bias"),
        ({"logit_bias": {"999999": 1}}, 400, "logit_bias"),
        ({"stop_token_ids": [999_999]}, 400, "stop_token_ids"),
        ({"messages": HI * 1_001}, 400, "messages"),
        ({"messages": [{"role": "user", "content": "word " * 5_000}]}, 400, "messages"),
    ],
)  # fmt: skip
def test_wrong_requests_name_the_field(served: Any, change: dict[str, Any], status: int, param: str | None) -> None:
    found = httpx.post(f"{served[2]}/v1/chat/completions", json={"model": "tiny", "messages": HI} | change)
    assert found.status_code == status
    error = ErrorAnswer.model_validate(found.json()).error
    assert error.param == param
    assert error.message
    assert not served[0].engine.asked or "stop" not in change


def test_unknown_fields_are_let_pass(served: Any, caplog: pytest.LogCaptureFixture) -> None:
    _, client, _ = served
    client.chat.completions.create(model="tiny", messages=HI, extra_body={"no_such_thing": 1})
    assert "no_such_thing" in caplog.text


def test_busy_engine_says_when_to_come_again(served: Any) -> None:
    service, _, place = served
    service.engine.error = Busy("full", 3.0)
    for stream in (False, True):
        found = httpx.post(f"{place}/v1/chat/completions", json={"messages": HI, "stream": stream})
        assert (found.status_code, found.headers["retry-after"], found.json()["error"]["code"]) == (429, "3", "busy")


def test_broken_engine_is_no_ones_business(served: Any, caplog: pytest.LogCaptureFixture) -> None:
    service, _, place = served
    service.engine.error = RuntimeError("a path: /srv/secret")
    found = httpx.post(f"{place}/v1/chat/completions", json={"messages": HI})
    assert found.status_code == 500
    assert "secret" not in found.text
    assert "secret" in caplog.text


def test_failure_in_the_midst_of_a_stream_is_told_in_it(served: Any) -> None:
    service, client, place = served

    service.engine.script = lambda *_: ["Hel", 5]  # the second cannot be spelt
    assert events(place)[-1]["error"]["type"] == "server_error"
    with pytest.raises(openai.APIError):
        list(client.chat.completions.create(model="tiny", messages=HI, stream=True))


def test_engine_is_left_when_the_client_goes(served: Any) -> None:
    service, _, place = served
    service.engine.script = lambda *_: [" word"] * 2_000
    service.engine.pause_s, before = 0.01, service.engine.num_left
    with httpx.stream("POST", f"{place}/v1/chat/completions", json={"messages": HI, "stream": True}) as answer:
        next(answer.iter_lines())
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{place}/v1/chat/completions", json={"messages": HI}, timeout=0.2)
    done = threading.Event()
    for _ in range(200):
        if service.engine.num_open == 0 and service.num_open == 0:
            break
        done.wait(0.02)
    assert service.engine.num_left == before + 2
    assert not service.under_way


TOOLS = [{"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties": {}}}}]
CALLS = ["Let me", " see.", "\n<tool", '_call>\n{"name": "add", "argum', 'ents": {"a": 1}}\n</tool_call>']


@pytest.fixture
def calling(served: Any) -> Any:
    service = served[0]
    service.engine.script = lambda *_: CALLS
    return served


def test_tool_calls_are_read(calling: Any) -> None:
    service, client, place = calling
    answer = client.chat.completions.create(model="tiny", messages=HI, tools=TOOLS).choices[0]
    (call,) = answer.message.tool_calls
    assert (answer.finish_reason, answer.message.content) == ("tool_calls", "Let me see.")
    assert (call.function.name, json.loads(call.function.arguments)) == ("add", {"a": 1})
    assert "add" in service.engine.tokenizer.decode(service.engine.asked[-1][1].request.prompt_ids)
    deltas = [chunk["choices"][0] for chunk in events(place, tools=TOOLS)]
    assert "".join(each["delta"].get("content") or "" for each in deltas) == "Let me see."
    parts = [part for each in deltas for part in each["delta"].get("tool_calls", [])]
    assert (parts[0]["id"], parts[0]["type"], parts[0]["function"]["name"]) == (call.id, "function", "add")
    assert "".join(part["function"]["arguments"] for part in parts) == call.function.arguments
    assert deltas[-1]["finish_reason"] == "tool_calls"


def test_without_tools_a_call_is_text(calling: Any) -> None:
    _, client, _ = calling
    for options in ({}, {"tools": TOOLS, "tool_choice": "none"}):
        answer = client.chat.completions.create(model="tiny", messages=HI, **options).choices[0]
        assert (answer.message.content, answer.finish_reason) == ("".join(CALLS), "stop")


def test_a_call_that_cannot_be_read_is_text(calling: Any) -> None:
    service, client, place = calling
    service.engine.script = lambda *_: ["<tool_call>\n{nothing", "}\n</tool_call>"]
    answer = client.chat.completions.create(model="tiny", messages=HI, tools=TOOLS).choices[0]
    assert (answer.message.content, answer.finish_reason) == ("<tool_call>\n{nothing}\n</tool_call>", "stop")
    said = [chunk["choices"][0]["delta"].get("content") or "" for chunk in events(place, tools=TOOLS)]
    assert "".join(said) == "<tool_call>\n{nothing}\n</tool_call>"


def test_results_of_tools_go_back_in(calling: Any) -> None:
    service, client, _ = calling
    first = client.chat.completions.create(model="tiny", messages=HI, tools=TOOLS).choices[0].message
    service.engine.script = lambda *_: ["Two."]
    told = {"role": "tool", "tool_call_id": first.tool_calls[0].id, "content": "2, or <|im_end|>"}
    answer = client.chat.completions.create(model="tiny", messages=[*HI, first, told], tools=TOOLS)
    assert answer.choices[0].message.content == "Two."
    shown = service.engine.tokenizer.decode(service.engine.asked[-1][1].request.prompt_ids)
    assert "<tool_call>" in shown.partition("Let me see.")[2]


def test_one_call_at_a_time(calling: Any) -> None:
    service, client, _ = calling
    service.engine.script = lambda *_: ['<tool_call>\n{"name": "add", "arguments": {}}\n</tool_call>\n'] * 2
    both = client.chat.completions.create(model="tiny", messages=HI, tools=TOOLS)
    one = client.chat.completions.create(model="tiny", messages=HI, tools=TOOLS, parallel_tool_calls=False)
    assert [len(answer.choices[0].message.tool_calls) for answer in (both, one)] == [2, 1]


def test_guard_refuses_before_the_engine_is_asked(served: Any) -> None:
    service, client, place = served
    service.guard = Words()
    asked = [{"role": "user", "content": "a bomb, please"}]
    choice = client.chat.completions.create(model="tiny", messages=asked).choices[0]
    assert (choice.message.content, choice.finish_reason) == ("Not that.", "content_filter")
    chunks = events(place, messages=asked)
    assert [chunk["choices"][0]["delta"].get("content") for chunk in chunks] == ["", "Not that.", None]
    assert chunks[-1]["choices"][0]["finish_reason"] == "content_filter"
    assert not service.engine.asked


def test_guard_ends_and_changes_answers(served: Any) -> None:
    service, client, place = served
    service.guard = Words()
    service.engine.script = lambda _, number: [["a sec", "ret and more"], ["take poi", "son now"]][number]
    choices = client.chat.completions.create(model="tiny", messages=HI, n=2, logprobs=True).choices
    assert [choice.message.content for choice in choices] == ["a [...] and more", "take \n\nNo more of this."]
    assert [choice.finish_reason for choice in choices] == ["stop", "content_filter"]
    assert [choice.logprobs for choice in choices] == [None, None]
    streamed = json.dumps(events(place, n=2, logprobs=True, return_token_ids=True))
    assert '"sec' not in streamed
    assert "ret" not in streamed.replace("return", "")
    assert "son" not in streamed.replace("finish_reason", "")


def test_model_and_store_see_what_the_guard_has_left(served: Any) -> None:
    service, client, _ = served

    class Blots(Words):
        def check(self, messages: Sequence[Message], _: str) -> Ruling:
            clean = tuple(Message(m.role, m.content.replace("555-0100", "[PHONE]")) for m in messages)
            return Cleaned("redact", "phones", messages=clean)

    service.guard, service.keeper = Blots(), Book()
    client.chat.completions.create(model="tiny", messages=[{"role": "user", "content": "call 555-0100"}])
    shown = service.engine.tokenizer.decode(service.engine.asked[-1][1].request.prompt_ids)
    assert ("[PHONE]" in shown, "555" in shown) == (True, False)
    assert service.keeper.kept[-1].messages == (Message("user", "call [PHONE]"),)
    assert b'posttrain_rulings_total{action="redact",rule="phones",where="input"} 1.0' in service.metrics.text()


def test_what_a_guard_said_is_not_learned_from(served: Any) -> None:
    service, client, _ = served
    service.guard, service.keeper = Words(), Book()
    client.chat.completions.create(model="tiny", messages=HI, store=True)
    client.chat.completions.create(model="tiny", messages=[{"role": "user", "content": "a bomb"}], store=True)
    service.engine.script = lambda *_: ["poison"]
    client.chat.completions.create(model="tiny", messages=HI, store=True)
    assert [kept.may_keep for kept in service.keeper.kept] == [True, False, False]
    assert service.keeper.kept[-1].token_ids == ((),)


def test_guard_lets_logprobs_out_with_their_text(served: Any) -> None:
    service, _, place = served
    service.guard = Words()
    service.engine.script = lambda *_: ["one", " two", " three"]
    shown = text = ""
    for chunk in events(place, logprobs=True):
        choice = chunk["choices"][0]
        text += choice["delta"].get("content", "")
        shown += "".join(token["token"] for token in (choice["logprobs"] or {"content": []})["content"])
        assert text.startswith(shown.removesuffix("<|im_end|>"))
    assert shown == "one two three<|im_end|>"


def test_guard_looks_into_calls(calling: Any) -> None:
    service, client, _ = calling
    service.guard = Words()
    service.engine.script = lambda *_: ['<tool_call>\n{"name": "add", "arguments": {"a": "poison"}}\n</tool_call>']
    choice = client.chat.completions.create(model="tiny", messages=HI, tools=TOOLS).choices[0]
    assert (choice.finish_reason, choice.message.tool_calls) == ("content_filter", None)
    assert choice.message.content == "No more of this."


def test_exchange_is_kept_before_the_last_word(served: Any) -> None:
    service, client, place = served
    book = service.keeper = Book()
    stream = client.chat.completions.create(
        model="tiny", messages=HI, stream=True, user="anna", store=True, metadata={"replaces": "chatcmpl-1"}
    )
    for chunk in stream:
        if chunk.choices[0].finish_reason:
            break
    (kept,) = book.kept
    assert (kept.id, kept.answers, kept.may_keep) == (chunk.id, (Message("assistant", "Hello you"),), True)
    assert (kept.model, kept.arm, kept.replaces) == ("tiny", "", "chatcmpl-1")
    assert (kept.user, len(kept.token_ids[0])) == (hashed_user("local", "anna"), 9)
    vote = {"key": "12345678", "kind": "up", "completion_id": kept.id, "user": "anna"}
    found = httpx.post(f"{place}/v1/feedback", json=vote)
    assert (found.status_code, found.json()) == (200, {"kept": True})
    assert book.votes[0].user == kept.user
    found = httpx.post(f"{place}/v1/feedback", json=vote | {"completion_id": "other"})
    assert (found.status_code, found.json()["error"]["code"]) == (404, "unknown_completion")


def test_answer_goes_out_though_the_store_is_away(served: Any, caplog: pytest.LogCaptureFixture) -> None:
    service, client, _ = served

    class Broken(Book):
        def keep(self, _: Exchange) -> None:
            raise OSError("no disk")

    service.keeper = Broken()
    assert client.chat.completions.create(model="tiny", messages=HI).choices[0].message.content == "Hello you"
    assert "is not kept" in caplog.text
    assert b"posttrain_exchanges_not_kept_total 1.0" in service.metrics.text()


def test_no_keeper_no_votes(served: Any) -> None:
    vote = {"key": "12345678", "kind": "up", "completion_id": "x"}
    found = httpx.post(f"{served[2]}/v1/feedback", json=vote)
    assert (found.status_code, found.json()["error"]["code"]) == (404, "votes_not_kept")


def test_split_gives_users_their_arm_and_hides_it(served: Any) -> None:
    service, client, place = served
    service.split, service.keeper = Coin(), Book()
    assert next(iter(client.models.list())).id == "auto"
    for user in ("anna", "ben", "carl", "dora"):
        answer = client.chat.completions.create(model="auto", messages=HI, user=user)
        assert answer.model == "auto"
        arm = service.split.arm(hashed_user("local", user))
        assert service.engine.asked[-1][0] == service.keeper.kept[-1].arm == arm
    assert {kept.arm for kept in service.keeper.kept} == {"old", "new"}
    client.chat.completions.create(model="new", messages=HI, user="anna")
    assert service.keeper.kept[-1].arm == ""
    vote = {"key": "12345678", "kind": "up", "completion_id": service.keeper.kept[0].id, "user": "anna"}
    httpx.post(f"{place}/v1/feedback", json=vote)
    assert [one.arm for one in service.split.told] == [service.keeper.kept[0].arm]


def test_comparison_shows_both_arms_in_an_order_that_tells_nothing(served: Any) -> None:
    service, client, _ = served
    service.split, service.keeper = Coin(), Book()
    orders = set()
    random.seed(0)
    for _ in range(6):
        answer = client.chat.completions.create(model="auto", messages=HI, user="anna", metadata={"compare": "true"})
        kept = service.keeper.kept[-1]
        assert (len(answer.choices), answer.model, kept.arm, len(kept.answers)) == (2, "auto", "", 2)
        assert sorted(kept.parameters["arms"]) == ["new", "old"]
        orders.add(tuple(kept.parameters["arms"]))
    assert len(orders) == 2
    service.split = None
    answer = client.chat.completions.create(model="tiny", messages=HI, metadata={"compare": "true"})
    assert len(answer.choices) == 2


def test_started_answers_are_gone_on_with(served: Any) -> None:
    service, client, place = served
    begun = [*HI, {"role": "assistant", "content": "Well"}]
    extra = {"continue_final_message": True, "add_generation_prompt": False}
    client.chat.completions.create(model="tiny", messages=begun, extra_body=extra)
    ids = service.engine.asked[-1][1].request.prompt_ids
    assert service.engine.tokenizer.decode(ids).endswith("assistant\nWell")
    found = httpx.post(f"{place}/v1/chat/completions", json={"messages": HI} | extra)
    assert (found.status_code, found.json()["error"]["param"]) == (400, "continue_final_message")


def test_text_that_looks_like_a_page_stays_text(served: Any) -> None:
    service, _, place = served
    service.engine.script = lambda *_: ["<script>alert(1)</script>\u2028"]
    found = httpx.post(f"{place}/v1/chat/completions", json={"messages": [{"role": "user", "content": "<b>hi"}]})
    assert found.headers["content-type"] == "application/json"
    assert found.headers["x-content-type-options"] == "nosniff"
    assert found.json()["choices"][0]["message"]["content"] == "<script>alert(1)</script>\u2028"
    assert events(place)[1]["choices"][0]["delta"]["content"] == "<script>alert(1)</script>\u2028"


def test_choices_are_counted(served: Any) -> None:
    _, client, place = served
    client.chat.completions.create(model="old", messages=HI)
    text = httpx.get(f"{place}/metrics").text
    assert 'posttrain_answers_total{finish="stop",model="old"}' in text
    assert "posttrain_running 0.0" in text
    assert 'posttrain_time_to_first_token_seconds_count{model="old"}' in text
    assert "hi" not in text.split()


def test_exchange_says_which_folder_answered_though_the_name_moved_on(served: Any) -> None:
    service, client, _ = served
    book, engine = Book(), service.engine
    service.keeper, engine.pause_s, before = book, 0.02, dict(engine.served)
    try:
        for gone in ("old", "new"):
            stream = client.chat.completions.create(model=gone, messages=HI, stream=True)
            next(stream)
            if gone == "old":
                engine.served["old"] = replace(before["old"], root="/folders/another")
            else:
                del engine.served["new"]
            assert [chunk.choices[0].finish_reason for chunk in stream][-1] == "stop"
            assert book.kept[-1].parameters["served_from"] == [f"/folders/{gone}"]
    finally:
        engine.served = before


def test_comparison_is_of_two(served: Any) -> None:
    service, _, place = served
    for split in (None, Coin()):
        service.split = split
        body = {"messages": HI, "metadata": {"compare": "true"}, "n": 3}
        found = httpx.post(f"{place}/v1/chat/completions", json=body)
        assert (found.status_code, found.json()["error"]["param"]) == (400, "n")
        found = httpx.post(f"{place}/v1/chat/completions", json=body | {"n": 2})
        assert len(found.json()["choices"]) == 2


def test_errors_do_not_tell_the_arm(served: Any) -> None:
    service, _, place = served
    service.split = Coin()
    for wrong in ({"messages": [{"role": "user", "content": "a b " * 9_000}]}, {"logit_bias": {"99999999": 1}}):
        found = httpx.post(f"{place}/v1/chat/completions", json={"model": "auto", "messages": HI} | wrong)
        said = found.json()["error"]["message"]
        assert (found.status_code, " old" in said, " new" in said) == (400, False, False)


def test_endless_messages_are_refused_before_they_are_encoded(served: Any) -> None:
    _, _, place = served
    long = "a b " * 900_000
    tools = [{"type": "function", "function": {"name": "f", "description": long}}]
    for body in ({"messages": [{"role": "assistant", "content": long}, *HI]}, {"messages": HI, "tools": tools}):
        start = time.monotonic()
        found = httpx.post(f"{place}/v1/chat/completions", json=body)
        assert (found.status_code, found.json()["error"]["code"]) == (400, "context_length_exceeded")
        assert time.monotonic() - start < 3


def test_tokenizers_of_models_that_are_gone_are_forgotten(tiny: Any) -> None:
    tokenizer = tiny.tokenizer()
    assert ask_ids(tokenizer) is ask_ids(tokenizer)
    assert spelling(tokenizer) is spelling(tokenizer)
    assert tool_syntax(tokenizer) == tool_syntax(tokenizer)
    kept = weakref.ref(tokenizer)
    del tokenizer
    gc.collect()
    assert kept() is None
