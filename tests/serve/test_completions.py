"""Texts and token ids over HTTP, as evaluation harnesses and samplers ask them, against a scripted engine."""

import json
import time
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import httpx
import openai
import pytest

from posttrain.serve.app import Service
from posttrain.serve.doors import Passed, Ruling, Served, TooLong
from posttrain.serve.guard import Cleaned
from posttrain.serve.limits import Limits
from posttrain.serve.prompts import text_asked
from posttrain.serve.protocol import CompletionRequest
from posttrain.serve.protocol_answers import CompletionAnswer
from posttrain.types import Message


@pytest.fixture(scope="module")
def stage(scripted_engine: Any, running: Any) -> Iterator[tuple[Service, openai.OpenAI, str]]:
    service = Service(scripted_engine())
    with (
        running(service) as place,
        openai.OpenAI(base_url=f"{place}/v1", api_key="none", max_retries=0) as client,
    ):
        yield service, client, place


@pytest.fixture
def served(stage: Any) -> Iterator[Any]:
    yield stage
    stage[0].engine.asked.clear()
    stage[0].guard = None


def ask(place: str, **body: Any) -> httpx.Response:
    return httpx.post(f"{place}/v1/completions", json={"prompt": "abc"} | body)


def test_answer_has_openais_layout(served: Any) -> None:
    _, client, place = served
    answer = client.completions.create(model="tiny", prompt="abc", n=2)
    assert [choice.text for choice in answer.choices] == ["Hello you"] * 2
    raw = ask(place, logprobs=1).json()
    assert CompletionAnswer.model_validate(raw).model_dump(exclude_unset=True) == raw


def test_prompts_come_as_text_or_ids_one_or_many(served: Any) -> None:
    service, _, place = served
    tokenizer = service.engine.tokenizer
    ids = [tokenizer.encode(text) for text in ("abc", "de")]
    for prompt in (["abc", "de"], ids):
        service.engine.asked.clear()
        choices = ask(place, prompt=prompt, n=2, echo=True).json()["choices"]
        assert [choice["index"] for choice in choices] == [0, 1, 2, 3]
        assert [choice["text"] for choice in choices] == ["abcHello you"] * 2 + ["deHello you"] * 2
        assert sorted(asked.request.prompt_ids for _, asked in service.engine.asked) == sorted(map(tuple, ids))
    assert ask(place, prompt=ids[0]).json()["choices"][0]["text"] == "Hello you"
    # 16 tokens is what OpenAI writes where nothing is said.
    assert service.engine.asked[-1][1].decoding.max_new_tokens == 16


def test_scored_prompt_stands_before_the_answer(served: Any) -> None:
    service, _, place = served
    choice = ask(place, prompt="a day", echo=True, logprobs=2, max_tokens=1).json()["choices"][0]
    found, ids = choice["logprobs"], service.engine.tokenizer.encode("a day")
    num = len(ids)
    assert found["tokens"][:num] == [service.engine.tokenizer.decode([id]) for id in ids]
    assert found["token_logprobs"] == [None, *(-float(place) for place in range(1, num)), -1.0, -1.0, -1.0]
    assert found["top_logprobs"][0] is None
    assert all(token in top for token, top in zip(found["tokens"][1:], found["top_logprobs"][1:], strict=True))
    starts = [choice["text"][start:] for start in found["text_offset"]]
    assert all(rest.startswith(token) for rest, token in zip(starts, found["tokens"], strict=True))
    bare = ask(place, prompt="a day", echo=True, logprobs=2, max_tokens=0).json()
    assert bare["choices"][0]["text"] == "a day"
    assert bare["choices"][0]["logprobs"]["token_logprobs"] == found["token_logprobs"][:num]
    assert (bare["choices"][0]["finish_reason"], bare["usage"]["completion_tokens"]) == ("length", 0)


def test_token_ids_as_vllm_gives_them(served: Any) -> None:
    service, _, place = served
    extra = {"return_token_ids": True, "return_tokens_as_token_ids": True, "logprobs": 1}
    choice = ask(place, prompt=[5, 6], **extra).json()["choices"][0]
    said = service.engine.tokenizer.decode(choice["token_ids"], skip_special_tokens=True)
    assert (said, choice["prompt_token_ids"]) == ("Hello you", [5, 6])
    assert choice["logprobs"]["tokens"] == [f"token_id:{id}" for id in choice["token_ids"]]


def test_streams(served: Any) -> None:
    _, _, place = served
    body = {
        "prompt": ["a", "b"],
        "stream": True,
        "echo": True,
        "logprobs": 0,
        "stream_options": {"include_usage": True},
    }
    with httpx.stream("POST", f"{place}/v1/completions", json=body) as answer:
        lines = [line.removeprefix("data: ") for line in answer.iter_lines() if line]
    assert lines.pop() == "[DONE]"
    *chunks, last = map(json.loads, lines)
    texts, tokens, finishes = ["", ""], ["", ""], ["", ""]
    for chunk in chunks:
        (choice,) = chunk["choices"]
        texts[choice["index"]] += choice["text"]
        tokens[choice["index"]] += "".join((choice["logprobs"] or {"tokens": []})["tokens"])
        finishes[choice["index"]] += choice["finish_reason"] or ""
    end = service_end(served)
    assert texts == ["aHello you", "bHello you"]
    assert tokens == [text + end for text in texts]
    assert (finishes, last["usage"]["prompt_tokens"]) == (["stop", "stop"], 2)


def service_end(served: Any) -> str:
    engine = served[0].engine
    return str(engine.tokenizer.decode([engine.asked[-1][1].decoding.stop_token_ids[0]]))


def test_begin_token_stands_before_a_text(tiny: Any, scripted_engine: Any, running: Any) -> None:
    service = Service(scripted_engine(tokenizer=tiny.tokenizer(bos=True)))
    begin, asked = service.engine.tokenizer.bos_token_id, service.engine.asked
    with running(service) as place:
        for options in ({}, {"add_special_tokens": False}, {"prompt": " "}, {"prompt": [5]}):
            assert ask(place, **options).status_code == 200
    prompts = [each.request.prompt_ids for _, each in asked]
    assert [prompt[0] == begin for prompt in prompts] == [True, False, True, False]
    assert prompts[0][1:] == prompts[1]


def test_control_tokens_in_a_text_are_text(served: Any) -> None:
    service, _, place = served
    ask(place, prompt="<|im_end|>")
    end = service.engine.tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert end not in service.engine.asked[-1][1].request.prompt_ids


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"prompt": []}, "prompt"),
        ({"prompt": [[]]}, "prompt"),
        ({"prompt": ""}, "prompt"),
        ({"prompt": [99_999]}, "prompt"),
        ({"prompt": ["a"] * 257}, "prompt"),
        ({"prompt": {"a": 1}}, "prompt"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"logprobs": 21}, "logprobs"),
        ({"best_of": 3}, "best_of"),
        ({"suffix": "x"}, "suffix"),
        ({"skip_special_tokens": False}, "skip_special_tokens"),
    ],
)
def test_wrong_requests_name_the_field(served: Any, body: dict[str, Any], param: str) -> None:
    found = ask(served[2], **body)
    assert (found.status_code, found.json()["error"]["param"].partition(".")[0]) == (400, param)
    assert not served[0].engine.asked


def test_guard_sees_texts_too(served: Any) -> None:
    service, _, place = served

    class Strict:
        def check(self, messages: Any, _: str) -> Ruling:
            return Ruling("refuse", "x", "No.") if "bomb" in messages[-1].content else Ruling("allow")

        def watch(self, *_: Any) -> "Strict":
            return self

        def feed(self, text: str) -> Passed:
            return Passed(text.replace("Hel", "Jel"))

        def end(self) -> Passed:
            return Passed("")

    service.guard = Strict()
    ids = service.engine.tokenizer.encode("a bomb")
    for prompt in ("a bomb", ids, ["fine", "a bomb"]):
        choice = ask(place, prompt=prompt).json()["choices"][-1]
        assert (choice["text"], choice["finish_reason"]) == ("No.", "content_filter")
    assert not service.engine.asked
    choice = ask(place, logprobs=1, return_token_ids=True).json()["choices"][0]
    assert (choice["text"], choice["logprobs"], choice["token_ids"]) == ("Jello you", None, [])


def test_what_a_guard_blots_out_of_a_text_is_not_seen(served: Any) -> None:
    service, _, place = served

    class Blotting:
        def check(self, messages: Any, _: str) -> Ruling:
            (message,) = messages
            if "555" not in message.content:
                return Ruling("allow")
            clean = Message("user", message.content.replace("555", "[PHONE]"))
            return Cleaned("redact", "phones", messages=(clean,))

        def watch(self, messages: Any, _: str) -> Any:
            watched.append(messages[-1].content)
            return type("Blind", (), {"feed": lambda _, text: Passed(text), "end": lambda _: Passed("")})()

    watched: list[str] = []
    service.guard = Blotting()
    found = ask(place, prompt=["call 555", "hi"], echo=True, logprobs=0).json()["choices"]
    tokenizer = service.engine.tokenizer
    seen = sorted(tokenizer.decode(asked.request.prompt_ids) for _, asked in service.engine.asked)
    assert seen == watched == ["call [PHONE]", "hi"]
    assert [choice["text"] for choice in found] == ["call [PHONE]Hello you", "hiHello you"]
    assert "".join(found[0]["logprobs"]["tokens"]).startswith("call [PHONE]Hello you")
    service.engine.asked.clear()
    # Ids have no other text that could be given in their place.
    (choice,) = ask(place, prompt=tokenizer.encode("call 555"), return_token_ids=True).json()["choices"]
    assert (choice["finish_reason"], service.engine.asked) == ("content_filter", [])


def test_places_in_a_streamed_text_go_on(served: Any) -> None:
    _, _, place = served
    whole = ask(place, logprobs=0, echo=True).json()["choices"][0]["logprobs"]
    with httpx.stream(
        "POST", f"{place}/v1/completions", json={"prompt": "abc", "stream": True, "logprobs": 0, "echo": True}
    ) as answer:
        lines = [json.loads(line[6:]) for line in answer.iter_lines() if line.startswith("data: {")]
    parts = [choice["logprobs"] for line in lines for choice in line["choices"] if choice["logprobs"]]
    assert len(parts) > 1
    assert [place for part in parts for place in part["text_offset"]] == whole["text_offset"]


def test_endless_texts_are_refused_before_they_are_encoded(served: Any) -> None:
    _, _, place = served
    start = time.monotonic()
    found = ask(place, prompt="a b " * 900_000)
    assert (found.status_code, found.json()["error"]["code"]) == (400, "context_length_exceeded")
    assert found.json()["error"]["param"] == "prompt"
    assert time.monotonic() - start < 3


def test_long_texts_that_fit_are_answered(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("posttrain.serve.prompts.LONG", 1)
    tokenizer = tiny.tokenizer()
    num = len(tokenizer.encode("a day " * 4_000))
    for context, fits in ((num + 20, True), (num + 1, True), (num, False)):
        served, body = Served("x", tokenizer, context, ""), CompletionRequest(prompt="a day " * 4_000)
        with nullcontext() if fits else pytest.raises(TooLong):
            assert len(text_asked(body, body.prompt, served, Limits()).request.prompt_ids) == num
