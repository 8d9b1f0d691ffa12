"""`posttrain ab plan`: users, or comparisons, that a test takes, and for how many days."""

import json
import math
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table

from posttrain.evals.ab_plan import (
    LONGEST,
    always_valid_pairs,
    always_valid_users,
    pairs_needed,
    user_variance,
    users_needed,
)
from posttrain.recipes.ab_plan_config import AbPlanConfig

WIDTH = 80


def run(config: AbPlanConfig) -> None:
    """Print the plan, for people or for programs."""
    found = planned(config)
    if config.json:
        print(json.dumps(found))
    else:
        show(found, Console(highlight=False, width=WIDTH))


def planned(config: AbPlanConfig) -> dict[str, Any]:
    """The plan as JSON holds it; counts are of users in all arms, or of comparisons."""
    if config.win_rate is not None:
        number = pairs_needed(config.win_rate, power=config.power, alpha=config.alpha, ties=config.ties)
        always = always_valid_pairs(
            config.win_rate, power=config.power, alpha=config.alpha, ties=config.ties, seed=config.seed
        )
        asked = {"win_rate": config.win_rate, "ties": config.ties}
        plain: dict[str, Any] = {"total": number}
        unit = "comparisons"
    else:
        given: dict[str, Any] = {"power": config.power, "alpha": config.alpha, "share": config.share, "icc": config.icc}
        old, new = users_needed(config.baseline, config.difference, votes_per_user=config.votes_per_user, **given)
        always = always_valid_users(
            config.baseline, config.difference, votes_per_user=config.votes_per_user, seed=config.seed, **given
        )
        names = ("baseline", "difference", "share", "votes_per_user", "icc")
        asked = {name: getattr(config, name) for name in names}
        plain = {"old": old, "new": new, "total": old + new, "variance_of_a_user": _variance(config)}
        unit = "users"
    found = {"unit": unit, "asked": asked | {"power": config.power, "alpha": config.alpha}}
    return found | {"plain": plain, "always_valid": asdict(always), "days": _days(config, plain, asdict(always))}


def _variance(config: AbPlanConfig) -> float:
    return user_variance(config.baseline, config.votes_per_user, config.icc)


def _days(config: AbPlanConfig, plain: dict[str, Any], always: dict[str, Any]) -> dict[str, int | None] | None:
    if config.users_per_day is None:
        return None
    counts = {"plain": plain["total"], "mean": always["mean"], "for_power": always["for_power"]}
    return {name: None if num is None else math.ceil(num / config.users_per_day) for name, num in counts.items()}


def show(found: dict[str, Any], console: Console) -> None:
    """The plan in 80 columns."""
    asked, plain, always, unit = found["asked"], found["plain"], found["always_valid"], found["unit"]
    if unit == "users":
        console.print(
            f"a difference of {asked['difference']:+g} from {asked['baseline']:g}, found {asked['power']:.0%} of the "
            f"time, alpha {asked['alpha']:g}"
        )
    else:
        console.print(
            f"a win rate of {asked['win_rate']:g}, found {asked['power']:.0%} of the time, alpha {asked['alpha']:g}"
        )
    days = found["days"] or {}
    table = Table(box=None, pad_edge=False)
    for place, name in enumerate(("", unit, *(["days"] if days else []))):
        table.add_column(name, justify="right" if place else "left")

    def row(name: str, num: int | None, key: str) -> None:
        told = f"over {LONGEST:g} x the plan" if num is None else f"{num:,}"
        table.add_row(name, told, *([f"{days[key]:,}" if days[key] is not None else ""] if days else []))

    row("plain test, one look at the end", plain["total"], "plain")
    row(f"always-valid, until settled {asked['power']:.0%} of the time", always["for_power"], "for_power")
    row("always-valid, in the mean", always["mean"], "mean")
    console.print(table)
    if unit == "users" and plain["old"] != plain["new"]:
        console.print(f"of the plain test: {plain['old']:,} users of the old model, {plain['new']:,} of the new one")
    console.print(
        f"The always-valid test may be looked at all the time and stopped when it is settled ({always['num_trials']} "
        "simulated tests with just this difference; a larger one is settled sooner)."
    )
