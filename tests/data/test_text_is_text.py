"""Text is text: whatever people and models write, the control tokens of a conversation are those that its template
writes around harmless words; over all shipped templates and the token sets of public model families."""

import json
import tomllib
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import Phase, assume, given, settings
from hypothesis import strategies as st

from posttrain.data.controls import MARKS, Controls
from posttrain.data.shipped import SHIPPED
from posttrain.data.template import install_template, render, render_document, render_prompt
from posttrain.errors import DataError
from posttrain.types import Conversation, Document, Message, Sample, ToolCall

FAMILIES = tomllib.loads(Path(__file__).with_name("families.toml").read_text(encoding="utf-8"))
# These train nothing of a plain conversation (see test_families.py), or differ little from another of their family.
LEFT_OUT = {"deepseekv3", "deepseek_r1_distill", "glm4moe", "smolvlm", "idefics3", "llava_next"}
LEFT_OUT |= {"llama3_2", "qwen2_5_vl", "qwen3_instruct_2507", "qwen3_vl", "qwen3_6", "gemma4", "gemma4_v2", "gemma4_v3"}
LEFT_OUT |= {"gemma4_v4", "phi3_5", "lfm2", "lfm2_2_5", "nemotron_3_super", "nemotron_3_ultra"}
SUBJECTS = [f"shipped:{name}" for name in SHIPPED] + [
    f"{family}:{template}"
    for family, told in FAMILIES.items()
    for template in told.get("templates", ["shipped"] * ("shipped" in told))
    if template not in LEFT_OUT
]
PEOPLE = ("system", "question", "more", "result", "called", "told")  # fields that no assistant writes
MODELS = ("thought", "answer", "call", "key", "value", "id", "last", "rethought")
WORDS = "some words"


@dataclass(frozen=True)
class Shape:
    """Which parts of a conversation a template has a place for."""

    system: bool = True
    tools: bool = True
    reasoning: bool = True


SHAPES = [Shape(s, t, r) for t in (True, False) for s in (True, False) for r in (True, False)]


def talk(shape: Shape, texts: dict[str, str]) -> Conversation:
    """A conversation with every field that text can stand in; `texts` says what stands in each."""

    def of(field: str) -> str:
        return texts.get(field, WORDS)

    thought, rethought = (of(field) if shape.reasoning else "" for field in ("thought", "rethought"))
    messages = [Message("system", of("system"))] if shape.system else []
    messages.append(Message("user", of("question")))
    tools: tuple[dict[str, Any], ...] = ()
    if shape.tools:
        call = ToolCall(of("call"), json.dumps({of("key"): of("value")}, ensure_ascii=False), of("id"))
        messages.append(Message("assistant", "", thought, (call,)))
        messages.append(Message("tool", of("result"), tool_call_id=of("id"), name=of("called")))
        inner = {"type": "object", "properties": {of("told"): {"type": "string", "description": of("told")}}}
        tools = (
            {"type": "function", "function": {"name": of("called"), "description": of("told"), "parameters": inner}},
        )
    messages += [Message("assistant", of("answer"), rethought), Message("user", of("more"))]
    messages.append(Message("assistant", of("last"), rethought))
    return Conversation(tuple(messages), "talks.jsonl:7", tools)


def paths(sample: Sample) -> list[list[int]]:
    """The ids of every root-to-leaf path."""
    inner = {segment.parent for segment in sample.segments}
    found = []
    for leaf in (index for index in range(len(sample.segments)) if index not in inner):
        ids: list[int] = []
        index = leaf
        while index >= 0:
            ids = [*sample.segments[index].token_ids, *ids]
            index = sample.segments[index].parent
        found.append(ids)
    return found


class Subject:
    """A tokenizer and its template, the fullest conversation that it takes, and what its control tokens are."""

    def __init__(self, name: str, tokenizer: Any) -> None:
        self.name, self.tokenizer = name, tokenizer
        self.shape = next(shape for shape in SHAPES if self.takes(shape))
        added = tokenizer.added_tokens_decoder
        self.special = {number for number, token in added.items() if token.special}
        written = {token for path in self.rows({}) for token in path}
        source = tokenizer.chat_template
        self.controls = self.special | {
            number
            for number, token in added.items()
            if token.content.strip() and (token.content in source or number in written)
        }
        self.texts = [added[number].content for number in sorted(self.controls)]
        self.neutral = self.rows({})

    def takes(self, shape: Shape) -> bool:
        try:
            render(talk(shape, {}), self.tokenizer)
        except DataError:
            return False
        return True

    def rows(self, texts: dict[str, str]) -> list[list[int]]:
        conversation = talk(self.shape, texts)
        asked = render_prompt(conversation.messages[:-1], self.tokenizer, conversation.tools)
        return [asked, *paths(render(conversation, self.tokenizer))]

    def shown(self, rows: Sequence[Sequence[int]], controls: set[int]) -> list[list[int]]:
        """The control tokens of each row, in order; the rows in an order that texts have no part in."""
        return sorted([token for token in row if token in controls] for row in rows)

    def check(self, texts: dict[str, str]) -> None:
        """The same control tokens as around harmless words, and what people typed can be read again."""
        spoken = "".join(text for field, text in texts.items() if field in MODELS)
        # An assistant may say the added tokens that are not special; nobody else may.
        controls = self.special if spoken else self.controls
        try:
            found = self.rows(texts)
        except DataError:
            # A template may take a block of thoughts out of an answer's text, so that no answer is left to train.
            assert "</think>" in spoken
            return
        assert self.shown(found, controls) == self.shown(self.neutral, controls)
        if "question" in texts:
            assert plain(texts["question"]) in plain(self.tokenizer.decode(found[0]))


def plain(text: str) -> str:
    """What tokenizers keep of a text: not its white space (templates trim, tokens swallow it), nor its disguises."""
    return "".join(unicodedata.normalize("NFKC", text).split()).replace("\u2581", "")


def wide(text: str) -> str:
    """The same in full-width letters, which look alike and which NFKC makes the same."""
    return "".join(chr(ord(letter) + 0xFEE0) if "!" <= letter <= "~" else letter for letter in text)


def hostile(controls: Sequence[str]) -> list[str]:
    """The control texts alone, in white space, one in another, overlapping, in halves, disguised."""
    found = []
    for first, second in zip(controls, [*controls[1:], controls[0]], strict=True):
        half = len(first) // 2
        found += [
            first,
            f"  {first}\n\n",
            f"a{first}b{first}",
            first[:half] + second + first[half:],
            first[:half] + first + first[half:],
            first + second,
            first[:-1] + second,
            first[:-1] + first,
            first[0] + first,
            first[:half] + MARKS[0] + first[half:] + MARKS[1],
            wide(first),
            wide(first[:half]) + first[half:],
            first.upper() + first.lower(),
        ]
    return found


@pytest.fixture(scope="module")
def subject(family_tokenizer: Callable[[str], Any]) -> Callable[[str], Subject]:
    made: dict[str, Subject] = {}

    def get(name: str) -> Subject:
        if name not in made:
            family, _, template = name.partition(":")
            tokenizer = family_tokenizer("plain" if family == "shipped" else family)
            if family == "shipped":
                install_template(tokenizer, template)
            elif template != "shipped":
                trl = pytest.importorskip("trl")
                file = Path(trl.__file__).parent / "chat_templates" / f"{template}.jinja"
                tokenizer.chat_template = file.read_text(encoding="utf-8")
            made[name] = Subject(name, tokenizer)
        return made[name]

    return get


@pytest.mark.parametrize("name", SUBJECTS)
@pytest.mark.parametrize("fields", [PEOPLE, MODELS], ids=["people", "models"])
def test_hostile_texts(subject: Callable[[str], Subject], name: str, fields: tuple[str, ...]) -> None:
    """Every control token of every family, in every dress."""
    one = subject(name)
    texts = hostile(one.texts)
    for start in range(0, len(texts), len(fields)):
        one.check({field: texts[(start + place) % len(texts)] for place, field in enumerate(fields)})


@settings(max_examples=8, phases=[Phase.explicit, Phase.generate])
@given(data=st.data())
@pytest.mark.parametrize("name", SUBJECTS)
def test_any_text(subject: Callable[[str], Subject], name: str, data: st.DataObject) -> None:
    one = subject(name)
    pieces = st.sampled_from(
        [*one.texts, *hostile(one.texts), *MARKS, "\n", " ", "system", "user", "é", "🙂", "{", '"']
    )
    text = st.lists(pieces | st.text(max_size=5), min_size=1, max_size=6).map("".join)
    typed = text.filter(lambda typed: plain(typed) != "")
    fields = data.draw(st.sampled_from([PEOPLE, MODELS, PEOPLE + MODELS]))
    texts = data.draw(st.fixed_dictionaries(dict.fromkeys(fields, typed)))
    assume(not all(mark in "".join(texts.values()) for mark in MARKS))
    one.check(texts)


@pytest.mark.parametrize("name", [name for name in SUBJECTS if name.startswith("shipped")])
def test_not_a_letter_is_changed(subject: Callable[[str], Subject], name: str) -> None:
    """The shipped templates keep every character, white space too: the ids decode to what Jinja wrote of the texts."""
    one = subject(name)
    typed = hostile(one.texts)
    for start in range(0, len(typed), len(PEOPLE)):
        texts = {field: typed[(start + place) % len(typed)] for place, field in enumerate((*PEOPLE, *MODELS))}
        # What Qwen takes for a block of thoughts.
        texts |= {field: texts[field].replace("<think>", "think") for field in ("answer", "last")}
        conversation = talk(one.shape, texts)
        messages = [
            {"role": m.role, "content": m.content}
            | ({"reasoning_content": m.reasoning} if m.reasoning else {})
            | ({"tool_call_id": m.tool_call_id, "name": m.name} if m.role == "tool" else {})
            | (
                {
                    "tool_calls": [
                        {"id": c.id, "function": {"name": c.name, "arguments": c.arguments}} for c in m.tool_calls
                    ]
                }
                if m.tool_calls
                else {}
            )
            for m in conversation.messages
        ]
        shown = one.tokenizer.apply_chat_template(messages, tools=list(conversation.tools), tokenize=False)
        assert one.tokenizer.decode(paths(render(conversation, one.tokenizer))[-1]) == shown


@pytest.mark.parametrize("name", SUBJECTS)
def test_documents(subject: Callable[[str], Subject], name: str) -> None:
    """A book that speaks of control tokens has none, but the tokenizer's own at its ends."""
    one = subject(name)
    ends = {one.tokenizer.bos_token_id, one.tokenizer.eos_token_id} - {None}
    for text in hostile(one.texts):
        (ids,) = paths(render_document(Document(f"{text} and {text}"), one.tokenizer))
        assert {token for token in ids if token in one.controls} <= ends
        assert sum(token in one.controls for token in ids) == 1 + (one.tokenizer.bos_token_id is not None)


@pytest.mark.parametrize("name", ["shipped:chatml", "llama3:llama3_1", "qwen3:qwen3", "disguised:shipped"])
def test_without_escaping_text_is_not_text(
    subject: Callable[[str], Subject], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: the property can fail, in every field."""
    one = subject(name)
    monkeypatch.setattr(Controls, "escape", lambda _self, text, *_args, **_keys: text)
    typed = next(text for text in one.texts if "end" in text or "eot" in text or "/" in text)
    for field in ("system", "question", "result", "answer", "last", "value"):
        with pytest.raises((AssertionError, DataError)):
            one.check({field: f"a {typed} b"})
