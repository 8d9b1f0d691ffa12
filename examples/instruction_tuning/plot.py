"""The curve of the study as an SVG of its own: four panels, held-out accuracy over the number of training tasks."""

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

WIDTH, HEIGHT = 860, 640
PANEL_WIDTH, PANEL_HEIGHT = 340, 200
LEFT, TOP, ACROSS, DOWN = 60, 64, 420, 284
BLUE, ORANGE, RED, GREY = "#2563a8", "#b8620c", "#a83232", "#666666"
PANELS = (
    ("All held-out tasks (options where there are any)", "all", None),
    ("Elements: facts of a table never asked about", "elements, options", "elements, free"),
    ("Calendar: few facts, easily mixed up", "calendar, options", "calendar, free"),
    ("Plays with words: a skill never shown", None, "words, free"),
)
"""Title, and the groups of questions with and without options."""

Rows = Mapping[tuple[str, str], Sequence[Mapping[str, Any]]]


def draw(summary: Sequence[Mapping[str, Any]]) -> str:
    """The whole picture; `summary` as in results.json."""
    rows: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for row in summary:
        rows.setdefault((row["kind"], row["group"]), []).append(row)
    points = sorted({row["num_tasks"] for row in summary if row["kind"] == "tasks"})
    parts = [_legend()]
    for number, (title, offered, free) in enumerate(PANELS):
        x, y = LEFT + ACROSS * (number % 2), TOP + DOWN * (number // 2)
        parts.append(f'<g transform="translate({x} {y})">{_panel(title, offered, free, rows, points)}</g>')
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" '
        f'font-size="12" role="img" aria-label="Held-out accuracy by number of training tasks">'
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>{"".join(parts)}</svg>\n'
    )


def _panel(title: str, offered: str | None, free: str | None, rows: Rows, points: Sequence[int]) -> str:
    parts = [_axes(title, points)]
    if offered:
        parts += [_level(rows.get(("chance", offered)), GREY, "2 4"), _level(rows.get(("base", offered)), RED, "1 5")]
        parts += [_line(rows.get(("shuffled", offered)), points, RED, "4 3")]
    if free:
        parts += [
            _level(rows.get(("base, Q and A", free)), ORANGE, "7 4"),
            _line(rows.get(("tasks", free)), points, ORANGE),
        ]
    if offered:
        parts += [_line(rows.get(("tasks", offered)), points, BLUE)]
    return "".join(parts)


def _axes(title: str, points: Sequence[int]) -> str:
    parts = [f'<text x="0" y="-12" font-weight="bold">{escape(title)}</text>']
    for share in (0, 0.25, 0.5, 0.75, 1):
        y = _y(share)
        parts.append(f'<path d="M0 {y}H{PANEL_WIDTH}" stroke="#dddddd"/>')
        parts.append(f'<text x="-8" y="{y + 4}" text-anchor="end" fill="{GREY}">{share:.0%}</text>')
    for count in points:
        x = _x(count, points)
        parts.append(f'<text x="{x}" y="{PANEL_HEIGHT + 18}" text-anchor="middle" fill="{GREY}">{count}</text>')
    middle, below = PANEL_WIDTH / 2, PANEL_HEIGHT + 36
    parts.append(f'<text x="{middle}" y="{below}" text-anchor="middle" fill="{GREY}">training tasks</text>')
    return "".join(parts)


def _line(found: Sequence[Mapping[str, Any]] | None, points: Sequence[int], colour: str, dash: str = "") -> str:
    """Means joined by a line, each with its interval."""
    rows = sorted(found or (), key=lambda row: row["num_tasks"])
    places = [(_x(row["num_tasks"], points), row) for row in rows]
    corners = "L".join(f"{x} {_y(row['mean'])}" for x, row in places)
    parts = [f'<path d="M{corners}" fill="none" stroke="{colour}" stroke-width="2" stroke-dasharray="{dash}"/>']
    for x, row in places:
        parts.append(f'<path d="M{x} {_y(row["low"])}V{_y(row["high"])}" stroke="{colour}" opacity="0.6"/>')
        parts.append(f'<circle cx="{x}" cy="{_y(row["mean"])}" r="3" fill="{colour}"/>')
    return "".join(parts) if places else ""


def _level(found: Sequence[Mapping[str, Any]] | None, colour: str, dash: str) -> str:
    """A figure that has no number of tasks, across the panel."""
    if not found:
        return ""
    y = _y(found[0]["mean"])
    return f'<path d="M0 {y}H{PANEL_WIDTH}" stroke="{colour}" stroke-width="1.5" stroke-dasharray="{dash}"/>'


def _legend() -> str:
    entries = (
        ("asked with options", BLUE, ""),
        ("asked freely", ORANGE, ""),
        ("answers shuffled", RED, "4 3"),
        ("chance", GREY, "2 4"),
        ("base, bare", RED, "1 5"),
        ("base as Q and A", ORANGE, "7 4"),
    )
    parts, x = [], LEFT
    for name, colour, dash in entries:
        parts.append(f'<path d="M{x} 18h24" stroke="{colour}" stroke-width="2" stroke-dasharray="{dash}"/>')
        parts.append(f'<text x="{x + 30}" y="22">{escape(name)}</text>')
        x += 48 + 6.4 * len(name)
    return "".join(parts)


def _x(count: int, points: Sequence[int]) -> float:
    """The number of tasks on a scale of powers of two."""
    span = math.log2(points[-1] / points[0]) or 1
    return round(12 + (PANEL_WIDTH - 24) * math.log2(count / points[0]) / span, 1)


def _y(share: float) -> float:
    return round(PANEL_HEIGHT * (1 - share), 1)
