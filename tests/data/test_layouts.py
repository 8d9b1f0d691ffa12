"""Every layout that is recognised, what becomes of its fields, the column mapping, and what is said of bad rows."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from posttrain.data.layouts import LAYOUTS, OURS, Parsed, parse_row
from posttrain.data.trees import best_path, gathered
from posttrain.errors import DataError
from posttrain.types import (
    Conversation,
    Document,
    Message,
    MessageTree,
    Preference,
    Principle,
    Prompt,
    Ranking,
    Rating,
    ToolCall,
    Turn,
)

ASK, SAY = Message("user", "Where?"), Message("assistant", "Here.")
U, A = {"role": "user", "content": "Where?"}, {"role": "assistant", "content": "Here."}
B = {"role": "assistant", "content": "There."}
SYSTEM = Message("system", "Be brief.")
FIND = {"name": "find", "parameters": {"type": "object", "properties": {"place": {"type": "string"}}}}
TOOLS = ({"type": "function", "function": FIND},)


def parse(row: Any, **columns: str) -> Parsed:
    raw = row if isinstance(row, bytes) else json.dumps(row).encode()
    return parse_row(raw, file="a.jsonl", line=7, columns=columns or None)


def one(row: Any, **columns: str) -> Any:
    (record,) = parse(row, **columns).records
    return record


def turns(record: Any) -> list[tuple[str, str]]:
    assert isinstance(record, Conversation)
    return [(message.role, message.content) for message in record.messages]


def chat(*said: tuple[str, str]) -> tuple[Message, ...]:
    return tuple(Message(role, content) for role, content in said)


# (a row, the name of its layout, its records)
ROWS: list[tuple[dict[str, Any], str, list[Any]]] = [
    ({"messages": [U, A], "id": 3}, "messages", [Conversation((ASK, SAY), "a.jsonl:7")]),
    ({"conversations": [U, A]}, "messages", [Conversation((ASK, SAY), "a.jsonl:7")]),
    ({"conversation": [U, A]}, "messages", [Conversation((ASK, SAY), "a.jsonl:7")]),
    (
        {
            "conversations": [{"from": "human", "value": "Where?"}, {"from": "gpt", "value": "Here."}],
            "system": "Be brief.",
        },
        "ShareGPT",
        [Conversation((SYSTEM, ASK, SAY), "a.jsonl:7")],
    ),
    ({"instruction": "Where?", "output": "Here."}, "Alpaca", [Conversation((ASK, SAY), "a.jsonl:7")]),
    (
        {"instruction": "Add.", "input": "1 1", "output": "2", "history": [["a", "b"]], "system": "Be brief."},
        "Alpaca",
        [
            Conversation(
                (SYSTEM, *chat(("user", "a"), ("assistant", "b"), ("user", "Add.\n\n1 1"), ("assistant", "2"))),
                "a.jsonl:7",
            )
        ],
    ),
    (
        {"instruction": "Add.", "context": "1 1", "response": "2", "category": "x"},
        "Alpaca",
        [Conversation(chat(("user", "Add.\n\n1 1"), ("assistant", "2")), "a.jsonl:7")],
    ),
    ({"prompt": "Where?", "completion": "Here."}, "prompt/completion", [Conversation((ASK, SAY), "a.jsonl:7")]),
    ({"prompt": "Where?", "response": "Here."}, "prompt/completion", [Conversation((ASK, SAY), "a.jsonl:7")]),
    ({"prompt": [U], "completion": [A]}, "prompt/completion", [Conversation((ASK, SAY), "a.jsonl:7")]),
    ({"prompt": [U], "completion": "Here."}, "prompt/completion", [Conversation((ASK, SAY), "a.jsonl:7")]),
    ({"prompt": "Where?", "chosen": "Here.", "rejected": "There."}, "preference", []),
    ({"prompt": [U], "chosen": [A], "rejected": [B]}, "preference", []),
    ({"prompt": "Where?", "chosen": [U, A], "rejected": [U, B], "messages": [U, A]}, "preference", []),
    ({"prompt": [U], "chosen": [U, A], "rejected": [U, B]}, "preference", []),
    ({"question": "Where?", "chosen": "Here.", "rejected": "There."}, "preference", []),
    ({"instruction": "Where?", "input": "", "chosen": "Here.", "rejected": "There."}, "preference", []),
    (
        {
            "conversations": [{"from": "human", "value": "Where?"}],
            "chosen": {"from": "gpt", "value": "Here."},
            "rejected": B,
        },
        "preference",
        [],
    ),
    ({"question": "Where?", "response_j": "Here.", "response_k": "There."}, "preference", []),
    ({"prompt": "\n\nHuman: Where?\n\nAssistant:", "chosen": " Here.", "rejected": " There."}, "preference", []),
    ({"chosen": [U, A], "rejected": [U, B]}, "preference with implicit prompt", []),
    ({"chosen": "Where?\nHere.", "rejected": "Where?\nThere."}, "preference with implicit prompt", []),
    ({"chosen": "Where? Here.", "rejected": "Where? There."}, "preference with implicit prompt", []),
    (
        {"chosen": "\n\nHuman: Where?\n\nAssistant: Here.", "rejected": "\n\nHuman: Where?\n\nAssistant: There."},
        "HH-RLHF transcripts",
        [],
    ),
    (
        {"prompt": "Where?", "completion": "Here.", "label": True},
        "KTO labels",
        [Rating((ASK,), (SAY,), 1.0, "a.jsonl:7")],
    ),
    ({"messages": [U, A], "label": False}, "KTO labels", [Rating((ASK,), (SAY,), 0.0, "a.jsonl:7")]),
    ({"conversations": [U, A], "kto_tag": "false"}, "KTO labels", [Rating((ASK,), (SAY,), 0.0, "a.jsonl:7")]),
    (
        {"instruction": "Where?", "output": "Here.", "label": 0.25},
        "KTO labels",
        [Rating((ASK,), (SAY,), 0.25, "a.jsonl:7")],
    ),
    ({"prompt": "Where?", "response": "Here.", "label": "1"}, "KTO labels", [Rating((ASK,), (SAY,), 1.0, "a.jsonl:7")]),
    (
        {"question": "2+2", "answer": "4\n#### 4"},
        "question/answer",
        [Conversation(chat(("user", "2+2"), ("assistant", "4\n#### 4")), "a.jsonl:7")],
    ),
    (
        {"problem": "2+2", "solution": "4"},
        "question/answer",
        [Conversation(chat(("user", "2+2"), ("assistant", "4")), "a.jsonl:7")],
    ),
    (
        {
            "question": "2+2",
            "ground_truth": "4",
            "big": {"is_correct": True, "solution": "4"},
            "small": {"is_correct": False, "solution": "5"},
        },
        "sampled solutions",
        [
            Rating(chat(("user", "2+2")), chat(("assistant", "4")), 1.0, "a.jsonl:7"),
            Rating(chat(("user", "2+2")), chat(("assistant", "5")), 0.0, "a.jsonl:7"),
        ],
    ),
    ({"inputs": "Where?", "targets": "Here."}, "T0/FLAN", [Conversation((ASK, SAY), "a.jsonl:7")]),
    ({"input": "Where?", "target": "Here."}, "T0/FLAN", [Conversation((ASK, SAY), "a.jsonl:7")]),
    (
        {"inputs": [1, 2], "targets": [3], "inputs_pretokenized": "Where?\n", "targets_pretokenized": "\nHere."},
        "T0/FLAN",
        [Conversation((ASK, SAY), "a.jsonl:7")],
    ),
    ({"input": "Where?", "output": "Here."}, "input/output", [Conversation((ASK, SAY), "a.jsonl:7")]),
    (
        {
            "instruction": "Add.",
            "instances": [{"input": "1 1", "output": "2"}, {"input": "", "output": "0"}, {"input": "3", "output": " "}],
        },
        "self-instruct",
        [
            Conversation(chat(("user", "Add.\n\n1 1"), ("assistant", "2")), "a.jsonl:7"),
            Conversation(chat(("user", "Add."), ("assistant", "0")), "a.jsonl:7"),
            Prompt(chat(("user", "Add.\n\n3")), "a.jsonl:7"),
        ],
    ),
    ({"prompt": "Where?", "type": "safe"}, "prompt", [Prompt((ASK,), "a.jsonl:7", fields={"type": "safe"})]),
    ({"messages": [U], "id": 1}, "messages", [Prompt((ASK,), "a.jsonl:7", fields={"id": 1})]),
    ({"prompt": [U], "answer": 51.0}, "prompt", [Prompt((ASK,), "a.jsonl:7", answer="51", fields={"answer": 51.0})]),
    (
        {
            "Question": "Where?",
            "Best Answer": "Here.",
            "Correct Answers": "Here; Not there",
            "Incorrect Answers": "There;",
            "Type": "x",
        },
        "TruthfulQA",
        [
            Prompt(
                (ASK,),
                "a.jsonl:7",
                answer="Here.",
                fields={"Type": "x", "correct": ["Here", "Not there"], "incorrect": ["There"]},
            )
        ],
    ),
    (
        {"Body": "Ann has 3. ", "Question": "How many?", "Answer": 3.5, "ID": "a"},
        "SVAMP",
        [Prompt(chat(("user", "Ann has 3. How many?")), "a.jsonl:7", answer="3.5", fields={"ID": "a"})],
    ),
    (
        {
            "task_id": "h/0",
            "prompt": "def f():",
            "entry_point": "f",
            "test": "assert f()",
            "canonical_solution": " pass",
        },
        "HumanEval",
        [
            Prompt(
                chat(("user", "def f():")),
                "a.jsonl:7",
                answer=" pass",
                fields={"task_id": "h/0", "entry_point": "f", "test": "assert f()", "canonical_solution": " pass"},
            )
        ],
    ),
    ({"goal": "Where?", "target": "Sure"}, "AdvBench", [Prompt((ASK,), "a.jsonl:7", fields={"target": "Sure"})]),
    (
        {"critic": "What is wrong?", "revision": "Mend it."},
        "principle",
        [Principle("What is wrong?", "Mend it.", "a.jsonl:7")],
    ),
    ({"text": "Once."}, "text", [Document("Once.", "a.jsonl:7")]),
    ({"content": "Once.", "url": "x"}, "text", [Document("Once.", "a.jsonl:7")]),
]
# Every pair above is the same pair.
PAIR = [Preference((ASK,), (SAY,), (Message("assistant", "There."),), "a.jsonl:7")]


class TestLayouts:
    @pytest.mark.parametrize(
        ("row", "layout", "records"), ROWS, ids=[f"{i}-{name}" for i, (_, name, _) in enumerate(ROWS)]
    )
    def test_a_row(self, row: dict[str, Any], layout: str, records: list[Any]) -> None:
        parsed = parse(row)
        assert parsed.layout == layout
        assert list(parsed.records) == (records or PAIR)
        assert parsed.left_out == ""
        # A parsed row (from a table) and an undecoded line are the same row.
        assert parse_row(row, file="a.jsonl", line=7) == parsed

    def test_every_layout_is_tested(self) -> None:
        tree = {"OpenAssistant tree", "OpenAssistant messages", "ranking"}  # below
        assert {name for _, name, _ in ROWS} | tree == {layout.name for layout in LAYOUTS}

    @pytest.mark.parametrize("row", [row for row, _, records in ROWS if not records])
    def test_a_pair_is_never_an_answer_to_learn(self, row: dict[str, Any]) -> None:
        """Whatever else the row has, both answers stay a pair."""
        more = {"messages": [U, A], "text": "x", "output": "Here.", "completion": "Here.", "label": None}
        assert isinstance(one(row | {k: v for k, v in more.items() if k not in row}), Preference)

    def test_fields_without_a_value_are_not_there(self) -> None:
        """A table of several layouts gives every row every column."""
        columns = {field: None for layout in LAYOUTS for field in layout.fields if field not in ("label", "kto_tag")}
        for row, layout, records in ROWS:
            # A label or an answer that is null is a hole, see below.
            if layout not in ("KTO labels", "prompt"):
                assert parse_row(columns | row, file="a.jsonl", line=7).layout == layout, row
                assert len(parse_row(columns | row, file="a.jsonl", line=7).records) == max(1, len(records))

    @pytest.mark.parametrize("field", ["completion", "label"])
    def test_half_a_layout_with_null_is_broken_rather_than_another_layout(self, field: str) -> None:
        row = {"prompt": "a", "completion": "b", "label": True} | {field: None}
        with pytest.raises(DataError, match="null") as caught:
            parse(row)
        assert caught.value.field == field


class TestMessages:
    def test_a_call_and_its_result(self) -> None:
        call = {"id": "c1", "type": "function", "function": {"name": "find", "arguments": '{"place":  "Paris"}'}}
        said = {"role": "assistant", "content": None, "tool_calls": [call], "reasoning_content": "Look it up."}
        back = {"role": "tool", "tool_call_id": "c1", "name": "find", "content": "48.9 N"}
        record = one({"messages": [U, said, back, A], "tools": [FIND]})
        calls = (ToolCall("find", '{"place":  "Paris"}', "c1"),)
        assert record.messages == (
            ASK,
            Message("assistant", "", "Look it up.", calls),
            Message("tool", "48.9 N", tool_call_id="c1", name="find"),
            SAY,
        )
        assert record.tools == TOOLS

    @pytest.mark.parametrize(
        "tools",
        [
            list(TOOLS),
            [FIND],
            json.dumps(TOOLS),
            json.dumps([FIND]),
            [json.dumps(FIND)],
            [{"type": "function", **FIND}],
        ],
    )
    def test_tools_have_one_form(self, tools: Any) -> None:
        assert one({"messages": [U, A], "tools": tools}).tools == TOOLS

    @pytest.mark.parametrize("tools", [None, "", [], "[]"])
    def test_no_tools(self, tools: Any) -> None:
        assert one({"messages": [U, A], "tools": tools}).tools == ()

    @pytest.mark.parametrize(
        ("arguments", "text"),
        [({"a": "é"}, '{"a": "é"}'), ('{"a":1}', '{"a":1}'), (None, "{}"), ("", "{}"), ({}, "{}")],
    )
    def test_arguments_are_the_text_of_an_object(self, arguments: Any, text: str) -> None:
        calls = [{"function": {"name": "f", "arguments": arguments}}]
        record = one({"messages": [U, {"role": "assistant", "content": "So:", "tool_calls": calls}]})
        assert record.messages[1] == Message("assistant", "So:", tool_calls=(ToolCall("f", text),))

    def test_the_old_form_of_a_call(self) -> None:
        said = {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": "{}"}}
        record = one({"messages": [U, said, {"role": "function", "name": "f", "content": "1"}], "functions": [FIND]})
        assert record.messages[1:] == (
            Message("assistant", "", tool_calls=(ToolCall("f"),)),
            Message("tool", "1", name="f"),
        )
        assert record.tools == TOOLS

    @pytest.mark.parametrize("several", [False, True])
    def test_calls_in_sharegpt(self, several: bool) -> None:
        call = {"name": "find", "arguments": {"place": "Paris"}}
        value = json.dumps([call, {"name": "g", "arguments": "{}"}] if several else call)
        record = one(
            {
                "conversations": [
                    {"from": "human", "value": "Where?"},
                    {"from": "function_call", "value": value},
                    {"from": "observation", "value": "x"},
                    {"from": "gpt", "value": "Here."},
                ],
                "tools": json.dumps([FIND]),
            }
        )
        calls = (ToolCall("find", '{"place": "Paris"}'), *([ToolCall("g")] if several else []))
        assert record.messages == (ASK, Message("assistant", "", tool_calls=calls), Message("tool", "x"), SAY)
        assert record.tools == TOOLS

    def test_parts_of_text_are_joined(self) -> None:
        content = [
            {"type": "text", "text": "Whe"},
            {"type": "input_text", "text": "re"},
            "?",
            {"text": "", "image": None},
        ]
        assert one({"messages": [{"role": "user", "content": content}, A]}).messages[0] == ASK

    def test_a_developer_is_the_system_and_names_and_weights_stay(self) -> None:
        rows = [
            {"role": "developer", "content": "Be brief."},
            {**U, "name": "ann", "weight": None, "reasoning_content": ""},
            {**A, "weight": 0, "name": "bot", "tool_calls": []},
        ]
        record = one({"messages": rows})
        assert record.messages == (
            SYSTEM,
            Message("user", "Where?", name="ann"),
            Message("assistant", "Here.", name="bot", weight=0.0),
        )

    @pytest.mark.parametrize("key", ["reasoning_content", "reasoning", "thinking"])
    def test_reasoning(self, key: str) -> None:
        assert one({"messages": [U, {**A, key: "Hm."}]}).messages[1] == Message("assistant", "Here.", "Hm.")

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ("<think>\nHm.\n</think>\n\nHere.", Message("assistant", "Here.", "Hm.")),
            ("  <think></think>Here.", Message("assistant", "Here.")),
            ("<think>Hm. Here.", Message("assistant", "<think>Hm. Here.")),
            ("So <think>Hm.</think>", Message("assistant", "So <think>Hm.</think>")),
            ("Hm.</think>Here.", Message("assistant", "Hm.</think>Here.")),
        ],
    )
    def test_thoughts_at_the_start_become_reasoning(self, content: str, message: Message) -> None:
        said = {"role": "assistant", "content": content}
        assert one({"messages": [U, said]}).messages[1] == message
        assert one({"prompt": "Where?", "completion": content}).messages[1] == message
        assert one({"instruction": "Where?", "output": content}).messages[1] == message
        assert one({"prompt": "Where?", "chosen": content, "rejected": [said]}).rejected == (message,)
        # Only an assistant thinks.
        assert one({"messages": [{"role": "user", "content": content}, A]}).messages[0].content == content

    def test_thoughts_are_never_lost(self) -> None:
        said = {"role": "assistant", "content": "<think>a</think>Here.", "reasoning_content": "b"}
        assert one({"messages": [U, said]}).messages[1] == Message("assistant", "<think>a</think>Here.", "b")
        said["reasoning_content"] = "a"
        assert one({"messages": [U, said]}).messages[1] == Message("assistant", "Here.", "a")

    def test_tables_hold_messages_as_text_or_as_columns(self) -> None:
        same = one({"messages": [U, A]})
        assert one({"messages": json.dumps([U, A])}) == same
        assert one({"messages": {"role": ["user", "assistant"], "content": ["Where?", "Here."]}}) == same

    def test_a_system_prompt_beside_the_messages(self) -> None:
        assert one({"messages": [U, A], "system": "Be brief."}).messages == (SYSTEM, ASK, SAY)
        mine = {"role": "system", "content": "Be brief."}
        assert one({"messages": [mine, U, A], "system": "Be brief."}).messages == (SYSTEM, ASK, SAY)
        with pytest.raises(DataError, match="another system prompt"):
            parse({"messages": [mine, U, A], "system": "Be long."})


words = st.text(st.characters(codec="utf-8"), min_size=1, max_size=20)
plain = words.map(lambda text: text.replace("Human:", "").replace("Assistant:", "").strip() or "x")


class TestProperties:
    @given(st.lists(st.tuples(words, words), min_size=1, max_size=4))
    def test_all_forms_of_a_conversation_are_one(self, pairs: list[tuple[str, str]]) -> None:
        said = [turn for ask, answer in pairs for turn in (("user", ask), ("assistant", f".{answer}"))]
        expected = chat(*said)
        openai = [{"role": role, "content": content} for role, content in said]
        parts = [{"role": role, "content": [{"type": "text", "text": content}]} for role, content in said]
        share = [{"from": {"user": "human", "assistant": "gpt"}[role], "value": content} for role, content in said]
        mine = [{"who": {"user": "customer", "assistant": "agent"}[r], "words": c} for r, c in said]
        mapping = {"messages": "dialog", "role": "who", "content": "words", "user": "customer", "assistant": "agent"}
        for row in (
            {"messages": openai},
            {"messages": parts},
            {"conversations": share},
            {"conversations": json.dumps(share)},
            {"prompt": openai[:-1], "completion": openai[-1:]},
            {"prompt": openai[:-1], "completion": openai[-1]},
            {
                "instruction": said[-2][1],
                "output": said[-1][1],
                "history": [[ask, f".{answer}"] for ask, answer in pairs[:-1]],
            },
        ):
            if "instruction" in row and not said[-2][1].strip():
                continue
            assert one(row).messages == expected
        assert one({"dialog": mine}, **mapping).messages == expected

    @given(st.lists(plain, min_size=1, max_size=5), plain, plain)
    def test_all_forms_of_a_pair_are_one(self, before: list[str], good: str, bad: str) -> None:
        before = before if len(before) % 2 else before[:-1] or ["x"]
        roles = ["user", "assistant"] * 3
        prompt = chat(*zip(roles, before, strict=False))
        expected = Preference(prompt, chat(("assistant", good)), chat(("assistant", bad)), "a.jsonl:7")
        listed = [{"role": message.role, "content": message.content} for message in prompt]
        good_turn, bad_turn = ({"role": "assistant", "content": text} for text in (good, bad))
        names = {"user": "Human", "assistant": "Assistant"}
        shared = "".join(f"\n\n{names[message.role]}: {message.content}" for message in prompt) + "\n\nAssistant:"
        for row in (
            {"prompt": listed, "chosen": good, "rejected": bad},
            {"prompt": listed, "chosen": [good_turn], "rejected": bad_turn},
            {"prompt": listed, "chosen": [*listed, good_turn], "rejected": [*listed, bad_turn]},
            {"chosen": [*listed, good_turn], "rejected": [*listed, bad_turn]},
            {"chosen": f"{shared} {good}", "rejected": f"{shared} {bad}"},
            {"prompt": shared, "chosen": good, "rejected": bad},
            {"conversations": listed, "chosen": good_turn, "rejected": bad_turn},
        ):
            assert one(row) == expected

    @given(st.lists(st.sampled_from([0, 0.5, 1, 2, 3]), min_size=2, max_size=6))
    def test_places_follow_from_ranks_and_scores(self, marks: list[float]) -> None:
        texts = [f"answer {i}" for i in range(len(marks))]
        better = {mark: float(len({other for other in marks if other < mark})) for mark in marks}
        expected = Ranking(
            (ASK,),
            tuple((Message("assistant", text),) for text in texts),
            tuple(better[mark] for mark in marks),
            "a.jsonl:7",
        )
        for row in (
            {"prompt": "Where?", "responses": texts, "ranks": marks},
            {"prompt": "Where?", "responses": texts, "scores": [-mark for mark in marks]},
            {"prompt": [U], "responses": [[{"role": "assistant", "content": text}] for text in texts], "ranks": marks},
            {"prompt": "Where?", "responses": [{"text": t, "rank": m} for t, m in zip(texts, marks, strict=True)]},
            {
                "instruction": "Where?",
                "completions": [{"response": t, "overall_score": 9 - m} for t, m in zip(texts, marks, strict=True)],
            },
        ):  # fmt: skip
            assert parse(row).layout == "ranking"
            assert one(row) == expected


class TestPreferences:
    def test_several_messages_an_answer(self) -> None:
        more = {"role": "user", "content": "Sure?"}
        record = one({"chosen": [U, A, more, B], "rejected": [U, B, more, B]})
        assert (record.prompt, len(record.chosen), len(record.rejected)) == ((ASK,), 3, 3)

    def test_what_one_speaker_says_in_a_row_is_one_message(self) -> None:
        start = "\n\nHuman: Where?\n\nAssistant: Well,\n\nAssistant:  let me see.\n\nHuman: So?\n\nAssistant:"
        record = one({"chosen": f"{start} Here.", "rejected": f"{start}"})
        assert record.prompt == chat(("user", "Where?"), ("assistant", "Well,\n\nlet me see."), ("user", "So?"))
        assert (record.chosen, record.rejected) == ((SAY,), (Message("assistant", ""),))

    def test_two_texts_are_cut_where_a_line_or_a_word_ends(self) -> None:
        record = one({"chosen": "Q: Where?\nA: Home", "rejected": "Q: Where?\nA: House"})
        assert (record.prompt[0].content, record.chosen[0].content) == ("Q: Where?", "A: Home")
        record = one({"chosen": "Go to Berlin now", "rejected": "Go to Bern"})
        assert (record.prompt[0].content, record.rejected[0].content) == ("Go to", "Bern")

    def test_the_system_prompt_leads_every_form(self) -> None:
        for row in (
            {"question": "Where?", "chosen": "Here.", "rejected": "There."},
            {"chosen": [U, A], "rejected": [U, B]},
        ):
            assert one({**row, "system": "Be brief."}).prompt == (SYSTEM, ASK)
        row = {"prompt": "Where?", "chosen": [U, A], "rejected": [U, B], "system": "Be brief.", "tools": [FIND]}
        assert one(row).prompt == (SYSTEM, ASK)
        assert one(row).tools == TOOLS

    def test_a_rated_answer_may_use_tools(self) -> None:
        call = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "f"}}]}
        record = one({"messages": [U, A, U, call, {"role": "tool", "content": "1"}, B], "label": 1})
        assert [message.role for message in record.prompt] == ["user", "assistant", "user"]
        assert [message.role for message in record.response] == ["assistant", "tool", "assistant"]


def node(role: str, text: str, *replies: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"role": role, "text": text, "replies": list(replies), **more}


def export(root: dict[str, Any]) -> dict[str, Any]:
    return {"message_tree_id": "t", "tree_state": "ready_for_export", "prompt": root}


def path(root: dict[str, Any]) -> list[str]:
    return [message.content for message in best_path(one(export(root)))]


@st.composite
def trees(draw: st.DrawFn) -> dict[str, Any]:
    """A tree of messages with ids, built by giving each message a parent among those before it."""
    count = draw(st.integers(1, 12))
    nodes = [node("prompter", "0", message_id="0", parent_id=None, rank=None)]
    for number in range(1, count):
        parent = nodes[draw(st.integers(0, number - 1))]
        role = "assistant" if parent["role"] == "prompter" else "prompter"
        rank = draw(st.one_of(st.none(), st.integers(0, 3)))
        nodes.append(node(role, str(number), message_id=str(number), parent_id=parent["message_id"], rank=rank))
        parent["replies"].append(nodes[-1])
    return nodes[0]


def flat(root: dict[str, Any]) -> list[dict[str, Any]]:
    own = {key: value for key, value in root.items() if key != "replies"}
    return [own, *(row for reply in root["replies"] for row in flat(reply))]


class TestTrees:
    def test_the_whole_tree_is_kept(self) -> None:
        record = one(export(node("prompter", "ask", node("assistant", "a", rank=1), node("assistant", "b", rank=0))))
        replies = (Turn(Message("assistant", "a"), 1.0), Turn(Message("assistant", "b"), 0.0))
        assert record == MessageTree(Turn(Message("user", "ask"), None, replies), "a.jsonl:7")

    def test_the_best_ranked_path(self) -> None:
        worse = node("assistant", "worse", rank=1)
        more = node("prompter", "more", node("assistant", "b", rank=2), node("assistant", "a", rank=0), rank=0)
        best = node(
            "assistant", "best", node("prompter", "second", node("assistant", "x", rank=0), rank=1), more, rank=0
        )
        assert path(node("prompter", "ask", worse, best)) == ["ask", "best", "more", "a"]

    def test_deleted_messages_are_passed_over(self) -> None:
        gone = node("assistant", "gone", node("prompter", "x"), rank=0, deleted=True)
        assert path(node("prompter", "ask", gone, node("assistant", "ok", rank=1))) == ["ask", "ok"]
        parsed = parse(export(node("prompter", "ask", deleted=True)))
        assert (parsed.records, parsed.left_out) == ((), "marked as deleted")

    def test_replies_without_a_rank_come_last_in_file_order(self) -> None:
        first, second = node("assistant", "first", rank=None), node("assistant", "second")
        assert path(node("prompter", "ask", first, second))[-1] == "first"
        assert path(node("prompter", "ask", first, second, node("assistant", "r", rank=5)))[-1] == "r"

    def test_it_ends_with_an_assistant_turn(self) -> None:
        root = node("prompter", "ask", node("assistant", "answer", node("prompter", "thanks", rank=0), rank=0))
        assert path(root) == ["ask", "answer"]
        assert path(node("prompter", "ask")) == []

    @given(st.lists(trees(), min_size=1, max_size=3), st.randoms(use_true_random=False))
    def test_all_forms_of_a_tree_are_one(self, roots: list[dict[str, Any]], random: Any) -> None:
        """The export form, the messages form, and a table of single messages in any order."""
        for number, root in enumerate(roots):
            for row in flat_nodes(root):
                row["message_id"] = f"{number}-{row['message_id']}"
                row["parent_id"] = row["parent_id"] and f"{number}-{row['parent_id']}"
        expected = [one(export(root)).root for root in roots]
        assert [one(root).root for root in roots] == expected
        rows = [row for root in roots for row in flat(root)]
        together = [one_of(raw, line) for line, raw in gathered(enumerate(rows, 1))]
        assert [tree.root for tree in together] == expected
        random.shuffle(rows)
        mixed = [one_of(raw, line) for line, raw in gathered(enumerate([json.dumps(r).encode() for r in rows], 1))]
        assert sorted(map(ordered, (tree.root for tree in mixed))) == sorted(map(ordered, expected))
        assert [int(tree.source.rpartition(":")[2]) for tree in mixed] == [
            line for line, row in enumerate(rows, 1) if row["parent_id"] is None
        ]

    def test_messages_outside_every_tree_are_refused(self) -> None:
        rows = [
            {"message_id": "a", "parent_id": None, "role": "prompter", "text": "ask"},
            {"message_id": "b", "parent_id": "lost", "role": "assistant", "text": "orphan"},
            {"message_id": "c", "parent_id": "b", "role": "prompter", "text": "child of an orphan"},
            {"message_id": "d", "parent_id": "e", "role": "assistant", "text": "round"},
            {"message_id": "e", "parent_id": "d", "role": "prompter", "text": "and round"},
            {"message_id": "f", "parent_id": "a", "role": "assistant", "text": "answer"},
            {"message_id": "f", "parent_id": "a", "role": "assistant", "text": "the same id"},
        ]
        found = list(gathered(enumerate(rows, 1)))
        assert [line for line, _ in found] == [1, 2, 3, 4, 5, 7]
        assert len(one_of(found[0][1], 1).root.replies) == 1
        for line, raw in found[1:]:
            with pytest.raises(DataError, match="stands in no tree"):
                parse_row(raw, file="a.jsonl", line=line)

    def test_too_deep_a_tree_is_refused(self) -> None:
        root = node("prompter", "0")
        for _ in range(50):
            root = node("prompter", "a", node("assistant", "b", root))
        with pytest.raises(DataError, match="over 100 turns"):
            parse_row(export(root), file="a.jsonl", line=1)


def flat_nodes(root: dict[str, Any]) -> list[dict[str, Any]]:
    return [root, *(row for reply in root["replies"] for row in flat_nodes(reply))]


def one_of(raw: Any, line: int) -> Any:
    (record,) = parse_row(raw, file="a.jsonl", line=line).records
    return record


def ordered(turn: Turn) -> str:
    """A tree as text, without the order of its replies."""
    return f"{turn.message} {turn.rank} {sorted(map(ordered, turn.replies))}"


class TestColumns:
    def test_a_mapping_for_anything(self) -> None:
        row = {"Question": "Where?", "Best Answer": "Here.", "Category": "x"}
        assert one(row, prompt="Question", completion="Best Answer").messages == (ASK, SAY)

    def test_names_that_change_places(self) -> None:
        row = {"prompt": "Where?", "chosen": "There.", "rejected": "Here."}
        assert one(row, chosen="rejected", rejected="chosen") == PAIR[0]

    def test_messages_with_other_names(self) -> None:
        dialog = [{"speaker": "customer", "utterance": "Where?"}, {"speaker": "agent", "utterance": "Here."}]
        names = {
            "messages": "dialog",
            "role": "speaker",
            "content": "utterance",
            "user": "customer",
            "assistant": "agent",
        }
        assert one({"dialog": dialog}, **names).messages == (ASK, SAY)
        assert one({"dialog": json.dumps(dialog)}, **names).messages == (ASK, SAY)
        pair = {"chosen": dialog, "rejected": [dialog[0], {"speaker": "agent", "utterance": "There."}]}
        del names["messages"]
        assert one(pair, **names) == PAIR[0]

    def test_roles_may_be_numbers(self) -> None:
        turns = [{"role": 0, "content": "Where?"}, {"role": 1, "content": "Here."}]
        assert one({"messages": turns}, user="0", assistant="1").messages == (ASK, SAY)

    def test_a_system_column_is_a_column_and_a_system_word_a_role(self) -> None:
        assert one({"messages": [U, A], "rules": "Be brief."}, system="rules").messages == (SYSTEM, ASK, SAY)
        told = [{"role": "boss", "content": "Be brief."}, U, A]
        assert one({"messages": told}, system="boss").messages == (SYSTEM, ASK, SAY)

    def test_an_empty_name_hides_a_field(self) -> None:
        row = {"messages": [U, A], "label": "maths"}
        with pytest.raises(DataError, match=r"expected true or false.*'maths'.*columns: {label: \"\"}"):
            parse(row)
        assert one(row, label="").messages == (ASK, SAY)

    @pytest.mark.parametrize(
        ("columns", "message"),
        [
            ({"prompt": "Frage"}, "there is no column 'Frage' for prompt; the columns are question, reply"),
            ({"content": "words"}, "there is no column 'words' for content; the columns are question, reply"),
            ({"promt": "question"}, "'promt' is no field of any layout (nearest: 'prompt')"),
        ],
    )
    def test_what_is_not_there(self, columns: dict[str, str], message: str) -> None:
        with pytest.raises(DataError) as caught:
            parse({"question": "a", "reply": "b"}, **columns)
        assert message in str(caught.value)
        assert (caught.value.file, caught.value.line, caught.value.field) == ("a.jsonl", 7, "columns")

    def test_a_message_without_the_name(self) -> None:
        with pytest.raises(
            DataError, match=r"field 'messages\[0\]': there is no 'who' in this message; its fields are role"
        ):
            parse({"messages": [U, A]}, role="who")

    def test_every_field_of_a_layout_can_be_mapped(self) -> None:
        assert {field for layout in LAYOUTS for field in layout.fields} <= OURS
        for row, layout, _ in (item for item in ROWS if item[1] != "sampled solutions"):
            renamed = {f"their {key}": value for key, value in row.items()}
            columns = {key: f"their {key}" for key in row if key in OURS}
            kept = {key: value for key, value in renamed.items() if key.removeprefix("their ") in columns}
            assert parse_row(kept, file="a.jsonl", line=7, columns=columns).layout == layout


# (a line, the field, what is said of it)
BAD: dict[str, tuple[str, str, str]] = {
    "broken JSON": ('{"question": "q", ', "", "not valid JSON (Expecting property name"),
    "two objects": ('{"text": "a"} {"text": "b"}', "", "not valid JSON (Extra data at column 15)"),
    "a list": ("[1, 2]", "", "expected a JSON object, found a list"),
    "a number": ("3", "", "expected a JSON object, found a number"),
    "a key twice": ('{"text": "a", "text": "b"}', "", "the key 'text' appears twice in one object"),
    "half a character": ('{"text": "a\\ud83d"}', "", "\\ud83d is half of a surrogate pair"),
    "brackets without end": ('{"text": ' + "[" * 100_000, "", "nested deeper than 256 levels"),
    "brackets just too deep": ('{"text": ' + "[" * 256 + "]" * 256 + "}", "", "nested deeper than 256 levels"),
    "a number without end": ('{"text": ' + "1" * 5000 + "}", "", "a number has too many digits"),
    "unknown fields": ('{"foo": 1, "bar": 2}', "", "the fields foo, bar fit no layout; say which field is which"),
    "no fields": ("{}", "", "the fields (none) fit no layout"),
    "Alpaca without output": (
        '{"instruction": "a", "input": ""}',
        "",
        "this looks like Alpaca (instruction, output), but `output` is missing",
    ),
    "a misspelt name": (
        '{"prompt": null, "question": "a", "anwser": "b"}',
        "",
        "map them with columns: {answer: anwser}",
    ),
    "another case": ('{"Prompt": "a", "Completion": "b"}', "", "columns: {prompt: Prompt, completion: Completion}"),
    "a null": ('{"text": null}', "", "this looks like text (text), but `text` is null"),
    "no messages": ('{"messages": []}', "messages", "the list of messages is empty"),
    "messages as text": ('{"messages": "hello"}', "messages", "expected a list of messages, found text"),
    "messages as broken JSON": (
        '{"messages": "[{\\"role\\": "}',
        "messages",
        "this text should be JSON, but: not valid JSON",
    ),
    "a turn as text": ('{"messages": ["hello"]}', "messages[0]", 'expected {"role": …, "content": …}'),
    "a turn without a role": (
        '{"messages": [{"content": "a", "id": 1}]}',
        "messages[0]",
        "found the fields 'content', 'id'",
    ),
    "a turn without content": ('{"messages": [{"role": "user"}]}', "messages[0].content", "expected text, found null"),
    "content null": (
        '{"messages": [{"role": "user", "content": null}]}',
        "messages[0].content",
        "expected text, found null",
    ),
    "no answer and no call": (
        '{"messages": [{"role": "assistant", "content": null, "tool_calls": []}]}',
        "messages[0].content",
        "found null",
    ),
    "an unknown role": (
        '{"messages": [{"role": "bot", "content": "a"}]}',
        "messages[0].role",
        "found the role 'bot', expected one of system,",
    ),
    "a role as a number": ('{"messages": [{"role": 3, "content": "a"}]}', "messages[0].role", "found the role 3"),
    "a picture": (
        '{"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]}',
        "messages[0].content[0]",
        "pictures cannot be trained on here, only text",
    ),
    "a sound": (
        '{"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]}',
        "messages[0].content[0]",
        "sound cannot be trained on",
    ),
    "pictures beside the text": (
        '{"messages": [{"role": "user", "content": "<image>"}], "images": ["a.png"]}',
        "images",
        "pictures cannot",
    ),
    "a part of another type": (
        '{"messages": [{"role": "user", "content": [{"type": "refusal"}]}]}',
        "messages[0].content[0]",
        "found a part of type 'refusal'",
    ),
    "reasoning of a user": (
        '{"messages": [{"role": "user", "content": "a", "reasoning": "b"}]}',
        "messages[0].reasoning",
        "only an assistant's",
    ),
    "a weight of a user": (
        '{"messages": [{"role": "user", "content": "a", "weight": 1}]}',
        "messages[0].weight",
        "only an assistant's",
    ),
    "a negative weight": (
        '{"messages": [{"role": "assistant", "content": "a", "weight": -1}]}',
        "",
        "weight is -1.0, expected a number of at least 0",
    ),
    "arguments as a list": (
        '{"messages": [{"role": "assistant", "content": "", "tool_calls": '
        '[{"function": {"name": "f", "arguments": "[1]"}}]}]}',
        "messages[0].tool_calls[0].arguments",
        "expected a JSON object, found a list",
    ),
    "arguments cut off": (
        '{"messages": [{"role": "assistant", "content": "", "tool_calls": '
        '[{"function": {"name": "f", "arguments": "{\\"a\\":"}}]}]}',
        "messages[0].tool_calls[0].arguments",
        "this text should be JSON",
    ),
    "a call without a name": (
        '{"messages": [{"role": "assistant", "content": "", "tool_calls": [{"id": "1"}]}]}',
        "messages[0].tool_calls[0]",
        "expected a call",
    ),
    "tools as text": (
        '{"messages": [{"role": "assistant", "content": "a"}], "tools": "search"}',
        "tools",
        "expected a list of functions, found text",
    ),
    "a tool without a name": (
        '{"messages": [{"role": "assistant", "content": "a"}], "tools": [{"type": "function"}]}',
        "tools[0]",
        "expected a function",
    ),
    "a call in ShareGPT as text": (
        '{"conversations": [{"from": "function_call", "value": "find(x)"}]}',
        "conversations[0].value",
        "this text should be JSON",
    ),
    "question as a number": (
        '{"question": 3, "answer": "a"}',
        "question",
        "expected text or a list of messages, found a number",
    ),
    "answer null": ('{"question": "q", "answer": null}', "answer", "found null"),
    "an empty answer": ('{"question": "q", "answer": " \\n"}', "answer", "the answer is empty"),
    "an empty completion": ('{"prompt": "q", "completion": ""}', "completion", "the answer is empty"),
    "a completion as a list": ('{"prompt": "q", "completion": ["a"]}', "completion[0]", "found text"),
    "an empty instruction": ('{"instruction": " ", "output": "a"}', "instruction", "the instruction is empty"),
    "history as text": (
        '{"instruction": "i", "output": "a", "history": "b"}',
        "history",
        "expected a list of pairs, found text",
    ),
    "text as a list": ('{"text": ["a"]}', "text", "expected text, found a list"),
    "empty text": ('{"text": "  "}', "", "a document needs text"),
    "an empty prompt": ('{"prompt": " "}', "prompt", "the prompt is empty"),
    "instances as text": ('{"instruction": "i", "instances": "x"}', "instances", "expected a list of instances"),
    "an instance as text": ('{"instruction": "i", "instances": ["x"]}', "instances[0]", "found text"),
    "an output as a number": (
        '{"instruction": "i", "instances": [{"input": "", "output": 4}]}',
        "instances[0].output",
        "found a number",
    ),
    "a tree as text": ('{"message_tree_id": "t", "prompt": "x"}', "prompt", "expected a message object, found text"),
    "a tree with an unknown role": (
        '{"message_tree_id": "t", "prompt": {"role": "bot", "text": "a"}}',
        "prompt.role",
        "expected one of prompter, assistant, found 'bot'",
    ),
    "a tree without text": (
        '{"message_tree_id": "t", "prompt": {"role": "prompter"}}',
        "prompt.text",
        "expected text, found null",
    ),
    "replies as text": (
        '{"message_tree_id": "t", "prompt": {"role": "prompter", "text": "a", "replies": "b"}}',
        "prompt.replies",
        "expected a list of messages",
    ),
    "a rank as text": (
        '{"message_tree_id": "t", "prompt": {"role": "prompter", "text": "a", "replies": '
        '[{"role": "assistant", "text": "b", "rank": "best"}]}}',
        "prompt.replies[0].rank",
        "expected a number, found 'best'",
    ),
    "a pair without a prompt": ('{"chosen": "yes", "rejected": "no"}', "chosen", "the two answers share no prompt"),
    "a pair of other prompts": (
        '{"chosen": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}], '
        '"rejected": [{"role": "user", "content": "c"}, {"role": "assistant", "content": "b"}]}',
        "chosen",
        "the two answers share no prompt",
    ),
    "a prompt that disagrees": (
        '{"prompt": "x", "chosen": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}], '
        '"rejected": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "c"}]}',
        "chosen",
        "the answers begin with another prompt than that of the row",
    ),
    "a pair with a number": ('{"prompt": "a", "chosen": "b", "rejected": 2}', "rejected", "found a number"),
    "a label as a word": (
        '{"prompt": "a", "completion": "b", "label": "maybe"}',
        "label",
        "expected true or false beside an answer, found 'maybe'",
    ),
    "a label that is no number": ('{"prompt": "a", "completion": "b", "label": NaN}', "label", "found null"),
    "a label without an answer": (
        '{"messages": [{"role": "user", "content": "a"}], "label": true}',
        "label",
        "no answer at the end",
    ),
    "ranks that are missing": ('{"prompt": "a", "responses": ["b", "c"]}', "responses", "no ranks or scores"),
    "too few ranks": ('{"prompt": "a", "responses": ["b", "c"], "ranks": [1]}', "", "got 1 ranks for 2 answers"),
    "one answer": (
        '{"prompt": "a", "responses": ["b"], "ranks": [1]}',
        "",
        "a ranking needs a prompt and at least two answers",
    ),
    "a rank as a word": (
        '{"prompt": "a", "responses": ["b", "c"], "ranks": [1, "x"]}',
        "ranks[1]",
        "expected a number, found 'x'",
    ),
    "an empty principle": ('{"critic": "", "revision": "b"}', "", "a principle needs a critique request"),
}


class TestRefusals:
    @pytest.mark.parametrize("name", BAD)
    def test_bad_lines(self, name: str) -> None:
        line, field, message = BAD[name]
        with pytest.raises(DataError) as caught:
            parse(line.encode())
        assert message in str(caught.value)
        assert str(caught.value).startswith(f"a.jsonl, line 7{f', field {field!r}' if field else ''}: ")
        assert (caught.value.file, caught.value.line, caught.value.field) == ("a.jsonl", 7, field)
        assert str(caught.value).endswith(".")
        assert len(str(caught.value)) < 900

    def test_bytes_that_are_no_text(self) -> None:
        with pytest.raises(DataError, match=r"line 7: byte 14 of the line is no UTF-8 text; save the file as UTF-8"):
            parse(b'{"text": "caf\xe9"}')

    def test_a_mark_of_byte_order_is_no_text(self) -> None:
        assert parse(b'\xef\xbb\xbf{"text": "a"}').records == (Document("a", "a.jsonl:7"),)

    def test_numbers_that_are_none_are_null(self) -> None:
        assert one(b'{"prompt": "Where?", "score": NaN}').fields == {"score": None}

    def test_pictures_beside_a_document_are_about_it(self) -> None:
        assert one({"text": "Once.", "image": "https://example.org/a.png"}) == Document("Once.", "a.jsonl:7")

    def test_long_names_and_values_are_cut(self) -> None:
        for row in ({"x" * 10_000: 1}, {str(i): i for i in range(10_000)}, {"messages": [{"role": "y" * 10_000}]}):
            with pytest.raises(DataError) as caught:
                parse(row)
            assert len(str(caught.value)) < 1000


def test_a_mapped_answer_makes_a_code_problem_a_pair() -> None:
    row = {"prompt": "def f():", "entry_point": "f", "test": "assert f()", "canonical_solution": " return 1"}
    assert parse_row(row, file="h.jsonl", line=1).layout == "HumanEval"
    found = parse_row(row, file="h.jsonl", line=1, columns={"completion": "canonical_solution"})
    assert found.layout == "prompt/completion"


def test_a_pair_may_say_how_sure_people_were() -> None:
    row = {"prompt": "a", "chosen": "b", "rejected": "c", "chosen_probability": 0.8, "margin": 2, "pair_weight": 0.5}
    (record,) = parse_row(row, file="f", line=1).records
    assert isinstance(record, Preference)
    assert (record.label, record.margin, record.weight) == (0.8, 2.0, 0.5)
    (plain,) = parse_row(row | {"margin": None, "chosen_probability": None}, file="f", line=1).records
    assert isinstance(plain, Preference)
    assert (plain.label, plain.margin) == (1.0, 0.0)


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [("chosen_probability", 1.5, "1.5, expected"), ("margin", "big", "margin"), ("pair_weight", 0, "weight is 0")],
)
def test_what_a_pair_says_of_itself_is_checked(field: str, value: object, said: str) -> None:
    with pytest.raises(DataError, match=said):
        parse_row({"prompt": "a", "chosen": "b", "rejected": "c", field: value}, file="f", line=1)
