"""`posttrain eval`: questions with gold answers to accuracy, pass@k and majority@k, with intervals."""

import json
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from posttrain.errors import DataError
from posttrain.evals.reasoning import lines, reasoning_report
from posttrain.recipes.config import command
from posttrain.recipes.eval_answers import Answers, key_of
from posttrain.recipes.eval_asking import Job, asked
from posttrain.recipes.eval_config import EvalConfig
from posttrain.recipes.eval_prompts import read_questions, with_shots
from posttrain.recipes.policy import resolve_model
from posttrain.recipes.rewards import recipe_reward
from posttrain.recipes.sample_answers import weights_digest
from posttrain.recipes.tool_setup import offered, recipe_toolbox, tool_figures
from posttrain.rollouts.grading import Grader
from posttrain.rollouts.tools.tool import ToolBox
from posttrain.types import Rollout

SETTINGS = (
    "reward", "num_samples", "top_p", "top_k", "min_p", "max_new_tokens", "stop_strings", "seed", "sampler_dtype"
)  # fmt: skip
TOOL_SETTINGS = ("tools", "tool_limit_s", "max_tool_calls")


def run(config: EvalConfig) -> int:
    """Ask what was not asked yet, grade it, and write the figures down; suites go their own way."""
    if config.suite:
        from posttrain.recipes.eval_suite import run_suite

        return run_suite(config)
    console = Console(highlight=False, soft_wrap=True)
    say = partial(console.print, markup=False)
    questions, shots = read_questions(config, say)
    box = recipe_toolbox(config, say)
    prompts = offered([with_shots(question, shots, config.system_prompt) for question in questions], box)
    folder = resolve_model(config.model)
    settings = {name: getattr(config, name) for name in (*SETTINGS, *(TOOL_SETTINGS if box else ()))}
    settings |= {"temperature": config.drawn_at} | (weights_digest(folder) or {"model": config.model})
    settings |= {"tools_digest": box.digest} if box else {}
    answers = Answers(Path(config.output_dir) / "answers.jsonl", overwrite=config.overwrite_output_dir)
    keys = [key_of(prompt, settings) for prompt in prompts]
    missing = [number for number, key in enumerate(keys) if key not in answers.rows]
    if len(missing) < len(prompts):
        say(f"{len(prompts) - len(missing):,} questions have their answers already and are not asked again")
    if missing:
        _ask(config, folder, box, [(keys[n], questions[n], prompts[n]) for n in missing], answers, console)
    groups = [answers.group(key, question) or [] for key, question in zip(keys, questions, strict=True)]
    report = reasoning_report(groups, right_at=config.right_at, numeric=config.is_numeric, by=config.by)
    if box:
        report["tools"] = tool_figures(groups)
    record = {"command": command(config), "model": config.model, "settings": settings, "num_shots": len(shots)}
    place = Path(config.output_dir) / "eval.json"
    place.write_text(json.dumps(record | {"figures": report}, indent=2, default=str) + "\n", encoding="utf-8")
    _show(console, config, report)
    say(f"written to {place}; again: {record['command']}")
    if report["num_unknown"] == report["num_answers"]:
        raise DataError(f"nothing is known of any answer: {_first_error(groups)}")
    return 0


def _ask(
    config: EvalConfig, folder: str, box: ToolBox | None, jobs: Sequence[Job], answers: Answers, console: Console
) -> None:
    """Several prompts at a time, so that the sampler's slots stay full; what is done is on the disk."""
    size = max(1, 8 * config.sampler_slots // config.num_samples)
    parts = [jobs[start : start + size] for start in range(0, len(jobs), size)]
    with ExitStack() as stack:
        policy, answered = asked(config, folder, box, parts, stack, partial(console.print, markup=False))
        judge = recipe_reward(config.reward, tokenizer=policy.tokenizer, max_completion_length=config.max_new_tokens)
        grader, progress = Grader([judge]), stack.enter_context(Progress(console=console, transient=True))
        task = progress.add_task("answering", total=len(jobs))
        for part, groups in answered:
            for (key, question, _), group in zip(part, groups, strict=True):
                answers.add(key, question, grader.grade(group))
            progress.advance(task, len(part))


def _show(console: Console, config: EvalConfig, report: dict[str, Any]) -> None:
    asked = f"{report['num_problems']:,} questions, {report['num_answers']:,} answers"
    table = Table(title=f"{config.model}: {asked} (95 % interval over questions)")
    parts = {"all": report} | report.get(f"by_{config.by}", {})
    table.add_column("what")
    for name, part in parts.items():
        table.add_column(name if name == "all" else f"{name} ({part['num_problems']:,})", justify="right")
    columns = [dict(lines(part)) for part in parts.values()]
    for what in dict.fromkeys(what for column in columns for what in column):
        table.add_row(what, *(column.get(what, "") for column in columns))
    console.print(table)
    if used := report.get("tools"):
        shares = f"{used['calls_per_answer']:.2f} an answer, {used['answers_with_a_call']:.0%} of answers have one"
        console.print(f"{used['calls']:,} calls: {shares}; {used['errors']:,} errors, {used['malformed']:,} malformed")


def _first_error(groups: Sequence[Sequence[Rollout]]) -> str:
    for rollout in (rollout for group in groups for rollout in group):
        errors = [rollout.error, *(f"{name}: {score.error}" for name, score in rollout.scores.items())]
        if found := next((error for error in errors if error and not error.endswith(": ")), ""):
            return found
    return "no answer was given"
