"""The stopping rule: its capital by hand, how often it stops falsely under peeking, and how soon it stops rightly."""

import math
from itertools import combinations

import numpy as np
import pytest

from posttrain.feedback.comparisons import Comparison
from posttrain.feedback.stopping import STAKES, log_capital, stopping, votes_between, win_rate_bounds


def test_capital_by_hand() -> None:
    """One win against a win rate of 1/4: each stake c grows to 1 + c * 3 (for) or 1 - c (against), in equal parts."""
    expected = np.mean([*(1 + STAKES / 0.25 * 0.75), *(1 - STAKES / 0.75 * 0.75)])
    assert log_capital([1.0], [1.0], 0.25) == pytest.approx(math.log(expected))
    assert log_capital([0.25], [7.0], 0.25) == pytest.approx(0)
    # The odds are fair: over what may happen, the capital stays at 1.
    after = np.exp([log_capital([v], [1.0], 0.25) for v in (1.0, 0.0)])
    assert 0.25 * after[0] + 0.75 * after[1] == pytest.approx(1)


@pytest.mark.parametrize("p", [(0.5, 0.0, 0.5), (0.3, 0.4, 0.3), (0.25, 0.0, 0.75)], ids=str)
def test_false_stops_under_peeking_after_every_vote(p: tuple[float, float, float]) -> None:
    """The true win rate is refuted at any of 1000 looks in at most 5 % of runs; a fixed 95 % interval: far oftener."""
    values, num_runs, num_votes = np.array([1.0, 0.5, 0.0]), 600, 1000
    mean = float(np.dot(p, values))
    drawn = np.random.default_rng(1).choice(3, p=p, size=(num_runs, num_votes))
    refuted = np.zeros(num_runs, bool)
    naive = np.zeros(num_runs, bool)
    counts = np.zeros((num_runs, 3))
    bets = np.concatenate([STAKES / mean, -STAKES / (1 - mean)])
    growth = np.log1p(bets[:, None] * (values - mean))
    for vote in range(num_votes):
        counts[np.arange(num_runs), drawn[:, vote]] += 1
        capital = np.logaddexp.reduce(counts @ growth.T, axis=1) - math.log(len(bets))
        if vote % 250 == 0:
            assert capital[0] == pytest.approx(log_capital(values, counts[0], mean))
        refuted |= capital >= math.log(20)
        if vote >= 20:
            rate = counts @ values / (vote + 1)
            spread = np.sqrt(np.maximum(counts @ values**2 / (vote + 1) - rate**2, 1e-9) / (vote + 1))
            naive |= np.abs(rate - mean) > 1.96 * spread
    assert 0.005 < refuted.mean() <= 0.05
    assert naive.mean() > 0.3


def crowd(win_rates: dict[tuple[str, str], float], num: int, rng: np.random.Generator) -> list[Comparison]:
    pairs = list(win_rates)
    return [
        Comparison(i, *pairs[i % len(pairs)], float(rng.random() < win_rates[pairs[i % len(pairs)]]), "ann")
        for i in range(num)
    ]


def test_false_stops_among_four_equal_models() -> None:
    """The neighbours are picked by the votes themselves, looked at every 48 votes: alpha is shared among all pairs.

    2,000 runs by a table of the capital after so many wins; `stopping` itself says the same at the looks where it
    matters: the highest capital of the runs that the whole alpha, unshared, would have stopped.
    """
    names, num_runs, looks = "abcd", 2000, np.arange(8, 81, 8)  # votes on each pair
    pairs = list(combinations(range(4), 2))
    won = np.random.default_rng(2).random((num_runs, 80, 6)) < 0.5
    wins = won.cumsum(axis=1)[:, looks - 1]  # [run, look, pair]
    table = np.array(
        [[float(log_capital([1.0, 0.0], [w, n - w], 0.5)) if w <= n else 0.0 for w in range(81)] for n in looks]
    )
    score = np.zeros((num_runs, len(looks), 4))
    for place, (a, b) in enumerate(pairs):
        score[:, :, a] += wins[:, :, place]
        score[:, :, b] += looks - wins[:, :, place]
    order = np.argsort(-score, axis=2, kind="stable")
    pair_of = np.zeros((4, 4), int)
    for place, (a, b) in enumerate(pairs):
        pair_of[a, b] = pair_of[b, a] = place
    capital = np.take_along_axis(
        table[np.arange(len(looks))[:, None], wins], pair_of[order[:, :, :-1], order[:, :, 1:]], axis=2
    ).max(axis=2)
    assert (capital >= math.log(6 / 0.05)).any(axis=1).mean() <= 0.05
    found = []
    for run in np.flatnonzero((capital >= math.log(1 / 0.05)).any(axis=1)):
        look = int(capital[run].argmax())
        votes = [
            Comparison((vote, place), names[a], names[b], float(won[run, vote, place]))
            for vote in range(looks[look])
            for place, (a, b) in enumerate(pairs)
        ]
        decisions = stopping(votes, [names[model] for model in order[run, look]]).decisions
        found.append(any(decision.settled in ("better", "worse") for decision in decisions))
        assert found[-1] == (capital[run, look] >= math.log(6 / 0.05))
    assert set(found) == {True, False}


def test_it_stops_when_it_is_clear_and_says_how_long_it_takes() -> None:
    rng = np.random.default_rng(3)
    votes = crowd({("a", "b"): 0.7}, 400, rng)
    first = next(n for n in range(5, 400) if stopping(votes[:n], "ab").may_stop)
    assert 15 < first < 200
    early = stopping(votes[:20], "ab")
    done = stopping(votes, "ba").decisions[0]
    assert (done.first, done.settled, done.num_more, done.num_items) == ("b", "worse", 0, 400)
    assert done.low <= done.win_rate <= done.high < 0.5
    assert early.decisions[0].settled in ("open", "better")
    told = stopping([Comparison(i, "a", "b", float(i % 10 < 6)) for i in range(50)], "ab").decisions[0]
    assert told.settled == "open"
    assert told.num_more is not None
    more = [Comparison(i, "a", "b", float(i % 10 < 6)) for i in range(50 + told.num_more + 10)]
    assert stopping(more, "ab").may_stop
    assert not stopping(more[:-60], "ab").may_stop


def test_equal_models_are_settled_as_equal_or_never() -> None:
    votes = [Comparison(i, "a", "b", float(i % 2)) for i in range(6000)]
    assert stopping(votes, "ab").decisions[0].settled == "equal"
    few = stopping(votes[:200], "ab").decisions[0]
    assert few.settled == "open"
    assert 500 < (few.num_more or 0) < 6000
    never = stopping(votes, "ab", indifference=0)
    assert (never.may_stop, never.num_more) == (False, None)


def test_an_item_bets_once_and_when_it_is_complete() -> None:
    votes = [Comparison(1, "a", "b", 1.0, "p"), Comparison(1, "b", "a", 1.0, "q"), Comparison(1, "a", "b", 1.0, "r")]
    votes += [Comparison(2, "b", "a", 1.0, "p")]
    assert votes_between(votes) == {("a", "b"): [1.0, 0.0]}
    assert votes_between(votes, per_item=2) == {("a", "b"): [0.5]}
    assert votes_between(votes, per_item={1: 3}) == {("a", "b"): [pytest.approx(2 / 3), 0.0]}


def test_a_word_is_the_mean_of_the_first_ballot() -> None:
    """Two answers of each model give four comparisons in one ballot; no later ballot changes what it bet."""
    first = [Comparison(1, "a", "b", outcome, "p", ballot=0) for outcome in (1.0, 0.0, 0.5)]
    first.append(Comparison(1, "b", "a", 0.0, "p", ballot=0))
    later = [Comparison(1, "a", "b", 0.0, "p", ballot=1), Comparison(1, "b", "a", 1.0, "p", ballot=2)]
    assert votes_between(first) == votes_between(first + later) == {("a", "b"): [0.625]}
    other = Comparison(1, "a", "b", 0.0, "q", ballot=3)
    assert votes_between([*first, *later, other], per_item=2) == {("a", "b"): [0.3125]}


def test_bounds() -> None:
    assert win_rate_bounds([]) == (0.0, 1.0)
    assert stopping([], "ab").decisions[0].settled == "open"
    assert not stopping([], []).may_stop
    low, high = win_rate_bounds([1.0, 0.0], [60.0, 40.0])
    assert low < 0.5 < 0.6 < high
    narrow = win_rate_bounds([1.0, 0.0], [60_000.0, 40_000.0])
    assert low < narrow[0] < 0.6 < narrow[1] < high
    assert win_rate_bounds([1.0, 0.0], [6e8, 4e8]) == (pytest.approx(0.6, abs=0.004), pytest.approx(0.6, abs=0.004))
    mirrored = win_rate_bounds([0.0, 1.0], [60.0, 40.0])
    assert mirrored == (pytest.approx(1 - high), pytest.approx(1 - low))
    assert win_rate_bounds([1.0], [30.0])[1] == 1.0


def test_only_the_top_may_be_asked() -> None:
    votes = [Comparison(i, "a", "b", 1.0) for i in range(60)] + [Comparison(i, "b", "c", i % 2) for i in range(60)]
    assert stopping(votes, "abc", top=2).may_stop
    assert not stopping(votes, "abc").may_stop
    assert len(stopping(votes, "abc").decisions) == 2
