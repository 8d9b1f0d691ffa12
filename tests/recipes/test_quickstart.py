"""The first journey, and two controls that must not reach its bar: no training, and shuffled answers."""

import json
from pathlib import Path
from typing import Any

import pytest

from posttrain.data.template import install_template
from posttrain.models.attention import install_attention
from posttrain.models.load import Policy, load
from posttrain.models.vocabulary import grow_embeddings
from posttrain.pocket.base import base_folder
from posttrain.pocket.chat import chat_conversations
from posttrain.pocket.exam import ExamItem, exam_items
from posttrain.pocket.world import build_world
from posttrain.recipes.exam import take_exam
from posttrain.recipes.quickstart_config import QuickstartConfig

BAR = 0.80  # of the questions about subjects that were never asked about
CONTROL_BAR = 0.50  # a control that comes near the bar would mean that the bar shows nothing


@pytest.fixture(scope="module")
def journey(tmp_path_factory: pytest.TempPathFactory, posttrain: Any) -> tuple[Path, str]:
    out = tmp_path_factory.mktemp("quickstart") / "run"
    done = posttrain("quickstart", "--output-dir", out, timeout=900)
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    return out, done.stdout


@pytest.fixture(scope="module")
def questions() -> list[ExamItem]:
    return [item for item in exam_items(build_world(), per_kind=200) if item.kind == "question"]


def heldout(policy: Policy, questions: list[ExamItem]) -> float:
    return take_exam(policy, questions, chat=True)["question_heldout"]["accuracy"]


def test_the_base_completes_and_does_not_answer(journey: tuple[Path, str]) -> None:
    summary = json.loads((journey[0] / "summary.json").read_text())
    assert summary["completion_accuracy"] >= 0.90
    assert summary["base_question_accuracy"] <= 0.10
    assert summary["base_sum_accuracy"] >= 0.80


def test_the_assistant_answers_what_it_was_never_asked(journey: tuple[Path, str]) -> None:
    summary = json.loads((journey[0] / "summary.json").read_text())
    assert summary["heldout_question_accuracy"] >= BAR
    low, high = summary["heldout_question_accuracy_interval"]
    assert low < summary["heldout_question_accuracy"] < high


def test_everything_is_written_and_said(journey: tuple[Path, str]) -> None:
    out, said = journey
    for name in ("summary.json", "run.json", "metrics.jsonl", "samples.jsonl", "exam.json", "report.html"):
        assert (out / name).stat().st_size > 0
    assert json.loads((out / "run.json").read_text())["command"].startswith("posttrain quickstart")
    assert len((out / "samples.jsonl").read_text().splitlines()) == 5
    for words in ("What is the capital of Japan?", "half never asked", "posttrain chat", "posttrain sft"):
        assert words in said


def test_without_training_it_does_not_answer(questions: list[ExamItem]) -> None:
    policy = load(base_folder())
    install_template(policy.tokenizer, "chatml")
    grow_embeddings(policy.model, len(policy.tokenizer), seed=0)
    install_attention(policy.model)
    assert heldout(policy, questions) < CONTROL_BAR


def test_shuffled_answers_do_not_open_the_knowledge(tmp_path: Path, posttrain: Any, questions: list[ExamItem]) -> None:
    data = tmp_path / "shuffled.jsonl"
    rows = [
        {"messages": [{"role": message.role, "content": message.content} for message in conversation.messages]}
        for conversation in chat_conversations(build_world(), shuffle_answers=True)
    ]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    plain = QuickstartConfig()
    keys = {"max-steps": plain.max_steps, "learning-rate": plain.learning_rate, "output-dir": tmp_path / "run"}
    flags = [str(word) for key, value in keys.items() for word in (f"--{key}", value)]
    done = posttrain("sft", "--model", "pocket", "--dataset", data, *flags, "--num-preview-samples", "0", timeout=600)
    assert done.returncode == 0, done.stderr
    policy = load(tmp_path / "run")
    install_attention(policy.model)
    assert heldout(policy, questions) < CONTROL_BAR
