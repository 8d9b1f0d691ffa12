"""The plan on the console."""

from typing import Any

from rich.console import Console
from rich.table import Table

MIB, GIB = 2**20, 2**30


def show(found: dict[str, Any], console: Console) -> None:
    """Memory by part, the step by what takes it, totals, and what makes it fit."""
    kind = "whole" if found["trained"] >= found["parameters"] else f"{count(found['trained'])} of them trained"
    console.print(f"{found['stage']} of {found['model']} ({count(found['parameters'])} parameters, {kind}) "
                  f"on {found['hardware']}", markup=False)  # fmt: skip
    memory, step, tokens = found["memory"], found["step"], found["tokens"]
    table = _table(f"memory a process (fullest: {memory['moment']})", "")
    for name, size in sorted(memory["parts"].items(), key=lambda item: -item[1]):
        table.add_row(name, size_text(size))
    table.add_row("together", size_text(memory["total"]))
    table.add_row("there is", size_text(memory["has"]))
    for name, size in memory["host"].items():
        table.add_row(f"in main memory: {name}", size_text(size))
    console.print(table)
    table = _table(f"an optimiser step (bound by: {step['bound']})", "")
    for name, seconds in sorted(step["parts"].items(), key=lambda item: -item[1]):
        table.add_row(name, time_text(seconds))
    table.add_row("together", time_text(step["seconds"]))
    if step["hidden"]:
        table.add_row("communication behind it", time_text(step["hidden"]))
    console.print(table)
    console.print(f"tokens: {tokens['step']:,.0f} a step, {tokens['seconds']:,.0f} a second"
                  f" ({step['mfu']:.0%} of the peak)" + _total(found))  # fmt: skip
    disk = found["disk"]
    console.print(f"disk: {size_text(disk['checkpoint'])} a checkpoint, {size_text(disk['export'])} the model, "
                  f"{size_text(disk['most'])} at most")  # fmt: skip
    _show_price(found, console)
    _show_fit(found, console)


def _total(found: dict[str, Any]) -> str:
    if found["steps"] is None:
        return ""
    return f"; {found['tokens']['total']:,.0f} in {found['steps']:,} steps"


def _show_price(found: dict[str, Any], console: Console) -> None:
    if found["seconds"] is None:
        console.print("time: give max_steps, or data that can be read, to know how many steps there are")
        return
    before = f", {time_text(found['before'])} of it before the first step" if found["before"] else ""
    hours = found["seconds"] / 3600 * found["processes"]
    told = "" if found["price"] is None else f", price {found['price']:,.2f}"
    console.print(f"time: {time_text(found['seconds'])}{before}; {hours:,.2f} device hours{told}")


def _show_fit(found: dict[str, Any], console: Console) -> None:
    if found["fits"]:
        console.print("it fits")
        return
    table = _table("it does not fit; each of these alone", "memory", "fits", "costs")
    for knob in found["knobs"]:
        table.add_row(knob["keys"], size_text(knob["total"]), "yes" if knob["fits"] else "no", knob["costs"])
    console.print(table)
    if found["mend"] is None:
        console.print("nothing that a recipe can change makes it fit: take a smaller model or larger devices")
    else:
        console.print("to make it fit, the least harmful first: " + "; ".join(found["mend"]), markup=False)


def _table(first: str, *others: str) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column(first)
    for name in others:
        table.add_column(name, justify="left" if name == "costs" else "right")
    return table


def size_text(size: float) -> str:
    """Bytes in MiB or GiB."""
    return f"{size / GIB:,.1f} GiB" if size >= GIB else f"{size / MIB:,.0f} MiB"


def time_text(seconds: float) -> str:
    """Seconds in the unit that suits them."""
    for unit, size in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:,.1f} {unit}"
    return f"{seconds:.1f} s" if seconds >= 1 else f"{1000 * seconds:.0f} ms"


def count(number: float) -> str:
    """Millions and billions."""
    return f"{number / 1e9:.1f} B" if number >= 1e9 else f"{number / 1e6:.1f} M"
