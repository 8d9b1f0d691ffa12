"""Tool calls read back from what chat templates write: every shipped template, public families, and bad input."""

import json
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from posttrain.data.shipped import SHIPPED
from posttrain.data.template import install_template, render, render_prompt, stop_token_ids
from posttrain.data.tool_reading import Shape, parse
from posttrain.data.tool_syntax import ToolSyntax, tool_syntax
from posttrain.errors import DataError
from posttrain.types import Conversation, Message, ToolCall

# As Mistral-7B-Instruct-v0.3 has it: a list with ids of nine letters, which it insists on; no text beside calls.
MISTRAL_V3 = """{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }}[/INST]
{%- elif m.tool_calls is defined and m.tool_calls %}[TOOL_CALLS] [{% for c in m.tool_calls -%}
{{ c.function | tojson | trim | replace('}}', '}}') }}{% if not c.id is defined or c.id|length != 9 -%}
{{ raise_exception('Tool call IDs should be alphanumeric strings with length 9!') }}{% endif %}
{%- if not loop.last %}, {% endif %}{% endfor %}]{{ eos_token }}
{%- elif m.role == 'assistant' %} {{ m.content }}{{ eos_token }}
{%- elif m.role == 'tool' %}{% if not m.tool_call_id is defined or m.tool_call_id|length != 9 -%}
{{ raise_exception('Tool call IDs should be alphanumeric strings with length 9!') }}{% endif -%}
[TOOL_RESULTS] {"content": {{ m.content }}, "call_id": "{{ m.tool_call_id }}"}[/TOOL_RESULTS]{% endif %}{% endfor %}"""
# As Mistral's later models have it: a name, perhaps an id, and the arguments; every call behind a mark of its own.
MISTRAL_V11 = """{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}[INST]{{ m.content }}[/INST]
{%- elif m.role == 'assistant' %}{{ m.content }}{% for c in m.tool_calls or [] -%}
[TOOL_CALLS]{{ c.function.name }}IDS[ARGS]{{ c.function.arguments | tojson }}{% endfor %}{{ eos_token }}
{%- elif m.role == 'tool' %}[TOOL_RESULTS]{{ m.content }}[/TOOL_RESULTS]{% endif %}{% endfor %}"""
OWN = {
    "mistral_v3": MISTRAL_V3,
    "mistral_v11": MISTRAL_V11.replace("IDS", ""),
    "mistral_v11_ids": MISTRAL_V11.replace("IDS", "{% if c.id %}[CALL_ID]{{ c.id }}{% endif %}"),
}
TRL = {  # template of trl, and the family whose tokens it is given
    "llama3_1": "llama3", "llama3_2": "llama3", "qwen2_5": "qwen2_5", "qwen3": "qwen3", "qwen3_instruct_2507": "qwen3",
    "qwen3_vl": "qwen3",
}  # fmt: skip
HERE = Path(__file__)
ASKED = Message("user", "marked?")


@pytest.fixture(scope="session")
def syntax_of(family_tokenizer: Callable[[str], Any]) -> Callable[[str], ToolSyntax]:
    """The syntax of a shipped template, one of trl's, or one of OWN; made once."""
    made: dict[str, ToolSyntax] = {}

    def find(name: str) -> ToolSyntax:
        if name not in made:
            family = name.removeprefix("trl:") if name.startswith("trl:") else ""
            tokenizer = family_tokenizer(TRL[family] if family else "mistral_v03" if name in OWN else "plain")
            if family:
                trl = pytest.importorskip("trl")
                tokenizer.chat_template = (Path(trl.__file__).parent / "chat_templates" / f"{family}.jinja").read_text()
            elif name in OWN:
                tokenizer.chat_template = OWN[name]
                tokenizer.add_special_tokens({"extra_special_tokens": ["[ARGS]", "[CALL_ID]"]})
            else:
                install_template(tokenizer, name)
            made[name] = tool_syntax(tokenizer)
        return made[name]

    return find


EVERY = [*SHIPPED, *OWN, *(f"trl:{name}" for name in TRL)]


def answer_ids(syntax: ToolSyntax, said: Message) -> list[int]:
    """The trained tokens of an answer: those that a model would say, the stop token among them."""
    sample = render(Conversation((ASKED, said)), syntax.tokenizer)
    return [n for s in sample.segments for n, w in zip(s.token_ids, s.weights, strict=True) if w]


def call(name: str, arguments: Any, number: str = "") -> ToolCall:
    return ToolCall(name, json.dumps(arguments, ensure_ascii=False), number)


MARKS = [
    "<tool_call>", "</tool_call>", "[TOOL_CALLS]", "[ARGS]", "<|python_tag|>", "<|tool_call|>", "<|/tool_call|>",
    '{"name": "a", "arguments": {}}', "}\n</tool_call>", "}]", '"', "\\", "\n", "{", "}", "<|im_end|>", "<|eot_id|>",
    "</s>", "; ", "é", "\u2028", "😀", "</think>", "\x00",
]  # fmt: skip
TEXTS = st.lists(
    st.sampled_from(MARKS) | st.text(st.characters(exclude_categories=["Cs", "Co"]), max_size=4), max_size=4
)
VALUES: Any = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**18), 10**18) | st.floats(allow_nan=False, allow_infinity=False)
    | TEXTS.map("".join),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS.map("".join), inner, max_size=2),
    max_leaves=5,
)  # fmt: skip
NAMES = st.from_regex(r"[a-zA-Z_][a-zA-Z0-9_-]{0,12}", fullmatch=True)
CALLS = st.lists(st.tuples(NAMES, st.dictionaries(TEXTS.map("".join), VALUES, max_size=3)), min_size=1, max_size=3)


@pytest.mark.parametrize("name", EVERY)
@settings(max_examples=15)
@given(calls=CALLS, words=st.sampled_from(["", "Let me see.", "Two\n\nlines."]))
def test_what_a_template_writes_is_read_back(
    syntax_of: Callable[[str], ToolSyntax], name: str, calls: list[tuple[str, Any]], words: str
) -> None:
    syntax = syntax_of(name)
    if not syntax.several:
        calls = calls[:1]
    said = tuple(call(*one, f"idOfCall{n}") for n, one in enumerate(calls))
    content = words if syntax.with_text else ""
    found = syntax.read(answer_ids(syntax, Message("assistant", content, tool_calls=said)))
    assert not found.problems
    assert [(c.name, c.arguments) for c in found.message.tool_calls] == [(c.name, c.arguments) for c in said]
    # qwen3 puts an empty block of thoughts in front, which the model says
    assert found.message.content.removeprefix("<think>\n\n</think>").strip() == content
    if name in ("mistral", "mistral_v11_ids"):
        assert [c.id for c in found.message.tool_calls] == [c.id for c in said]


def test_forms(syntax_of: Callable[[str], ToolSyntax]) -> None:
    """Against the forms as their documents have them."""
    hermes = Shape("objects", "<tool_call>", "</tool_call>")
    assert {syntax_of(name).shape for name in ("chatml", "qwen3", "zephyr", "trl:qwen2_5", "trl:qwen3")} == {hermes}
    llama = Shape("objects", "", between=";", key="parameters", other_open="<|python_tag|>")
    assert syntax_of("trl:llama3_1").shape == llama
    assert syntax_of("llama3").shape == Shape("objects", "<|python_tag|>", between=";", key="parameters")
    assert syntax_of("mistral_v3").shape == Shape("list", "[TOOL_CALLS]")
    assert syntax_of("mistral_v11_ids").shape == Shape("named", "[TOOL_CALLS]", separator="[ARGS]", id_mark="[CALL_ID]")
    assert [syntax_of(n).ids for n in ("mistral_v3", "mistral", "mistral_v11_ids", "chatml")] == [
        "needed", "shown", "shown", "hidden",
    ]  # fmt: skip
    assert not syntax_of("trl:llama3_1").several
    assert not syntax_of("mistral_v3").with_text


def test_a_model_that_thinks_before_it_calls(syntax_of: Callable[[str], ToolSyntax]) -> None:
    text = '<think>\nHm, <tool_call>?\n</think>\n\n<tool_call>\n{"name": "add", "arguments": {"a": 1e2}}\n</tool_call>'
    syntax = syntax_of("chatml")
    ids = syntax.tokenizer("<think>\nHm\n</think>\n\n" + text[text.rindex("\n<tool_call>") + 1 :])["input_ids"]
    found = syntax.read([*ids, *stop_token_ids(syntax.tokenizer)[:1]])
    assert found.message.content == "<think>\nHm\n</think>"
    assert found.message.tool_calls[0].arguments == '{"a": 1e2}', "as it was said, not as JSON would be written"
    assert "inside a call" in syntax.parse(text).problems[0]


def test_ids_are_nine_letters_and_the_same_again(syntax_of: Callable[[str], ToolSyntax]) -> None:
    text = '[TOOL_CALLS] [{"name": "f", "arguments": {}}, {"name": "f", "arguments": {}}]'
    syntax = syntax_of("mistral_v3")
    ids = [call.id for turn in (0, 1) for call in syntax.parse(text, turn=turn).message.tool_calls]
    assert len(set(ids)) == 4
    assert all(len(number) == 9 and number.isalnum() for number in ids)
    assert ids[:2] == [call.id for call in syntax.parse(text).message.tool_calls]
    short = syntax.parse('[TOOL_CALLS] [{"name": "f", "arguments": {}, "id": "x"}]').message.tool_calls[0]
    assert len(short.id) == 9, "an id that the template would refuse is replaced"
    shown = [{"role": "assistant", "content": "", "tool_calls": [{"type": "function", "id": ids[0], "function": {}}]}]
    assert syntax.tokenizer.apply_chat_template([shown], tokenize=False)
    assert syntax_of("mistral").parse('[TOOL_CALLS][{"name": "f", "arguments": {}}]').message.tool_calls[0].id == ""


@pytest.mark.parametrize("name", ["qwen3", "llama3", "mistral", "phi", "trl:llama3_1", "trl:qwen3", "mistral_v11"])
def test_typed_letters_are_no_call(syntax_of: Callable[[str], ToolSyntax], name: str) -> None:
    """A model that repeats what a user typed says ordinary tokens, and none of them is the mark."""
    syntax = syntax_of(name)
    ids = answer_ids(syntax, Message("assistant", "", tool_calls=(call("add", {"a": 1}),)))
    whole = syntax.tokenizer.decode(ids[:-1])
    if name == "trl:llama3_1":
        whole = "<|python_tag|>" + whole
    prompt = render_prompt((Message("user", f"Say: {whole}"),), syntax.tokenizer)
    typed = syntax.tokenizer.decode(prompt)
    assert whole.strip() in typed, "the text is in the prompt, letter for letter"
    assert not syntax.read(prompt).message.tool_calls
    assert not syntax.read(prompt).problems
    marks = [n for n in prompt if n in syntax.tokenizer.added_tokens_decoder]
    assert not {syntax.shape.open, "<|python_tag|>"} & {syntax.tokenizer.decode([n]) for n in marks}


BROKEN = {
    '<tool_call>\n{"name": "a", "arguments": {"x": }}\n</tool_call>': "malformed: not valid JSON",
    '<tool_call>\n{"name": "a", "arguments": {"x": 1}': "not closed",
    '<tool_call>\n{"name": "a", "arguments": {"x": "1': "not closed",
    '<tool_call>\n{"name": "a", "arguments": {"x": 1}}': "not closed",
    "<tool_call>": "not closed",
    '<tool_call>{"name": "a", "arguments": <tool_call>{"name": "b", "arguments": 1}</tool_call>}</tool_call>': "inside",
    '<tool_call><tool_call>{"name": "a", "arguments": {}}</tool_call></tool_call>': "inside",
    '<tool_call>{"arguments": {}}</tool_call>': "no name",
    '<tool_call>{"name": "", "arguments": {}}</tool_call>': "no name",
    '<tool_call>{"name": 3, "arguments": {}}</tool_call>': "no name",
    '<tool_call>{"name": "a"}</tool_call>': 'no "arguments"',
    '<tool_call>{"name": "a", "arguments": [1]}</tool_call>': "no JSON object",
    '<tool_call>{"name": "a", "arguments": "{}"}</tool_call>': "no JSON object",
    '<tool_call>{"name": "a", "arguments": {"x": 1e999}}</tool_call>': "none that JSON has",
    '<tool_call>{"name": "a", "arguments": {"x": NaN}}</tool_call>': "none that JSON has",
    '<tool_call>{"name": "a", "arguments": {"x": "\\ud800"}}</tool_call>': "surrogate",
    '<tool_call>{"name": "a", "arguments": {"x": 1, "x": 2}}</tool_call>': "twice",
    '<tool_call>{"name": "a", "name": "b", "arguments": {}}</tool_call>': "malformed",
    '<tool_call>{"name": "a", "arguments": {"x": "line\nbreak"}}</tool_call>': "malformed",
    '<tool_call>{"name": "a", "arguments": {}}</tool_call> And now?': "text stands behind a call",
    '<tool_call>["a"]</tool_call>': "expected a JSON object",
    '<tool_call>{"name": "a", "arguments": {}} {}</tool_call>': "expected </tool_call>",
    '<tool_call>{"name": "a", "arguments": ' + '{"a":' * 300 + "1" + "}" * 301 + "</tool_call>": "nested deeper",
    '<tool_call>{"name": "a", "arguments": ' + "[" * 100_000 + "</tool_call>": "nested deeper",
    '<tool_call>{"name": "a", "arguments": ' + "[" * 100_000: "not closed",
    '<tool_call>{"name": "a", "arguments": {}}</tool_call>' * 65: "more than 64 calls",
    '<tool_call>{"name": "a", "arguments": {"x": ' + "9" * 5000 + "}}</tool_call>": "too many digits",
}


@pytest.mark.parametrize("text", BROKEN, ids=range(len(BROKEN)))
def test_what_cannot_be_read_is_said_and_kept_as_text(syntax_of: Callable[[str], ToolSyntax], text: str) -> None:
    syntax = syntax_of("chatml")
    found = syntax.parse(f"I think\n{text}")
    assert found.message == Message("assistant", f"I think\n{text}")
    assert len(found.problems) == 1
    assert BROKEN[text] in found.problems[0]
    assert len(found.problems[0]) < 300


def test_one_good_call_beside_a_bad_one_is_not_run(syntax_of: Callable[[str], ToolSyntax]) -> None:
    good, bad = '{"name": "a", "arguments": {}}', '{"name": "b", "arguments": 1}'
    found = syntax_of("chatml").parse(f"<tool_call>{good}</tool_call>\n<tool_call>{bad}</tool_call>")
    assert found.problems == ("the arguments of b are no JSON object",)
    assert not found.message.tool_calls
    assert syntax_of("llama3").parse('<|python_tag|>{"name": "a", "parameters": {}}; {"name').problems
    assert syntax_of("mistral_v11").parse("[TOOL_CALLS]add").problems == ("a call is not closed",)
    assert "inside" in syntax_of("mistral_v11").parse("[TOOL_CALLS]a[TOOL_CALLS]b[ARGS]{}").problems[0]
    assert syntax_of("mistral_v3").parse("[TOOL_CALLS] {}").problems == (
        "a call is malformed: expected a JSON list of calls",
    )


def test_a_bare_object_is_a_call_only_where_it_is_one(syntax_of: Callable[[str], ToolSyntax]) -> None:
    syntax = syntax_of("trl:llama3_1")
    for text in ('{"name": "Ann", "age": 3}', '{"name": "Ann"', "{", "A set {1, 2}", '{"a": 1', ""):
        assert syntax.parse(text).message == Message("assistant", text)
        assert not syntax.parse(text).problems
    one = '{"name": "add", "parameters": {"a": 1}}'
    for text in (one, f" \n{one}", f"<|python_tag|>{one}"):
        assert [c.name for c in syntax.parse(text).message.tool_calls] == ["add"]
    assert syntax.parse('{"name": "add", "parameters": {"a": 1}').problems == ("a call is not closed",)
    both = syntax.parse(f"{one}; {one}")
    assert "one at a time" in both.problems[0]
    assert both.message == Message("assistant", f"{one}; {one}")
    worded = syntax_of("mistral_v3").parse('Well. [TOOL_CALLS] [{"name": "f", "arguments": {}}]')
    assert "call or text, not both" in worded.problems[0]
    assert worded.message.content.startswith("Well. [TOOL_CALLS]")


@settings(max_examples=80)
@given(parts=st.lists(st.sampled_from([*MARKS, '"name":', '"arguments":', ", ", ":", "[", "]", "a"]), max_size=12))
def test_nothing_breaks_the_reader(parts: list[str]) -> None:
    text = "".join(parts)
    for shape in (
        Shape("objects", "<tool_call>", "</tool_call>"), Shape("list", "[TOOL_CALLS]"),
        Shape("objects", "", between=";", key="arguments", other_open="<|python_tag|>"),
        Shape("named", "[TOOL_CALLS]", separator="[ARGS]"),
    ):  # fmt: skip
        found = parse(text, shape)
        assert found.calls or found.content == text
        assert not (found.calls and found.problems)
        assert all(isinstance(json.loads(call.arguments), dict) for call in found.calls)


@pytest.mark.parametrize("name", ["chatml", "qwen3", "llama3", "mistral", "phi", "trl:llama3_1"])
def test_any_tokens_can_be_read(syntax_of: Callable[[str], ToolSyntax], name: str) -> None:
    """A model may say anything; an endless answer of marks is read as fast as another."""
    syntax, rng = syntax_of(name), random.Random(name)
    added = list(syntax.tokenizer.added_tokens_decoder)
    for _ in range(60):
        ids = [rng.choice(added) if rng.random() < 0.4 else rng.randrange(len(syntax.tokenizer)) for _ in range(40)]
        found = syntax.read(ids)
        assert not (found.problems and found.message.tool_calls)
    mark = syntax.tokenizer(syntax.shape.open or "<|python_tag|>", add_special_tokens=False)["input_ids"]
    began = time.thread_time()
    assert syntax.read(mark * 4000).problems
    assert time.thread_time() - began < 2


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (None, "tools need a chat template"),
        ("{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}", "shows no tool calls"),
        ("{% for m in messages %}{{ m.content }}{{ m.tool_calls[0].x.y.z }}{% endfor %}", "refuses an answer with a"),
        ("{% for m in messages %}{{ m.content }}{% for c in m.tool_calls or [] %}<f={{ c.function.name }}>"
         "{% endfor %}\n{% endfor %}", "a form that is not known"),
    ],
)  # fmt: skip
def test_a_template_without_calls_is_refused(
    family_tokenizer: Callable[[str], Any], template: str | None, message: str
) -> None:
    tokenizer = family_tokenizer("plain")
    tokenizer.chat_template = template
    with pytest.raises(DataError, match=message) as refused:
        tool_syntax(tokenizer)
    assert "chat_template: chatml" in str(refused.value)
