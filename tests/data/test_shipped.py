"""The chat templates that come with the package, against texts written out by hand from the formats' descriptions."""

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from transformers import AutoTokenizer

from posttrain.data.shipped import SHIPPED, shipped
from posttrain.data.template import install_template, render, render_prompt, stop_token_ids
from posttrain.errors import DataError
from posttrain.types import Conversation, Message, Sample, ToolCall

TALK = Conversation(
    (
        Message("system", "Be brief."),
        Message("user", "Where?"),
        Message("assistant", "In Paris."),
        Message("user", "When?"),
        Message("assistant", "At noon."),
    )
)
# BOS and EOS stand for the tokenizer's own begin and end tokens.
TALKED = {
    "chatml": (
        "BOS<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nWhere?<|im_end|>\n"
        "<|im_start|>assistant\nIn Paris.<|im_end|>\n<|im_start|>user\nWhen?<|im_end|>\n"
        "<|im_start|>assistant\nAt noon.<|im_end|>\n"
    ),
    "llama3": (
        "BOS<|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nWhere?<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\nIn Paris.<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nWhen?<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\nAt noon.<|eot_id|>"
    ),
    "mistral": "BOS[INST]Be brief.\n\nWhere?[/INST]In Paris.EOS[INST]When?[/INST]At noon.EOS",
    "gemma": (
        "BOS<start_of_turn>user\nBe brief.\n\nWhere?<end_of_turn>\n<start_of_turn>model\nIn Paris.<end_of_turn>\n"
        "<start_of_turn>user\nWhen?<end_of_turn>\n<start_of_turn>model\nAt noon.<end_of_turn>\n"
    ),
    "qwen3": (
        "BOS<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nWhere?<|im_end|>\n"
        "<|im_start|>assistant\nIn Paris.<|im_end|>\n<|im_start|>user\nWhen?<|im_end|>\n"
        "<|im_start|>assistant\n<think>\n\n</think>\n\nAt noon.<|im_end|>\n"
    ),
    "phi": (
        "BOS<|system|>\nBe brief.<|end|>\n<|user|>\nWhere?<|end|>\n<|assistant|>\nIn Paris.<|end|>\n"
        "<|user|>\nWhen?<|end|>\n<|assistant|>\nAt noon.<|end|>\n"
    ),
    "zephyr": (
        "BOS<|system|>\nBe brief.EOS\n<|user|>\nWhere?EOS\n<|assistant|>\nIn Paris.EOS\n"
        "<|user|>\nWhen?EOS\n<|assistant|>\nAt noon.EOS\n"
    ),
    "alpaca": (
        "BOSBe brief.\n\n### Instruction:\nWhere?\n\n### Response:\nIn Paris.EOS\n\n"
        "### Instruction:\nWhen?\n\n### Response:\nAt noon.EOS\n\n"
    ),
}
ASKS = {
    "chatml": "<|im_start|>assistant\n",
    "llama3": "<|start_header_id|>assistant<|end_header_id|>\n\n",
    "mistral": "",
    "gemma": "<start_of_turn>model\n",
    "qwen3": "<|im_start|>assistant\n",
    "phi": "<|assistant|>\n",
    "zephyr": "<|assistant|>\n",
    "alpaca": "### Response:\n",
}
STOPS = {
    "chatml": "<|im_end|>",
    "llama3": "<|eot_id|>",
    "gemma": "<end_of_turn>",
    "qwen3": "<|im_end|>",
    "phi": "<|end|>",
}

ADD = {"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties": {}}}}
SCHEMA = json.dumps(ADD)
CALLS = (ToolCall("add", '{"a": 1}', "c1"), ToolCall("add", '{"a": "é"}'))
WORK = Conversation(
    (
        Message("system", "Add."),
        Message("user", "1?"),
        Message("assistant", "Now.", tool_calls=CALLS),
        Message("tool", "one", tool_call_id="c1", name="add"),
        Message("tool", "two", name="add"),
        Message("assistant", "Done."),
    ),
    tools=(ADD,),
)
LISTED = f"These functions can be called, one JSON schema a line:\n<tools>\n{SCHEMA}\n</tools>\nA call is written as\n"
LISTED += '<tool_call>\n{"name": NAME, "arguments": {...}}\n</tool_call>'
CALLED = '\n<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>'
CALLED += '\n<tool_call>\n{"name": "add", "arguments": {"a": "é"}}\n</tool_call>'
WORKED = {
    "chatml": (
        f"BOS<|im_start|>system\nAdd.\n\n{LISTED}<|im_end|>\n<|im_start|>user\n1?<|im_end|>\n"
        f"<|im_start|>assistant\nNow.{CALLED}<|im_end|>\n<|im_start|>tool\none<|im_end|>\n"
        "<|im_start|>tool\ntwo<|im_end|>\n<|im_start|>assistant\nDone.<|im_end|>\n"
    ),
    "llama3": (
        "BOS<|start_header_id|>system<|end_header_id|>\n\nAdd.\n\nThese functions can be called, one JSON schema a "
        f'line:\n{SCHEMA}\nA call is written as <|python_tag|>{{"name": NAME, "parameters": {{...}}}}<|eot_id|>'
        "<|start_header_id|>user<|end_header_id|>\n\n1?<|eot_id|>"
        '<|start_header_id|>assistant<|end_header_id|>\n\nNow.<|python_tag|>{"name": "add", "parameters": {"a": 1}}; '
        '{"name": "add", "parameters": {"a": "é"}}<|eot_id|>'
        "<|start_header_id|>ipython<|end_header_id|>\n\none<|eot_id|>"
        "<|start_header_id|>ipython<|end_header_id|>\n\ntwo<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\nDone.<|eot_id|>"
    ),
    "mistral": (
        f"BOS[AVAILABLE_TOOLS][{SCHEMA}][/AVAILABLE_TOOLS][INST]Add.\n\n1?[/INST]"
        'Now.[TOOL_CALLS][{"name": "add", "arguments": {"a": 1}, "id": "c1"}, '
        '{"name": "add", "arguments": {"a": "é"}}]EOS'
        '[TOOL_RESULTS]{"content": "one", "call_id": "c1"}[/TOOL_RESULTS]'
        '[TOOL_RESULTS]{"content": "two"}[/TOOL_RESULTS]Done.EOS'
    ),
    "gemma": (
        f"BOS<start_of_turn>user\n{LISTED}\n\nAdd.\n\n1?<end_of_turn>\n"
        f"<start_of_turn>model\nNow.{CALLED}<end_of_turn>\n<start_of_turn>tool\none<end_of_turn>\n"
        "<start_of_turn>tool\ntwo<end_of_turn>\n<start_of_turn>model\nDone.<end_of_turn>\n"
    ),
    "qwen3": (
        f"BOS<|im_start|>system\nAdd.\n\n{LISTED}<|im_end|>\n<|im_start|>user\n1?<|im_end|>\n"
        f"<|im_start|>assistant\n<think>\n\n</think>\n\nNow.{CALLED}<|im_end|>\n"
        "<|im_start|>user\n<tool_response>\none\n</tool_response>\n<tool_response>\ntwo\n</tool_response><|im_end|>\n"
        "<|im_start|>assistant\n<think>\n\n</think>\n\nDone.<|im_end|>\n"
    ),
    "phi": (
        f"BOS<|system|>\nAdd.<|tool|>[{SCHEMA}]<|/tool|><|end|>\n<|user|>\n1?<|end|>\n"
        '<|assistant|>\nNow.<|tool_call|>[{"name": "add", "arguments": {"a": 1}}, '
        '{"name": "add", "arguments": {"a": "é"}}]<|/tool_call|><|end|>\n'
        "<|tool_response|>\none<|end|>\n<|tool_response|>\ntwo<|end|>\n<|assistant|>\nDone.<|end|>\n"
    ),
    "zephyr": (
        f"BOS<|system|>\nAdd.\n\n{LISTED}EOS\n<|user|>\n1?EOS\n<|assistant|>\nNow.{CALLED}EOS\n"
        "<|tool|>\noneEOS\n<|tool|>\ntwoEOS\n<|assistant|>\nDone.EOS\n"
    ),
    "alpaca": (
        f"BOS{LISTED}\n\nAdd.\n\n### Instruction:\n1?\n\n### Response:\nNow.{CALLED}EOS\n\n"
        "### Input:\none\n\n### Input:\ntwo\n\n### Response:\nDone.EOS\n\n"
    ),
}
EVERY = pytest.mark.parametrize("name", sorted(SHIPPED))


@pytest.fixture
def make(tiny: ModuleType) -> Any:
    """A tokenizer with a shipped template."""

    def made(name: str, *, bos: bool = True) -> Any:
        tokenizer = tiny.tokenizer(template=False, bos=bos)
        install_template(tokenizer, name)
        return tokenizer

    return made


def written(expected: str, tokenizer: Any) -> str:
    return expected.replace("BOS", tokenizer.bos_token or "").replace("EOS", tokenizer.eos_token)


def path(sample: Sample) -> list[int]:
    """The ids of the last root-to-leaf path: the whole conversation as the template shows it."""
    index, ids = len(sample.segments) - 1, []
    while index >= 0:
        ids = [*sample.segments[index].token_ids, *ids]
        index = sample.segments[index].parent
    return ids


def said(sample: Sample, tokenizer: Any) -> list[str]:
    """The runs of trained tokens, as text."""
    runs: list[list[int]] = [[]]
    for segment in sample.segments:
        for token, weight in zip(segment.token_ids, segment.weights, strict=True):
            if weight:
                runs[-1].append(token)
            elif runs[-1]:
                runs.append([])
    return [tokenizer.decode(run) for run in runs if run]


@EVERY
def test_two_turns(make: Any, name: str) -> None:
    tokenizer = make(name)
    sample = render(TALK, tokenizer)
    assert tokenizer.decode(path(sample)) == written(TALKED[name], tokenizer)
    stop = STOPS.get(name, tokenizer.eos_token)
    think = "<think>\n\n</think>\n\n" if name == "qwen3" else ""
    assert said(sample, tokenizer) == [f"{think}In Paris.{stop}", f"{think}At noon.{stop}"]
    assert tokenizer.convert_ids_to_tokens(stop_token_ids(tokenizer)[0]) == stop


@EVERY
def test_the_prompt_is_a_prefix(make: Any, name: str) -> None:
    """Asked, the model is given what stood before the answer; and the text only grows, save for Qwen's thoughts."""
    tokenizer = make(name)
    whole = written(TALKED[name], tokenizer)
    ids = path(render(TALK, tokenizer))
    for turn, words in ((2, "In Paris."), (4, "At noon.")):
        prompt = render_prompt(TALK.messages[:turn], tokenizer)
        expected = whole[: whole.index(words)].removesuffix("<think>\n\n</think>\n\n")
        assert tokenizer.decode(prompt) == expected
        assert expected.endswith(ASKS[name])
        assert ids[: len(prompt)] == prompt


@EVERY
@pytest.mark.parametrize("bos", [True, False])
def test_one_begin_token(make: Any, name: str, bos: bool) -> None:
    """One, in the first place, where the tokenizer has one; none elsewhere, and none where it has none."""
    tokenizer = make(name, bos=bos)
    begin = tokenizer.convert_tokens_to_ids("<|begin|>")
    for ids in (
        path(render(TALK, tokenizer)),
        path(render(WORK, tokenizer)),
        render_prompt(TALK.messages[:2], tokenizer),
    ):
        assert [place for place, token in enumerate(ids) if token == begin] == ([0] if bos else [])


@EVERY
def test_tools(make: Any, name: str) -> None:
    tokenizer = make(name)
    sample = render(WORK, tokenizer)
    assert tokenizer.decode(path(sample)) == written(WORKED[name], tokenizer)
    expected = written(WORKED[name], tokenizer)
    call, done = said(sample, tokenizer)
    stop = STOPS.get(name, tokenizer.eos_token)
    think = "<think>\n\n</think>\n\n" if name == "qwen3" else ""
    assert call == expected[expected.index(think + "Now.") : expected.index(stop, expected.index("Now."))] + stop
    assert done == f"{think}Done.{stop}"


@EVERY
def test_a_call_without_words(make: Any, name: str) -> None:
    """No empty line where there is nothing to stand on it."""
    tokenizer = make(name)
    (*before, answer) = Message("user", "1?"), Message("assistant", "", tool_calls=CALLS[:1])
    (call,) = said(render(Conversation((*before, answer), tools=(ADD,)), tokenizer), tokenizer)
    assert call.removeprefix("<think>\n\n</think>\n\n").startswith(
        ("<tool_call>\n{", "<|python_tag|>{", "[TOOL_CALLS][{", "<|tool_call|>[{")
    )


@EVERY
def test_tools_without_a_system_message(make: Any, name: str) -> None:
    tokenizer = make(name)
    talk = Conversation(WORK.messages[1:], tools=(ADD,))
    expected = written(WORKED[name], tokenizer).replace("Add.\n\n", "").replace("Add.", "")
    assert tokenizer.decode(path(render(talk, tokenizer))) == expected


@EVERY
def test_reasoning(make: Any, name: str) -> None:
    """Trained before each answer, and gone from the history that the next one stands behind."""
    tokenizer = make(name)
    talk = Conversation(
        tuple(
            Message(m.role, m.content, reasoning=f"Hm: {m.content}") if m.role == "assistant" else m
            for m in TALK.messages
        )
    )
    sample = render(talk, tokenizer)
    opened, closed = ("[THINK]", "[/THINK]") if name == "mistral" else ("<think>\n", "\n</think>\n\n")
    stop = STOPS.get(name, tokenizer.eos_token)
    assert said(sample, tokenizer) == [
        f"{opened}Hm: {words}{closed}{words}{stop}" for words in ("In Paris.", "At noon.")
    ]
    expected = written(TALKED[name], tokenizer).replace("<think>\n\n</think>\n\n", "")
    assert tokenizer.decode(path(sample)) == expected.replace("At noon.", f"{opened}Hm: At noon.{closed}At noon.")


@EVERY
def test_reasoning_between_calls_stays(make: Any, name: str) -> None:
    """Until the user speaks again, what was thought before a call is shown: the text only grows."""
    tokenizer = make(name)
    turns = [Message(m.role, m.content, "Hm.", m.tool_calls) if m.role == "assistant" else m for m in WORK.messages]
    sample = render(Conversation(tuple(turns), tools=WORK.tools), tokenizer)
    assert len(sample.segments) == 1
    assert tokenizer.decode(path(sample)).count("Hm.") == 2


def test_a_block_of_thoughts_in_the_text(make: Any) -> None:
    """Qwen's habit of writing both into one text: taken apart, so that the block does not stand twice."""
    tokenizer = make("qwen3")
    turns = (Message("user", "a?"), Message("assistant", "<think>\nHm.\n</think>\n\nYes."))
    assert said(render(Conversation(turns), tokenizer), tokenizer) == ["<think>\nHm.\n</think>\n\nYes.<|im_end|>"]
    asked = render_prompt([*turns, Message("user", "b?")], tokenizer)
    assert "Hm." not in tokenizer.decode(asked)


def test_thinking_can_be_turned_off(make: Any) -> None:
    tokenizer = make("qwen3")
    messages = [{"role": "user", "content": "a?"}]
    shown = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True, enable_thinking=False)
    assert shown.endswith("<|im_start|>assistant\n<think>\n\n</think>\n\n")


@pytest.mark.parametrize("name", ["mistral", "gemma"])
def test_a_system_message_is_never_lost(make: Any, name: str) -> None:
    """The formats without a place for one: before the user's words wherever it stands, or alone in a user's turn."""
    tokenizer = make(name)
    late = (*TALK.messages[1:3], Message("system", "Now be long."), *TALK.messages[3:])
    assert "Now be long.\n\nWhen?" in tokenizer.decode(path(render(Conversation(late), tokenizer)))
    first = Conversation((Message("system", "Greet."), Message("assistant", "Hello.")))
    begun = {"mistral": "[INST]Greet.[/INST]", "gemma": "<start_of_turn>user\nGreet.<end_of_turn>\n"}[name]
    sample = render(first, tokenizer)
    assert tokenizer.decode(path(sample)).startswith(tokenizer.bos_token + begun)
    asked = render_prompt(first.messages[:1], tokenizer)
    assert tokenizer.decode(asked) == tokenizer.bos_token + begun + ASKS[name]


@pytest.mark.parametrize("name", ["alpaca", "mistral", "phi", "zephyr"])
def test_a_role_without_a_place_is_refused(make: Any, name: str) -> None:
    with pytest.raises(Exception, match="format has no role narrator"):
        make(name).apply_chat_template([{"role": "narrator", "content": "Once."}], tokenize=False)


@pytest.mark.parametrize("name", ["alpaca", "mistral", "zephyr"])
def test_a_tokenizer_without_an_end_token(tiny: ModuleType, name: str) -> None:
    tokenizer = tiny.tokenizer(template=False)
    tokenizer.eos_token = None
    with pytest.raises(DataError, match=f"{name} ends answers with the end-of-text token"):
        install_template(tokenizer, name)
    tokenizer.chat_template = shipped(name).text
    with pytest.raises(DataError, match="with the end-of-text token, and this tokenizer has none"):
        render(TALK, tokenizer)


@EVERY
def test_saved_and_loaded(make: Any, name: str, tmp_path: Path) -> None:
    """Tokens are added once, and a tokenizer from the folder renders the same ids."""
    tokenizer = make(name)
    assert install_template(tokenizer, name) == 0
    known = tokenizer.added_tokens_decoder.values()
    assert {token.content for token in known if token.special} >= set(shipped(name).tokens)
    assert {token.content for token in known if not token.special} == set(shipped(name).spoken)
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert install_template(loaded, name) == 0
    for talk in (TALK, WORK):
        assert render(talk, loaded) == render(talk, tokenizer)


@EVERY
def test_every_token_is_one_that_the_template_writes(name: str) -> None:
    found = shipped(name)
    assert all(token in found.text for token in (*found.tokens, *found.spoken))
    assert "strftime_now" not in found.text


def test_an_unknown_name() -> None:
    with pytest.raises(DataError, match=r"^chatnl: no chat template of that name \(chatml, llama3, "):
        shipped("chatnl")
