"""How far to trust a reward model, from the scores that it gives to held-out pairs: `reward_report`, numpy only."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from posttrain.evals.calibration import calibration, nll, sigmoid
from posttrain.evals.length_bias import (
    correlation_inside,
    credit,
    fit_threshold,
    length_slope,
    log_ratio,
    named,
    rule_credit,
)
from posttrain.intervals import clustered_mean, clustered_share

NUM_BINS = 10
NUM_MARGIN_BINS = 5


def reward_report(
    score_chosen_M: ArrayLike,
    score_rejected_M: ArrayLike,
    *,
    label_M: ArrayLike | None = None,
    weight_M: ArrayLike | None = None,
    group_M: ArrayLike | None = None,
    length_chosen_M: ArrayLike | None = None,
    length_rejected_M: ArrayLike | None = None,
    train_length_chosen_M: ArrayLike | None = None,
    train_length_rejected_M: ArrayLike | None = None,
    train_label_M: ArrayLike | None = None,
    null_scores: Mapping[str, ArrayLike] | None = None,
    null_score_chosen_M: ArrayLike | None = None,
    null_score_rejected_M: ArrayLike | None = None,
    null_group_M: ArrayLike | None = None,
) -> dict[str, Any]:
    """Figures on M held-out pairs, fit for JSON; every interval is 95 % and clustered by `group_M`, the prompt.

    `label_M`: probability that chosen is the better one (left out: 1). `weight_M`: left out: 1. Lengths in tokens or
    characters, all in the same. `null_scores`: for each answer that fits every prompt, its score on the prompts of the
    pairs `null_score_chosen_M`, `null_score_rejected_M` (left out: all pairs); NaN where it was not scored.
    ValueError names an array of the wrong size or with a value that is not finite.

    Keys (an estimate is {value, low, high}; None where it is not determined, a part where its input is missing):
    - `num_pairs`, `num_prompts`, `num_ties` (equal scores), `num_soft` (labels strictly between 0 and 1)
    - `accuracy`: an estimate; how often a voter agrees with the model's choice, equal scores count half
    - `accuracy_ceiling`: what always agreeing with the majority would get (1 with hard labels)
    - `nll`: nats a pair, 0.693 for a coin; `scores`: mean of `chosen` and `rejected`, standard deviation `spread`
    - `calibration`: see calibration.calibration
    - `by_margin`: list of {low, high (of |margin|), num, accuracy: estimate, predicted}, equally many pairs in each
    - `length`: see length_bias.length_slope, with `correlation` of score and log-length inside prompts
    - `baseline`: `longer`, `shorter`, `fitted` (accuracy of length alone, estimates; `fitted` needs train pairs),
      `rule` of the fitted one, `best` (its name), `gain` (the model's accuracy over the best, paired, an estimate)
    - `null_answers`: `answers`, list of {name, num, beats_chosen, beats_rejected: estimates, score: mean, verdict},
      `verdict` (the worst: sound, weak or hole) - see null_verdict
    """
    pairs = _pairs(score_chosen_M, score_rejected_M, label_M, weight_M, group_M)
    report = _figures(pairs)
    if length_chosen_M is not None and length_rejected_M is not None:
        train = _train_pairs(train_length_chosen_M, train_length_rejected_M, train_label_M)
        report |= _by_length(pairs, length_chosen_M, length_rejected_M, train)
    if null_scores:
        real = pairs.chosen_M, pairs.rejected_M, pairs.group_M
        if null_score_chosen_M is not None and null_score_rejected_M is not None:
            asked = _pairs(null_score_chosen_M, null_score_rejected_M, None, None, null_group_M, prefix="null_")
            real = asked.chosen_M, asked.rejected_M, asked.group_M
        report["null_answers"] = _null_answers(null_scores, *real)
    return report


class _Pairs(NamedTuple):
    """The pairs of a report, all arrays of float64 [M]; groups are numbers 0, 1, ..."""

    chosen_M: np.ndarray
    rejected_M: np.ndarray
    label_M: np.ndarray
    weight_M: np.ndarray
    group_M: np.ndarray

    @property
    def margin_M(self) -> np.ndarray:
        return self.chosen_M - self.rejected_M

    @property
    def right_M(self) -> np.ndarray:
        """Probability that a voter agrees with the model's choice."""
        return credit(self.margin_M, self.label_M)


def _pairs(
    score_chosen_M: ArrayLike,
    score_rejected_M: ArrayLike,
    label_M: ArrayLike | None,
    weight_M: ArrayLike | None,
    group_M: ArrayLike | None,
    prefix: str = "",
) -> _Pairs:
    chosen_M = _array(f"{prefix}score_chosen_M", score_chosen_M)
    rejected_M, num = _array(f"{prefix}score_rejected_M", score_rejected_M), len(chosen_M)
    if num == 0:
        raise ValueError(f"{prefix}score_chosen_M is empty; a report needs at least one held-out pair")
    _same(f"{prefix}score_rejected_M", rejected_M, num)
    found_M, weights_M = _or_ones("label_M", label_M, num), _or_ones("weight_M", weight_M, num)
    if ((found_M < 0) | (found_M > 1)).any() or (weights_M < 0).any() or not weights_M.any():
        raise ValueError("label_M must lie in [0, 1], weight_M must not be negative nor all zero")
    return _Pairs(chosen_M, rejected_M, found_M, weights_M, _groups(f"{prefix}group_M", group_M, num))


def _figures(pairs: _Pairs) -> dict[str, Any]:
    """What needs scores and labels alone."""
    chosen_M, rejected_M, label_M, weight_M, group_M = pairs
    margin_M, right_M = pairs.margin_M, pairs.right_M
    return {
        "num_pairs": len(margin_M),
        "num_prompts": len(np.unique(group_M)),
        "num_ties": int((margin_M == 0).sum()),
        "num_soft": int(((label_M > 0) & (label_M < 1)).sum()),
        "accuracy": named(clustered_share(right_M.tolist(), group_M.tolist(), weight_M.tolist())),
        "accuracy_ceiling": float(np.average(np.maximum(label_M, 1 - label_M), weights=weight_M)),
        "nll": nll(margin_M, label_M, weight_M),
        "scores": _scores(chosen_M, rejected_M, weight_M),
        "calibration": calibration(margin_M, label_M, weight_M, group_M, NUM_BINS),
        "by_margin": _by_margin(margin_M, right_M, weight_M, group_M),
        "length": None,
        "baseline": None,
        "null_answers": None,
    }


def _by_length(
    pairs: _Pairs,
    length_chosen_M: ArrayLike,
    length_rejected_M: ArrayLike,
    train: tuple[np.ndarray, np.ndarray] | None,
) -> dict[str, Any]:
    lengths = [_array("length_chosen_M", length_chosen_M), _array("length_rejected_M", length_rejected_M)]
    for name, length_M in zip(("length_chosen_M", "length_rejected_M"), lengths, strict=True):
        _same(name, length_M, len(pairs.chosen_M))
    ratio_M = log_ratio(*lengths)
    scores, groups = np.concatenate(pairs[:2]), np.concatenate([pairs.group_M, pairs.group_M])
    return {
        "length": length_slope(pairs.margin_M, ratio_M, pairs.label_M, pairs.weight_M, pairs.group_M)
        | {"correlation": correlation_inside(scores, np.concatenate(lengths), groups)},
        "baseline": _baseline(ratio_M, pairs.label_M, pairs.weight_M, pairs.group_M, pairs.right_M, train),
    }


def _array(name: str, values: ArrayLike, *, finite: bool = True) -> np.ndarray:
    array = np.asarray(values, dtype=np.float64).reshape(-1)
    if finite and not np.isfinite(array).all():
        place = int(np.flatnonzero(~np.isfinite(array))[0])
        raise ValueError(f"{name}[{place}] is {array[place]}; the model or its input is broken there")
    return array


def _same(name: str, array: np.ndarray, num: int) -> None:
    if len(array) != num:
        raise ValueError(f"{name} holds {len(array)} values for {num} pairs")


def _or_ones(name: str, values: ArrayLike | None, num: int) -> np.ndarray:
    array = np.ones(num) if values is None else _array(name, values)
    _same(name, array, num)
    return array


def _groups(name: str, values: ArrayLike | None, num: int) -> np.ndarray:
    """Groups as numbers 0, 1, ...; every pair its own where none is given."""
    if values is None:
        return np.arange(num)
    array = np.asarray(values).reshape(-1)
    _same(name, array, num)
    return np.unique(array, return_inverse=True)[1]


def _scores(chosen_M: np.ndarray, rejected_M: np.ndarray, weight_M: np.ndarray) -> dict[str, float]:
    chosen, rejected = (float(np.average(score_M, weights=weight_M)) for score_M in (chosen_M, rejected_M))
    return {"chosen": chosen, "rejected": rejected, "spread": float(np.concatenate([chosen_M, rejected_M]).std())}


def _by_margin(
    margin_M: np.ndarray, right_M: np.ndarray, weight_M: np.ndarray, group_M: np.ndarray
) -> list[dict[str, Any]]:
    """Accuracy by how sure the model is; the pairs of equal margin stay in one bin."""
    size_M = np.abs(margin_M)
    edges = np.unique(np.quantile(size_M, np.linspace(0, 1, NUM_MARGIN_BINS + 1)))
    bin_M = np.clip(np.searchsorted(edges, size_M, side="right") - 1, 0, max(len(edges) - 2, 0))
    rows = []
    for index in range(max(len(edges) - 1, 1)):
        here = (bin_M == index) & (weight_M > 0)
        if here.any():
            share = clustered_share(right_M[here].tolist(), group_M[here].tolist(), weight_M[here].tolist())
            sure = float(np.average(sigmoid(size_M[here]), weights=weight_M[here]))
            low, high = float(size_M[here].min()), float(size_M[here].max())
            rows.append({"low": low, "high": high, "num": int(here.sum()), "accuracy": named(share), "predicted": sure})
    return rows


def _train_pairs(
    chosen_M: ArrayLike | None, rejected_M: ArrayLike | None, label_M: ArrayLike | None
) -> tuple[np.ndarray, np.ndarray] | None:
    if chosen_M is None or rejected_M is None:
        return None
    lengths = _array("train_length_chosen_M", chosen_M), _array("train_length_rejected_M", rejected_M)
    _same("train_length_rejected_M", lengths[1], len(lengths[0]))
    if len(lengths[0]) == 0:
        return None
    return log_ratio(*lengths), _or_ones("train_label_M", label_M, len(lengths[0]))


def _baseline(
    ratio_M: np.ndarray,
    label_M: np.ndarray,
    weight_M: np.ndarray,
    group_M: np.ndarray,
    right_M: np.ndarray,
    train: tuple[np.ndarray, np.ndarray] | None,
) -> dict[str, Any]:
    """What length alone gets on the same pairs, and what the model gets beyond the best of these rules."""
    rules = {"longer": (0.0, True), "shorter": (0.0, False)}
    if train is not None:
        rules["fitted"] = fit_threshold(*train, np.ones(len(train[0])))
    parts = group_M.tolist(), weight_M.tolist()
    credit_M = {name: rule_credit(ratio_M, label_M, *rule) for name, rule in rules.items()}
    found = {name: clustered_share(of_M.tolist(), *parts) for name, of_M in credit_M.items()}
    best = max(found, key=lambda name: found[name].value)
    return {
        **{name: named(share) for name, share in found.items()},
        "rule": None if train is None else {"threshold": rules["fitted"][0], "longer_above": rules["fitted"][1]},
        "best": best,
        "gain": named(clustered_mean((right_M - credit_M[best]).tolist(), *parts)),
    }


def _null_answers(
    null_scores: Mapping[str, ArrayLike], chosen_M: np.ndarray, rejected_M: np.ndarray, group_M: np.ndarray
) -> dict[str, Any]:
    lost = float(((1 - np.sign(chosen_M - rejected_M)) / 2).mean())
    answers = []
    for name, values in null_scores.items():
        null_M = _array(f"null_scores[{name!r}]", values, finite=False)
        _same(f"null_scores[{name!r}]", null_M, len(chosen_M))
        here = np.isfinite(null_M)
        if not here.any():
            continue
        groups = group_M[here].tolist()
        beats = [
            named(clustered_share(((1 + np.sign(null_M - real_M)) / 2)[here].tolist(), groups))
            for real_M in (chosen_M, rejected_M)
        ]
        row = {"name": name, "num": int(here.sum()), "beats_chosen": beats[0], "beats_rejected": beats[1]}
        answers.append(row | {"score": float(null_M[here].mean()), "verdict": null_verdict(beats[0], lost)})
    worst = max((row["verdict"] for row in answers), key=("sound", "weak", "hole").index, default="sound")
    return {"answers": answers, "rejected_beats_chosen": lost, "verdict": worst}


def null_verdict(beats_chosen: Mapping[str, float | None], rejected_beats_chosen: float) -> str:
    """`hole`: the answer that says nothing beats the chosen ones at least as often as not, so a policy that trains on
    this reward is drawn to it. `weak`: this cannot be ruled out, or the answer beats them clearly more often than
    the rejected answers do. `sound`: neither.
    """
    value, low, high = (float(beats_chosen[key] or 0.0) for key in ("value", "low", "high"))
    if value >= 0.5:
        return "hole"
    return "weak" if high >= 0.5 or low > rejected_beats_chosen else "sound"
