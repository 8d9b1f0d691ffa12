"""The bets: fair whatever rule deals the arms, by enumeration of everything that can happen; twins in plain loops."""

import itertools
import math

import numpy as np
import pytest

from posttrain.evals import ab_betting as betting

EFFECTS = betting.effects_for(0.1)


def slow_capital(values, is_new, shares, mean, effects, up):
    """Capital of one side after all users, by the formulas, one user at a time."""
    capital = [1.0] * len(effects)
    for i, (value, new, share) in enumerate(zip(values, is_new, shares, strict=True)):
        centres = [(betting.PRIOR * 0.5 + sum(values[:j])) / (betting.PRIOR + j) for j in range(i + 1)]
        spread = (betting.PRIOR * 0.25 + sum((values[j] - centres[j]) ** 2 for j in range(i))) / (betting.PRIOR + i)
        centre = centres[i]
        score = (value - centre) / share if new else -(value - centre) / (1 - share)
        ends = [(v - centre) / share for v in (0, 1)] + [-(v - centre) / (1 - share) for v in (0, 1)]
        most = betting.MOST / (1 - min(ends)) if up else betting.MOST / (1 + max(ends))
        for k, effect in enumerate(effects):
            bet = min(effect * share * (1 - share) / spread, most)
            capital[k] *= 1 + bet * (score - mean) * (1 if up else -1)
    return sum(capital) / len(capital)


@pytest.mark.parametrize("means", [(0.5, 0.5), (0.05, 0.05), (0.3, 0.7)])
def test_capital_is_a_martingale_under_a_split_that_follows_the_votes(means):
    """All 4**4 courses of four users, with the next one's chance taken from the votes before."""
    expected = np.zeros(2)
    for course in itertools.product(itertools.product((0, 1), (0.0, 1.0)), repeat=4):
        chance, shares = 1.0, []
        for i, (new, value) in enumerate(course):
            shares.append(0.1 + 0.8 * (0.5 if not i else sum(v == n for n, v in course[:i]) / i))
            chance *= shares[-1] if new else 1 - shares[-1]
            chance *= means[new] if value else 1 - means[new]
        is_new, values = [bool(new) for new, _ in course], [value for _, value in course]
        scores = betting.difference_scores(values, is_new, shares)
        expected += chance * np.exp(betting.log_capital(scores, means[1] - means[0], EFFECTS)[:, -1])
    assert expected == pytest.approx([1, 1], abs=1e-12)


def test_capital_against_the_wrong_difference_is_no_martingale():
    expected = 0.0
    for new, value in itertools.product((0, 1), (0.0, 1.0)):
        scores = betting.difference_scores([value], [bool(new)], 0.5)
        mean = (0.3, 0.7)[new]
        expected += 0.5 * (mean if value else 1 - mean) * math.exp(betting.log_capital(scores, 0.0, EFFECTS)[0, -1])
    assert expected > 1.05


def test_log_capital_equals_the_loop():
    rng = np.random.default_rng(0)
    values, is_new, shares = rng.random(30), rng.random(30) < 0.4, rng.uniform(0.05, 0.95, 30)
    scores = betting.difference_scores(values, is_new, shares)
    for mean in (0.0, 0.2, -0.9):
        found = np.exp(betting.log_capital(scores, mean, EFFECTS)[:, -1])
        for side, up in zip(found, (True, False), strict=True):
            assert side == pytest.approx(slow_capital(values, is_new, shares, mean, EFFECTS, up), rel=1e-9)


def test_bounds_are_where_a_fine_grid_says():
    rng = np.random.default_rng(1)
    is_new = rng.random(400) < 0.5
    values = (rng.random(400) < np.where(is_new, 0.8, 0.5)) * 1.0
    scores = betting.difference_scores(values, is_new, 0.5)
    low, high = betting.bounds(scores, EFFECTS, 0.05)
    grid = np.linspace(-1, 1, 2001)
    line = math.log(2 / 0.05)
    kept = [d for d in grid if betting.log_capital(scores, d, EFFECTS)[:, -1].max() < line]
    assert (low, high) == pytest.approx((min(kept), max(kept)), abs=1.1e-3)
    assert low < betting.estimate(scores) < high
    assert betting.estimate(scores) == pytest.approx(values[is_new].mean() - values[~is_new].mean(), abs=0.02)
    wider = betting.bounds(scores, EFFECTS, 0.001)
    assert wider[0] < low < high < wider[1]


def test_bounds_before_anything_is_known():
    assert betting.bounds(betting.difference_scores([], [], 0.5), EFFECTS) == (-1.0, 1.0)
    assert betting.bounds(betting.win_scores([]), EFFECTS) == (-0.5, 0.5)


def test_wins_bet_on_the_share_less_one_half():
    values = np.array([1, 1, 0.5, 1, 0, 1] * 30)
    scores = betting.win_scores(values)
    low, high = betting.bounds(scores, EFFECTS)
    assert low < values.mean() - 0.5 < high
    assert low > 0
    turned = betting.bounds(betting.win_scores(1 - values), EFFECTS)
    assert turned == pytest.approx((-high, -low), abs=1e-5)


def test_p_values_never_rise_and_reach_alpha_where_the_line_is_crossed():
    capital = np.array([[0.0, 1.0, math.log(40), 0.5], [0.0, -1.0, -2.0, 0.0]])
    assert betting.p_values(capital) == pytest.approx([1.0, 2 / math.e, 0.05, 0.05])
    assert betting.crossing(0.05) == pytest.approx(math.log(40))


def test_peeking_is_safe_for_the_bets_and_not_for_the_plain_test():
    rng = np.random.default_rng(2)
    num, length = 600, 600
    is_new = rng.random((num, length)) < 0.5
    values = (rng.random((num, length)) < 0.5) * 1.0
    capital = betting.log_capital(betting.difference_scores(values, is_new, 0.5), 0.0, EFFECTS)
    always = (capital >= betting.crossing(0.05)).any((0, -1)).mean()
    score = np.cumsum(np.where(is_new, 2, -2) * (values - 0.5), axis=-1) / np.sqrt(np.arange(1, length + 1))
    plain = (np.abs(score[:, 30:]) > 1.96).any(-1).mean()
    assert always < 0.05 + 3 * math.sqrt(0.05 * 0.95 / num)
    assert plain > 0.2
