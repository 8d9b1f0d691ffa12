"""`posttrain eval --suite`: tasks and a model to figures with intervals, beside another model where one is named."""

import time
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from posttrain.errors import ConfigError, DataError
from posttrain.evals import gates
from posttrain.evals.report import against_report, task_report, unlike
from posttrain.evals.taking import Taker
from posttrain.evals.task import Taken, Task
from posttrain.recipes.config import command
from posttrain.recipes.eval_config import EvalConfig
from posttrain.recipes.eval_earlier import earlier, is_earlier
from posttrain.recipes.eval_files import write_evaluation
from posttrain.recipes.eval_taking import take_tasks
from posttrain.recipes.eval_view import show
from posttrain.recipes.policy import load_packed, resolve_model
from posttrain.recipes.suite_asked import asked_tasks
from posttrain.recipes.suite_kept import Files, Kept, model_digest


def run_suite(config: EvalConfig) -> int:
    """Take the tasks, write eval.json and marks.jsonl, print the table; 1 where a gate does not pass."""
    console = Console(highlight=False, soft_wrap=True)
    say = partial(console.print, markup=False)
    tasks = asked_tasks(config)
    names = [f"{task.name}.{each.name}" for task in tasks for each in (*task.figures, *task.contrasts, *task.derived)]
    gates.require(config.gates, names, has_base=config.against is not None)
    started, folder = time.monotonic(), Path(config.output_dir)
    files = Files(folder, anew=config.overwrite_output_dir)
    digest, taken = take_all(config, config.model, tasks, files, console)
    reports = {t.task.name: task_report(t, command=_command(config, t.task.name)) for t in taken}
    report: dict[str, Any] = {
        "command": command(config), "model": config.model, "weights": digest, "suite": ",".join(config.suite),
        "seed": config.seed, "tasks": reports,
    }  # fmt: skip
    if config.against is not None:
        report["against"] = _against(config, tasks, taken, files, console)
    if config.gates:
        report["gates"] = gates.check(config.gates, report)
        report["passed"] = gates.is_passed(report["gates"])
    report |= {"seconds": round(time.monotonic() - started, 1), "num_tokens": sum(t.num_tokens for t in taken)}
    write_evaluation(folder, report, [(each.task.name, each.marks) for each in taken])
    show(console, report)
    say(f"written to {folder / 'eval.json'}; again: {report['command']}")
    if all(mark.error for each in taken for mark in each.marks):
        why = next((mark.error for each in taken for mark in each.marks), "its tasks mark nothing")
        raise DataError(f"nothing is known of any answer: {why}")
    return 0 if report.get("passed", True) else 1


def take_all(
    config: EvalConfig, model: str, tasks: Sequence[Task], files: Files, console: Console
) -> tuple[dict[str, str], list[Taken]]:
    """The digest of a model, and all tasks taken by it; it is loaded at the first question without an answer."""
    folder = resolve_model(model)
    digest = model_digest(folder)
    kept = Kept(files, {"name": model, **digest})
    dtype = None if config.sampler_dtype == "auto" else getattr(torch, config.sampler_dtype)
    if config.ray is None:
        taker = Taker(partial(load_packed, folder), keep=kept, slots=config.sampler_slots, dtype=dtype)
        return digest, take_tasks(taker, kept, tasks, model, console)
    from posttrain.recipes.ray_eval import ray_taker

    with ExitStack() as stack:
        taker = ray_taker(config, model, folder, kept, dtype, stack, partial(console.print, markup=False))
        return digest, take_tasks(taker, kept, tasks, model, console)


def _against(
    config: EvalConfig, tasks: Sequence[Task], ours: Sequence[Taken], files: Files, console: Console
) -> dict[str, Any]:
    """The other side: an earlier evaluation of these tasks, or a model that takes them now."""
    assert config.against is not None
    if is_earlier(config.against):
        about, marks = earlier(config.against)
        told = about.pop("settings")
        about["apart"] = [words for t in ours if t.task.name in marks
                          for words in unlike(t, marks[t.task.name], told.get(t.task.name, {}))]  # fmt: skip
    else:
        digest, taken = take_all(config, config.against, tasks, files, console)
        marks = {each.task.name: list(each.marks) for each in taken}
        reports = {each.task.name: task_report(each)["figures"] for each in taken}
        words = command(config.model_copy(update={"model": config.against, "against": None, "gates": []}))
        about = {"model": config.against, "weights": digest, "command": words, "figures": reports}
    found = {t.task.name: against_report(t.task, t.marks, marks.get(t.task.name, [])) for t in ours}
    if not any(found.values()):
        raise ConfigError(f"against {config.against}: it has no item in common with this evaluation; name another.")
    return about | {"tasks": found}


def _command(config: EvalConfig, task: str) -> str:
    return command(config.model_copy(update={"task": [task], "against": None, "gates": []}))
