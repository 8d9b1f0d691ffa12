"""The page of `posttrain ab report`, and its figures as JSON."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from posttrain.data.whole_files import write_text
from posttrain.evals.ab_words import points
from posttrain.train.charts import Series, line_chart, swatch
from posttrain.train.pages import write_page

LEVELS = {"better": "good", "worse": "bad", "futile": "warn", "open": "", "guard": "bad", "broken": "bad"}
LINES = (("always-valid", "a", ("low", "high")), ("plain 95 %", "was dash", ("plain_low", "plain_high")))
SAYS = (
    "Stop when the blue lines leave 0 behind: they hold at every look together. The grey ones hold for one look at a "
    "number of users that was fixed beforehand; who stops when these leave 0 finds differences that are not there."
)
Row = Mapping[str, Any]


def write_report(found: Row, folder: Path) -> Path:
    """Write ab.json and report.html; returns the page's path."""
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "ab.json", json.dumps(found, indent=2, ensure_ascii=False) + "\n")
    verdict = found["recommendation"]["verdict"]
    view = {
        "verb": "ab report",
        "over": f"{found['users']:,} users, {found['votes']:,} votes",
        "title": " against ".join(reversed(found["arms"])),
        "level": LEVELS[verdict],
        "verdict": found["recommendation"]["said"],
        "said": "",
        "notes": [("warn", line) for line in found["warnings"]],
        "cards": _cards(found),
        "charts": [chart for row in found["comparisons"] for chart in _chart(row)],
        "tables": _tables(found),
        "facts": _facts(found),
        "command": found["command"],
    }
    return write_page(folder / "report.html", "recipes/ab.html", view)


def _cards(found: Row) -> list[tuple[str, str, str]]:
    cards = []
    for row in found["by_arm"]:
        mean = "–" if row["mean"] is None else f"{100 * row['mean']:.1f}\N{NO-BREAK SPACE}%"
        cards.append((row["arm"], mean, f"{row['users']:,} users, {row['votes']:,} votes"))
    for row in found["comparisons"]:
        value = row["always"]["value"]
        cards.append(
            (f"{row['arm']} less {row['versus']}", "–" if value is None else points(value), _ends(row["always"]))
        )
    ratio = found["sample_ratio"]
    cards.append(
        ("sample ratio", "broken" if ratio["is_mismatch"] else "kept", f"p = {ratio['p_value']:.2g}, {ratio['of']}")
    )
    return cards


def _chart(row: Row) -> list[dict[str, Any]]:
    looks = row["path"]
    if len(looks) < 2:
        return []
    later = looks[len(looks) // 8 :]  # the first looks know nothing and would squeeze the rest: they are cut
    ends = [one[key] for one in later for key in ("low", "high")]
    least, most = min(ends), max(ends)

    def line(key: str) -> list[tuple[float, float]]:
        return [(one["users"], 100 * min(max(one[key], least), most)) for one in looks if one[key] is not None]

    zero = Series("no difference", [(looks[0]["users"], 0.0), (looks[-1]["users"], 0.0)], "zero")
    series = [Series(f"{name}, {key}", line(key), style) for name, style, keys in LINES for key in keys]
    plot = line_chart([zero, *series, Series("estimate", line("value"), "a dash")])
    legend = [(name, swatch(style)) for name, style, _ in LINES] + [("estimate", swatch("a dash"))]
    title = f"{row['arm']} less {row['versus']}"
    return [{"title": title, "unit": "points, by users counted", "legend": legend, "plot": plot, "says": SAYS}]


def _tables(found: Row) -> list[dict[str, Any]]:
    differences = []
    for row in found["comparisons"]:
        name = f"{row['arm']} less {row['versus']}"
        for told, key in (("always valid", "always"), ("plain, one look", "plain")):
            part = row[key]
            value = "" if part["value"] is None else points(part["value"])
            differences.append([f"{name}: {told}", value, _ends(part), f"{part['p_value']:.3g}"])
        for guard in row["guards"]:
            value = "" if guard["value"] is None else points(guard["value"])
            name_of_guard = f"guard: {guard['kind']} at most {points(guard['most'])}: {guard['verdict']}"
            differences.append([name_of_guard, value, _ends(guard), ""])
    tables: list[dict[str, Any]] = _table("Differences, in points", ("", "difference", "interval", "p"), differences)
    counts = ("num_users", "wins", "ties", "losses")
    pairs = [
        [f"{row['arm']} over {row['versus']}", *(f"{row[key]:,}" for key in counts), f"{row['value']:.1%}",
         f"{row['low']:.1%} to {row['high']:.1%}", f"{row['p_value']:.3g}"]
        for row in found["pairs"]
    ]  # fmt: skip
    columns = ("", "users", "wins", "ties", "losses", "win rate", "always valid", "p")
    tables += _table("Picked the better", columns, pairs)
    drift = [[row["arm"], row["votes"], f"{row['users']:,}", f"{row['mean']:.1%}"] for row in found["drift"]]
    says = "Whether something new wears off. All votes, those after the window too; who votes often is another crowd."
    tables += _table("First votes and later ones", ("", "a user's votes", "users", "mean"), drift, says)
    return tables


def _table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], says: str = "") -> Any:
    return [{"title": title, "columns": columns, "rows": rows, "says": says}] if rows else []


def _ends(part: Row) -> str:
    known = all(part[key] is not None for key in ("value", "low", "high"))
    return f"{points(part['low'])} to {points(part['high'])}" if known else "not known yet"


def _facts(found: Row) -> list[tuple[str, str]]:
    window = f"{found['window_hours']:g} hours from the first vote; the user counts once these are over"
    return [
        ("least difference that matters", f"{100 * found['mde']:.1f} points"),
        ("alpha", f"{found['alpha']:g}, shared by the new arms"),
        ("votes of a user that count", window if found["window_hours"] else "the first"),
        ("users within their window", f"{found['pending']:,}"),
    ]
