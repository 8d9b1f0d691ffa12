"""What an export came to, in words: the same for the page and the terminal."""

from collections.abc import Mapping
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from posttrain.evals.export_check import FEW
from posttrain.recipes.export_suites import losses
from posttrain.recipes.judge_view import ends, percent

Row = Mapping[str, Any]


def size(count: int) -> str:
    """Bytes in the unit that reads best.

    >>> size(2_622_752)
    '2.6 MB'
    """
    for unit, scale in (("GB", 1e9), ("MB", 1e6)):
        if count >= scale:
            return f"{count / scale:.1f} {unit}"
    return f"{count / 1e3:.0f} kB"


def nats(estimate: Mapping[str, Any]) -> str:
    """A KL to two digits that count; a dash where it is no number."""
    return "not a number" if estimate["value"] is None else f"{estimate['value']:.2g}"


def verdict(row: Row) -> str:
    """One word for a format."""
    return "passed" if row["passed"] else "REJECTED"


def lines(row: Row) -> list[list[tuple[str, str]]]:
    """The table's lines of a format: a line for each that read it, cells with a note under each."""
    if not row["compared"]:
        return [[(row["format"], f"{verdict(row)} · {size(row['bytes'])}"), ("nobody", ""), *[("–", "")] * 6]]
    found = []
    for number, each in enumerate(row["compared"]):
        suites = _worst(row) if not number else ("", "")
        equal = each["num_prompts"] - each["unequal_prompts"]
        stops = [*(f"{t} missing" for t in each["stops_missing"]), *(f"{t} too" for t in each["stops_extra"])]
        first = (row["format"], f"{verdict(row)} · {size(row['bytes'])}") if not number else ("", "")
        found.append(
            [
                first,
                (each["reader"], f"{each['num_tokens']:,} tokens"),
                (f"{equal} of {each['num_prompts']}", ", ".join(stops) or "stops equal"),
                (nats(each["kl"]), ends(each["kl"], scale=1.0, form="{:.2g}")),
                ("–" if each["kl_max"] is None else f"{each['kl_max']:.2g}", "worst token"),
                (percent(each["top1"]), ends(each["top1"])),
                _flips(each),
                suites,
            ]
        )
    return found


def _worst(row: Row) -> tuple[str, str]:
    """The share of the suites that lost most."""
    found = losses(row["figures"])
    if not found:
        return "", ""
    lost, figure = found[0]
    return (f"−{100 * lost:.1f}", f"{figure['task']}.{figure['figure']}") if lost > 0 else ("0.0", "nothing lost")


def _flips(each: Row) -> tuple[str, str]:
    """Of whole answers; where few are whole, of all of them, which is told and not judged."""
    if each["num_whole"] >= FEW:
        return percent(each["flips"]), ends(each["flips"])
    return f"({percent(each['flips_all'])})", f"{each['num_whole'] or 'none'} of them whole: not judged"


COLUMNS = (
    "format",
    "read by",
    "prompts equal",
    "KL, nats",
    "most",
    "same top token",
    "answers flip",
    "most lost, points",
)
WIDE = 116
"""Columns of a terminal from which on the table shows intervals."""
ON_PAGE_ONLY = ("most", "same top token")


def show(record: Mapping[str, Any], console: Console) -> None:
    """A table, then what is wrong in capital letters, then what should be known."""
    table = Table(title=Text(f"exports of {record['model']} (95 % intervals)"), box=box.SIMPLE_HEAD, pad_edge=False)
    shown = [number for number, column in enumerate(COLUMNS) if column not in ON_PAGE_ONLY]
    is_wide = console.width >= WIDE
    for number in shown:
        table.add_column(COLUMNS[number], justify="left" if number < 2 else "right", no_wrap=number < len(COLUMNS) - 1)
    for row in record["exports"]:
        for cells in lines(row):
            # On a narrow terminal the notes are left to the page, but for the figure that lost most.
            notes = [note if is_wide or number == len(COLUMNS) - 1 else "" for number, (_, note) in enumerate(cells)]
            table.add_row(*(Text("\n".join(filter(None, (cells[n][0], notes[n])))) for n in shown))
    console.print(table)
    for row in record["exports"]:
        for fault in row["faults"]:
            console.print(Text(f"{row['format']} REJECTED: {fault.upper()}", style="bold red"))
        for note in [*row["notes"], *([row["llama_cpp"]] if row["llama_cpp"] else [])]:
            console.print(f"{row['format']}: {note}", markup=False)
        if row["faults"]:
            console.print(f"{row['format']} IS KEPT AS {row['path']} AND SHOULD NOT BE USED", markup=False)
