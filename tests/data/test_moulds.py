"""Texts made without the template are the template's own; where it looks into contents, there is no mould."""

from types import ModuleType
from typing import Any
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from posttrain.data import template
from posttrain.data.moulds import Moulds, shape_of
from posttrain.data.shipped import SHIPPED
from posttrain.data.template import install_template, render_many
from posttrain.errors import DataError
from posttrain.types import Conversation, Message

TURN = "{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}"
END = "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
PLAIN = "{% for m in messages %}" + TURN + "{% endfor %}" + END

UNSEEING = {
    "plain": PLAIN,
    "subscripts and trim": PLAIN.replace("m.content", "m['content'] | trim"),
    "strip": PLAIN.replace("m.content", "m.content.strip()"),
    "a default": PLAIN.replace("m.content", "(m.content or '')"),
    "joined": PLAIN.replace("+ m.content +", "~ m.content ~"),
    "is text": "{% for m in messages %}{% if m.content is string %}" + TURN + "{% endif %}{% endfor %}" + END,
    "a variable": "{% for m in messages %}{% set c = m.content + '' %}"
    + TURN.replace("m.content", "c")
    + "{% endfor %}"
    + END,
    "alternate roles": "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles') }}{% endif %}" + TURN + "{% endfor %}" + END,
}
LOOKS = {
    "a test of membership": "'x' in m.content",
    "membership the other way": "m.content in 'abcdefx'",
    "a test for membership": "m.content is in 'abcdefx'",
    "equality": "m.content == 'x'",
    "equality the other way": "'x' == m.content",
    "length": "m.content | length > 4",
    "an attribute of it": "m.content.startswith('x')",
    "a part": "m.content[0] == 'x'",
    "a slice": "m.content[:1] == 'x'",
    "a sum": "'x' in (m.content + '.')",
    "a sum the other way": "'x' in ('.' + m.content)",
    "what was trimmed": "'x' in (m.content | trim)",
    "plain text made of it": "'x' in (m.content ~ '')",
    "the joined": "'x' in [m.content, ''] | join",
    "the formatted": "'x' in '%s' % m.content",
    "the formatted by a method": "'x' in '{}'.format(m.content)",
    "order": "m.content < 'y'",
    "a list": "m.content in ['x']",
    "the selected": "messages | selectattr('content', 'equalto', 'x') | list",
    "a key": "{'x': 1}[m.content] is defined",
    "the first letter": "(m.content | first) == 'x'",
}
CHANGES = {
    "upper": "m.content | upper",
    "escaped": "m.content | tojson",
    "replaced": "m.content | replace('x', 'y')",
    "split": "m.content.split('</think>')[-1]",
    "indented": "m.content | indent",
    "trimmed of letters": "m.content.strip('x')",
}


def moulds(tiny: ModuleType, source: str) -> tuple[Any, Moulds]:
    tokenizer = tiny.tokenizer()
    tokenizer.chat_template = source
    return tokenizer, template._scribe(tokenizer).moulds


def talk(*contents: str) -> Conversation:
    roles = ("user", "assistant")
    return Conversation(tuple(Message(roles[i % 2], content) for i, content in enumerate(contents)))


def mould_of(tiny: ModuleType, source: str, conversation: Conversation) -> Any:
    tokenizer, found = moulds(tiny, source)
    return found.find(shape_of(conversation, {len(conversation.messages) - 1: 1.0}), tokenizer)


@pytest.mark.parametrize("source", UNSEEING.values(), ids=UNSEEING)
def test_a_template_that_passes_contents_through_has_a_mould(tiny: ModuleType, source: str) -> None:
    assert mould_of(tiny, source, talk("a", "b")) is not None


@pytest.mark.parametrize("test", LOOKS.values(), ids=LOOKS)
def test_one_that_looks_into_them_has_none(tiny: ModuleType, test: str) -> None:
    source = "{% for m in messages %}{% if " + test + " %}{{ 'seen ' }}{% endif %}" + TURN + "{% endfor %}" + END
    assert mould_of(tiny, source, talk("a", "b")) is None


@pytest.mark.parametrize("changed", CHANGES.values(), ids=CHANGES)
def test_one_that_changes_them_has_none(tiny: ModuleType, changed: str) -> None:
    assert mould_of(tiny, PLAIN.replace("m.content", f"({changed})"), talk("a", "b")) is None


@pytest.mark.parametrize(
    "source",
    [
        "{% macro show(c) %}{% if c == 'x' %}!{% endif %}{{ c }}{% endmacro %}"
        + PLAIN.replace("m.content", "show(m.content)"),
        "{% for m in messages %}{% set c %}{{ m.content }}{% endset %}{% if c == 'x' %}!{% endif %}"
        + TURN
        + "{% endfor %}"
        + END,
        PLAIN.replace("{{ '<", "{% generation %}{{ '<", 1).replace("{% endfor", "{% endgeneration %}{% endfor"),
    ],
    ids=["a macro", "a block", "an unknown tag"],
)
def test_what_cannot_be_watched_has_none(tiny: ModuleType, source: str) -> None:
    assert mould_of(tiny, source, talk("a", "b")) is None


def test_conversations_of_more_than_text_have_no_shape() -> None:
    call = Message("assistant", "b", reasoning="why")
    assert shape_of(Conversation((Message("user", "a"), call)), {1: 1.0}) is None
    assert shape_of(talk("a", ""), {1: 1.0}) is None
    assert shape_of(Conversation((Message("user", "a", name="Ann"), Message("assistant", "b"))), {1: 1.0}) is None


CONTENTS = st.lists(
    st.sampled_from(["a", " b", "c\n", "<|im_end|>", "\n\n", "é", "", "x y"]) | st.text(max_size=6),
    min_size=2,
    max_size=6,
)


@settings(max_examples=60)
@given(contents=CONTENTS, weights=st.lists(st.sampled_from([None, 0.0, 0.5]), min_size=3, max_size=3))
@pytest.mark.parametrize("name", [*SHIPPED, "trims"])
def test_the_same_samples_either_way(
    tiny: ModuleType, name: str, contents: list[str], weights: list[float | None]
) -> None:
    tokenizer = tiny.tokenizer(template=False)
    if name == "trims":
        tokenizer.chat_template = UNSEEING["subscripts and trim"]
        tokenizer.add_special_tokens({"extra_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    else:
        install_template(tokenizer, name)
    plain = talk(*contents)
    turns = [
        Message(m.role, m.content, weight=weights[i // 2] if m.role == "assistant" else None)
        for i, m in enumerate(plain.messages)
    ]
    records = [plain, Conversation(tuple(turns)), plain]
    fast = render_many(records, tokenizer)
    with mock.patch.object(Moulds, "find", return_value=None):
        slow = render_many(records, tokenizer)
    assert [_plain(sample) for sample in fast] == [_plain(sample) for sample in slow]


def _plain(sample: Any) -> Any:
    return str(sample) if isinstance(sample, DataError) else sample


@pytest.mark.parametrize("name", sorted(SHIPPED))
def test_shipped_templates_have_moulds(tiny: ModuleType, name: str) -> None:
    tokenizer = tiny.tokenizer(template=False)
    install_template(tokenizer, name)
    found = template._scribe(tokenizer).moulds.find(shape_of(talk("a", "b"), {1: 1.0}), tokenizer)
    assert (found is None) == (name == "qwen3")  # it takes thoughts out of contents


def test_an_outcome_that_differs_ends_the_mould(tiny: ModuleType) -> None:
    tokenizer, found = moulds(tiny, PLAIN)
    shape = shape_of(talk("a", "b"), {1: 1.0})
    assert shape is not None
    assert found.find(shape, tokenizer) is not None
    found.prove(shape, same=False)
    assert found.find(shape, tokenizer) is None
