"""`posttrain ab report`: how a test stands, whether one may stop, and a page of it."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from posttrain.errors import StoreError
from posttrain.evals.ab_words import points
from posttrain.feedback.served import ServedStore
from posttrain.feedback.store import Store
from posttrain.recipes.ab_report_config import AbReportConfig
from posttrain.recipes.ab_report_page import write_report
from posttrain.recipes.ab_state import assignments_of, stored_state
from posttrain.recipes.config import command
from posttrain.serve.doors import Outcome

WIDTH = 80


def run(config: AbReportConfig) -> None:
    """Print the state, for people or for programs; with --output-dir write it too."""
    if "://" not in config.store and not Path(config.store).is_file():
        raise StoreError(f"{config.store}: there is no such store. `posttrain serve` makes one; --store names it.")
    beside = assignments_of(config.store)
    file = config.assignments or (beside if beside is not None and beside.is_file() else None)
    with Store.open(config.store) as store:
        outcomes = ServedStore(store, outcome=Outcome).outcomes(taken_back=True)
    found = stored_state(
        outcomes,
        arms=config.arms,
        assignments=file,
        test=config.test,
        shares=config.shares,
        mde=config.mde,
        alpha=config.alpha,
        window_hours=config.window_hours,
        guards=config.guard_shares,
        now=datetime.now(UTC),
    )
    pages = write_report(found | {"command": command(config)}, Path(config.output_dir)) if config.output_dir else None
    if config.json:
        print(json.dumps(found))
        return
    console = Console(highlight=False, width=WIDTH)
    show(found, console)
    if pages is not None:
        console.print(f"report       {pages}", markup=False, soft_wrap=True)


def show(found: Mapping[str, Any], console: Console) -> None:
    """The state in 80 columns."""
    pending = (
        f" ({found['pending']:,} more within their first {found['window_hours']:g} hours)" if found["pending"] else ""
    )
    console.print(f"users        {found['users']:,}{pending}, {found['votes']:,} votes", markup=False)
    for warning in found["warnings"]:
        console.print(f"warning      {warning}", markup=False)
    tables = [_arms(found), *map(_comparison, found["comparisons"])]
    for table in [*tables, *([_pairs(found["pairs"])] if found["pairs"] else [])]:
        console.print()
        console.print(table)
    console.print()
    console.print(found["recommendation"]["said"], markup=False)


def _arms(found: Mapping[str, Any]) -> Table:
    table = _table("", "users", "votes", "mean", "95 % interval")
    for row in found["by_arm"]:
        known = row["low"] is not None
        interval = f"{row['low']:.1%} to {row['high']:.1%}" if known else ""
        mean = "" if row["mean"] is None else f"{row['mean']:.1%}"
        table.add_row(_short(row["arm"]), f"{row['users']:,}", f"{row['votes']:,}", mean, interval)
    return table


def _comparison(row: Mapping[str, Any]) -> Table:
    table = _table(f"{_short(row['arm'])} less {_short(row['versus'])}, points", "difference", "interval", "p")
    for name, key in (("always valid", "always"), ("plain, not to stop by", "plain")):
        part = row[key]
        value = "" if part["value"] is None else points(part["value"])
        known = part["low"] is not None and part["high"] is not None
        interval = f"{points(part['low'])} to {points(part['high'])}" if known and value else ""
        table.add_row(name, value, interval, f"{part['p_value']:.2g}")
    for guard in row["guards"]:
        value = "" if guard["value"] is None else points(guard["value"])
        interval = f"{points(guard['low'])} to {points(guard['high'])}"
        table.add_row(f"guard: {_short(guard['kind'])}, {guard['verdict']}", value, interval, "")
    return table


def _pairs(rows: list[Mapping[str, Any]]) -> Table:
    table = _table("picked the better", "users", "wins", "ties", "losses", "win rate", "always valid")
    for row in rows:
        name = f"{_short(row['arm'])} over {_short(row['versus'])}"
        counts = [f"{row[key]:,}" for key in ("num_users", "wins", "ties", "losses")]
        table.add_row(name, *counts, f"{row['value']:.1%}", f"{row['low']:.1%} to {row['high']:.1%}")
    return table


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False)
    for place, column in enumerate(columns):
        table.add_column(column, justify="right" if place else "left")
    return table


def _short(name: str, width: int = 20) -> str:
    """A name that fits its column; markup in it stays text."""
    return escape(name if len(name) <= width else name[: width - 1] + "…")
