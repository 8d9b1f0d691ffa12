"""The plain tests and the check of the split, beside scipy."""

import math

import numpy as np
import pytest
from scipy import stats

from posttrain.evals import ab_plain as plain


def test_welch_equals_scipy():
    rng = np.random.default_rng(0)
    new, old = rng.random(23), rng.random(150) * 0.8
    found = plain.welch(new, old)
    told = stats.ttest_ind(new, old, equal_var=False)
    assert found.value == pytest.approx(new.mean() - old.mean())
    assert found.p_value == pytest.approx(told.pvalue, abs=1e-10)
    assert (found.low, found.high) == pytest.approx(tuple(told.confidence_interval()), abs=2e-4)


def test_welch_of_too_few_or_all_equal():
    assert plain.welch([1.0], [0.0, 1.0])[1:] == (-math.inf, math.inf, 1.0)
    assert math.isnan(plain.welch([], [0.0, 1.0]).value)
    assert plain.welch([1.0, 1.0], [1.0, 1.0]) == (0.0, 0.0, 0.0, 1.0)


@pytest.mark.parametrize("degrees", [1.0, 2.5, 30.0, 4000.0])
@pytest.mark.parametrize("statistic", [0.0, 0.3, -2.0, 6.0])
def test_student_tail_equals_scipy(statistic, degrees):
    assert plain.student_tail(statistic, degrees) == pytest.approx(2 * stats.t.sf(abs(statistic), degrees), abs=1e-9)


@pytest.mark.parametrize("degrees", [1, 2, 3, 6])
@pytest.mark.parametrize("statistic", [0.0, 0.5, 7.0, 60.0])
def test_chi_square_tail_equals_scipy(statistic, degrees):
    assert plain.chi_square_tail(statistic, degrees) == pytest.approx(stats.chi2.sf(statistic, degrees), rel=1e-9)


def test_shares_get_newcombes_interval_and_grades_welchs():
    new, old = [1.0] * 56 + [0.0] * 14, [1.0] * 48 + [0.0] * 32
    assert plain.plain_difference(new, old)[1:3] == pytest.approx((0.0524, 0.3339), abs=1e-4)  # Newcombe, table II (a)
    grades = [*new, 0.5]
    assert plain.plain_difference(grades, old) == plain.welch(grades, old)
    assert plain.newcombe(0, 0, 3, 5) == (-1.0, 1.0)


def test_sample_ratio_equals_pearsons_chi_square():
    counts, shares = (530, 450, 220), np.array([0.45, 0.35, 0.2])
    found = plain.sample_ratio(counts, shares)
    told = stats.chisquare(counts, shares * 1200)
    assert found.p_value == pytest.approx(told.pvalue, rel=1e-9)
    assert found.expected == pytest.approx(tuple(shares * 1200))
    each = plain.sample_ratio(counts, np.tile(shares, (1200, 1)))
    assert each.p_value == pytest.approx(told.pvalue, rel=1e-9)
    assert plain.sample_ratio((0, 0), np.array([0.5, 0.5])).p_value == 1.0


def test_sample_ratio_of_chances_that_change():
    chances = np.array([[0.9, 0.1]] * 100 + [[0.2, 0.8]] * 100)
    found = plain.sample_ratio((130, 70), chances)
    z = (70 - 90) / math.sqrt(100 * 0.09 + 100 * 0.16)
    assert found.p_value == pytest.approx(2 * stats.norm.sf(abs(z)), rel=1e-9)


@pytest.mark.parametrize("share", [0.5, 0.1, 0.01])
def test_a_split_that_is_kept_is_not_called_broken_however_often_one_looks(share):
    """Pearson's test, looked at after every user, calls 10 % of the splits 99 : 1 broken at p < 0.001 within 400."""
    new = np.cumsum(np.random.default_rng(1).random((60, 60)) < share, axis=1)
    looks = [[plain.sample_ratio((t - n, n), [1 - share, share]) for t, n in enumerate(row, 1)] for row in new.tolist()]
    assert not any(look.always_p_value < 0.001 for row in looks for look in row)
    if share == 0.01:
        assert any(look.p_value < 0.001 for row in looks for look in row)
    assert plain.sample_ratio((70, 30), [1 - share / 4, share / 4]).always_p_value < 0.001


def test_the_always_valid_ratio_by_brute_force():
    chances = np.array([[0.9, 0.1], [0.5, 0.5], [0.2, 0.8]])
    ratios = []
    for arm in (0, 1):
        for tilt in [sign * size for size in plain.TILTS for sign in (1, -1)]:
            ratio = 1.0
            for drawn, row in zip((1, 1, 0), chances, strict=True):
                other = np.where(np.arange(2) == arm, row * math.exp(tilt), row)
                ratio *= other[drawn] / other.sum() / row[drawn]
            ratios.append(ratio)
    assert plain.sample_ratio((1, 2), chances).always_p_value == pytest.approx(min(1 / np.mean(ratios), 1))
    same = plain.sample_ratio((300, 100), [0.5, 0.5]).always_p_value
    assert same == pytest.approx(plain.sample_ratio((300, 100), np.full((400, 2), 0.5)).always_p_value)


def test_msprt_by_hand():
    found = plain.msprt_p_values([0.0, 0.4, 0.1], [0.04, 0.01, 0.01], 0.1)
    ratio = math.sqrt(0.5) * math.exp(0.01 * 0.16 / (2 * 0.01 * 0.02))
    assert found == pytest.approx([1.0, 1 / ratio, 1 / ratio])
