"""`posttrain instruct`: instructions and answers that a model makes, tested, counted and traceable to their parents.

A run that was broken off goes on where it was: every reply of a model is on disk, under what was asked, so the same
command comes by the same way to the same instructions without asking again.
"""

from collections.abc import Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from posttrain.errors import DataError
from posttrain.recipes.instruct_answers import finish_of
from posttrain.recipes.instruct_config import InstructConfig
from posttrain.recipes.instruct_output import Output
from posttrain.recipes.instruct_setup import Models, method_of, pool_of
from posttrain.recipes.text_model import spent_line
from posttrain.recipes.text_spread import over_ray
from posttrain.synthesis.growing import Grown, grow
from posttrain.synthesis.pool import Pool

ENOUGH = 10**9


def run(config: InstructConfig) -> int:
    """Make instructions until there are as many as are wanted, or going on would give none.

    DataError where nothing at all was kept, with what came instead.
    """
    console = Console(highlight=False, soft_wrap=True)
    say = partial(console.print, markup=False)
    output = Output(config)
    with ExitStack() as stack:
        models = Models(config, say, **over_ray(config, stack, Path(config.output_dir), say))
        method, seeds = method_of(config, models)
        pool = pool_of(config, seeds, say)
        finish = finish_of(config, models, seeds)
        grown: Grown | None = None
        try:
            with Progress(console=console, transient=True) as progress:
                task = progress.add_task("instructions", total=config.wanted if config.wanted < ENOUGH else None)

                def watch(pool: Pool) -> None:
                    progress.update(task, completed=pool.num_kept)
                    output.watch(pool)

                limits = {"wanted": config.wanted, "max_fruitless": config.max_fruitless}
                grown = grow(method, pool, finish, **limits, watch=watch)
        finally:  # after Ctrl-C too
            output.save(pool)
            report = output.report(pool, grown, models.all)
    _show(console, report)
    for model in models.all:
        say(spent_line(model, **config.prices))
    if not pool.num_kept:
        why = ", ".join(f"{count:,} {reason}" for reason, count in pool.reasons.most_common())
        raise DataError(f"no instruction was kept: {grown.stopped}. Left out: {why or 'nothing'}.", file=config.model)
    if pool.num_kept < config.wanted < ENOUGH or (grown.stopped and "nothing more" not in grown.stopped):
        say(f"stopped at {pool.num_kept:,} instructions: {grown.stopped}")
    say(f"{config.output_dir}/instructions.jsonl: {pool.num_kept:,} of {pool.num_offered:,} candidates; the others, "
        f"with reasons, are in left_out.jsonl; again: {report['command']}")  # fmt: skip
    return 0


def _show(console: Console, report: Mapping[str, Any]) -> None:
    table = Table(title=f"{report['num_kept']:,} kept of {report['num_candidates']:,} candidates")
    table.add_column("what")
    table.add_column("", justify="right")
    for reason, count in report["left_out"].items():
        table.add_row(f"left out: {reason}", f"{count:,}")
    found = report["diversity"]
    for name in ("distinct_1", "distinct_2", "num_first_words"):
        table.add_row(name.replace("_", " "), f"{found[name]:g}")
    for name in ("rouge_to_nearest", "instruction_words", "answer_words"):
        if found[name]:
            table.add_row(f"{name.replace('_', ' ')}, mean", f"{found[name]['mean']:.2f}")
    firsts = ", ".join(f"{word} {count}" for word, count in list(found["first_words"].items())[:6])
    table.add_row("first words", firsts)
    console.print(table)
