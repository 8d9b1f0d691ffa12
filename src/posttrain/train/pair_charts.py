"""The charts of a preference run: what any verb's metrics.jsonl says of chosen and rejected answers, with a sentence
under each on what to conclude.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from posttrain.train.charts import Point, Series, line_chart, number, swatch

Lines = Mapping[str, Sequence[Point]]

STYLES = {"chosen": "a", "rejected": "b dash", "eval_chosen": "a dots", "eval_rejected": "b rings dash"}
SINGLE = {"": "a", "eval_": "b dots"}


def pair_charts(points: Callable[[str], list[Point]]) -> list[dict[str, Any]]:
    """The charts that have something to show; `points` gives the values of one metric by step."""
    drawn = []
    for title, unit, key, says in (
        ("Rewards", "of chosen and rejected answers", "rewards", _rewards),
        ("Scores", "of chosen and rejected answers", "score", _rewards),
        ("Accuracy", "share of pairs in which the chosen answer has the higher reward", "accuracy", _accuracy),
        ("Reward margin", "chosen minus rejected", "rewards_margin", _margin),
        ("Score margin", "chosen minus rejected", "margin", _margin),
        ("Log-probability", "of a whole answer, in nats", "logp", _logp),
        ("Length", "tokens an answer", "length", _length),
        ("Distance from the reference", "KL, in nats a token", "kl", _kl),
    ):
        single = key in ("accuracy", "rewards_margin", "margin", "kl")
        names = [(f"{side}{key}", SINGLE[side], _name(side)) for side in SINGLE] if single else _sides(key)
        lines = [Series(name, points(column), style) for column, style, name in names]
        found = {column: line.points for (column, _, _), line in zip(names, lines, strict=True) if line.points}
        if not found:
            continue
        shown = [line for line in lines if line.points]
        drawn.append(
            {
                "title": title,
                "unit": unit,
                "legend": [(line.name, swatch(line.style)) for line in shown],
                "plot": line_chart(shown, smooth=True),
                "says": says(found),
            }
        )
    return drawn


def _name(side: str) -> str:
    return "held-out" if side else "training"


def _sides(key: str) -> list[tuple[str, str, str]]:
    """(column, style, name) of chosen and rejected, in training and held out."""
    return [
        (f"{side}{key}_{which}", STYLES[("eval_" if side else "") + which], f"{which}, {_name(side)}")
        for side in ("", "eval_")
        for which in ("chosen", "rejected")
    ]


def _ends(points: Sequence[Point]) -> tuple[float, float]:
    """Means of the first and the last tenth: a single batch is too noisy to read."""
    size = max(1, len(points) // 10)
    return tuple(sum(y for _, y in part) / size for part in (points[:size], points[-size:]))  # type: ignore[return-value]


def _pair(found: Lines, key: str) -> tuple[Sequence[Point], Sequence[Point], str] | None:
    """Chosen and rejected of one metric: held out where both were measured often enough to tell, else training."""
    for side, where in (("eval_", "On held-out pairs"), ("", "In training")):
        chosen, rejected = (found.get(f"{side}{key}_{which}", ()) for which in ("chosen", "rejected"))
        if len(chosen) > 1 and len(rejected) > 1:
            return chosen, rejected, where
    return None


def _rewards(found: Lines) -> str:
    pair = _pair(found, "rewards") or _pair(found, "score")
    if pair is None:
        return "The distance between chosen and rejected is what the model has learned to tell apart."
    (chosen_before, chosen), (rejected_before, rejected) = _ends(pair[0]), _ends(pair[1])
    before, after = chosen_before - rejected_before, chosen - rejected
    said = f"{pair[2]}, the distance between chosen and rejected went from {number(before)} to {number(after)}"
    if after <= before:
        return f"{said}: the model did not learn to tell them apart better."
    if chosen < chosen_before and rejected < rejected_before:
        return f"{said}, while both fell: the rejected answers were pushed down, the chosen ones not raised."
    return f"{said}: chosen answers gained on rejected ones."


def _accuracy(found: Lines) -> str:
    train, held = found.get("accuracy"), found.get("eval_accuracy")
    if not held:
        return "No held-out pairs were scored; training accuracy alone says nothing about new pairs."
    (before, after), said = (held[0][1], held[-1][1]), "Held-out accuracy"
    said += f" went from {_percent(before)} to {_percent(after)}" if len(held) > 1 else f" is {_percent(after)}"
    if train:
        fitted = _ends(train)[1]
        said += f", and on training pairs it ended at {_percent(fitted)}"
        if fitted - after > 0.1:
            return (
                f"{said}: the {100 * (fitted - after):.0f} points between them are memory; judge by the held-out line."
            )
    if after < 0.55:
        return f"{said}: hardly better than a coin on pairs that the model has not seen."
    return f"{said}: what was learned carries over to new pairs."


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _margin(found: Lines) -> str:
    held = found.get("eval_rewards_margin") or found.get("eval_margin", ())
    if len(held) < 2:
        return "A margin that grows says that chosen and rejected move apart; only held-out pairs say whether it lasts."
    step, best = max(held, key=lambda point: point[1])
    last = held[-1][1]
    if step != held[-1][0] and best - last > 0.1 * abs(best):
        return (
            f"The held-out margin was widest at step {number(step)} ({number(best)}) and ended at {number(last)}: "
            "later steps did not help on new pairs."
        )
    return f"The held-out margin went from {number(held[0][1])} to {number(last)} and was not past its best at the end."


def _logp(found: Lines) -> str:
    pair = _pair(found, "logp")
    if pair is None:
        return "Chosen answers should not lose likelihood while the rejected ones are pushed down."
    chosen, rejected = ((after - before) for before, after in (_ends(pair[0]), _ends(pair[1])))
    said = f"{pair[2]}, chosen answers {_moved(chosen)} and rejected ones {_moved(rejected)} nats"
    if chosen < -1:
        return f"{said}: the model moves away from both; a higher beta or an added SFT term holds the chosen ones."
    return f"{said}: the chosen answers stay as likely as they were, or become likelier."


def _moved(change: float) -> str:
    return f"{'gained' if change >= 0 else 'lost'} {number(abs(round(change, 2)))}"


def _length(found: Lines) -> str:
    for side in ("eval_", ""):
        both = [found.get(f"{side}length_{which}") for which in ("chosen", "rejected")]
        if both[0] and both[1]:
            chosen, rejected = (sum(y for _, y in points) / len(points) for points in both if points)
            ratio = chosen / max(rejected, 1e-9)
            said = f"Chosen answers have {number(round(chosen, 1))} tokens, rejected ones {number(round(rejected, 1))}"
            if 0.9 < ratio < 1.1:
                return f"{said}: much the same, so length gives little away."
            word = "longer" if ratio > 1 else "shorter"
            return f"{said}: a model that only learned “{word} is better” would look good here."
    return "The number of tokens that the compared answers have."


def _kl(found: Lines) -> str:
    points = found.get("eval_kl") or found["kl"]
    last = _ends(points)[1]
    return (
        f"The policy ended {number(float(f'{last:.3g}'))} nats a token from the reference. The further it goes, the "
        "more of what the reference knew is at risk: read it beside the exam."
    )
