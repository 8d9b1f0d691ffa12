"""What a test's votes come to."""

import itertools
import json
import math
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import numpy as np
import pytest

from posttrain.evals.ab import ab_state, settle
from posttrain.evals.ab_betting import difference_scores, effects_for, final_log_capital, log_capital
from posttrain.evals.ab_plain import welch

START = datetime(2026, 1, 1, tzinfo=UTC)


def votes(means, num, seed=0, kind="up", arms=("A", "B"), shares=None):
    """One vote of each of `num` users, an arm at random."""
    rng = np.random.default_rng(seed)
    chosen = rng.choice(len(arms), num, p=shares)
    values = rng.random(num) < np.array(means)[chosen]
    return [
        SimpleNamespace(
            user=f"u{i}",
            arm=arms[a],
            value=float(v),
            kind=kind if v else "down",
            versus="",
            created=START + i * timedelta(hours=1),
        )
        for i, (a, v) in enumerate(zip(chosen, values, strict=True))
    ]


def state(rows, arms=("A", "B"), **asked):
    return ab_state(rows, arms, **{"window_hours": 0, **asked})


@pytest.mark.parametrize(
    ("means", "verdict"),
    [((0.4, 0.7), "better"), ((0.7, 0.4), "worse"), ((0.53, 0.5), "futile"), ((0.5, 0.53), "open")],
)
def test_recommendation(means, verdict):
    found = state(votes(means, 500), mde=0.1)
    row = found["comparisons"][0]["always"]
    assert found["recommendation"]["verdict"] == row["verdict"] == verdict
    assert (row["p_value"] < 0.05) == (verdict in ("better", "worse"))
    assert ("about" in found["recommendation"]["said"]) == (verdict == "open")
    assert (row["num_more"] == 0) == (verdict != "open")


def test_figures_by_hand():
    rows = votes((0.4, 0.7), 300)
    found = state(rows)
    sides = [[row.value for row in rows if row.arm == arm] for arm in "AB"]
    assert [(row["users"], row["mean"]) for row in found["by_arm"]] == [
        (len(side), pytest.approx(np.mean(side))) for side in sides
    ]
    plain = found["comparisons"][0]["plain"]
    assert plain["value"] == pytest.approx(np.mean(sides[1]) - np.mean(sides[0]))
    assert plain["p_value"] == pytest.approx(welch(sides[1], sides[0]).p_value)
    scores = difference_scores([row.value for row in rows], [row.arm == "B" for row in rows], 0.5)
    capital = log_capital(scores, 0.0, effects_for(0.05))
    assert found["comparisons"][0]["always"]["p_value"] == pytest.approx(2 * math.exp(-capital.max()))
    assert found["comparisons"][0]["always"]["e_value"] == pytest.approx(np.exp(capital[:, -1]).mean())
    assert found["sample_ratio"]["users"] == {"A": len(sides[0]), "B": len(sides[1])}
    json.dumps(found, allow_nan=False)


def test_what_was_settled_once_stays_settled():
    """Two hundred users of whom B's are happy, then as many of whom none is: who stopped at the first was right to."""
    rows = votes((0.2, 0.9), 200) + [
        SimpleNamespace(**{**vars(row), "user": row.user + "x"}) for row in votes((0.6, 0.55), 200, 1)
    ]
    scores = difference_scores([row.value for row in rows], [row.arm == "B" for row in rows], 0.5)
    assert settle(scores.first(200)).verdict == "better"
    assert settle(scores).verdict == "better"


def test_a_difference_that_has_turned_is_called_what_it_is_now():
    late = [SimpleNamespace(**{**vars(row), "user": row.user + "x"}) for row in votes((0.9, 0.1), 900, 1)]
    found = state(votes((0.2, 0.9), 200) + late)
    row = found["comparisons"][0]["always"]
    assert row["high"] < 0
    assert found["recommendation"]["verdict"] == "worse"
    assert "B is worse than A" in found["recommendation"]["said"]


def test_users_who_compare_are_waited_for_too():
    rows = votes((0.5, 0.5), 30)
    for row in rows[10:]:
        row.versus = "A" if row.arm == "B" else "B"
    rows.append(SimpleNamespace(**{**vars(rows[0]), "versus": "A" if rows[0].arm == "B" else "B"}))  # both: one user
    found = state(rows, window_hours=24, now=START + timedelta(hours=1))
    assert found["pending"] == 30
    assert "30 are within 24 hours" in found["recommendation"]["said"]


def test_path_holds_all_looks_so_far():
    path = state(votes((0.4, 0.6), 400))["comparisons"][0]["path"]
    assert path[-1]["users"] == 400
    assert all(a["low"] <= b["low"] and a["high"] >= b["high"] for a, b in itertools.pairwise(path))
    assert all(one["low"] <= 0.2 <= one["high"] for one in path)


def test_more_users_is_when_the_capital_crosses():
    scores = difference_scores(
        *(lambda rows: ([r.value for r in rows], [r.arm == "B" for r in rows]))(votes((0.5, 0.6), 250)), 0.5
    )
    found = settle(scores)
    assert found.verdict == "open"
    effects, line = effects_for(0.05), math.log(40)
    times = 1 + found.num_more / 250
    sides = [(0.0, True), (0.0, False), (0.05, False)]
    assert max(final_log_capital(scores, mean, effects, up, times) for mean, up in sides) >= line
    assert max(final_log_capital(scores, mean, effects, up, times * 0.97) for mean, up in sides) < line
    assert settle(scores.first(5)).num_more is None


def test_a_broken_split_comes_first():
    rows = [row for i, row in enumerate(votes((0.3, 0.9), 900)) if row.arm == "A" or i % 2]
    found = state(rows)
    assert found["recommendation"]["verdict"] == "broken"
    assert "mismatch" in found["warnings"][0]
    assert state(rows, chances={"A": 2, "B": 1})["recommendation"]["verdict"] == "better"


def test_users_drawn_are_what_the_ratio_is_checked_on():
    rows = [row for i, row in enumerate(votes((0.3, 0.9), 900)) if row.arm == "A" or i % 2]
    drawn = [("A", (0.5, 0.5))] * 450 + [("B", (0.5, 0.5))] * 450 + [("B", (0.0, 1.0))] * 99
    found = state(rows, assigned=drawn)
    assert found["sample_ratio"]["users"] == {"A": 450, "B": 450}
    assert found["recommendation"]["verdict"] == "better"
    assert any("do not vote equally often" in line for line in found["warnings"])


def test_a_guard_says_stop_though_the_votes_are_better():
    rows = votes((0.3, 0.9), 600)
    for i, row in enumerate(rows):
        row.kind = "regenerated" if row.arm == "B" and i % 2 else row.kind
    found = state(rows, guards={"regenerated": 0.05})
    assert found["comparisons"][0]["always"]["verdict"] == "better"
    assert found["recommendation"]["verdict"] == "guard"
    assert state(rows, guards={"edit": 0.05})["comparisons"][0]["guards"][0]["verdict"] == "kept"


def test_users_whose_chances_are_lost_are_told():
    rows = votes((0.3, 0.9), 200)
    known = {row.user: {"A": 0.5, "B": 0.5} for row in rows[20:]} | {"u0": {"A": 0.0, "B": 1.0}}
    found = state(rows, chances=known.get)
    assert found["without_chances"] == 20
    assert found["comparisons"][0]["always"]["num_users"] == 180
    assert any("20 users were left out" in line for line in found["warnings"])


def test_adaptive_chances_are_told_and_weighed():
    rows = votes((0.5, 0.5), 400)
    chances = {row.user: {"A": 0.5 if i < 200 else 0.2, "B": 0.5 if i < 200 else 0.8} for i, row in enumerate(rows)}
    found = state(rows, chances=chances.get)
    assert found["comparisons"][0]["is_adaptive"]
    assert any("not valid here" in line for line in found["warnings"])


def test_three_arms_share_alpha():
    rows = votes((0.3, 0.35, 0.8), 900, arms=("A", "B", "C"))
    found = state(rows, arms=("A", "B", "C"))
    assert [row["alpha"] for row in found["comparisons"]] == [0.025, 0.025]
    assert [row["always"]["verdict"] for row in found["comparisons"]][1] == "better"
    assert found["comparisons"][1]["always"]["num_users"] == sum(row.arm in "AC" for row in rows)
    assert found["recommendation"]["verdict"] == "better"


def test_comparisons_of_two_answers():
    rows = [
        SimpleNamespace(
            user=f"u{i}",
            arm="AB"[i % 4 > 0],
            versus="BA"[i % 4 > 0],
            value=0.5 if i % 20 == 3 else 1.0,
            kind="better",
            created=None,
        )
        for i in range(400)
    ]
    (found,) = state(rows)["pairs"]
    assert (found["wins"], found["ties"], found["losses"]) == (280, 20, 100)
    assert found["value"] == pytest.approx(290 / 400, abs=0.01)
    assert 0.5 < found["low"] < found["value"] < found["high"] < 1
    assert found["verdict"] == "better"
    told = state(rows)["recommendation"]
    assert told["verdict"] == "better"  # nobody voted on one answer alone
    assert "wins 6" in told["said"]
    both = state(rows + votes((0.5, 0.5), 100))["recommendation"]
    assert both["verdict"] == "open"
    assert "Side by side it wins" in both["said"]


def test_nothing_yet():
    found = state([])
    assert found["recommendation"]["verdict"] == "open"
    assert "No user of B or A" in found["recommendation"]["said"]
    assert found["comparisons"][0]["path"] == []
    assert found["by_arm"][0]["mean"] is None
    json.dumps(found, allow_nan=False)
