"""`posttrain judge`: a model compares or rates answers; the votes are kept, and the judge itself is measured."""

from collections import Counter
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from posttrain.data.whole_files import write_rows
from posttrain.errors import DataError, PosttrainError, StoreError
from posttrain.feedback.imports import is_new
from posttrain.feedback.judge import Judge
from posttrain.feedback.store import Store
from posttrain.recipes.config import command
from posttrain.recipes.judge_asking import Asking
from posttrain.recipes.judge_cases import Case, usable
from posttrain.recipes.judge_config import JudgeConfig
from posttrain.recipes.judge_figures import Asked, nulls_of, pair_figures, pairs_of
from posttrain.recipes.judge_page import show, write_page
from posttrain.recipes.judge_preferences import preference_row
from posttrain.recipes.judge_ratings import rate_all
from posttrain.recipes.judge_reading import cases_of_data, cases_of_store
from posttrain.recipes.judge_setup import judge_of, spent_of
from posttrain.recipes.judge_view import write_record
from posttrain.recipes.judge_votes import Votes, fill_store
from posttrain.recipes.text_model import spent_line
from posttrain.recipes.text_spread import over_ray


def run(config: JudgeConfig) -> int:
    """Read what is to be judged, ask, keep the votes, and write judge.json and report.html."""
    console = Console(highlight=False, soft_wrap=True)
    say = partial(console.print, markup=False)
    folder, counts = Path(config.output_dir), Counter[str]()
    with ExitStack() as stack:
        cases = _cases(config, stack, counts)
        asked = over_ray(config, stack, folder, say)
        judge = judge_of(config, say, folder=folder, rubric=config.rubric, **asked)
        store = _filled(config, cases, stack)
        votes = Votes(store, judge) if store is not None else None
        left = ", ".join(f"{count:,} {what}" for what, count in counts.items() if count)
        say(f"{len(cases):,} prompts to judge answers of ({left})" if left else f"{len(cases):,} prompts")
        asking = Asking(console, chunk=max(config.chunk, asked.get("chunk", 0) // 2))
        judge_all = _compare_all if config.mode == "pairwise" else rate_all
        record = {"command": command(config), "mode": config.mode, "counts": dict(+counts)}
        record |= judge_all(config, judge, cases, votes, asking)
    spent = spent_of(judge.model, config)
    record |= {"judge": {"name": judge.name, "digest": judge.digest, **judge.described()}, "spent": spent}
    place = folder / "judge.json"
    write_record(record, place)
    page = write_page(record, folder)
    show(record, console)
    say(spent_line(judge.model, **config.prices))
    if votes is not None:
        say(f"{votes.new:,} new votes of {judge.name} in {config.store}")
    say(f"written to {place} and {page}; again: {record['command']}")
    if asking.stopped:
        raise PosttrainError(
            f"{asking.num_not_asked:,} were not asked, since the judge went away: {asking.stopped} The figures are of "
            "the others; run the same command again to go on from there."
        )
    return 0


def _cases(config: JudgeConfig, stack: ExitStack, counts: Counter[str]) -> list[Case]:
    """What can be judged, at most max_samples prompts of it."""
    if config.dataset:
        cases, places = cases_of_data(config.dataset, counts), ", ".join(entry.path for entry in config.dataset)
    else:
        places = str(config.store)
        if is_new(places):
            raise StoreError(f"{places}: there is no such store. `posttrain annotate` and `posttrain sample` make one.")
        cases = cases_of_store(stack.enter_context(Store.open(places)))
    return usable(cases, pairwise=config.mode == "pairwise", counts=counts, places=places)[: config.max_samples]


def _filled(config: JudgeConfig, cases: list[Case], stack: ExitStack) -> Store | None:
    """The store for the votes, with everything of the data in it."""
    if config.store is None:
        return None
    store = stack.enter_context(Store.open(config.store))
    if config.dataset:
        fill_store(store, config.dataset, cases)
    return store


def _compare_all(
    config: JudgeConfig, judge: Judge, cases: list[Case], votes: Votes | None, asking: Asking
) -> dict[str, Any]:
    """Every pair in both orders, then the null answers; PosttrainError where nothing came through."""
    asked = pairs_of(cases, max_pairs=config.max_pairs, seed=config.judge_seed)
    judged = []
    for pair, said in asking.ask("comparing", asked, lambda some: judge.compare([one.compared for one in some])):
        judged.append((pair, said))
        if votes is not None:
            votes.pair(pair.case, pair.first, pair.second, said)
    known = [(pair, said) for pair, said in judged if said.p_first is not None]
    if not known:
        errors = [error for _, said in judged for error in said.errors]
        why = next(iter(asking.errors), "") or (errors[0] if errors else "no verdict")
        raise DataError(f"the judge gave no verdict on any of {len(asked):,} pairs, the first: {why}", file=judge.name)
    masses = [said.mass for _, said in known if said.mass is not None]
    nulls = nulls_of(cases, num_prompts=config.num_null_prompts, seed=config.judge_seed)
    asked_nulls = list(asking.ask("null answers", nulls, lambda some: judge.compare([one.compared for one in some])))
    figures = pair_figures(
        judged, asked_nulls, num_asked=len(asked), judge_model=config.judge, min_people=config.min_people
    )
    record = {
        "num_prompts": len(cases),
        "num_pairs": len(asked),
        "num_judged": len(known),
        "num_failed": asking.num_failed,
        "num_not_asked": asking.num_not_asked,
        "errors": dict(asking.errors.most_common(10)),
        "mean_mass": float(np.mean(masses)) if masses else None,
        "is_calibrated": figures["verdict"]["is_calibrated"],
        "reasons": figures["verdict"]["reasons"],
        "figures": figures,
        "samples": [_sample(pair, said) for pair, said in known[:12]],
    }
    if config.preferences:
        rows = (
            preference_row(p.case, p.first, p.second, said, judge=judge.name, judge_digest=judge.digest)
            for p, said in known
            if config.keep_ties or said.outcome != 0.5
        )
        record["num_preferences"] = write_rows(Path(config.output_dir) / "preferences.jsonl", rows)
    return record


def _sample(pair: Asked, said: Any) -> dict[str, Any]:
    votes = pair.votes
    return {
        "prompt": pair.case.prompt[-1].content,
        "answers": list(pair.texts),
        "p_first": said.p_first,
        "by_order": list(said.by_order),
        "flipped": said.flipped,
        "people": sum(votes.values()) / len(votes) if votes else None,
        "reason": said.reasons[0] if said.reasons else "",
    }
