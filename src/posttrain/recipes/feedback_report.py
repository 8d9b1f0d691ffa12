"""`posttrain feedback report`: agreement, annotators, models and whether one may stop, from the ballots of a store."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from posttrain.errors import StoreError
from posttrain.feedback.store import Store
from posttrain.feedback.summary import feedback_statistics
from posttrain.recipes.feedback_report_config import FeedbackReportConfig

VERDICTS = {
    "fine": "",
    "unknown": "too few votes beside others",
    "by chance": "no better than chance",
    "reversed": "votes the wrong way round",
}
SETTLED = {"better": "settled", "worse": "settled, the other way", "equal": "settled: equal", "open": "open"}
WIDTH = 80


def run(config: FeedbackReportConfig) -> None:
    """Print the figures, for people or for programs."""
    if "://" not in config.store and not Path(config.store).is_file():
        raise StoreError(f"{config.store}: there is no such store. `posttrain annotate` makes one; --store names it.")
    with Store.open(config.store) as store:
        found = feedback_statistics(store, source=None if config.source == "all" else config.source, seed=config.seed)
    if config.json:
        print(json.dumps(found))
        return
    show(found, Console(highlight=False, width=WIDTH))


def show(found: Mapping[str, Any], console: Console) -> None:
    """The tables, 80 columns wide."""
    counts, items = found["counts"], found["items"]
    kinds = ", ".join(f"{num:,} {kind}" for kind, num in found["kinds"].items()) or "none"
    console.print(f"ballots      {counts['ballots_of_source']:,} ({kinds}), source: {found['source']}", markup=False)
    console.print(f"comparisons  {found['comparisons']:,}, of them {found['ties']:,} ties")
    console.print(
        f"items        {items['done']:,} of {items['total']:,} done, {items['ballots_missing']:,} of "
        f"{items['ballots_needed']:,} ballots missing"
    )
    if counts["flagged_ballots"]:
        console.print(f"flagged      {counts['flagged_ballots']:,} ballots left out")
    _agreement(found["agreement"], console)
    if found["annotators"]:
        console.print(_annotators(found["annotators"]))
    if found["models"]:
        console.print(_models(found["models"]))
        _warnings(found, console)
        _stopping(found["stopping"], console)
    elif found["comparisons"]:
        console.print("models       the answers of this store name no two models, so none are ranked")


def _agreement(found: Mapping[str, Any], console: Console) -> None:
    names = {
        "pairwise": "agreement, a tie counts half",
        "pairwise_without_ties": "agreement, ties left out",
        "alpha": "Krippendorff's alpha",
        "alpha_of_ratings": "… of ratings (interval)",
        "alpha_of_labels": "… of labels (nominal)",
    }
    table = _table("agreement", "", "value", "95 % interval", "pairs", "items")
    for key, name in names.items():
        row = found[key]
        if row["value"] is not None:
            form = (lambda x: f"{x:.1%}") if key.startswith("pairwise") else (lambda x: f"{x:.3f}")
            interval = "too few or too alike" if row["low"] is None else f"{form(row['low'])} to {form(row['high'])}"
            table.add_row(name, form(row["value"]), interval, f"{row['pairs']:,}", f"{row['items']:,}")
    console.print(table if table.row_count else "agreement    unknown: nobody judged what another judged")


def _annotators(rows: Sequence[Mapping[str, Any]]) -> Table:
    table = _table("annotators", "", "ballots", "s each", "right", "95 % interval", "")
    for row in rows:
        known = row["accuracy"] is not None
        table.add_row(
            _short(row["name"], 18),
            f"{row['ballots']:,}",
            "" if row["median_seconds"] is None else f"{row['median_seconds']:.0f}",
            f"{row['accuracy']:.0%}" if known else "",
            f"{row['low']:.0%} to {row['high']:.0%}" if known else "",
            VERDICTS[row["verdict"]],
        )
    return table


def _models(rows: Sequence[Mapping[str, Any]]) -> Table:
    table = _table("models", "", "strength", "95 % interval", "wins", "compared", "ranked pairs")
    for row in rows:
        interval = f"{row['low']:+.2f} to {row['high']:+.2f}"
        figures = (f"{row['win_rate']:.0%}", f"{row['comparisons']:,}", f"{row['ranked_pairs']}")
        table.add_row(_short(row["name"], 24), f"{row['strength']:+.2f}", interval, *figures)
    return table


def _warnings(found: Mapping[str, Any], console: Console) -> None:
    if len(found["model_groups"]) > 1:
        groups = "; ".join(", ".join(group) for group in found["model_groups"])
        console.print(
            f"No comparison joins these groups, so only within each is there an order: {groups}", markup=False
        )
    if found["bounded_by_prior"]:
        console.print("Some model won or lost all it met: how strong it is, the prior says, not the votes.")
    if found["circles"]:
        circles = ", ".join(f"{a} over {b} (by {margin:g})" for a, b, margin in found["circles"])
        console.print(f"Majorities that go in a circle, left out of ranked pairs: {circles}", markup=False)


def _stopping(found: Mapping[str, Any], console: Console) -> None:
    table = _table("is the order settled?", "", "wins", "bounds", "items", "", "items to go")
    for row in found["neighbours"]:
        rate = "" if row["win_rate"] is None else f"{row['win_rate']:.0%}"
        to_go = "never, at this rate" if row["more_items"] is None else f"{row['more_items']:,}"
        name = f"{_short(row['first'], 14)} over {_short(row['second'], 14)}"
        bounds = f"{row['low']:.0%} to {row['high']:.0%}"
        table.add_row(name, rate, bounds, f"{row['items']:,}", SETTLED[row["settled"]], to_go)
    console.print(table)
    more = "" if found["more_items"] is None else f" About {found['more_items']:,} more comparisons of neighbours."
    console.print("You may stop: every neighbour is settled." if found["may_stop"] else f"Not settled yet.{more}")


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for place, column in enumerate(columns):
        table.add_column(column, justify="right" if place and column else "left")
    return table


def _short(name: str, width: int) -> str:
    """A name that fits its column; markup in it stays text."""
    return (name if len(name) <= width else name[: width - 1] + "…").replace("[", r"\[")
