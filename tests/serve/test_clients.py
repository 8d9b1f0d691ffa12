"""The clients that people have, against a real engine on a tiny model: openai, curl, lm-evaluation-harness, our own."""

import asyncio
import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import openai
import pytest
import torch

from posttrain.models.load import load, save
from posttrain.models.lora import add_lora
from posttrain.rollouts.asking import Ask, Manner
from posttrain.rollouts.endpoint import ServerError
from posttrain.rollouts.http import HttpChat, HttpSampler
from posttrain.rollouts.policy import PolicySampler
from posttrain.rollouts.sampling import Decoding, Request
from posttrain.rollouts.text_remote import RemoteText
from posttrain.serve.app import Service
from posttrain.serve.engine import LocalEngine
from posttrain.types import Message

HI = [{"role": "user", "content": "How many hours has a day?"}]


@pytest.fixture(scope="module")
def folder(tiny: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save_base(tmp_path_factory.mktemp("served") / "tiny")


@pytest.fixture(scope="module")
def adapters(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("adapters")


@pytest.fixture(scope="module")
def place(folder: Path, adapters: Path, running: Any) -> Iterator[str]:
    """A server of the tiny model, named `tiny`."""
    engine = LocalEngine({"tiny": folder}, slots=8, dtype=torch.float32)
    try:
        with running(Service(engine, adapters_root=adapters)) as found:
            yield f"{found}/v1"
    finally:
        engine.close()


@pytest.fixture
def client(place: str) -> Iterator[openai.OpenAI]:
    """OpenAI's own; one that nobody closes leaves its connections to the garbage collector, which warns."""
    with openai.OpenAI(base_url=place, api_key="none", max_retries=0) as made:
        yield made


@pytest.fixture(scope="module")
def local(folder: Path) -> PolicySampler:
    sampler = PolicySampler(load(str(folder)), dtype=torch.float32)
    sampler.refresh(0)
    return sampler


def test_openai_client(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["tiny"]
    assert client.models.retrieve("tiny").id == "tiny"
    options: dict[str, Any] = {"model": "tiny", "messages": HI, "seed": 5, "max_tokens": 12, "logprobs": True}
    whole = client.chat.completions.create(**options, top_logprobs=3).choices[0]
    stream = list(client.chat.completions.create(**options, stream=True))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
    assert (text, stream[-1].choices[0].finish_reason) == (whole.message.content, whole.finish_reason)
    assert bytes(b for token in whole.logprobs.content for b in token.bytes).decode(errors="replace").startswith(text)
    for token in whole.logprobs.content:
        logps = [top.logprob for top in token.top_logprobs]
        assert logps == sorted(logps, reverse=True)
        assert sum(map(float, torch.tensor(logps).exp())) <= 1 + 1e-5
    again = client.chat.completions.create(**options).choices[0].message.content
    other = client.chat.completions.create(**options | {"seed": 6}).choices[0].message.content
    assert again == whole.message.content != other
    with pytest.raises(openai.NotFoundError, match="does not exist"):
        client.chat.completions.create(model="gpt-4o", messages=HI)
    with pytest.raises(openai.BadRequestError, match="presence_penalty"):
        client.chat.completions.create(model="tiny", messages=HI, presence_penalty=1)


def test_openai_client_asynchronous_and_its_stream_helper(place: str) -> None:
    async def ask() -> tuple[str, str]:
        async with openai.AsyncOpenAI(base_url=place, api_key="none") as client:
            options: dict[str, Any] = {"model": "tiny", "messages": HI, "seed": 7, "max_tokens": 8}
            whole = await client.chat.completions.create(**options)
            async with client.chat.completions.stream(**options) as stream:
                parts = [event.delta async for event in stream if event.type == "content.delta"]
            return whole.choices[0].message.content, "".join(parts)

    whole, streamed = asyncio.run(ask())
    assert whole == streamed


def test_bias_and_stop_reach_the_model(client: openai.OpenAI) -> None:
    answer = client.completions.create(model="tiny", prompt="a", logit_bias={"70": 100}, max_tokens=5, temperature=0)
    assert len(set(answer.choices[0].text)) == 1
    cut = client.completions.create(
        model="tiny", prompt="a", logit_bias={"70": 100}, max_tokens=5, stop=answer.choices[0].text[0]
    )
    assert (cut.choices[0].text, cut.choices[0].finish_reason) == ("", "stop")


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
def test_curl(place: str) -> None:
    body = json.dumps({"messages": HI, "max_tokens": 3, "stream": True})
    command = ["curl", "-sN", f"{place}/chat/completions", "-H", "Content-Type: application/json", "-d", body]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)
    lines = [line for line in done.stdout.split("\n") if line]
    assert lines[-1] == "data: [DONE]"
    assert json.loads(lines[0].removeprefix("data: "))["object"] == "chat.completion.chunk"


def test_our_sampler_gets_the_local_samplers_tokens(place: str, local: PolicySampler) -> None:
    """The very ids, so that a policy may be trained on what a server sampled; the check of HttpSampler passes."""
    decoding = Decoding(12, temperature=0.7, top_p=0.9, top_k=50, min_p=0.01, stop_token_ids=(0,), stop_strings=("x",))
    requests = [Request((5, 6, 7), (1, 2, 3)), Request((9, 10, 11, 12), (4,), 5)]
    remote = HttpSampler(place, "tiny", tokenizer=local.policy.tokenizer)
    for found, wanted in zip(remote.sample(requests, decoding), local.sample(requests, decoding), strict=True):
        for one, other in zip(found, wanted, strict=True):
            assert (one.token_ids, one.text, one.finish) == (other.token_ids, other.text, other.finish)
            assert torch.allclose(torch.tensor(one.logps), torch.tensor(other.logps), atol=1e-4)
    with pytest.raises(ServerError, match="no such model"):
        HttpSampler(place, "none").sample(requests, decoding)


def test_our_text_model(place: str) -> None:
    remote = RemoteText(place, "tiny")
    asks = [Ask((Message("user", "hi"),)), Ask(text="The capital"), Ask((Message("user", "hi"),), start="Well")]
    said = remote.say(asks, Manner(num=2, max_new_tokens=5))
    assert all(not one.error for of_ask in said for one in of_ask)
    assert remote.say(asks, Manner(num=2, max_new_tokens=5)) == said
    assert all(not one.error for one in remote.weigh(asks, ["A", "B"]))
    reply = HttpChat(place, "tiny").complete([Message("user", "hi")], n=2, seed=1, max_tokens=4)
    assert (len(reply.texts), reply.error) == (2, "")


@pytest.mark.filterwarnings("default")
def test_lm_evaluation_harness(place: str, folder: Path, client: openai.OpenAI) -> None:
    """Its API models find the log-likelihoods and the answers that its own model of the same folder does."""
    pytest.importorskip("lm_eval")
    pytest.importorskip("tenacity")
    from lm_eval.api.instance import Instance
    from lm_eval.api.registry import get_model

    def asked(kind: str, *arguments: Any) -> list[Any]:
        return [Instance(kind, {}, each, number) for number, each in enumerate(arguments)]

    about = f"model=tiny,tokenizer={folder}"
    api = get_model("local-completions").create_from_arg_string(f"{about},base_url={place}/completions,batch_size=2")
    own = get_model("hf").create_from_arg_string(f"pretrained={folder},dtype=float32,device=cpu", {"batch_size": 2})
    pairs = [("The capital of France is", " Paris."), ("How many", " hours has a day?"), ("x", " \u00e9\u20ac")]
    found, wanted = (model.loglikelihood(asked("loglikelihood", *pairs), disable_tqdm=True) for model in (api, own))
    assert [row[0] for row in found] == pytest.approx([row[0] for row in wanted], abs=1e-3)
    assert [row[1] for row in found] == [row[1] for row in wanted]
    whole = [("The capital of France is Paris. It has 24 hours.",)]
    found, wanted = (model.loglikelihood_rolling(asked("loglikelihood_rolling", *whole)) for model in (api, own))
    assert found == pytest.approx(wanted, abs=1e-3)
    until = ("The capital", {"until": ["\n"], "max_gen_toks": 6})
    texts = [model.generate_until(asked("generate_until", (until[0], dict(until[1])))) for model in (api, own)]
    assert texts[0] == texts[1]
    chat = get_model("local-chat-completions").create_from_arg_string(f"{about},base_url={place}/chat/completions")
    turns = chat.apply_chat_template([{"role": "user", "content": "hi"}])
    (said,) = chat.generate_until(asked("generate_until", (turns, dict(until[1]))))
    same = client.chat.completions.create(
        model="tiny", messages=[{"role": "user", "content": "hi"}], max_tokens=6, temperature=0, stop=["\n"]
    )
    assert said == same.choices[0].message.content


def test_adapter_comes_and_goes_while_answers_are_written(
    folder: Path, place: str, adapters: Path, client: openai.OpenAI
) -> None:
    torch.manual_seed(0)
    policy = add_lora(load(str(folder)), r=2, alpha=64, dropout=0.0, targets="all-linear")
    with torch.no_grad():
        for name, weight in policy.model.named_parameters():
            if "lora_" in name:
                weight.normal_(std=0.5)
    save(policy, adapters / "mine")
    options: dict[str, Any] = {"messages": HI, "max_tokens": 60, "seed": 1, "extra_body": {"ignore_eos": True}}
    before = client.chat.completions.create(model="tiny", **options).choices[0].message.content
    stream = client.chat.completions.create(model="tiny", stream=True, **options)
    said = next(stream).choices[0].delta.content
    loaded = httpx.post(f"{place}/load_lora_adapter", json={"lora_name": "mine", "lora_path": "mine"}, timeout=60)
    assert loaded.status_code == 200, loaded.text
    said += "".join(chunk.choices[0].delta.content or "" for chunk in stream)
    assert said == before
    assert client.chat.completions.create(model="mine", **options).choices[0].message.content != before
    assert httpx.post(f"{place}/unload_lora_adapter", json={"lora_name": "mine"}).status_code == 200
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model="mine", **options)
