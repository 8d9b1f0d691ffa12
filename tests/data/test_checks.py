"""A small broken data set for every check: each is caught with file, line and mend, and its clean twin passes."""

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from posttrain.data.checks import check_records, check_samples, check_template
from posttrain.data.findings import Finding, example, judge, split_answer, verdict
from posttrain.data.layouts import parse_row
from posttrain.data.template import control_tokens, render_document, render_many, stop_token_ids
from posttrain.data.text_checks import cut_at_a_limit, encoding_faults, unclosed
from posttrain.errors import DataError
from posttrain.types import Conversation, Document, Message, Preference, Rating, Record, Sample, Segment, ToolCall

Row = dict[str, Any]
Rows = list[Row]

TOPICS = ("rivers", "bread", "chess", "glass", "moths", "violins", "tides", "paper", "salt", "kites", "clocks", "ferns")
LINE = 7  # where a fault is put, among twelve rows
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}


def said(role: str, content: str, **more: Any) -> Row:
    return {"role": role, "content": content, **more}


def asked(question: str, answer: str = "It is as you say.") -> Row:
    return {"messages": [said("user", question), said("assistant", answer)]}


def question(place: int) -> str:
    return f"Tell me one thing about {TOPICS[place]}, please; number {place}."


def clean() -> Rows:
    """Twelve questions with answers that are unlike each other."""
    answers = [f"{t.title()} number {i} is {'very ' * (i % 4)}{t[::-1]}-like {i}." for i, t in enumerate(TOPICS)]
    return [asked(question(place), answer) for place, answer in enumerate(answers)]


def row(wrong: Row, others: Rows | None = None) -> Rows:
    """The clean rows with another on line 7."""
    rows = others or clean()
    return [*rows[: LINE - 1], wrong, *rows[LINE:]]


def answer(text: str) -> Rows:
    return row(asked("What do you know of the thing called seven?", text))


def turns(*messages: Row, **fields: Any) -> Rows:
    return row({"messages": list(messages), **fields})


def call(name: str = "weather", arguments: str = "{}") -> Row:
    function = {"name": name, "arguments": arguments}
    return said("assistant", "", tool_calls=[{"type": "function", "id": "c1", "function": function}])


USER, ANSWER = said("user", "How is the weather at seven?"), said("assistant", "It is fair.")
RESULT = said("tool", "fair", tool_call_id="c1")
LONG = "One two three four five six seven, and then eight and nine and ten, and eleven after that"
DECLINED = [asked(question(i), f"I'm sorry, but I can't help with {t}.") for i, t in enumerate(TOPICS)]
CUT = [asked(question(i), (f"{t} {t[::-1]} " * 40)[:300] + " an") for i, t in enumerate(TOPICS)]

# code of the check, the level it gives one row of twelve, and the rows with a fault on line 7
TEXT_FAULTS: list[tuple[str, str, Rows]] = [
    ("system_not_first", "warn", turns(USER, said("system", "Be brief."), ANSWER)),
    ("user_twice", "warn", turns(USER, said("user", "Well?"), ANSWER)),
    ("assistant_twice", "warn", turns(USER, ANSWER, said("assistant", "Quite fair."))),
    ("starts_with_assistant", "warn", turns(said("assistant", "Hello."), USER, ANSWER)),
    ("ends_with_question", "warn", turns(USER, ANSWER, said("user", "And at eight?"))),
    ("result_without_call", "warn", turns(USER, RESULT, ANSWER, tools=[TOOL])),
    ("call_without_result", "warn", turns(USER, call(), said("user", "Well?"), ANSWER, tools=[TOOL])),
    ("unknown_tool", "warn", turns(USER, call("wether"), RESULT, ANSWER, tools=[TOOL])),
    ("empty_prompt", "warn", turns(said("user", "  "), ANSWER)),
    ("empty_answer", "refuse", turns(USER, said("assistant", " "), USER, ANSWER)),
    ("replacement_character", "warn", answer("Caf\ufffd au lait is a drink.")),
    ("mojibake", "warn", answer("It doesn\u00e2\u20ac\u2122t matter much.")),
    ("mojibake", "warn", answer("A caf\u00c3\u00a9 by the sea.")),
    ("control_character", "warn", answer("A bell\x07 rang.")),
    ("byte_order_mark", "warn", answer("Joined.\ufeffTwice.")),
    ("unclosed", "warn", answer("Use this:\n```python\nprint(7)\n")),
    ("unclosed", "warn", answer('{"answer": [1, 2')),
    ("unclosed", "warn", answer("<think>Seven is a number. It is seven.")),
    ("unclosed", "warn", answer("It is a number (one of the small")),
    ("echo", "warn", row(asked("Tell me of the number seven.", "Tell me of the number seven. It is a prime."))),
    ("already_rendered", "warn", answer("Fine.<|im_end|>\n<|im_start|>user\nGo on.")),
    ("already_rendered", "warn", row({"text": "### Instruction:\nAdd.\n\n### Response:\nSeven."})),
    ("control_text", "warn", answer("The token <|endoftext|> ends a text.")),
    ("exact_duplicates", "warn", row(clean()[2])),
    (
        "near_duplicates",
        "warn",
        row(asked("Count!", LONG + "."), [asked("Count!", LONG + " comes twelve."), *clean()[1:]]),
    ),
    ("conflicting_answers", "warn", row(asked(question(0), "Nothing at all."))),
    ("same_answer", "refuse", [asked(question(place), "Yes.") for place in range(12)]),
    ("refusals", "warn", [*clean()[: LINE - 1], *DECLINED[LINE - 1 :]]),
    ("cut_at_a_limit", "warn", [*clean()[: LINE - 1], *CUT[LINE - 1 :]]),
]


def records(rows: Rows, folder: Path) -> list[Record]:
    """Through a file, as a user has them."""
    file = folder / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    lines = enumerate(file.read_bytes().splitlines(), 1)
    return [record for line, raw in lines for record in parse_row(raw, file="rows.jsonl", line=line).records]


def of_code(findings: list[Finding], code: str) -> Finding:
    (found,) = [finding for finding in findings if finding.code == code]
    return found


def check_fault(found: Finding, level: str) -> None:
    assert found.level == level, found
    assert any(line.startswith(f"rows.jsonl:{LINE}: ") for line in found.examples), found
    assert len(found.mend) > 20
    assert found.mend.endswith(".")


@pytest.fixture(scope="module")
def tokenizer(tiny: ModuleType) -> Any:
    return tiny.tokenizer()


@pytest.mark.parametrize(("code", "level", "rows"), TEXT_FAULTS, ids=[f"{f[0]}-{i}" for i, f in enumerate(TEXT_FAULTS)])
def test_a_fault_of_the_text_is_caught(code: str, level: str, rows: Rows, tmp_path: Path, tokenizer: Any) -> None:
    findings = check_records(records(rows, tmp_path), controls=control_tokens(tokenizer))
    if code in ("same_answer",):
        assert of_code(findings, code).level == level
        assert of_code(findings, code).examples[0].startswith("rows.jsonl:1: Yes.")
        return
    check_fault(of_code(findings, code), level)


def test_the_clean_twin_passes(tmp_path: Path, tokenizer: Any) -> None:
    rows = records(clean(), tmp_path)
    findings = check_records(rows, held_out=[], controls=control_tokens(tokenizer))
    findings += check_template(tokenizer) + check_samples(render_many(rows, tokenizer), **how(tokenizer))
    assert [finding for finding in findings if finding.level != "pass"] == []
    assert verdict(findings) == "pass"
    assert {code for code, _, _ in TEXT_FAULTS} <= {finding.code for finding in findings}


@pytest.mark.parametrize("arguments", ["[7]", '{"at": ', "seven"])
def test_arguments_that_no_reader_would_take(arguments: str) -> None:
    asks = Message("assistant", "", tool_calls=(ToolCall("weather", arguments, "c1"),))
    messages = (Message("user", "Now?"), asks, Message("tool", "fair"), Message("assistant", "It is fair."))
    row = Conversation(messages, f"rows.jsonl:{LINE}", (TOOL,))
    check_fault(of_code(check_records([row]), "bad_arguments"), "refuse")


def test_good_tool_use_passes(tmp_path: Path) -> None:
    rows = turns(USER, call(arguments='{"at": 7}'), RESULT, ANSWER, tools=[TOOL])
    assert verdict(check_records(records(rows, tmp_path))) == "pass"


def how(tokenizer: Any, max_length: int = 1024) -> dict[str, Any]:
    return {"max_length": max_length, "stop_ids": stop_token_ids(tokenizer), "begin_id": tokenizer.bos_token_id}


# What rendering cannot produce, and a store that somebody else made, or a template to come, may.
STOP, BEGIN = 9, 1


def sample(ids: list[int], weights: list[float], line: int = LINE) -> Sample:
    return Sample((Segment(tuple(ids), tuple(weights)),), f"rows.jsonl:{line}")


GOOD = sample([BEGIN, 5, 6, 7, STOP], [0, 0, 0, 1, 1], 1)
TREE = (
    Segment((BEGIN, 5), (0, 0)),
    Segment((6, 7, STOP), (1, 1, 1), 0),
    Segment((8, 8, 8), (0, 1, 1), 0),
)
TOKEN_FAULTS = [
    ("all_masked", "refuse", sample([BEGIN, 5, 6, STOP], [0, 0, 0, 0])),
    ("truncated", "warn", sample([BEGIN, 5, *[6] * 10, STOP], [0, 0, *[1] * 11])),
    ("lost", "warn", sample([BEGIN, *[6] * 10, 7, STOP], [0] * 11 + [1, 1])),
    ("double_bos", "refuse", sample([BEGIN, BEGIN, 7, STOP], [0, 0, 1, 1])),
    ("double_stop", "refuse", sample([BEGIN, 5, 7, STOP, STOP], [0, 0, 1, 1, 1])),
    ("double_stop", "refuse", sample([BEGIN, 5, 7, STOP, STOP, 5], [0, 0, 1, 1, 0, 0])),
    ("untrained_stop", "refuse", sample([BEGIN, 5, 7, STOP], [0, 0, 1, 0])),
    ("untrained_stop", "refuse", sample([BEGIN, 5, 7, 6], [0, 0, 1, 1])),
    ("untrained_stop", "refuse", sample([BEGIN, 5, 7, 6, 7, STOP], [0, 1, 1, 0, 1, 1])),
    ("untrained_stop", "refuse", Sample(TREE, f"rows.jsonl:{LINE}")),
    ("template_refuses", "refuse", DataError("the template refuses this.", file=f"rows.jsonl:{LINE}")),
]


@pytest.mark.parametrize(("code", "level", "broken"), TOKEN_FAULTS)
def test_a_fault_of_the_tokens_is_caught(code: str, level: str, broken: Sample | DataError) -> None:
    rows = [GOOD, GOOD, broken]
    findings = check_samples(rows, max_length=8, stop_ids=[STOP], begin_id=BEGIN)
    check_fault(of_code(findings, code), level)
    others = [f.code for f in findings if f.level != "pass"]
    assert others == [code]


def test_sound_samples_pass() -> None:
    cut_within = Sample((TREE[0], TREE[1], Segment((6,), (1,), 0), Segment((7, STOP), (1, 1), 2)), "rows.jsonl:2")
    assert verdict(check_samples([GOOD, cut_within], max_length=8, stop_ids=[STOP], begin_id=BEGIN)) == "pass"
    # Where one token begins and ends a text, two of them stand side by side between two turns.
    both = sample([STOP, 5, 7, STOP, STOP, 5, 7, STOP], [0, 0, 1, 1, 0, 0, 1, 1])
    assert verdict(check_samples([both], max_length=8, stop_ids=[STOP], begin_id=STOP)) == "pass"


def test_truncation_is_warned_of_over_one_row_in_a_hundred_and_refused_over_half() -> None:
    long = sample([BEGIN, 5, *[6] * 10, STOP], [0, 0, *[1] * 11])
    levels = []
    for count in (1, 2, 100, 101):
        rows = [long] * count + [GOOD] * (200 - count)
        levels.append(of_code(check_samples(rows[:200], max_length=8, stop_ids=[STOP]), "truncated").level)
    assert levels == ["pass", "pass", "warn", "refuse"]


def test_prompts_that_dwarf_answers() -> None:
    row = sample([BEGIN, *[5] * 97, 7, STOP], [0] * 98 + [1, 1])
    found = of_code(check_samples([row], max_length=100, stop_ids=[STOP]), "dwarfed_answers")
    assert found.level == "warn"
    assert "2 % of 100 tokens" in found.message


def test_leaks_are_found_exactly_and_nearly(tmp_path: Path) -> None:
    train = records([*clean()[:-1], asked("Count!", LONG + ".")], tmp_path)
    held = records([asked(question(3).upper(), "Another answer."), asked("Count?", LONG + "?")], tmp_path)
    findings = check_records(train, held_out=held)
    assert of_code(findings, "leaked_prompts").level == "refuse"
    assert of_code(findings, "leaked_prompts").examples[0].startswith("rows.jsonl:1: like line 4: ")
    assert of_code(findings, "leaked_nearly").level == "warn"
    assert of_code(findings, "leaked_nearly").examples[0].startswith("rows.jsonl:2: like line 12: ")
    apart = records([asked("Who is there?", "Nobody at all is there.")], tmp_path)
    findings = check_records(train, held_out=apart)
    assert of_code(findings, "leaked_prompts").level == of_code(findings, "leaked_nearly").level == "pass"


def pair(line: int, good: str, bad: str, prompt: str = "") -> Preference:
    turn = (Message("user", prompt or f"Question {line} of the pairs?"),)
    return Preference(turn, (Message("assistant", good),), (Message("assistant", bad),), f"rows.jsonl:{line}")


def balanced() -> list[Preference]:
    return [pair(i, f"Good {i}{' indeed' * (i % 2)}.", f"Bad {i}{' indeed' * (1 - i % 2)}.") for i in range(1, 41)]


def test_balanced_pairs_pass() -> None:
    assert verdict(check_records(balanced())) == "pass"


@pytest.mark.parametrize(
    ("code", "wrong"),
    [
        ("tied_pairs", pair(7, "Same.", "Same.")),
        ("contradicting_pairs", pair(7, "Bad 3.", "Good 3 indeed.", "Question 3 of the pairs?")),
    ],
)
def test_a_fault_of_pairs_is_caught(code: str, wrong: Preference) -> None:
    rows = balanced()
    rows[LINE - 1] = wrong
    if code == "contradicting_pairs":
        assert (rows[2].chosen[0].content, rows[2].rejected[0].content) == ("Good 3 indeed.", "Bad 3.")
    check_fault(of_code(check_records(rows), code), "warn")


def test_a_bias_to_length_is_measured() -> None:
    rows = [pair(i, f"Good {i} and longer.", f"Bad {i}.") for i in range(1, 33)]
    rows += [pair(i, f"Good {i}.", f"Bad {i} and longer.") for i in range(33, 41)]
    found = of_code(check_records(rows), "length_bias")
    assert found.level == "warn"
    # Wilson's interval of 32 in 40: (0.8 + 0.048 ± 1.96 sqrt(0.004 + 0.0006)) / 1.096, by hand.
    assert "32 of 40 pairs (80 %, 95 % interval 65 to 90 %)" in found.message
    assert of_code(check_records(rows[:10]), "length_bias").level == "pass"


def ratings(good: int, bad: int) -> list[Rating]:
    scores = [1.0] * good + [0.0] * bad
    turn = [(Message("user", f"Question {i}?"),) for i in range(len(scores))]
    answers = [(Message("assistant", f"Answer {i} is {i * i}."),) for i in range(len(scores))]
    return [Rating(turn[i], answers[i], score, f"rows.jsonl:{i + 1}") for i, score in enumerate(scores)]


@pytest.mark.parametrize(
    ("good", "bad", "level"), [(10, 10, "pass"), (18, 2, "pass"), (19, 1, "warn"), (20, 0, "refuse")]
)
def test_labels_are_balanced(good: int, bad: int, level: str) -> None:
    found = of_code(check_records(ratings(good, bad)), "label_balance")
    assert found.level == level
    assert bool(found.mend) == (level != "pass")


def test_rows_that_could_not_be_read_refuse(tmp_path: Path) -> None:
    findings = check_records(records(clean(), tmp_path), skipped=[("rows.jsonl:7", "this is not JSON.")])
    check_fault(of_code(findings, "unreadable"), "refuse")


def test_rows_left_out_are_told(tmp_path: Path) -> None:
    found = of_code(check_records(records(clean(), tmp_path), left_out={"a prompt without an answer": 7}), "left_out")
    assert found.level == "warn"
    assert "7 of 12 rows (58 %): 7 a prompt without an answer" in found.message


def test_templates_are_looked_at(tiny: ModuleType) -> None:
    from posttrain.data.template import install_template

    plain = tiny.tokenizer(template=False)
    install_template(plain, "alpaca")
    assert of_code(check_template(plain), "plain_roles").level == "warn"
    unmarked = tiny.tokenizer(template=False)
    unmarked.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    assert verdict(check_template(unmarked)) == "refuse"


def test_a_tokenizer_that_adds_what_the_template_writes(tiny: ModuleType) -> None:
    from tokenizers.processors import TemplateProcessing

    made = tiny.tokenizer(bos=True)
    assert of_code(check_template(made), "tokenizer_adds_bos").level == "pass"
    begin = made.bos_token
    made.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{begin} $A", special_tokens=[(begin, made.bos_token_id)]
    )
    found = of_code(check_template(made), "tokenizer_adds_bos")
    assert found.level == "warn"
    assert "add_special_tokens=False" in found.mend


def test_documents_are_not_chats(tokenizer: Any) -> None:
    rows = [Document("Plain text that goes on and on (without end", "rows.txt:1")]
    assert verdict(check_records(rows)) == "pass"
    assert render_document(rows[0], tokenizer).num_trained > 5


@pytest.mark.parametrize(
    "text",
    [
        "",
        "plain",
        "naïve façade",
        "René——?",
        "CAFÉ’s",
        "Spaß«",
        "MENÜ…",
        "à «",
        "«Où ?»",
        "Äpfel – und Öl",
        "NÃO",
        "£5 â",
        "日本語\n",
        "emoji 🙂",
        "tab\tand\nline",
    ],
)
def test_good_text_has_no_encoding_fault(text: str) -> None:
    assert list(encoding_faults(text)) == []


def test_half_a_pair_is_refused() -> None:
    row = Conversation((Message("user", "Why?"), Message("assistant", "So \ud83d it is.")), "rows.jsonl:7")
    check_fault(of_code(check_records([row]), "lone_surrogate"), "refuse")


@pytest.mark.parametrize(
    "text", ["Done.", "a (b) c", ":-( no", "1) one 2) two", "`x`", '{"a": "}"}', "```\nx\n```", "[see this]"]
)
def test_finished_answers_are_closed(text: str) -> None:
    assert unclosed(text) == ""


def test_long_answers_that_end_are_no_crowd() -> None:
    answers = [f"{'word ' * (place % 40)}and done." for place in range(400)]
    assert cut_at_a_limit(answers) == []
    assert cut_at_a_limit([]) == []
    # Code and titles that never end in a full stop, at whatever length, are not cut either.
    assert cut_at_a_limit([("word " * (place % 40)).strip() + "x" for place in range(400)]) == []


def test_answers_are_parted_from_prompts() -> None:
    turns = tuple(
        Message(role, role) for role in ("system", "user", "assistant", "user", "assistant", "tool", "assistant")
    )
    prompt, reply = split_answer(turns)
    assert (len(prompt), len(reply)) == (4, 3)
    assert split_answer(turns[:2]) == (turns[:2], ())


def test_levels_follow_shares() -> None:
    from posttrain.data.findings import Fault

    fault = Fault("odd rows", "mend them.", 0.01, 0.5)
    assert [judge("odd", fault, count, 100).level for count in (0, 1, 2, 50, 51)] == [
        "pass",
        "pass",
        "warn",
        "warn",
        "refuse",
    ]


def test_examples_fit_on_a_line() -> None:
    shown = example("a.jsonl:3", "x" * 500 + "\n\x07HERE" + "y" * 500, around=500)
    assert "\n" not in shown
    assert "HERE" in shown
    assert len(shown) < 100
