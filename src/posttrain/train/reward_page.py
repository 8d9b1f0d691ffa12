"""The part of a run's page on a reward model: reward.json as cards, charts and rows, each with what to conclude.

Every part of reward.json may be missing; docs/reward-models.md says how to read the figures.
"""

from collections.abc import Mapping
from typing import Any

from posttrain.train.charts import Reading, calibration_chart, number

NULL_WORDS = {"sound": "sound", "weak": "weak", "hole": "a hole"}
BLANK: dict[str, Any] = {"plot": "", "rows": [], "legend": [], "table": [], "wide": False, "judged": False}
RULES = {"longer": "the longer wins", "shorter": "the shorter wins", "fitted": "fitted rule"}


def reward_view(report: Mapping[str, Any]) -> dict[str, Any]:
    """What the template names; empty where there is no report."""
    if not _has(report.get("accuracy")):
        return {}
    blocks = [
        _calibration(_mapping(report.get("calibration"))),
        _by_margin(report.get("by_margin") or []),
        _baseline(report["accuracy"], _mapping(report.get("baseline")), report.get("accuracy_ceiling")),
        _length(_mapping(report.get("length"))),
        _nulls(_mapping(report.get("null_answers"))),
    ]
    subject = str(report.get("subject") or "Reward model")
    return {"subject": subject, "cards": _cards(report), "blocks": [BLANK | block for block in blocks if block]}


def _mapping(value: object) -> dict[str, Any]:
    return dict(value) if isinstance(value, Mapping) else {}


def _has(estimate: object) -> bool:
    return isinstance(estimate, Mapping) and estimate.get("value") is not None


def _percent(share: float) -> str:
    return f"{100 * share:.1f}\N{NO-BREAK SPACE}%"


def _interval(estimate: Mapping[str, Any], form: str = "{:.2f}", scale: float = 1.0) -> str:
    ends = [estimate.get(key) for key in ("low", "high")]
    return " to ".join("?" if end is None else form.format(scale * end).replace("-", "−") for end in ends)


def _cards(report: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    accuracy, found = report["accuracy"], _mapping(report.get("calibration"))
    pairs = f"{_interval(accuracy, '{:.1f}', 100)}, {number(report.get('num_pairs') or 0)} pairs"
    cards = [("held-out accuracy", _percent(accuracy["value"]), pairs)]
    if "error" in found:
        cards.append(("calibration error", f"{found['error']:.3f}", f"{found.get('error_by_chance', 0):.3f} by chance"))
    if report.get("nll") is not None:
        cards.append(("nats a pair", f"{report['nll']:.3f}", "a coin gets 0.693"))
    baseline = _mapping(report.get("baseline"))
    if _has(baseline.get("gain")):
        gain = f"{100 * baseline['gain']['value']:+.1f}".replace("-", "−")
        cards.append(("beyond length alone", gain, f"points, {_interval(baseline['gain'], '{:.1f}', 100)}"))
    nulls = _mapping(report.get("null_answers"))
    if nulls.get("answers"):
        cards.append(("null answers", NULL_WORDS.get(nulls["verdict"], ""), f"{len(nulls['answers'])} tried"))
    return cards


def _calibration(found: Mapping[str, Any]) -> dict[str, Any]:
    keys = ("predicted", "observed", "low", "high", "share")
    readings = [Reading(*(float(point[key]) for key in keys)) for point in found.get("curve") or []]
    if not readings:
        return {}
    low, high = found.get("temperature_low"), found.get("temperature_high")
    if found.get("temperature") is None:
        says = "No temperature makes these scores into probabilities: the order is right everywhere, or nowhere."
    else:
        says = f"The temperature that fits is {found['temperature']:.2f} ({_interval({'low': low, 'high': high})})"
        if low is not None and low > 1:
            says += ": the model is too sure. Divide the scores by it before they are used as probabilities."
        elif high is not None and high < 1:
            says += (
                ": the model is less sure than it could be. Divide the scores by it before they serve as probabilities."
            )
        else:
            says += ": a margin means what it says, as far as these pairs can tell."
    return {
        "title": "Calibration",
        "unit": "observed against predicted probability of being better",
        "plot": calibration_chart(readings),
        "says": says,
    }


def _lane(style: str, estimate: Mapping[str, Any], *, mark: float | None = None) -> dict[str, Any]:
    ends = [estimate["value"] if estimate.get(key) is None else estimate[key] for key in ("low", "high")]
    value, low, high = (round(100 * min(max(float(part), 0.0), 1.0), 2) for part in (estimate["value"], *ends))
    return {
        "style": style,
        "value": value,
        "low": low,
        "rest": round(100 - high, 2),
        "mark": None if mark is None else round(100 * mark, 2),
        "figure": f"{value:.0f} % ({low:.0f}–{high:.0f})",
    }


def _by_margin(rows: Any) -> dict[str, Any]:
    rows = [row for row in rows if _has(_mapping(row).get("accuracy"))]
    if not rows:
        return {}
    first, last = rows[0]["accuracy"], rows[-1]["accuracy"]
    says = f"The clearest fifth of the pairs is right in {_percent(last['value'])}"
    if len(rows) < 2:
        says = "All margins are alike, so the model's margin says nothing about how often it is right."
    elif last["low"] > first["high"]:
        says += f", the closest in {_percent(first['value'])}: a larger margin can be trusted more."
    else:
        says += f", the closest in {_percent(first['value'])}: the margin is no guide to how often the model is right."
    return {
        "title": "Accuracy by margin",
        "unit": "closest pairs first",
        "legend": [("", "accuracy"), ("mark", "what the model claims")],
        "rows": [
            {
                "name": f"{row['low']:.2f} to {row['high']:.2f}",
                "note": f"{number(row['num'])} pairs",
                "lanes": [_lane("only", row["accuracy"], mark=row.get("predicted"))],
            }
            for row in rows
        ],
        "says": says,
    }


def _baseline(accuracy: Mapping[str, Any], found: Mapping[str, Any], ceiling: Any) -> dict[str, Any]:
    if not _has(found.get("gain")):
        return {}
    rows = [{"name": "the model", "note": "", "lanes": [_lane("only", accuracy)]}]
    rows += [
        {"name": name, "note": "length alone", "lanes": [_lane("only was", found[key])]}
        for key, name in RULES.items()
        if _has(found.get(key))
    ]
    if ceiling is not None and ceiling < 0.9995:
        share = {"value": ceiling, "low": ceiling, "high": ceiling}
        lane = _lane("only was", share) | {"figure": f"{100 * ceiling:.0f} %"}
        rows.append({"name": "every majority", "note": "the most there is", "lanes": [lane]})
    gain = found["gain"]
    points = f"{100 * abs(gain['value']):.1f} points ({_interval(gain, '{:.1f}', 100)})"
    best = RULES.get(found.get("best", ""), "length")
    if gain.get("low") is not None and gain["low"] > 0:
        says = f"The model is {points} better than the best rule on lengths alone ({best}): it reads more than length."
    elif gain.get("high") is not None and gain["high"] < 0:
        says = f"A rule that sees lengths alone ({best}) is {points} better than the model: do not use this model."
    else:
        says = f"The model cannot be told from a rule that sees lengths alone ({best}): the difference is {points}."
    return {
        "title": "Against length alone",
        "unit": "accuracy on the same pairs",
        "legend": [],
        "rows": rows,
        "says": says,
    }


def _length(found: Mapping[str, Any]) -> dict[str, Any]:
    if not _has(found.get("prefers_longer")):
        return {}
    model, people = found["prefers_longer"], found["people_prefer_longer"]
    rows = [
        {"name": "the model", "note": "takes the longer", "lanes": [_lane("only", model)]},
        {"name": "people", "note": "prefer the longer", "lanes": [_lane("only was", people)]},
    ]
    table = [
        (name, f"{found[key]['value']:+.2f}".replace("-", "−"), _interval(found[key], "{:+.2f}"))
        for key, name in (
            ("slope", "slope of the model's choice on log-length"),
            ("people_slope", "slope of people's choice"),
            ("slope_beyond", "the model's slope beyond people's choice"),
            ("correlation", "score and log-length inside prompts, r"),
        )
        if _has(found.get(key))
    ]
    difference = _mapping(found.get("difference"))
    points = f"{100 * abs(difference.get('value') or 0):.1f} points"
    if difference.get("low") is not None and difference["low"] > 0:
        says = f"The model favours the longer answer {points} more than people do: a policy trained on it grows wordy."
    elif difference.get("high") is not None and difference["high"] < 0:
        says = f"The model favours the shorter answer {points} more than people do: a policy trained on it grows terse."
    else:
        says = "The model favours the longer answer about as often as people do."
    return {
        "title": "Length",
        "unit": "how often the longer answer wins",
        "legend": [],
        "rows": rows,
        "table": table,
        "says": says,
    }


def _nulls(found: Mapping[str, Any]) -> dict[str, Any]:
    answers = sorted(found.get("answers") or [], key=lambda row: -row["beats_chosen"]["value"])
    if not answers:
        return {}
    rows = [
        {
            "name": row["name"],
            "note": f"mean score {row['score']:.2f}".replace("-", "−"),
            "lanes": [_lane("after", row["beats_chosen"]), _lane("before", row["beats_rejected"])],
            "verdict": NULL_WORDS.get(row["verdict"], ""),
            "tone": {"sound": "up", "hole": "down"}.get(row["verdict"], ""),
        }
        for row in answers
    ]
    said = f"“{answers[0]['name']}” beats the chosen answer in {_percent(answers[0]['beats_chosen']['value'])}"
    says = {
        "hole": f"{said}: a policy trained on this reward would be drawn to saying nothing.",
        "weak": f"{said}: too often to rule out that a policy learns to say nothing.",
        "sound": f"No answer that says nothing comes near the real ones; {said} and is the best of them.",
    }[found["verdict"]]
    legend = [("", "beats the chosen answer"), ("was", "beats the rejected answer")]
    return {
        "title": "Null answers",
        "unit": "texts that fit every prompt and answer none",
        "legend": legend,
        "rows": rows,
        "says": says,
        "wide": True,
        "judged": True,
    }
