"""Annotators' reliability against brute force, and whether it finds who clicks at random or the wrong way round."""

import math
from itertools import product

import numpy as np
import pytest
import scipy.optimize
from numpy.typing import NDArray

from posttrain.feedback.comparisons import Comparison
from posttrain.feedback.reliability import PRIOR_RIGHT, PRIOR_WRONG, reliability

TRUE = {"ann": 0.9, "bob": 0.8, "cyd": 0.75, "dice": 0.5, "eve": 0.12}


def crowd(
    rng: np.random.Generator, num_items: int, accuracy: dict[str, float] = TRUE, per_pair: int = 3
) -> tuple[list[Comparison], dict[int, bool]]:
    """Comparisons by `per_pair` annotators each, and which side was better."""
    found, truth = [], {}
    for item in range(num_items):
        truth[item] = bool(rng.random() < 0.5)
        for name in rng.choice(list(accuracy), per_pair, replace=False):
            right = rng.random() < accuracy[name]
            found.append(Comparison(item, "a", "b", float(truth[item] == right), str(name)))
    return found, truth


def log_posterior(log_odds: NDArray[np.float64], comparisons: list[Comparison], names: list[str]) -> float:
    """The marginal likelihood by summing over which side is better, pair by pair, and the Beta prior."""
    accuracy = 1 / (1 + np.exp(-log_odds))
    total = float(PRIOR_RIGHT * np.log(accuracy).sum() + PRIOR_WRONG * np.log(1 - accuracy).sum())
    for item in {c.item for c in comparisons}:
        likelihood = 0.0
        for better in (1.0, 0.0):
            terms = [
                accuracy[names.index(c.annotator)] if c.outcome == better else 1 - accuracy[names.index(c.annotator)]
                for c in comparisons
                if c.item == item and c.outcome != 0.5
            ]
            likelihood += 0.5 * math.prod(terms)
        total += math.log(likelihood)
    return total


def test_the_maximum_is_scipys() -> None:
    comparisons, _ = crowd(np.random.default_rng(0), 40)
    comparisons += [Comparison(0, "a", "b", 0.5, "fay")]
    names = sorted({c.annotator for c in comparisons})
    start = np.full(len(names), math.log(5))
    best = scipy.optimize.minimize(lambda x: -log_posterior(x, comparisons, names), start, method="BFGS").x
    found = reliability(comparisons)
    for name, value in zip(names, best, strict=True):
        assert found.annotators[name].accuracy.value == pytest.approx(1 / (1 + math.exp(-value)), abs=1e-3)
    assert (found.annotators["fay"].num_votes, found.annotators["fay"].num_ties) == (0, 1)


def test_labels_are_bayes_rule() -> None:
    comparisons, _ = crowd(np.random.default_rng(1), 30)
    found = reliability(comparisons)
    accuracy = {name: trust.accuracy.value for name, trust in found.annotators.items()}
    for item in range(30):
        odds = 1.0
        for c in comparisons:
            if c.item == item:
                p = accuracy[c.annotator]
                odds *= p / (1 - p) if c.outcome else (1 - p) / p
        assert found.label(item, "a", "b") == pytest.approx(odds / (1 + odds), abs=1e-6)
        assert found.label(item, "b", "a") == pytest.approx(1 / (1 + odds), abs=1e-6)
    with pytest.raises(KeyError):
        found.label(0, "a", "c")


def test_random_and_reversed_annotators_are_found() -> None:
    comparisons, truth = crowd(np.random.default_rng(2), 300)
    found = reliability(comparisons)
    verdicts = {name: trust.verdict for name, trust in found.annotators.items()}
    assert verdicts == {"ann": "fine", "bob": "fine", "cyd": "fine", "dice": "by chance", "eve": "reversed"}
    for name, trust in found.annotators.items():
        assert trust.accuracy.low <= TRUE[name] <= trust.accuracy.high
        assert trust.num_votes == trust.num_beside > 100
    right = np.mean([(found.label(item, "a", "b") > 0.5) == better for item, better in truth.items()])
    votes = {item: [c.outcome for c in comparisons if c.item == item] for item in truth}
    by_majority = np.mean([(np.mean(votes[item]) > 0.5) == better for item, better in truth.items()])
    assert right > by_majority + 0.05  # the reversed one's votes are turned round, the random one's not heard


def test_labels_are_calibrated() -> None:
    """Of pairs with a label near p, a share near p is the better one."""
    comparisons, truth = crowd(np.random.default_rng(3), 3000)
    found = reliability(comparisons)
    labels = np.array([found.label(item, "a", "b") for item in truth])
    better = np.array(list(truth.values()), float)
    for low, high in ((0, 0.15), (0.15, 0.4), (0.4, 0.6), (0.6, 0.85), (0.85, 1)):
        inside = (labels >= low) & (labels <= high)
        assert inside.sum() > 100
        assert better[inside].mean() == pytest.approx(labels[inside].mean(), abs=0.07)


def test_intervals_hold_the_truth() -> None:
    rng = np.random.default_rng(4)
    accuracy = {"ann": 0.9, "bob": 0.8, "cyd": 0.7, "dan": 0.85}
    held = dict.fromkeys(accuracy, 0)
    for _ in range(150):
        found = reliability(crowd(rng, 150, accuracy)[0])
        for name, trust in found.annotators.items():
            held[name] += trust.accuracy.low <= accuracy[name] <= trust.accuracy.high
    assert all(count / 150 >= 0.88 for count in held.values()), held


def test_one_annotator_alone_has_the_priors_reliability() -> None:
    found = reliability([Comparison(i, "a", "b", 1.0, "ann") for i in range(50)])
    prior = PRIOR_RIGHT / (PRIOR_RIGHT + PRIOR_WRONG)
    assert found.annotators["ann"].accuracy.value == pytest.approx(prior)
    assert found.annotators["ann"].accuracy.low < 0.5 < 0.9 < found.annotators["ann"].accuracy.high
    assert (found.annotators["ann"].num_beside, found.annotators["ann"].verdict) == (0, "unknown")
    assert all(label == pytest.approx(prior) for label in found.labels.values())


def test_more_agreeing_votes_are_surer_and_ties_draw_to_one_half() -> None:
    labels = [
        reliability([Comparison(0, "a", "b", 1.0, name) for name in names]).label(0, "a", "b")
        for names in ("p", "pq", "pqr")
    ]
    assert 0.8 < labels[0] < labels[1] < labels[2] < 1
    mixed = reliability([Comparison(0, "a", "b", 1.0, "p"), Comparison(0, "a", "b", 0.5, "q")])
    assert mixed.label(0, "a", "b") == pytest.approx((labels[0] + 0.5) / 2)
    assert reliability([Comparison(0, "a", "b", 0.5, "p")]).label(0, "a", "b") == 0.5


def test_two_who_always_contradict_each_other_settle_nothing() -> None:
    votes = [Comparison(i, "a", "b", outcome, name) for i in range(60) for name, outcome in (("p", 1.0), ("q", 0.0))]
    found = reliability(votes)
    for trust in found.annotators.values():
        assert trust.accuracy.low < 0.5 < trust.accuracy.high
    assert all(label == pytest.approx(0.5) for label in found.labels.values())


def test_nothing() -> None:
    assert reliability([]).annotators == {}


def test_every_small_table_of_votes_keeps_its_sides() -> None:
    """Exchanging the sides exchanges the labels and leaves the annotators as they are."""
    for votes in product((0.0, 0.5, 1.0), repeat=4):
        comparisons = [Comparison(i // 2, "a", "b", vote, "pq"[i % 2]) for i, vote in enumerate(votes)]
        one = reliability(comparisons)
        other = reliability([Comparison(c.item, "a", "b", 1 - c.outcome, c.annotator) for c in comparisons])
        for name in "pq":
            assert one.annotators[name].accuracy.value == pytest.approx(other.annotators[name].accuracy.value)
        for item in (0, 1):
            assert one.label(item, "a", "b") == pytest.approx(1 - other.label(item, "a", "b"))
