"""Information of a ballot against the definition, and whether choosing by it saves ballots."""

import math
from itertools import combinations, permutations

import numpy as np
import pytest

from posttrain.feedback.bradley_terry import fit
from posttrain.feedback.comparisons import Comparison
from posttrain.feedback.selection import Candidate, choose, expected, information, is_control


def entropy(p: list[float]) -> float:
    return -sum(x * math.log(x) for x in p if x > 0)


def by_definition(scores: list[list[float]]) -> float:
    """H(mean p) - mean H(p) over all rankings, each answer picked from those left with weight exp(score)."""
    tables = []
    for row in scores:
        table = []
        for order in permutations(range(len(row))):
            p, left = 1.0, list(order)
            while left:
                p *= math.exp(row[left[0]]) / sum(math.exp(row[i]) for i in left)
                left.pop(0)
            table.append(p)
        tables.append(table)
    mean = [sum(column) / len(tables) for column in zip(*tables, strict=True)]
    return entropy(mean) - sum(map(entropy, tables)) / len(tables)


@pytest.mark.parametrize("num", [2, 3, 4])
def test_information_is_the_definition(num: int) -> None:
    scores = np.random.default_rng(num).normal(size=(7, num)) * 2
    assert information(scores) == pytest.approx(by_definition(scores.tolist()), abs=1e-12)


def test_information_by_hand() -> None:
    """Two members, sure of opposite orders: one bit. Agreeing ones, however sure: nothing."""
    assert information(np.array([[50.0, 0], [0, 50.0]])) == pytest.approx(math.log(2))
    assert information(np.array([[3.0, 0], [3.0, 0]])) == pytest.approx(0, abs=1e-12)
    assert information(np.zeros((5, 3))) == pytest.approx(0, abs=1e-12)  # a toss-up is doubt, but tells nothing
    many = np.random.default_rng(0).normal(size=(9, 7))
    pairs = [information(many[:, list(pair)]) for pair in combinations(range(7), 2)]
    assert information(many) == pytest.approx(6 * float(np.mean(pairs)))


def test_the_ensemble_chooses_where_it_disagrees() -> None:
    agree, doubt = np.array([[2.0, 0], [2.1, 0]]), np.array([[2.0, 0], [0, 2.0]])
    candidates = [Candidate(1, ("a", "b"), agree), Candidate(2, ("a", "b"), doubt), Candidate(3, ("a", "b"))]
    index, why = choose(candidates, random_share=0) or (-1, "")
    assert (index, why.split()[0]) == (1, "information")
    assert expected(candidates)[2] == 0


def test_done_items_are_not_shown() -> None:
    doubt = np.array([[2.0, 0], [0, 2.0]])
    candidates = [Candidate(1, ("a", "b"), doubt, 2, 2), Candidate(2, ("a", "b"), None, 1, 2)]
    for seed in range(20):
        assert (choose(candidates, random_share=0.5, rng=seed) or (-1, ""))[0] == 1
    assert choose(candidates[:1]) is None
    assert choose([]) is None
    with pytest.raises(ValueError, match="random_share"):
        choose(candidates, random_share=2)


def test_the_control_share_is_random_and_as_large_as_asked() -> None:
    doubt = np.array([[2.0, 0], [0, 2.0]])
    candidates = [Candidate(0, ("a", "b"), doubt), *(Candidate(i, ("a", "b")) for i in range(1, 5))]
    found = [choose(candidates, random_share=0.25, rng=seed, seed=seed) or (-1, "") for seed in range(800)]
    control = [index for index, why in found if why == "control"]
    # Of five items, 0.75^5 of the seeds have none in the control, and as many thousandths all.
    assert 0.15 < len(control) / 800 < 0.25
    assert set(control) == set(range(5))
    assert {index for index, why in found if why.startswith("information")} == {0}
    assert found == [choose(candidates, random_share=0.25, rng=seed, seed=seed) for seed in range(800)]


def test_the_control_is_drawn_by_seed_and_id() -> None:
    drawn = {share: {id for id in range(4000) if is_control(id, share, 3)} for share in (0, 0.1, 0.3, 1)}
    assert not drawn[0]
    assert drawn[1] == set(range(4000))
    assert drawn[0.1] < drawn[0.3], "a larger share lets none go"
    assert 0.09 < len(drawn[0.1]) / 4000 < 0.11
    assert 0.28 < len(drawn[0.3]) / 4000 < 0.32
    assert drawn[0.1] != {id for id in range(4000) if is_control(id, 0.1, 4)}


def test_the_control_is_as_all_items_are() -> None:
    """Half of the items are doubtful and soon used up by choice; of the control they are half at any time."""
    scores = [np.array([[2.0, 0], [0, 2.0]]), np.array([[2.0, 0], [2.0, 0]])]
    doubtful = total = 0
    for seed in range(120):
        left = [Candidate(i, ("a", "b"), scores[i % 2]) for i in range(20)]
        for step in range(12):
            index, why = choose(left, random_share=0.3, rng=100 * seed + step, seed=seed) or (-1, "")
            total += why == "control"
            doubtful += why == "control" and left[index].item_id % 2 == 0
            del left[index]
    assert 0.25 < total / (120 * 12) < 0.35
    assert 0.42 < doubtful / total < 0.58, "drawn from what the choice has left, a third"


def test_of_very_many_items_one_of_the_best_is_found() -> None:
    scores = [np.array([[gap, 0.0], [-gap, 0.0]]) for gap in np.linspace(0, 3, 5000)]
    candidates = [Candidate(i, ("a", "b"), score) for i, score in enumerate(scores)]
    found = [(choose(candidates, random_share=0, rng=seed) or (-1, ""))[0] for seed in range(5)]
    assert len(set(found)) > 1
    assert min(found) > 5000 * 0.97


def test_new_models_and_close_ones_come_first() -> None:
    votes = [Comparison(i, "a", "b", float(i % 50 > 0)) for i in range(200)]
    votes += [Comparison(i, "b", "c", float(i % 2)) for i in range(200)]
    posterior = fit(votes)
    pairs = [("a", "b"), ("b", "c"), ("c", "new"), ("a", "a"), ("", "a"), ("", "")]
    told = expected([Candidate(i, pair) for i, pair in enumerate(pairs)], posterior=posterior)
    assert told[2] > 10 * max(told[0], told[1])
    assert told[3:] == pytest.approx(0, abs=1e-12)


def errors(strength: np.ndarray, num: int, random_share: float, seed: int) -> float:
    """The share of pairs of models in the wrong order, on average over the second half of `num` ballots."""
    rng = np.random.default_rng(seed)
    names = [f"m{i}" for i in range(len(strength))]
    pairs = list(combinations(range(len(names)), 2))
    votes: list[Comparison] = []
    wrong = []
    posterior = fit(votes, names=names)
    for ballot in range(num):
        # Every ballot is about new items, one of each pair of models.
        items = range(ballot * len(pairs), (ballot + 1) * len(pairs))
        candidates = [Candidate(i, (names[a], names[b])) for i, (a, b) in zip(items, pairs, strict=True)]
        index, _ = choose(candidates, posterior=posterior, random_share=random_share, rng=rng, num_draws=60) or (0, "")
        a, b = pairs[index]
        won = float(rng.random() < 1 / (1 + math.exp(strength[b] - strength[a])))
        votes.append(Comparison(ballot, names[a], names[b], won))
        if ballot % 5 == 4:
            posterior = fit(votes, names=names, cluster=None)
            wrong.append(np.mean([posterior.strength[i] > posterior.strength[j] for i, j in pairs]))
    return float(np.mean(wrong[len(wrong) // 2 :]))


def test_choosing_saves_ballots() -> None:
    strength = np.linspace(0, 6, 8)
    chosen = np.mean([errors(strength, 120, 0.0, seed) for seed in range(8)])
    at_random = np.mean([errors(strength, 120, 1.0, seed) for seed in range(24)])
    assert chosen < 0.7 * at_random


def test_control_nothing_to_learn_nothing_gained() -> None:
    """Models that are all the same: no order is better than chance, however ballots are chosen."""
    for share in (0.0, 1.0):
        wrong = np.mean([errors(np.zeros(5), 40, share, seed) for seed in range(20)])
        assert 0.4 < wrong < 0.6
