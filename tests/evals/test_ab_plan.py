"""Sample sizes, beside the power that such samples have."""

import numpy as np
import pytest

from posttrain.evals import ab_plan as plan


def test_pairs_as_the_field_knows_them():
    assert [plan.pairs_needed(rate) for rate in (0.52, 0.55, 0.6)] == [4906, 785, 197]
    assert plan.pairs_needed(0.45) == 785
    assert plan.pairs_needed(0.55, ties=0.2) == pytest.approx(0.8 * 785, abs=1)
    assert plan.pairs_needed(0.55, design_effect=2) == pytest.approx(2 * 785, abs=1)


@pytest.mark.parametrize(("baseline", "difference", "share"), [(0.5, 0.1, 0.5), (0.1, 0.1, 0.5), (0.8, -0.1, 0.2)])
def test_users_have_the_power_that_was_asked(baseline, difference, share):
    old, new = plan.users_needed(baseline, difference, share=share)
    assert new / (old + new) == pytest.approx(share, abs=0.01)
    rng = np.random.default_rng(0)
    means = rng.binomial(old, baseline, 20000) / old, rng.binomial(new, baseline + difference, 20000) / new
    error = np.sqrt(means[0] * (1 - means[0]) / old + means[1] * (1 - means[1]) / new)
    power = (np.abs(means[1] - means[0]) > 1.959964 * error).mean()
    assert power == pytest.approx(0.8, abs=0.025)


def test_votes_of_one_user_count_as_far_as_they_differ():
    assert plan.user_variance(0.5) == 0.25
    assert plan.user_variance(0.5, 4) == 0.0625
    assert plan.user_variance(0.5, 4, 1.0) == 0.25
    rng = np.random.default_rng(0)
    drawn = plan.user_values(np.full(200_000, 0.3), 5, 0.25, rng)
    assert drawn.mean() == pytest.approx(0.3, abs=0.005)
    assert drawn.var() == pytest.approx(plan.user_variance(0.3, 5, 0.25), rel=0.02)
    assert set(plan.user_values(np.full(50, 0.5), 5, 1.0, rng)) == {0.0, 1.0}


def test_always_valid_takes_longer_for_sure_and_about_as_long_in_the_mean():
    found = plan.always_valid_users(0.5, 0.2, num_trials=400)
    total = sum(plan.users_needed(0.5, 0.2))
    assert found.power_at_plan < 0.7
    assert total < found.for_power < 2 * total
    assert 0.8 * total < found.mean < 1.3 * total
    assert found == plan.always_valid_users(0.5, 0.2, num_trials=400)


def test_a_long_plan_is_simulated_at_a_smaller_scale():
    """A plan of 80,000 comparisons takes as many times its length as one of 200."""
    long, short = plan.always_valid_pairs(0.505, num_trials=80), plan.always_valid_pairs(0.6, num_trials=400)
    ratios = [found.mean / plan.pairs_needed(rate) for found, rate in ((long, 0.505), (short, 0.6))]
    assert ratios[0] == pytest.approx(ratios[1], abs=0.2)


def test_nonsense_is_refused():
    for arguments in ((0.5, 0.0), (0.5, 0.6), (0.0, 0.1)):
        with pytest.raises(ValueError, match="baseline"):
            plan.users_needed(*arguments)
    with pytest.raises(ValueError, match="share"):
        plan.users_needed(0.5, 0.1, share=1.0)
    with pytest.raises(ValueError, match="win rate"):
        plan.pairs_needed(0.5)


def test_rare_votes_are_planned_with_fewer_and_longer_trials(monkeypatch):
    monkeypatch.setattr(plan, "MOST_USERS", 300_000)  # 40 trials at least
    found = plan.always_valid_users(0.01, 0.0025)
    assert found.num_trials == 40
    assert 0.2 < found.power_at_plan < 0.9
    monkeypatch.undo()
    assert plan._batches(400, 10_000) == [40] * 10
    long = plan._batches(400, 200_000)
    assert (max(long), sum(long)) == (3, 60)
