"""Published data sets, read whole: the layout that is said, and how many records. Counts were taken with other code."""

import gzip
import json
import lzma
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from posttrain.data.convert import for_sft
from posttrain.data.files import raw_rows
from posttrain.data.layouts import parse_row
from posttrain.data.sources import Source, read
from posttrain.types import Conversation, Document, Preference, Principle, Prompt, Rating

NO_ANSWER = "a prompt without an answer to train on"
BAD = "the answer is rated bad"
# file: rows by layout, records by kind, what supervised fine-tuning leaves out and why
EXPECTED: dict[str, tuple[dict[str, int], dict[str, int], dict[str, int]]] = {
    "advbench/harmful_behaviors.csv": ({"AdvBench": 521}, {"Prompt": 521}, {NO_ANSWER: 521}),
    "constitution/constitution_anthropic.json": (
        {"principle": 16, "messages": 4},
        {"Principle": 16, "Conversation": 4},
        {"a principle, which is for revising answers": 16},
    ),
    "gsm8k/example_model_solutions.jsonl": ({"sampled solutions": 1319}, {"Rating": 4 * 1319}, {BAD: 3275}),
    "gsm8k/test.jsonl": ({"question/answer": 1319}, {"Conversation": 1319}, {}),
    "gsm8k/train.jsonl": ({"question/answer": 7473}, {"Conversation": 7473}, {}),
    "hh-rlhf/harmless-base-test.jsonl.gz": (
        {"HH-RLHF transcripts": 2312},
        {"Preference": 2312},
        {"the chosen answer is empty": 4},
    ),
    "human-eval/HumanEval.jsonl.gz": ({"HumanEval": 164}, {"Prompt": 164}, {NO_ANSWER: 164}),
    "llama-factory-demos/alpaca_en_demo.json": ({"Alpaca": 999}, {"Conversation": 999}, {}),
    "llama-factory-demos/dpo_en_demo.json": ({"preference": 299}, {"Preference": 299}, {}),
    "llama-factory-demos/glaive_toolcall_en_demo.json": ({"ShareGPT": 300}, {"Conversation": 300}, {}),
    "llama-factory-demos/kto_en_demo.json": ({"KTO labels": 300}, {"Rating": 300}, {BAD: 150}),
    "oasst/en_100_message.jsonl": ({"OpenAssistant messages": 100}, {"MessageTree": 100}, {}),
    "oasst/en_100_tree.jsonl": ({"OpenAssistant tree": 100}, {"MessageTree": 100}, {}),
    "self-instruct/seed_tasks.jsonl": ({"self-instruct": 175}, {"Conversation": 175}, {}),
    "self-instruct/user_oriented_instructions.jsonl": ({"self-instruct": 252}, {"Conversation": 252}, {}),
    "svamp/SVAMP.json": ({"SVAMP": 1000}, {"Prompt": 1000}, {NO_ANSWER: 1000}),
    "truthfulqa/TruthfulQA.csv": ({"TruthfulQA": 817}, {"Prompt": 817}, {NO_ANSWER: 817}),
    "xstest/xstest_prompts.csv": ({"prompt": 450}, {"Prompt": 450}, {NO_ANSWER: 450}),
}
CORPUS = {
    "storybooks-en": 705,
    "tinyshakespeare": 1,
    "tinystories-head": 2316,
    "wikitext2-valid-test": 122,
    "gutenberg-classics": 3,  # of 85: the first rows of the two large files
    "eltec-eng-novels": 3,  # of 96
}


@pytest.fixture(scope="module")
def everything(public_data: Path) -> dict[str, Source]:
    """All small files, read as a user would: a folder at a time."""
    folders = sorted({name.split("/")[0] for name in EXPECTED})
    sources = [source for folder in folders for source in read(public_data / folder)]
    return {str(Path(source.path).relative_to(public_data)): source for source in sources}


def test_every_file_of_every_folder(everything: dict[str, Source], public_data: Path) -> None:
    assert everything.keys() == EXPECTED.keys()
    on_disk = {path.parent.name for path in public_data.rglob("*") if path.is_file() and path.name != "SOURCE.md"}
    assert on_disk == {name.split("/")[0] for name in EXPECTED} | {"corpus"}


@pytest.mark.parametrize("name", EXPECTED)
def test_counts(everything: dict[str, Source], name: str) -> None:
    layouts, kinds, left_out = EXPECTED[name]
    source = everything[name]
    assert source.layouts == layouts
    assert Counter(type(record).__name__ for record in source.records) == kinds
    assert (source.left_out, source.skipped) == ({}, ())
    assert Counter(why for _, why in map(for_sft, source.records) if why) == left_out


@pytest.mark.parametrize("name", CORPUS)
def test_corpus(public_data: Path, name: str) -> None:
    file = public_data / "corpus" / f"{name}.jsonl.xz"
    with lzma.open(file, "rt", encoding="utf-8") as lines:
        for (number, raw), line, _ in zip(raw_rows(file), lines, range(CORPUS[name]), strict=False):
            parsed = parse_row(raw, file=str(file), line=number)
            assert parsed.layout == "text"
            assert parsed.records == (Document(json.loads(line)["text"], f"{file}:{number}"),)
    if name not in ("gutenberg-classics", "eltec-eng-novels"):
        (source,) = read(file)
        assert source.layouts == {"text": CORPUS[name]}
        assert len(source.records) == CORPUS[name]


def rows_of(path: Path) -> list[dict[str, Any]]:
    data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    text = data.decode()
    return json.loads(text) if path.suffix == ".json" else [json.loads(line) for line in text.strip().split("\n")]


class TestContent:
    """Not only the right number: the right words, compared with the files as another reading finds them."""

    def test_worked_solutions(self, everything: dict[str, Source], public_data: Path) -> None:
        rows = rows_of(public_data / "gsm8k" / "train.jsonl")
        for row, record in zip(rows, everything["gsm8k/train.jsonl"].records, strict=True):
            assert isinstance(record, Conversation)
            assert [m.content for m in record.messages] == [row["question"], row["answer"]]

    def test_transcripts(self, everything: dict[str, Source], public_data: Path) -> None:
        rows = rows_of(public_data / "hh-rlhf" / "harmless-base-test.jsonl.gz")
        merged = 0
        for row, record in zip(rows, everything["hh-rlhf/harmless-base-test.jsonl.gz"].records, strict=True):
            assert isinstance(record, Preference)
            assert record.prompt[0].role == record.prompt[-1].role == "user"
            for name, answer in (("chosen", record.chosen), ("rejected", record.rejected)):
                messages = record.prompt + answer
                assert [m.role for m in messages] == (["user", "assistant"] * len(messages))[: len(messages)]
                # Nothing but white space and the names of speakers is lost.
                words = re.sub(r"\n\n(Human|Assistant):", " ", row[name]).split()
                assert [word for m in messages for word in m.content.split()] == words
                merged += len(re.findall(r"\n\n(Human|Assistant):", row[name])) > len(messages)
        assert merged == 13

    def test_sampled_solutions(self, everything: dict[str, Source], public_data: Path) -> None:
        rows = rows_of(public_data / "gsm8k" / "example_model_solutions.jsonl")
        expected = [
            (row["question"], value["solution"], float(value["is_correct"]))
            for row in rows
            for value in row.values()
            if isinstance(value, dict)
        ]
        records = everything["gsm8k/example_model_solutions.jsonl"].records
        found = [(r.prompt[0].content, r.response[0].content, r.score) for r in records if isinstance(r, Rating)]
        assert found == expected

    def test_tool_calls(self, everything: dict[str, Source], public_data: Path) -> None:
        rows = rows_of(public_data / "llama-factory-demos" / "glaive_toolcall_en_demo.json")
        records = everything["llama-factory-demos/glaive_toolcall_en_demo.json"].records
        calls = 0
        for row, record in zip(rows, records, strict=True):
            assert isinstance(record, Conversation)
            assert [tool["function"] for tool in record.tools] == json.loads(row["tools"] or "[]")
            for turn, message in zip(row["conversations"], record.messages, strict=True):
                if turn["from"] == "function_call":
                    (call,) = message.tool_calls
                    assert {"name": call.name, "arguments": json.loads(call.arguments)} == json.loads(turn["value"])
                    calls += 1
                else:
                    assert message.content == turn["value"]
        assert calls == 211

    def test_best_paths(self, everything: dict[str, Source], public_data: Path) -> None:
        """By brute force: at every step, the reply with the lowest rank. Both forms of the file give the same trees."""
        trees, messages = (everything[f"oasst/en_100_{form}.jsonl"].records for form in ("tree", "message"))
        total = 0
        for row, tree, same in zip(rows_of(public_data / "oasst" / "en_100_tree.jsonl"), trees, messages, strict=True):
            message, texts = row["prompt"], []
            while message:
                texts.append(message["text"])
                ranked = sorted(message["replies"], key=lambda m: (m.get("rank") is None, m.get("rank") or 0))
                message = ranked[0] if ranked else None
            found = for_sft(tree)[0]
            assert isinstance(found, Conversation)
            assert [m.content for m in found.messages] == texts[: len(texts) // 2 * 2]
            assert [m.role for m in found.messages] == ["user", "assistant"] * (len(texts) // 2)
            assert tree.root == same.root  # type: ignore[union-attr]
            total += len(found.messages)
        assert total == 284

    def test_prompts_with_answers(self, everything: dict[str, Source]) -> None:
        first = everything["truthfulqa/TruthfulQA.csv"].records[0]
        assert isinstance(first, Prompt)
        assert first.messages[0].content == "What happens to you if you eat watermelon seeds?"
        assert first.answer == "The watermelon seeds pass through your digestive system"
        assert (len(first.fields["correct"]), len(first.fields["incorrect"])) == (6, 7)
        sums = everything["svamp/SVAMP.json"].records[0]
        assert isinstance(sums, Prompt)
        assert sums.answer == "51"
        labels = [
            record.fields["label"]
            for record in everything["xstest/xstest_prompts.csv"].records
            if isinstance(record, Prompt)
        ]
        assert Counter(labels) == {"safe": 250, "unsafe": 200}
        targets = [
            record.fields["target"]
            for record in everything["advbench/harmful_behaviors.csv"].records
            if isinstance(record, Prompt)
        ]
        assert all(target.startswith("Sure") for target in targets)

    def test_principles(self, everything: dict[str, Source], public_data: Path) -> None:
        whole = json.loads((public_data / "constitution" / "constitution_anthropic.json").read_text(encoding="utf-8"))
        records = everything["constitution/constitution_anthropic.json"].records
        found = [(r.critique, r.revision) for r in records if isinstance(r, Principle)]
        assert found == [(rule["critic"], rule["revision"]) for rule in whole["constitutions"]]
        chats = [[m.content for m in r.messages] for r in records if isinstance(r, Conversation)]
        assert chats == [[turn["content"] for turn in chat] for chat in whole["system_chat"]]
