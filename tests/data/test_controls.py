"""Which texts are controls, and how typed ones are broken up."""

from types import ModuleType
from typing import Any

import pytest
from tokenizers import AddedToken, normalizers

from posttrain.data.controls import MARKS, Controls, free_mark
from posttrain.data.encode import plain_backend
from posttrain.data.template import control_tokens, render
from posttrain.errors import DataError
from posttrain.types import Conversation, Message


@pytest.fixture
def tokenizer(tiny: ModuleType) -> Any:
    made = tiny.tokenizer()
    made.add_tokens([AddedToken("<think>", normalized=False), AddedToken("    ", normalized=False)])
    return made


def controls(tokenizer: Any, shown: str) -> Controls:
    return Controls(tokenizer, plain_backend(tokenizer), shown)


def test_added_tokens_are_controls_where_the_template_writes_them(tokenizer: Any) -> None:
    special = {"<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|begin|>"}
    assert set(controls(tokenizer, "").texts) == special
    # Runs of spaces are text, in a template as anywhere.
    assert set(controls(tokenizer, "    <think>").texts) == special | {"<think>"}


def test_an_assistant_may_say_what_is_not_special(tokenizer: Any) -> None:
    found = controls(tokenizer, "<think>")
    assert found.typed_in("a <think>")
    assert not found.typed_in("a <think>", assistant=True)
    assert found.escape("<think><|im_end|>", "#", assistant=True) == "<think><#|im_end|>"
    assert found.escape("<think><|im_end|>", "#") == "<#think><#|im_end|>"


def test_overlapping_controls_are_all_broken_up(tiny: ModuleType) -> None:
    made = tiny.tokenizer()
    made.add_special_tokens({"extra_special_tokens": ["<a><b>", "<b><c>"]}, replace_extra_special_tokens=False)
    text = controls(made, "").escape("<a><b><c>", "#")
    assert text.replace("#", "") == "<a><b><c>"
    assert not any(control in text for control in ("<a><b>", "<b><c>"))


def test_a_token_that_the_template_puts_together_from_parts(tiny: ModuleType) -> None:
    made = tiny.tokenizer()
    made.add_tokens([AddedToken("<|user|>", normalized=False), AddedToken("<|assistant|>", normalized=False)])
    made.chat_template = (
        "{% for message in messages %}{{ '<|' + message.role + '|>' + message.content + '<|im_end|>' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
    )
    assert "<|user|>" in control_tokens(made)


def test_look_alikes_that_a_normaliser_makes_controls(tiny: ModuleType) -> None:
    made = tiny.tokenizer()
    made.backend_tokenizer.normalizer = normalizers.NFKC()
    made.add_special_tokens(
        {"extra_special_tokens": [AddedToken("<stop>", normalized=True, special=True)]},
        replace_extra_special_tokens=False,
    )
    stop = made.convert_tokens_to_ids("<stop>")
    disguised = "＜stop＞"
    assert stop in made(disguised, add_special_tokens=False)["input_ids"]
    turns = (Message("user", disguised), Message("assistant", "no"))
    (segment,) = render(Conversation(turns), made).segments
    assert stop not in segment.token_ids


def test_a_control_of_one_character_cannot_be_typed(tiny: ModuleType) -> None:
    made = tiny.tokenizer()
    made.add_special_tokens({"extra_special_tokens": ["§"]}, replace_extra_special_tokens=False)
    turns = (Message("user", "see § 4"), Message("assistant", "yes"))
    with pytest.raises(DataError, match=r"^a.jsonl:1: the text holds '§', which this tokenizer can only write as"):
        render(Conversation(turns, "a.jsonl:1"), made)


def test_the_mark_is_a_free_one() -> None:
    assert free_mark([]) == MARKS[0]
    assert free_mark([f"a{MARKS[0]}", MARKS[1]]) == MARKS[2]
    with pytest.raises(DataError, match=r"U\+E000 to U\+E003"):
        free_mark(list(MARKS))
