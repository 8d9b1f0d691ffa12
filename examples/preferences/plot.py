"""The picture of the study: win rates of the methods, and the best-of-n curve of the reward model."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

BLUE, ORANGE, GREY = "#2563a8", "#b8620c", "#888888"


def draw(summary: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Write the SVG; the same figures give the same file."""
    with mpl.rc_context({"svg.hashsalt": "study", "svg.fonttype": "none", "font.family": "sans-serif"}):
        figure = Figure(figsize=(10.5, 4.2), layout="constrained")
        left, right = figure.subplots(1, 2)
        _win_rates(left, [row for row in summary if "greedy" in row])
        _curve(right, next((row["best_of_n"] for row in summary if row["method"] == "reward"), []))
        figure.savefig(path, metadata={"Date": None})


def _win_rates(axes: Any, rows: Sequence[Mapping[str, Any]]) -> None:
    for place, row in enumerate(rows):
        for way, colour, shift in (("greedy", BLUE, 0.12), ("sampled", ORANGE, -0.12)):
            found, y = row[way]["win_rate"], len(rows) - place + shift
            axes.plot(found["values"], [y] * len(found["values"]), ".", color=colour, alpha=0.45, markersize=6)
            if found["low"] is not None:
                axes.plot([found["low"], found["high"]], [y, y], color=colour, linewidth=1.5)
            axes.plot(found["mean"], y, "o", color=colour, label=way if place == 0 else None)
    axes.axvline(0.5, color=GREY, linestyle=":")
    axes.set_yticks([len(rows) - place for place in range(len(rows))], [row["method"] for row in rows])
    axes.set_xlim(0.3, 1)
    axes.set_xlabel("win rate against the fine-tuned model (gold judge, ties half)")
    axes.set_title("Methods: mean over seeds, 95 % interval, each seed", fontsize=10)
    if rows:
        axes.legend(frameon=False)


def _curve(axes: Any, points: Sequence[Mapping[str, Any]]) -> None:
    kl = [point["kl"] for point in points]
    for name, colour, label in (
        ("oracle", GREY, "chosen by the gold judge"),
        ("gold", BLUE, "chosen by the reward model"),
    ):
        axes.plot(kl, [point[name]["mean"] for point in points], "o-", color=colour, label=label)
    if points and points[0]["gold"]["low"] is not None:
        low, high = ([point["gold"][end] for point in points] for end in ("low", "high"))
        axes.fill_between(kl, low, high, color=BLUE, alpha=0.15, linewidth=0)
    for point in points:
        axes.annotate(f"n={point['n']}", (point["kl"], point["gold"]["mean"]), (-6, -16), textcoords="offset points")
    axes.set_xlabel("KL from the sampler: log n - (n - 1)/n, nats")
    axes.set_ylabel("gold score")
    axes.set_ylim(0, 1)
    axes.set_title("Best of n", fontsize=10)
    if points:
        axes.legend(frameon=False, loc="lower right")
