"""Ranked pairs against two brute-force twins: the definition, and the best of all orders."""

import random
from collections.abc import Iterator
from itertools import combinations, permutations, product

import numpy as np
from numpy.typing import NDArray

from posttrain.feedback.comparisons import Comparison
from posttrain.feedback.ranked_pairs import lock, ranked_pairs


def matrix(values: tuple[float, ...], num: int) -> NDArray[np.float64]:
    found = np.zeros((num, num))
    for (a, b), value in zip(combinations(range(num), 2), values, strict=True):
        found[a, b], found[b, a] = value, -value
    return found


def votes(margin: NDArray[np.float64]) -> list[Comparison]:
    """Comparisons with these margins."""
    pairs = combinations(range(len(margin)), 2)
    return [Comparison(0, a, b, float(margin[a, b] > 0), "x", abs(margin[a, b])) for a, b in pairs if margin[a, b]]


def leads(edges: set[tuple[int, int]], start: int, end: int, seen: frozenset[int] = frozenset()) -> bool:
    """Whether a walk along the edges goes from start to end."""
    return any(b == end or (b not in seen and leads(edges, b, end, seen | {b})) for a, b in edges if a == start)


def by_definition(margin: NDArray[np.float64]) -> set[tuple[int, int]]:
    locked: set[tuple[int, int]] = set()
    for size in sorted({float(m) for m in margin.ravel() if m > 0}, reverse=True):
        equals = {(a, b) for a in range(len(margin)) for b in range(len(margin)) if margin[a, b] == size}
        locked |= {(a, b) for a, b in equals if not leads(locked | equals, b, a)}
    return locked


def small_cases() -> Iterator[NDArray[np.float64]]:
    yield from (matrix(values, 3) for values in product((-2, -1, 0, 1, 2), repeat=3))
    yield from (matrix(values, 4) for values in product((-1, 0, 1), repeat=6))


def test_every_small_case_is_the_definition() -> None:
    cases = list(small_cases())
    assert len(cases) == 125 + 729
    for margin in cases:
        edges = by_definition(margin)
        num = len(margin)
        expected = [[int(leads(edges, a, b)) for b in range(num)] for a in range(num)]
        reach, left_out = lock(margin)
        assert reach.tolist() == expected
        wins = {(a, b) for a in range(num) for b in range(num) if margin[a, b] > 0}
        assert {(a, b) for a, b, _ in left_out} == wins - edges


def test_without_equal_majorities_it_is_the_best_of_all_orders() -> None:
    """Tideman's order keeps the largest majority it can, then the next: the first of all orders by that comparison."""
    rng = random.Random(0)
    for _ in range(200):
        num = rng.choice((3, 4, 5))
        sizes = rng.sample(range(1, 40), num * (num - 1) // 2)
        margin = matrix(tuple(size * rng.choice((-1, 1)) for size in sizes), num)
        wins = sorted(((a, b) for a in range(num) for b in range(num) if margin[a, b] > 0), key=lambda p: -margin[p])
        best = max(permutations(range(num)), key=lambda order: [order.index(a) < order.index(b) for a, b in wins])
        found = ranked_pairs(votes(margin))
        assert found.order == list(best)
        assert all(len(tier) == 1 for tier in found.tiers)


def test_who_beats_everybody_is_first_and_who_loses_to_everybody_last() -> None:
    for margin in small_cases():
        num = len(margin)
        found = ranked_pairs(votes(margin), range(num))
        for name in range(num):
            others = [other for other in range(num) if other != name]
            if all(margin[name, other] > 0 for other in others):
                assert found.tiers[0] == (name,)
            if all(margin[name, other] < 0 for other in others):
                assert found.tiers[-1] == (name,)


def test_names_sides_and_order_of_ballots_do_not_matter() -> None:
    rng = random.Random(1)
    for margin in list(small_cases())[::7]:
        ballots = votes(margin)
        num = len(margin)
        found = ranked_pairs(ballots, range(num))
        renamed = rng.sample(range(num), num)
        shuffled = [
            Comparison(0, renamed[c.first], renamed[c.second], c.outcome, "x", c.weight)  # type: ignore[index]
            for c in ballots
        ]
        shuffled = [c.turned() if rng.random() < 0.5 else c for c in shuffled]
        rng.shuffle(shuffled)
        other = ranked_pairs(shuffled, range(num))
        assert [{renamed[n] for n in tier} for tier in found.tiers] == [set(tier) for tier in other.tiers]  # type: ignore[index]
        back = ranked_pairs([Comparison(0, c.second, c.first, c.outcome, "x", c.weight) for c in ballots], range(num))
        assert [set(tier) for tier in back.tiers] == [set(tier) for tier in found.tiers[::-1]]


def test_a_circle_of_equals_is_a_tie_of_all() -> None:
    circle = [Comparison(0, a, b, 1.0) for a, b in ("ab", "bc", "ca")]
    found = ranked_pairs(circle)
    assert found.tiers == (("a", "b", "c"),)
    assert len(found.left_out) == 3
    # One more voice for a over b: what c has to do with them stays open, so c stands between.
    assert ranked_pairs([*circle, Comparison(0, "a", "b", 1.0)]).tiers == (("a",), ("c",), ("b",))


def test_the_weakest_of_a_circle_gives_way() -> None:
    sizes = {"ab": 3.0, "bc": 2.0, "ca": 1.0}
    found = ranked_pairs([Comparison(0, a, b, 1.0, "x", size) for (a, b), size in sizes.items()])
    assert found.tiers == (("a",), ("b",), ("c",))
    assert found.left_out == (("c", "a", 1.0),)


def test_partial_ballots_ties_and_parts() -> None:
    """a over b, b over c, by people who saw no third; a tie moves nothing; d and e were seen by nobody else."""
    ballots = [
        Comparison(0, "a", "b", 1.0, "p"),
        Comparison(0, "b", "c", 1.0, "q"),
        Comparison(0, "a", "c", 0.5, "r"),
        Comparison(0, "e", "d", 1.0, "s"),
    ]
    found = ranked_pairs(ballots)
    assert found.groups == (("a", "b", "c"), ("d", "e"))
    assert [found.rank(name) for name in "abc"] == sorted(found.rank(name) for name in "abc")
    assert found.rank("a") < found.rank("b") < found.rank("c")
    assert found.rank("e") < found.rank("d")


def test_nothing() -> None:
    assert ranked_pairs([]).tiers == ()
    assert ranked_pairs([], ["b", "a"]).tiers == (("a", "b"),)


def test_forty_models_take_no_time() -> None:
    rng = np.random.default_rng(2)
    margin = np.triu(rng.normal(size=(40, 40)), 1)
    reach, left_out = lock(margin - margin.T)
    assert (reach + reach.T + np.eye(40) == 1).all()  # a whole order, without a circle
    assert len(left_out) > 100
