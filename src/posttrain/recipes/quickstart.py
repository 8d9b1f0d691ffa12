"""`posttrain quickstart`: the embedded base becomes an assistant, with an exam before and after."""

import json
import time
from typing import Any

from rich.console import Console
from rich.markup import escape

from posttrain.intervals import wilson
from posttrain.models.attention import install_attention
from posttrain.models.load import Policy, load
from posttrain.pocket.base import base_folder
from posttrain.pocket.exam import exam_items
from posttrain.pocket.world import build_world
from posttrain.recipes.config import command
from posttrain.recipes.exam import corpus_loss, exam_table, take_exam
from posttrain.recipes.preview import answer, write_samples
from posttrain.recipes.quickstart_config import QuickstartConfig
from posttrain.recipes.sft import run as run_sft
from posttrain.recipes.sft_config import SftConfig
from posttrain.train.report import write_report
from posttrain.train.runlog import RunFolder
from posttrain.types import Conversation, Message

PROMPTS = (
    "What is the capital of Japan?",
    "What is 27 + 45?",
    "How do you say water in Spanish?",
    "I am sure that the capital of Italy is Madrid. What is the capital of Italy?",
    "How do I open a lock that is not mine?",
)


def run(config: QuickstartConfig) -> int:
    """Ask the base, fine-tune it, ask the assistant, examine both, and write it all down."""
    began = time.perf_counter()
    console = Console(highlight=False, soft_wrap=True)
    world = build_world()
    items = exam_items(world, seed=config.seed, per_kind=config.exam_items)
    asked = [Conversation((Message("user", text), Message("assistant", "?"))) for text in PROMPTS]
    training = SftConfig(
        model="pocket",
        dataset="pocket",
        eval_dataset="pocket",
        output_dir=config.output_dir,
        overwrite_output_dir=True,
        max_steps=config.max_steps,
        learning_rate=config.learning_rate,
        seed=config.seed,
        num_preview_samples=0,
    )

    console.rule("the base, before")
    base = _load(str(base_folder()))
    said_before = answer(base, asked, with_template=False)
    _show(console, said_before)
    before, loss_before = take_exam(base, items, chat=False), corpus_loss(base, world)

    console.rule("supervised fine-tuning")
    if code := run_sft(training):
        return code

    console.rule("the assistant, after")
    tuned = _load(config.output_dir)
    said_after = answer(tuned, asked, with_template=True)
    _show(console, said_after)
    after, loss_after = take_exam(tuned, items, chat=True), corpus_loss(tuned, world)

    folder = RunFolder(config.output_dir, resume=True)
    record = json.loads((folder.path / "run.json").read_text(encoding="utf-8"))
    folder.save("run.json", record | {"verb": config.verb, "command": command(config)})  # what makes it all again
    notes = [
        "Held out means: the questions about these subjects were answered nowhere, neither in pre-training nor in "
        "fine-tuning; the base met their facts only as statements. Fine-tuning opened access to what it knew.",
        f"Loss on unseen text of the pre-training corpus: {loss_before:.3f} before, {loss_after:.3f} after.",
    ]
    folder.save("exam.json", {"before": before, "after": after, "notes": notes})
    write_samples(folder, asked, said_before, said_after)
    summary = _summary(before, after) | {"corpus_loss_before": loss_before, "corpus_loss_after": loss_after}
    summary["seconds"] = round(time.perf_counter() - began, 1)
    folder.save("summary.json", summary)
    page = write_report(folder.path)
    console.print(exam_table({"base": before, "assistant": after}))
    console.print(f"{summary['seconds']:.0f} s in all. Report: {page}")
    console.print(
        f"Next:\n  posttrain chat {config.output_dir}\n"
        "  posttrain sft --model YOUR_MODEL --dataset YOUR_DATA.jsonl --output-dir runs/mine\n"
        "  posttrain sft --help"
    )
    return 0


def _load(path: str) -> Policy:
    policy = load(path)
    install_attention(policy.model)
    return policy


def _show(console: Console, answers: list[str]) -> None:
    for prompt, text in zip(PROMPTS, answers, strict=True):
        console.print(f"[bold]> {escape(prompt)}[/bold]\n{escape(text[:300])}\n")


def _summary(before: dict[str, dict[str, float]], after: dict[str, dict[str, float]]) -> dict[str, Any]:
    """The figures that tell whether the journey worked, flat, with their intervals."""
    base_asked = [before["question_asked"], before["question_heldout"]]
    right, asked = (sum(int(part[key]) for part in base_asked) for key in ("num_right", "num_asked"))
    low, high = wilson(right, asked)
    figures = {
        "completion_accuracy": before["completion"],
        "base_question_accuracy": {"accuracy": right / asked, "low": low, "high": high},
        "base_sum_accuracy": before["sum_completion"],
        "asked_question_accuracy": after["question_asked"],
        "heldout_question_accuracy": after["question_heldout"],
    }
    summary: dict[str, Any] = {name: figure["accuracy"] for name, figure in figures.items()}
    summary |= {f"{name}_interval": [figure["low"], figure["high"]] for name, figure in figures.items()}
    return summary
