"""Suites that are taken again on exports, and what they may lose."""

from collections.abc import Mapping, Sequence
from typing import Any

from posttrain.evals.task import Task
from posttrain.models.load import Policy, load_tokenizer
from posttrain.pocket.base import base_folder
from posttrain.recipes.export_config import ExportConfig
from posttrain.recipes.suites import only, options_of, suite

MOST_LIKELY_CHANCE = 0.2
"""Two-sided p from which on a loss is put down to chance: one in ten by chance alone on the side of a loss. Lower would
let a model through that has visibly lost its manners on a small panel."""


def losses(figures: Sequence[Mapping[str, Any]]) -> list[tuple[float, Mapping[str, Any]]]:
    """Every share of the suites with how much of it is lost (below 0: gained), the largest loss first."""
    ways = {"higher": -1.0, "lower": 1.0}
    found = [(ways[row["better"]] * row["value"], row) for row in figures if row["unit"] == "share" and row["better"]]
    return sorted(found, key=lambda each: -each[0])


def drops(figures: Sequence[Mapping[str, Any]], most: float) -> list[str]:
    """Shares that lost more than is allowed, unless chance explains it, a sentence each. Figures in other units are
    told, and judged by KL."""
    found = []
    for lost, row in losses(figures):
        if lost > most and row["p_value"] < MOST_LIKELY_CHANCE:
            change = f"{100 * row['fp32']:.1f} % to {100 * row['exported']:.1f} % of {row['num_pairs']}"
            found.append(f"{row['task']}.{row['figure']} went from {change}, at most {100 * most:g} points may be lost")
    return found


def tasks_of(config: ExportConfig, policy: Policy) -> list[Task]:
    """The suites that were named; of a model of the pocket world its exam and refusals."""
    named = config.suite or (["pocket", "refusals"] if is_pocket(policy) else [])
    if not named:
        return []
    return only(suite(named, options_of(config.data, config.limit, config.seed)), config.task)


def is_pocket(policy: Policy) -> bool:
    """Whether a model came of the embedded base: its vocabulary begins with the base's."""
    known: dict[str, int] = policy.tokenizer.get_vocab()
    own: dict[str, int] = load_tokenizer(base_folder()).get_vocab()
    return all(known.get(token) == number for token, number in own.items())
