"""Every layout that is read, and what is said, with file, line and field, of what cannot be."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from posttrain.data.oasst import best_path
from posttrain.data.sources import Source, read
from posttrain.errors import DataError
from posttrain.types import Conversation, Document, Message


def write(path: Path, *rows: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def only(path: Path) -> Source:
    (source,) = read(path)
    return source


def turns(record: Any) -> list[tuple[str, str]]:
    assert isinstance(record, Conversation)
    return [(message.role, message.content) for message in record.messages]


def node(role: str, text: str, *replies: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"role": role, "text": text, "replies": list(replies), **more}


class TestLayouts:
    def test_messages(self, tmp_path: Path) -> None:
        said = [("system", "Be brief."), ("user", "Hi"), ("assistant", "Hé 🙂"), ("user", "?"), ("assistant", "!")]
        row = {"messages": [{"role": role, "content": content} for role, content in said], "id": 7}
        source = only(write(tmp_path / "a.jsonl", row))
        assert turns(source.records[0]) == said
        assert source.layouts == {"messages": 1}

    def test_prompt_and_completion_as_text(self, tmp_path: Path) -> None:
        source = only(write(tmp_path / "a.jsonl", {"prompt": "Where?", "completion": "Here."}))
        assert turns(source.records[0]) == [("user", "Where?"), ("assistant", "Here.")]
        assert source.layouts == {"prompt/completion": 1}

    def test_prompt_and_completion_as_messages(self, tmp_path: Path) -> None:
        row = {
            "prompt": [{"role": "system", "content": "S"}, {"role": "user", "content": "U"}],
            "completion": [{"role": "assistant", "content": "A"}],
        }
        source = only(write(tmp_path / "a.jsonl", row))
        assert turns(source.records[0]) == [("system", "S"), ("user", "U"), ("assistant", "A")]

    def test_question_and_answer(self, tmp_path: Path) -> None:
        source = only(write(tmp_path / "a.jsonl", {"question": "2 + 2?", "answer": "2 + 2 = <<2+2=4>>4\n#### 4"}))
        assert turns(source.records[0]) == [("user", "2 + 2?"), ("assistant", "2 + 2 = <<2+2=4>>4\n#### 4")]
        assert source.layouts == {"question/answer": 1}

    def test_text(self, tmp_path: Path) -> None:
        source = only(write(tmp_path / "a.jsonl", {"text": "Once upon a time."}))
        assert source.records == (Document("Once upon a time.", f"{tmp_path}/a.jsonl:1"),)
        assert source.layouts == {"text": 1}

    def test_self_instruct_with_several_instances(self, tmp_path: Path) -> None:
        instances = [
            {"input": "one", "output": "eins"},
            {"input": "", "output": "ohne"},
            {"input": "two", "output": " "},
            {"output": "nur"},
        ]
        source = only(write(tmp_path / "a.jsonl", {"id": "s", "instruction": "Translate.", "instances": instances}))
        assert [turns(record) for record in source.records] == [
            [("user", "Translate.\n\none"), ("assistant", "eins")],
            [("user", "Translate."), ("assistant", "ohne")],
            [("user", "Translate."), ("assistant", "nur")],
        ]
        assert source.layouts == {"self-instruct": 1}
        assert source.left_out == {}

    def test_several_layouts_in_one_file(self, tmp_path: Path) -> None:
        source = only(write(tmp_path / "a.jsonl", {"text": "a"}, {"question": "q", "answer": "a"}, {"text": "b"}))
        assert source.layouts == {"text": 2, "question/answer": 1}
        assert [record.source for record in source.records] == [f"{tmp_path}/a.jsonl:{line}" for line in (1, 2, 3)]


class TestOpenAssistant:
    def tree(self, root: dict[str, Any]) -> dict[str, Any]:
        return {"message_tree_id": "t", "tree_state": "ready_for_export", "prompt": root}

    def test_the_best_ranked_path(self) -> None:
        worse = node("assistant", "worse", rank=1)
        best = node(
            "assistant",
            "best",
            node("prompter", "second", node("assistant", "x", rank=0), rank=1),
            node("prompter", "more", node("assistant", "b", rank=2), node("assistant", "a", rank=0), rank=0),
            rank=0,
        )
        assert best_path(node("prompter", "ask", worse, best)) == (
            Message("user", "ask"),
            Message("assistant", "best"),
            Message("user", "more"),
            Message("assistant", "a"),
        )

    def test_deleted_replies_are_passed_over(self) -> None:
        root = node("prompter", "ask", node("assistant", "gone", rank=0, deleted=True), node("assistant", "ok", rank=1))
        assert best_path(root)[-1] == Message("assistant", "ok")

    def test_replies_without_a_rank_come_last_in_file_order(self) -> None:
        first, second = node("assistant", "first", rank=None), node("assistant", "second")
        assert best_path(node("prompter", "ask", first, second))[-1].content == "first"
        assert best_path(node("prompter", "ask", first, second, node("assistant", "r", rank=5)))[-1].content == "r"

    def test_it_ends_with_an_assistant_turn(self) -> None:
        root = node("prompter", "ask", node("assistant", "answer", node("prompter", "thanks", rank=0), rank=0))
        assert [message.content for message in best_path(root)] == ["ask", "answer"]

    def test_no_answer(self, tmp_path: Path) -> None:
        assert best_path(node("prompter", "ask")) == ()
        rows = [self.tree(node("prompter", "ask")), self.tree(node("prompter", "ask", node("assistant", "yes")))]
        source = only(write(tmp_path / "a.jsonl", *rows))
        assert len(source.records) == 1
        assert source.records[0].source.endswith("a.jsonl:2")
        assert source.layouts == {"OpenAssistant tree": 2}
        assert source.left_out == {"OpenAssistant tree without an assistant answer": 1}

    def test_no_answer_anywhere(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=r"no record can be trained on.*without an assistant answer"):
            read(write(tmp_path / "a.jsonl", self.tree(node("prompter", "ask"))))


class TestFiles:
    def test_a_folder_is_read_in_order_and_in_depth(self, tmp_path: Path) -> None:
        write(tmp_path / "b.jsonl", {"text": "b"})
        write(tmp_path / "a" / "z.json", {"text": "z"})
        (tmp_path / "notes.txt").write_text("not data")
        assert [Path(source.path).name for source in read(tmp_path)] == ["z.json", "b.jsonl"]

    def test_a_glob(self, tmp_path: Path) -> None:
        for name in ("part-2.jsonl", "part-1.jsonl", "other.jsonl"):
            write(tmp_path / name, {"text": name})
        assert [Path(s.path).name for s in read(str(tmp_path / "part-*.jsonl"))] == ["part-1.jsonl", "part-2.jsonl"]

    def test_a_json_array(self, tmp_path: Path) -> None:
        path = tmp_path / "a.json"
        path.write_text(json.dumps([{"text": "a"}, {"text": "b"}], indent=2))
        assert [record.source for record in only(path).records] == [f"{path}:1", f"{path}:2"]

    def test_blank_lines_and_windows_line_ends(self, tmp_path: Path) -> None:
        path = tmp_path / "a.jsonl"
        path.write_bytes(b'{"text": "a"}\r\n\r\n{"text": "b\\u2028c"}\r\n')
        records = only(path).records
        assert [record.source for record in records] == [f"{path}:1", f"{path}:3"]
        assert isinstance(records[1], Document)
        assert records[1].text == "b\u2028c"

    def test_line_separators_inside_text_end_no_line(self, tmp_path: Path) -> None:
        """U+2028 and U+0085 are allowed in JSON strings, and `splitlines` would cut there."""
        assert len(only(write(tmp_path / "a.jsonl", {"text": "one\u2028two\u0085three"})).records) == 1

    def test_the_hash_is_that_of_the_bytes(self, tmp_path: Path) -> None:
        path = write(tmp_path / "a.jsonl", {"text": "a"})
        assert only(path).sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


GOOD = '{"question": "q", "answer": "a"}'
# (the second line of the file, what the message says beside file and line)
BAD_LINES = {
    "broken JSON": ('{"question": "q", ', "not valid JSON"),
    "a list": ("[1, 2]", "expected a JSON object, found list"),
    "a number": ("3", "expected a JSON object, found int"),
    "unknown fields": ('{"foo": 1, "bar": 2}', "the fields bar, foo fit no known layout"),
    "no fields": ("{}", "the fields (none) fit no known layout"),
    "half a layout": ('{"question": "q"}', "the fields question fit no known layout"),
    "no assistant": ('{"messages": [{"role": "user", "content": "a"}]}', "field 'messages': no assistant turn"),
    "no messages": ('{"messages": []}', "field 'messages': no assistant turn"),
    "messages as text": ('{"messages": "hello"}', "field 'messages': expected a list of messages, found str"),
    "a turn as text": ('{"messages": ["hello"]}', "field 'messages[0]': expected"),
    "a turn without content": ('{"messages": [{"role": "user"}]}', "field 'messages[0]': expected"),
    "content as a list": (
        '{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": ["b"]}]}',
        "field 'messages[1].content': expected text, found list",
    ),
    "content null": ('{"messages": [{"role": "user", "content": null}]}', "field 'messages[0].content': expected text"),
    "an unknown role": (
        '{"messages": [{"role": "bot", "content": "a"}]}',
        "field 'messages[0].role': expected one of system, user, assistant, tool, found 'bot'",
    ),
    "a role as a number": (
        '{"messages": [{"role": 3, "content": "a"}]}',
        "field 'messages[0].role': expected one of system, user, assistant, tool, found 3",
    ),
    "question as a number": ('{"question": 3, "answer": "a"}', "field 'question': expected text, found int"),
    "answer null": ('{"question": "q", "answer": null}', "field 'answer': expected text, found NoneType"),
    "an empty answer": ('{"question": "q", "answer": " \\n"}', "field 'answer': the answer is empty"),
    "an empty completion": ('{"prompt": "q", "completion": ""}', "the answer is empty"),
    "a completion as a list": ('{"prompt": "q", "completion": ["a"]}', "field 'completion': expected text, found list"),
    "a completion as text": (
        '{"prompt": [{"role": "user", "content": "q"}], "completion": "a"}',
        "field 'completion': expected a list of messages, found str",
    ),
    "text as a list": ('{"text": ["a"]}', "field 'text': expected text, found list"),
    "empty text": ('{"text": "  "}', "a document needs text"),
    "instances as text": ('{"instruction": "i", "instances": "x"}', "field 'instances': expected a list"),
    "an instance as text": ('{"instruction": "i", "instances": ["x"]}', "field 'instances[0]'"),
    "an output as a number": (
        '{"instruction": "i", "instances": [{"input": "", "output": 4}]}',
        "field 'instances[0].output': expected text, found int",
    ),
    "an instruction as a list": ('{"instruction": [], "instances": []}', "field 'instruction': expected text"),
    "a tree as text": ('{"message_tree_id": "t", "prompt": "x"}', "field 'prompt'"),
    "a tree with an unknown role": (
        '{"message_tree_id": "t", "prompt": {"role": "bot", "text": "a"}}',
        "field 'role': role is 'bot', expected one of prompter, assistant",
    ),
    "a tree whose role is a list": ('{"message_tree_id": "t", "prompt": {"role": [], "text": "a"}}', "field 'role'"),
    "a tree without text": ('{"message_tree_id": "t", "prompt": {"role": "prompter"}}', "field 'text': expected text"),
    "replies as text": (
        '{"message_tree_id": "t", "prompt": {"role": "prompter", "text": "a", "replies": "b"}}',
        "field 'replies'",
    ),
    "a rank as text": (
        '{"message_tree_id": "t", "prompt": {"role": "prompter", "text": "a", "replies": '
        '[{"role": "assistant", "text": "b", "rank": "best"}]}}',
        "field 'rank'",
    ),
}


class TestRefusals:
    @pytest.mark.parametrize("name", BAD_LINES)
    def test_bad_lines(self, tmp_path: Path, name: str) -> None:
        line, message = BAD_LINES[name]
        path = tmp_path / "chats.jsonl"
        path.write_text(f"{GOOD}\n{line}\n{GOOD}\n", encoding="utf-8")
        with pytest.raises(DataError) as caught:
            read(path)
        assert str(caught.value).startswith(f"{path}, line 2: ")
        assert message in str(caught.value)
        assert (caught.value.file, caught.value.line) == (str(path), 2)

    def test_a_missing_file(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=r"nowhere.jsonl: no such file; give the path"):
            read(tmp_path / "nowhere.jsonl")

    def test_a_folder_without_data(self, tmp_path: Path) -> None:
        (tmp_path / "notes.txt").write_text("hello")
        with pytest.raises(DataError, match=r"the folder holds no .jsonl or .json file") as caught:
            read(tmp_path)
        assert str(caught.value).startswith(str(tmp_path))

    @pytest.mark.parametrize(("name", "content"), [("a.jsonl", ""), ("a.jsonl", " \n\n"), ("a.json", "[]")])
    def test_an_empty_file(self, tmp_path: Path, name: str, content: str) -> None:
        (tmp_path / name).write_text(content)
        with pytest.raises(DataError, match=f"{name}: the file is empty"):
            read(tmp_path / name)

    def test_not_utf8(self, tmp_path: Path) -> None:
        (tmp_path / "a.jsonl").write_bytes(b'{"text": "caf\xe9"}\n')
        with pytest.raises(DataError, match=r"a.jsonl: not UTF-8 text at byte 13; save the file as UTF-8"):
            read(tmp_path / "a.jsonl")

    def test_broken_json_says_where(self, tmp_path: Path) -> None:
        path = tmp_path / "a.json"
        path.write_text('[\n  {"text": "a"},\n  {"text" "b"}\n]')
        with pytest.raises(DataError, match=r"a.json, line 3: not valid JSON \(Expecting ':' delimiter at column 11\)"):
            read(path)

    def test_unknown_fields_are_told_what_is_known(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=r"messages: messages; .*question/answer: question, answer; text: text"):
            read(write(tmp_path / "a.jsonl", {"foo": 1}))


class TestPublishedData:
    """Files that other people made, read whole. The counts were taken with other code."""

    def test_open_assistant(self, public_data: Path) -> None:
        path = public_data / "oasst" / "en_100_tree.jsonl"
        source = only(path)
        assert source.layouts == {"OpenAssistant tree": 100}
        assert source.left_out == {}
        assert sum(len(record.messages) for record in source.records if isinstance(record, Conversation)) == 284
        # By brute force: at every step, the reply with the lowest rank.
        for line, record in zip(path.read_text(encoding="utf-8").splitlines(), source.records, strict=True):
            message, texts = json.loads(line)["prompt"], []
            while message:
                texts.append(message["text"])
                ranked = sorted(message["replies"], key=lambda m: (m.get("rank") is None, m.get("rank") or 0))
                message = ranked[0] if ranked else None
            assert [content for _, content in turns(record)] == texts[: len(texts) // 2 * 2]
            assert {role for role, _ in turns(record)[::2]} == {"user"}
            assert {role for role, _ in turns(record)[1::2]} == {"assistant"}

    def test_self_instruct(self, public_data: Path) -> None:
        source = only(public_data / "self-instruct" / "seed_tasks.jsonl")
        assert source.layouts == {"self-instruct": 175}
        assert len(source.records) == 175
        assert turns(source.records[0])[0][1].startswith("Is there anything I can eat for a breakfast")

    def test_gsm8k(self, public_data: Path) -> None:
        source = only(public_data / "gsm8k" / "train.jsonl")
        assert source.layouts == {"question/answer": 7473}
        assert len(source.records) == 7473
        assert all("#### " in turns(record)[1][1] for record in source.records)
        assert source.records[-1].source.endswith("train.jsonl:7473")
