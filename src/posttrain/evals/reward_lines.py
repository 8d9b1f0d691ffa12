"""The report on a reward model in the terminal: `reward_lines(report)`, at most 80 columns wide."""

import textwrap
from collections.abc import Mapping
from typing import Any

WIDTH = 80


def reward_lines(report: Mapping[str, Any]) -> list[str]:
    """What `reward_report` found, a label and a sentence a line."""
    rows = [("accuracy", _accuracy(report)), ("calibration", _calibration(report["calibration"], report["nll"]))]
    if report["by_margin"]:
        rows.append(("by margin", _by_margin(report["by_margin"])))
    if report["length"]:
        rows.append(("length", _length(report["length"])))
    if report["baseline"]:
        rows.append(("length alone", _baseline(report["baseline"])))
    if report["null_answers"]:
        rows.append(("null answers", _nulls(report["null_answers"])))
    lines = []
    for label, said in rows:
        # A figure and its sign stay on one line.
        wrapped = textwrap.wrap(
            said.replace(" %", "\0%"), WIDTH, initial_indent=f"{label:<14}", subsequent_indent=" " * 14
        )
        lines += [line.replace("\0", " ") for line in wrapped]
    return lines


def _percent(estimate: Mapping[str, float | None], form: str = "{:.1f}", unit: str = "%") -> str:
    value, low, high = (estimate[key] for key in ("value", "low", "high"))
    ends = " to ".join("?" if end is None else form.format(100 * end) for end in (low, high))
    return f"{form.format(100 * (value or 0.0))} {unit} ({ends})"


def _accuracy(report: Mapping[str, Any]) -> str:
    said = f"{_percent(report['accuracy'])} on {report['num_pairs']:,} held-out pairs"
    said += f" of {report['num_prompts']:,} prompts"
    if report["accuracy_ceiling"] < 0.9995:
        said += f"; agreeing with every majority would get {100 * report['accuracy_ceiling']:.1f} %"
    return said


def _calibration(found: Mapping[str, Any], nll: float) -> str:
    said = f"error {found['error']:.3f} ({found['error_by_chance']:.3f} by chance alone), {nll:.3f} nats a pair"
    if found["temperature"] is None:
        return f"{said}; no temperature fits"
    ends = ["?" if found[key] is None else f"{found[key]:.2f}" for key in ("temperature_low", "temperature_high")]
    return f"{said}; temperature {found['temperature']:.2f} ({ends[0]} to {ends[1]}): {temperament(found)}"


def temperament(found: Mapping[str, Any]) -> str:
    """Whether the fitted temperature is clear of 1, in words."""
    if found["temperature_low"] is not None and found["temperature_low"] > 1:
        return "too sure"
    if found["temperature_high"] is not None and found["temperature_high"] < 1:
        return "too unsure"
    return "about as sure as it is right"


def _by_margin(rows: list[Mapping[str, Any]]) -> str:
    shares = ", ".join(f"{100 * row['accuracy']['value']:.0f}" for row in rows)
    return f"{shares} % right, from the closest pairs to the clearest"


def _length(found: Mapping[str, Any]) -> str:
    if not found["prefers_longer"]:
        return "all pairs are equally long"
    said = (
        f"takes the longer answer in {_percent(found['prefers_longer'])}, people in "
        f"{100 * found['people_prefer_longer']['value']:.1f} %"
    )
    if found["slope"]:
        said += f"; slope {found['slope']['value']:+.2f} a unit of log-length"
    if found["correlation"]:
        said += f"; r = {found['correlation']['value']:+.2f} inside prompts"
    return said


def _baseline(found: Mapping[str, Any]) -> str:
    name = {"longer": "the longer wins", "shorter": "the shorter wins", "fitted": "a fitted rule"}[found["best"]]
    return f"{name} gets {_percent(found[found['best']])}; the model {_percent(found['gain'], '{:+.1f}', 'points')}"


def _nulls(found: Mapping[str, Any]) -> str:
    if not found["answers"]:
        return "none was scored"
    worst = max(found["answers"], key=lambda row: row["beats_chosen"]["value"])
    said = f"{worst['name']!r} beats the chosen answer in {_percent(worst['beats_chosen'])}"
    ends = {
        "sound": "sound",
        "weak": "weak, look at the table in the report",
        "hole": "a hole, a policy would be drawn to it",
    }
    return f"{said}: {ends[found['verdict']]}"
