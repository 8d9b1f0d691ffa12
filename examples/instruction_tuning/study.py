"""Does a model that has followed more tasks follow a task that it has never met? Measured on the pocket world.

    python examples/instruction_tuning/study.py

The base is fine-tuned on 1, 2, 4 ... tasks with the same number of steps, and asked tasks of clusters that no run has
seen. Every cell of the study is saved when it is done, so a study that was stopped goes on; `results.json` and
`curve.svg` are written beside this file in the end. `--smoke` is a small one in a folder of its own, to see that it
works.
"""

import argparse
import json
import os
import random
import shutil
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from plot import draw

from posttrain.data.tasks import Task, TaskSet, expand, hold_out
from posttrain.data.template import render_prompt, stop_token_ids
from posttrain.models.attention import install_attention
from posttrain.models.load import Policy, load
from posttrain.pocket.base import base_folder
from posttrain.pocket.tasks import pocket_tasks
from posttrain.pocket.world import build_world
from posttrain.recipes.preview import bare_prompt
from posttrain.recipes.sft import run
from posttrain.recipes.sft_config import SftConfig
from posttrain.rollouts.generate import generate
from posttrain.train.runlog import fingerprint, hardware
from posttrain.types import Conversation, Message

HERE = Path(__file__).parent
HELD_OUT = ("elements", "calendar", "words")
POINTS = (1, 2, 4, 8, 16, 32)
RUNS = {"tasks": 3, "shuffled": 3, "nothing held out": 3, "base": 3, "base, Q and A": 3}
"""How many seeds each kind of cell has."""
SETTINGS = {"max_steps": 200, "learning_rate": 1e-4, "conversations": 2400, "inverted_share": 0.1, "items": 40}
T_975 = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776}
"""Quantiles of Student's t that leave 2.5 % above, by the number of seeds."""


@dataclass(frozen=True)
class Cell:
    """One measurement: what was done to the base, with how many tasks, under which seed."""

    kind: str
    num_tasks: int
    seed: int

    @property
    def name(self) -> str:
        return f"{self.kind.replace(', ', '-').replace(' ', '-')}-{self.num_tasks}-{self.seed}"


@dataclass(frozen=True)
class Item:
    """A question of a held-out task. `chance`: how often a blind choice among its options is right."""

    task: str
    form: str
    question: Conversation
    answers: tuple[str, str]
    chance: float


def cells(points: Sequence[int]) -> Iterator[Cell]:
    """Every cell; those without training first."""
    for kind in ("base", "base, Q and A"):
        yield from (Cell(kind, 0, seed) for seed in range(RUNS[kind]))
    for seed in range(max(RUNS.values())):
        if seed < RUNS["nothing held out"]:
            yield Cell("nothing held out", 0, seed)
        for kind in ("tasks", "shuffled"):
            yield from (Cell(kind, count, seed) for count in points if seed < RUNS[kind])


def training_tasks(cell: Cell) -> list[Task]:
    """The tasks of one cell. A seed has its own order of the tasks, and more of them means more of the same order."""
    tasks = pocket_tasks(build_world(), taught=True)
    if cell.kind == "nothing held out":
        return tasks
    trained, _ = hold_out(tasks, HELD_OUT)
    random.Random(f"order:{cell.seed}").shuffle(trained)
    return trained[: cell.num_tasks]


def conversations(cell: Cell, settings: dict[str, Any]) -> list[Conversation]:
    """The same number of conversations whatever the number of tasks, as far as a task can give so many."""
    tasks = training_tasks(cell)
    drawn = TaskSet(
        tuple(tasks),
        per_task=-(-settings["conversations"] // len(tasks)),
        per_row=max(len(task.templates) for task in tasks),
        inverted_share=settings["inverted_share"],
        seed=cell.seed,
    ).conversations()
    return shuffled(drawn, cell.seed) if cell.kind == "shuffled" else drawn


def shuffled(drawn: Sequence[Conversation], seed: int) -> list[Conversation]:
    """A control: the answers of each task dealt out anew among its questions. Form stays, sense goes."""
    by_task: dict[str, list[Conversation]] = {}
    for one in drawn:
        by_task.setdefault(one.source.split(":")[0], []).append(one)
    rng = random.Random(f"shuffled:{seed}")
    dealt = []
    for questions in by_task.values():
        answers = rng.sample(questions, len(questions))
        dealt += [
            replace(question, messages=(question.messages[0], answer.messages[-1]))
            for question, answer in zip(questions, answers, strict=True)
        ]
    return dealt


def held_out_items(seed: int, per_task: int) -> list[Item]:
    """Questions of the held-out tasks, about the half of the world that no training shows, freely and with options."""
    _, tasks = hold_out(pocket_tasks(build_world(), taught=False), HELD_OUT)
    items = []
    for task in tasks:
        for form, offers in (("free", False), ("options", True)):
            asked = tuple(one for one in task.templates if one.shows_options == offers and not one.inverted)
            if not asked:
                continue
            for one in expand(replace(task, templates=asked), per_task=per_task, per_row=len(asked), seed=seed):
                row = task.rows[int(one.source.split(":")[1]) - 1]
                chance = 1 / len(row["choices"]) if offers else 0.0
                items.append(Item(task.name, form, one, (row["reply"], row["answer"]), chance))
    return items


def fine_tune(cell: Cell, settings: dict[str, Any], folder: Path) -> tuple[Policy, dict[str, Any]]:
    """The base after the tasks of a cell: what `posttrain sft --dataset FILE` makes."""
    data = folder / "train.jsonl"
    drawn = conversations(cell, settings)
    rows = [{"messages": [{"role": m.role, "content": m.content} for m in one.messages]} for one in drawn]
    data.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    config = SftConfig(
        dataset=str(data),
        output_dir=str(folder / "model"),
        max_steps=settings["max_steps"],
        learning_rate=settings["learning_rate"],
        seed=cell.seed,
        data_checks="warn",  # a task of few words gives the same answer often, and says so
        dataset_num_proc=0,
        num_preview_samples=0,
        overwrite_output_dir=True,
    )
    if code := run(config):
        raise SystemExit(code)
    lines = (folder / "model" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    tasks = [task.name for task in training_tasks(cell)]
    return load(folder / "model"), {"tasks": tasks, "conversations": len(drawn), "loss": json.loads(lines[-1])["loss"]}


def answers(policy: Policy, kind: str, questions: Sequence[Conversation]) -> list[str]:
    """Greedy replies. The base has no chat template: it is given bare text, or the dress of its answered lists."""
    dress = {"base": "{}\n", "base, Q and A": "Q: {}\nA:"}.get(kind)
    texts = [one.messages[0].content for one in questions]
    prompts = [
        bare_prompt(policy, dress.format(text)) if dress else render_prompt([Message("user", text)], policy.tokenizer)
        for text in texts
    ]
    stops = stop_token_ids(policy.tokenizer)
    found = generate(policy, prompts, max_new_tokens=28, stop_token_ids=stops, batch_size=128)
    replies = [policy.tokenizer.decode(ids, skip_special_tokens=True).strip() for ids in found]
    return [reply.split("\n")[0] for reply in replies] if dress else replies  # a base goes on with other questions


def is_right(reply: str, accepted: Sequence[str]) -> bool:
    """Exact match with the sentence or the bare answer, but for case and the full stop."""
    return _plain(reply) in {_plain(answer) for answer in accepted}


def _plain(text: str) -> str:
    return " ".join(text.split()).casefold().rstrip(".")


def measure(cell: Cell, settings: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The figures of one cell: right and asked, by task and form."""
    began = time.perf_counter()
    folder.mkdir(parents=True, exist_ok=True)
    if cell.kind.startswith("base"):
        policy, told = load(base_folder()), {}
    else:
        policy, told = fine_tune(cell, settings, folder)
    install_attention(policy.model)
    items = held_out_items(cell.seed, settings["items"])
    counts: dict[str, dict[str, list[float]]] = {}
    for item, reply in zip(items, answers(policy, cell.kind, [item.question for item in items]), strict=True):
        count = counts.setdefault(item.task, {}).setdefault(item.form, [0, 0, 0.0])
        count[0] += is_right(reply, item.answers)
        count[1] += 1
        count[2] += item.chance
    shutil.rmtree(folder)
    return asdict(cell) | told | {"seconds": round(time.perf_counter() - began, 1), "counts": counts}


def accuracies(cell: dict[str, Any], column: int = 0) -> dict[str, float]:
    """By cluster and form, each task counting alike; `all` asks with options where a task has them. `column` 2 gives
    what a blind choice would reach."""
    clusters = {task.name: task.cluster for task in pocket_tasks(build_world(), taught=False)}
    groups: dict[str, list[float]] = {}
    for task, forms in cell["counts"].items():
        shares = {form: count[column] / count[1] for form, count in forms.items()}
        for form, share in shares.items():
            groups.setdefault(f"{clusters[task]}, {form}", []).append(share)
        groups.setdefault("all", []).append(shares.get("options", shares["free"]))
    return {name: statistics.mean(shares) for name, shares in groups.items()}


def interval(values: Sequence[float]) -> dict[str, float]:
    """The mean over seeds with its 95 % t-interval. Every seed has its own tasks, order and questions, so what lies
    between the seeds holds the chance in all of these."""
    mean = statistics.mean(values)
    half = T_975[len(values)] * statistics.stdev(values) / len(values) ** 0.5
    return {"mean": mean, "low": max(0.0, mean - half), "high": min(1.0, mean + half), "seeds": len(values)}


def summarise(done: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row for each kind, number of tasks and group of questions."""
    rows: dict[tuple[str, int, str], list[float]] = {}
    for cell in done:
        for name, value in accuracies(cell).items():
            rows.setdefault((cell["kind"], cell["num_tasks"], name), []).append(value)
        if cell["kind"] == "base":
            for name, value in accuracies(cell, 2).items():
                rows.setdefault(("chance", 0, name), []).append(value)
    return [
        {"kind": kind, "num_tasks": count, "group": name} | interval(values)
        for (kind, count, name), values in rows.items()
    ]


def main() -> None:
    """Measure what is not measured yet, then write results and curve."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work-dir", type=Path, default=Path("runs/instruction-tuning"), help="where cells are kept")
    parser.add_argument("--smoke", action="store_true", help="two steps a cell, two points, two seeds")
    args = parser.parse_args()
    points, settings, work, out = POINTS, dict(SETTINGS), args.work_dir, HERE
    if args.smoke:
        points, settings, work = POINTS[:2], settings | {"max_steps": 2, "items": 2}, work / "smoke"
        RUNS.update(dict.fromkeys(RUNS, 2))
        out = work
    work.mkdir(parents=True, exist_ok=True)
    done = []
    for cell in cells(points):
        path = work / f"{cell.name}.json"
        mark = fingerprint(settings, asdict(cell))
        saved = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        if saved.get("fingerprint") != mark:
            saved = {"fingerprint": mark} | measure(cell, settings, work / cell.name)
            partial = path.with_suffix(".partial")
            partial.write_text(json.dumps(saved), encoding="utf-8")
            os.replace(partial, path)
            print(cell.name, {name: round(value, 2) for name, value in accuracies(saved).items()}, flush=True)
        done.append({key: value for key, value in saved.items() if key != "fingerprint"})
    results = {
        "command": "python examples/instruction_tuning/study.py" + (" --smoke" if args.smoke else ""),
        "settings": settings | {"held_out": HELD_OUT, "points": points},
        "hardware": hardware(),
        "versions": {name: version(name) for name in ("posttrain", "torch", "transformers")},
        "summary": summarise(done),
        "cells": done,
    }
    (out / "results.json").write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    (out / "curve.svg").write_text(draw(results["summary"]), encoding="utf-8")
    print(f"wrote {out / 'results.json'} and {out / 'curve.svg'}")


if __name__ == "__main__":
    main()
