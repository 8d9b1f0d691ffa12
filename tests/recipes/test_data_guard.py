"""What stops a training verb before its first step, and what only warns."""

from types import ModuleType
from typing import Any

import pytest

from posttrain.data.prepare import Prepared, prepare_records
from posttrain.errors import DataError
from posttrain.recipes.data_guard import guard
from posttrain.types import Conversation, Document, Message, Preference, Record

TOPICS = ("rivers", "bread", "chess", "glass", "moths", "violins", "tides", "paper", "salt", "kites", "clocks", "ferns")


def chat(question: str, answer: str, line: int = 1) -> Conversation:
    return Conversation((Message("user", question), Message("assistant", answer)), f"rows.jsonl:{line}")


def clean() -> list[Record]:
    rows = enumerate(TOPICS, 1)
    return [chat(f"What of {t}, number {i}?", f"{t.title()} are {t[::-1]}, {i * i} of them.", i) for i, t in rows]


def with_row(line: int, question: str, answer: str) -> list[Record]:
    rows = clean()
    rows[line - 1] = chat(question, answer, line)
    return rows


@pytest.fixture(scope="module")
def tokenizer(tiny: ModuleType) -> Any:
    return tiny.tokenizer()


def look(records: list[Record], tokenizer: Any, mode: str = "refuse", **more: Any) -> tuple[list[str], list[str]]:
    """(codes of findings that are no pass, lines that were said)"""
    shape = {key: more.pop(key) for key in ("max_length", "prompt_weight", "truncation") if key in more}
    prepared: Prepared = prepare_records(records, tokenizer, **({"max_length": 1024} | shape))
    lines: list[str] = []
    weight = shape.get("prompt_weight", 0.0)
    found = guard(prepared.store, tokenizer, mode=mode, say=lines.append, prompt_weight=weight, **more)
    return [finding.code for finding in found if finding.level != "pass"], lines


@pytest.mark.parametrize("weight", [0.0, 0.1, 1.0])
def test_clean_rows_pass_in_silence(tokenizer: Any, weight: float) -> None:
    assert look(clean(), tokenizer, prompt_weight=weight) == ([], [])


def test_documents_pass_in_silence(tokenizer: Any) -> None:
    rows: list[Record] = [
        Document(f"A text of {t} that ends (without an end", f"t.txt:{i}") for i, t in enumerate(TOPICS, 1)
    ]
    assert look(rows, tokenizer) == ([], [])


@pytest.mark.parametrize(
    ("code", "answer"),
    [
        ("mojibake", "It doesn\u00e2\u20ac\u2122t matter."),
        ("control_character", "A bell\x07 rang."),
        ("replacement_character", "Caf\ufffd au lait."),
        ("byte_order_mark", "Joined.\ufeffTwice."),
        ("unclosed", "Use this:\n```python\nprint(7)\n"),
    ],
)
def test_a_fault_of_the_text_is_said_in_one_line(tokenizer: Any, code: str, answer: str) -> None:
    codes, lines = look(with_row(7, "And seven?", answer), tokenizer)
    assert codes == [code]
    (line,) = lines
    assert line.startswith("warning: ")
    assert "rows.jsonl:7: " in line
    assert "\n" not in line


def test_every_answer_of_a_conversation_is_looked_at_alone(tokenizer: Any) -> None:
    said = ("user", "Call it."), ("assistant", '{"name": "it"}'), ("user", "And?"), ("assistant", "It rang.")
    turns = tuple(Message(role, text) for role, text in said)
    rows: list[Record] = [*clean()[1:], Conversation(turns, "rows.jsonl:12")]
    assert look(rows, tokenizer) == ([], [])
    codes, _ = look(
        [*rows, Conversation((*turns[:3], Message("assistant", '{"name": "i')), "rows.jsonl:13")], tokenizer
    )
    assert codes == ["unclosed"]


def test_copies_are_said(tokenizer: Any) -> None:
    codes, lines = look([*clean(), chat("What of rivers, number 1?", "Rivers are srevir, 1 of them.", 13)], tokenizer)
    assert codes == ["exact_duplicates"]
    assert "1 of 13 rows" in lines[0]
    assert "rows.jsonl:13: " in lines[0]


def test_answers_that_lose_their_end(tokenizer: Any) -> None:
    long = [chat(f"Tell of {t}.", f"{t} " * 60 + f"{i}.", i) for i, t in enumerate(TOPICS, 1)]
    codes, lines = look([*clean()[:8], *long[:4]], tokenizer, max_length=100)
    assert codes == ["truncated"]
    assert "4 of 12 rows" in lines[0]
    with pytest.raises(DataError, match="9 of 12 rows") as raised:
        look([*clean()[:3], *long[3:]], tokenizer, max_length=100)
    for words in ("raise max_length", "posttrain doctor", "data_checks: warn"):
        assert words in str(raised.value)


def test_rows_that_were_left_out_for_their_length_count(tokenizer: Any) -> None:
    assert look(clean(), tokenizer, num_too_long=0) == ([], [])
    codes, lines = look(clean(), tokenizer, num_too_long=4)
    assert codes == ["lost"]
    assert "4 of 16 rows (25 %)" in lines[0]
    with pytest.raises(DataError, match="13 of 25 rows"):
        look(clean(), tokenizer, num_too_long=13)


def test_what_refuses_is_only_said_where_that_is_asked_for(tokenizer: Any) -> None:
    same: list[Record] = [chat(f"What of {t}?", "Yes.", i) for i, t in enumerate(TOPICS, 1)]
    with pytest.raises(DataError, match="one and the same answer"):
        look(same, tokenizer)
    codes, lines = look(same, tokenizer, mode="warn")
    assert codes == ["same_answer"]
    assert len(lines) == 1
    assert look(same, tokenizer, mode="off") == ([], [])


def test_every_refusal_is_named(tokenizer: Any) -> None:
    same: list[Record] = [chat(f"{t} " * 60, "Yes yes yes yes yes yes yes.", i) for i, t in enumerate(TOPICS, 1)]
    held = prepare_records(same, tokenizer, max_length=1024).store
    with pytest.raises(DataError) as raised:
        look(same, tokenizer, held_out=held)
    assert "(1)" in str(raised.value)
    assert "(2)" in str(raised.value)


def test_held_out_rows_that_are_trained_on(tokenizer: Any) -> None:
    apart = [chat(f"Where are {t}?", f"Over {t[::-1]}.", i) for i, t in enumerate(TOPICS, 1)]
    leaked = [*apart[1:], chat("WHAT of rivers,  number 1?", "Something else.", 1)]
    held = prepare_records(leaked, tokenizer, max_length=1024).store
    codes, lines = look(clean(), tokenizer, held_out=held)
    assert codes == ["leaked_prompts"]
    assert "1 of 12 rows" in lines[0]
    assert look(clean(), tokenizer, held_out=prepare_records(apart, tokenizer, max_length=1024).store) == ([], [])
    with pytest.raises(DataError, match="held-out rows"):
        look(clean(), tokenizer, held_out=prepare_records(clean(), tokenizer, max_length=1024).store)


def test_answers_that_were_compared_are_looked_at_one_by_one(tokenizer: Any) -> None:
    def pair(number: int, topic: str, bad: str) -> Record:
        asked, good = Message("user", f"{number}: tell me of {topic}"), Message("assistant", f"It is {topic}.")
        return Preference((asked,), (good,), (Message("assistant", bad),), f"f:{number}")

    clean = [pair(number, topic, f"No word about {topic}.") for number, topic in enumerate(TOPICS, 1)]
    store = prepare_records(clean, tokenizer, max_length=256, kind="pairs").store
    lines: list[str] = []
    guard(store, tokenizer, mode="refuse", say=lines.append)
    assert not lines
    broken = [pair(number, topic, f"\ufffd {topic} \ufffd") for number, topic in enumerate(TOPICS, 1)]
    store = prepare_records(broken, tokenizer, max_length=256, kind="pairs").store
    guard(store, tokenizer, mode="refuse", say=lines.append)
    assert any(f"{len(TOPICS)} of {2 * len(TOPICS)} rows" in line for line in lines), lines
