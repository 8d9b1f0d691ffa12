"""The page of an export."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from posttrain.recipes.export_view import COLUMNS, lines, nats, size, verdict
from posttrain.recipes.judge_view import ends, percent
from posttrain.train.pages import write_page as write_template

MOST_CARDS = 6
"""In one line of the page; of more formats the table alone tells."""


def write_page(record: Mapping[str, Any], folder: Path) -> Path:
    """Write export.html; returns its path."""
    rows = record["exports"]
    bad = [row["format"] for row in rows if not row["passed"]]
    said = f": {', '.join(bad)} kept as .rejected" if bad else ": every file says what the model says"
    view = {
        "verb": "export",
        "over": record["model"],
        "title": f"Exports of {record['model']}",
        "level": "bad" if bad else "good",
        "verdict": f"{len(bad)} OF {len(rows)} REJECTED" if bad else f"{len(rows)} of {len(rows)} passed",
        "said": said,
        "notes": _notes(rows),
        "cards": [
            (row["format"], nats(row["compared"][0]["kl"]), f"nats from fp32 · {size(row['bytes'])}")
            for row in (rows if len(rows) <= MOST_CARDS else [])
            if row["compared"]
        ],
        "columns": COLUMNS,
        "rows": [(not row["passed"], cells) for row in rows for cells in lines(row)],
        "suites": [_suite(row) for row in rows if row["figures"]],
        "examples": [
            each | {"format": row["format"], "reader": compared["reader"]}
            for row in rows
            for compared in row["compared"]
            for each in compared["examples"]
        ][:40],
        "facts": _facts(record),
        "command": record["command"],
    }
    return write_template(folder / "export.html", "recipes/export.html", view)


def _notes(rows: list[Mapping[str, Any]]) -> list[tuple[str, str]]:
    found = [("bad", f"{row['format']} {verdict(row)}: {fault.upper()}") for row in rows for fault in row["faults"]]
    for row in rows:
        told = [*row["notes"], *([row["llama_cpp"]] if row["llama_cpp"] else [])]
        found += [("soft", f"{row['format']}: {note}") for note in told]
    return found


def _suite(row: Mapping[str, Any]) -> dict[str, Any]:
    """Every figure of the suites: fp32, exported, the paired difference."""
    figures = []
    for each in row["figures"]:
        share = each["unit"] == "share"
        scale, form = (100.0, "{:.1f}") if share else (1.0, "{:.3f}")
        values = [percent({"value": each[k]}) if share else f"{each[k]:.3f}" for k in ("fp32", "exported")]
        change = form.format(scale * each["value"]).replace("-", "−")
        changed = f"{each['num_won']} up, {each['num_lost']} down of {each['num_pairs']:,}"
        figures.append((f"{each['task']}.{each['figure']}", each["title"], *values, change,
                        ends(each, scale=scale, form=form), changed))  # fmt: skip
    return {"format": row["format"], "figures": figures}


def _facts(record: Mapping[str, Any]) -> list[tuple[str, str]]:
    first = next((each for row in record["exports"] for each in row["compared"]), {"num_prompts": 0})
    asked = f"{first['num_prompts']:,} prompts; answers to {record['max_new_tokens']} tokens"
    found = [("the check", asked), ("suites", ", ".join(record["suites"]) or "none")]
    for row in record["exports"]:
        budget = row["budget"]
        most = f"KL {budget['kl']:g}, flips {100 * budget['flips']:g} %, drop {100 * budget['drop']:g} points"
        found.append((f"{row['format']}: {row['says']}", f"{row['path']} · sha256 {row['digest'][:16]} · {most}"))
    return [*found, ("seed", str(record["seed"])), ("seconds", f"{record['seconds']:,}")]
