"""Bradley-Terry against scipy and choix, by hand, and by how often its intervals hold the truth."""

import math
from itertools import combinations

import choix
import numpy as np
import pytest
import scipy.optimize
from numpy.typing import NDArray

from posttrain.feedback.bradley_terry import PRIOR_SD, BradleyTerry, fit
from posttrain.feedback.comparisons import Comparison

TRUE = np.array([-1.0, -0.5, 0.0, 0.3, 1.2])
NAMES = [f"m{i}" for i in range(len(TRUE))]


def drawn(
    num: int, rng: np.random.Generator, *, nu: float = 0.0, copies: int = 1, per_item: int = 1
) -> list[Comparison]:
    """`num` items, each comparing two models; ties by Davidson's nu. `copies` of every vote, as if by echoes."""
    found = []
    for item in range(num):
        for _ in range(per_item):
            a, b = rng.choice(len(TRUE), 2, replace=False)
            half = (TRUE[a] - TRUE[b]) / 2
            p = np.array([math.exp(half), nu, math.exp(-half)])
            outcome = (1.0, 0.5, 0.0)[rng.choice(3, p=p / p.sum())]
            found += [Comparison(item, NAMES[a], NAMES[b], outcome, f"p{item % 40}-{copy}") for copy in range(copies)]
    return found


def twin(comparisons: list[Comparison], ties: str, prior_sd: float) -> tuple[NDArray[np.float64], float]:
    """The same maximum by scipy, from the definition, one comparison after the other."""
    names = sorted({n for c in comparisons for n in (c.first, c.second)}, key=str)

    def loss(point: NDArray[np.float64]) -> float:
        total = float((point**2).sum()) / (2 * prior_sd**2)
        for c in comparisons:
            gap = point[names.index(c.first)] - point[names.index(c.second)]
            if ties == "half":
                total -= c.weight * (-c.outcome * np.log1p(np.exp(-gap)) - (1 - c.outcome) * np.log1p(np.exp(gap)))
            else:
                weights = {1.0: np.exp(gap / 2), 0.5: np.exp(point[-1]), 0.0: np.exp(-gap / 2)}
                total -= c.weight * np.log(weights[c.outcome] / sum(weights.values()))
        return total

    start = np.zeros(len(names) + (ties == "davidson"))
    best = scipy.optimize.minimize(loss, start, method="BFGS", options={"gtol": 1e-8}).x
    strength = best[: len(names)]
    return strength - strength.mean(), float(best[-1])


@pytest.mark.parametrize("ties", ["half", "davidson"])
def test_the_maximum_is_scipys(ties: str) -> None:
    comparisons = drawn(60, np.random.default_rng(3), nu=0.6)
    comparisons += [Comparison(99, "m0", "m4", 1.0, "x", 2.5)]
    strength, log_tie = twin(comparisons, ties, PRIOR_SD)
    found = fit(comparisons, ties=ties)
    assert found.strength == pytest.approx(strength, abs=1e-5)
    if ties == "davidson":
        assert found.log_tie == pytest.approx(log_tie, abs=1e-5)
        half = (found.strength[0] - found.strength[1]) / 2
        nu = math.exp(log_tie)
        assert found.tie_probability("m0", "m1") == pytest.approx(
            nu / (math.exp(half) + nu + math.exp(-half)), abs=1e-5
        )


def test_without_a_prior_it_is_choix() -> None:
    comparisons = drawn(300, np.random.default_rng(4))
    wins = [(c.first, c.second) if c.outcome else (c.second, c.first) for c in comparisons]
    places = [(NAMES.index(str(a)), NAMES.index(str(b))) for a, b in wins]
    expected = choix.ilsr_pairwise(len(NAMES), places, alpha=0.0)
    assert fit(comparisons, prior_sd=1e4).strength == pytest.approx(expected - expected.mean(), abs=1e-5)


def test_two_models_by_hand() -> None:
    """7 wins of 10: log(7/3), information 10 * 0.7 * 0.3; the prior is out of sight."""
    comparisons = [Comparison(i, "a", "b", float(i < 7)) for i in range(10)]
    found = fit(comparisons, prior_sd=1e5, cluster=None)
    p, low, high = found.win_probability("a", "b")
    half = 1.959964 / math.sqrt(10 * 0.7 * 0.3)
    assert p == pytest.approx(0.7, abs=1e-6)
    for bound, gap in ((low, math.log(7 / 3) - half), (high, math.log(7 / 3) + half)):
        assert bound == pytest.approx(1 / (1 + math.exp(-gap)), abs=1e-5)
    value, low, high = found.estimate("a")
    assert (value, high - low) == (pytest.approx(math.log(7 / 3) / 2, abs=1e-6), pytest.approx(half, abs=1e-5))


def test_an_unbeaten_model_is_finite_and_said_to_be() -> None:
    always = [Comparison(i, "a", "b", 1.0) for i in range(10)]
    found = fit(always)
    assert found.bounded_by_prior
    assert 1 < found.strength[0] < 10
    p, low, high = found.win_probability("a", "b")
    assert low < 0.9 < p < high < 1  # ten wins are no certainty
    # The slopes nearly vanish, so that the sandwich alone would be certain.
    hessian = fit(always, cluster=None).win_probability("a", "b")
    assert high - low >= hessian.high - hessian.low - 1e-9


def test_a_circle_of_wins_needs_no_prior_and_a_chain_does() -> None:
    circle = [Comparison(i, a, b, 1.0) for i, (a, b) in enumerate(("ab", "bc", "ca"))]
    assert not fit(circle).bounded_by_prior
    assert fit([*circle[:2], Comparison(2, "c", "a", 0.0)]).bounded_by_prior
    assert not fit([*circle[:2], Comparison(2, "c", "a", 0.5)]).bounded_by_prior


def test_groups_that_nothing_joins_are_reported() -> None:
    comparisons = [Comparison(i, a, b, float(i % 3 > 0)) for a, b in ("ab", "bc", "de") for i in range(9)]
    found = fit(comparisons, names=["f"])
    assert found.groups == (("a", "b", "c"), ("d", "e"), ("f",))
    for group in found.groups:
        assert sum(found.strength[found.names.index(name)] for name in group) == pytest.approx(0)
    with pytest.raises(ValueError, match="never compared"):
        found.win_probability("a", "d")
    assert found.ranking()[:3] == ["a", "b", "c"]
    spread = found.draws(4000, np.random.default_rng(0))
    within = (spread[:, 3] - spread[:, 4]).std()
    across = ((spread[:, 3] + spread[:, 4]) / 2 - spread[:, :3].mean(axis=1)).std()
    assert within < 1.5
    assert across == pytest.approx(PRIOR_SD * math.sqrt(1 / 2 + 1 / 3), rel=0.05)  # the prior's doubt, whole


def coverage(num_runs: int, truth: float, seed: int, num: int = 100, copies: int = 1, **how: object) -> float:
    """How often the interval of P(m3 beats m1) holds `truth`."""
    rng = np.random.default_rng(seed)
    held = 0
    for _ in range(num_runs):
        how_drawn = {"nu": 0.6} if how.get("ties") == "davidson" else {}
        _, low, high = fit(drawn(num, rng, copies=copies, **how_drawn), **how).win_probability("m3", "m1")  # type: ignore[arg-type]
        held += low <= truth <= high
    return held / num_runs


@pytest.mark.parametrize(
    "how",
    [
        {"cluster": None},
        {"cluster": "item"},
        {"cluster": "annotator"},
        {"cluster": "both"},
        {"cluster": "item", "ties": "davidson"},
    ],
    ids=str,
)
def test_intervals_hold_the_truth(how: dict[str, object]) -> None:
    truth = 1 / (1 + math.exp(-0.8))
    assert 0.9 <= coverage(200, truth, 5, **how) <= 0.99


def test_only_clustered_intervals_survive_echoes() -> None:
    """Each vote four times over, as if people had only nodded: the inverse Hessian believes in four times the data."""
    truth = 1 / (1 + math.exp(-0.8))
    assert coverage(120, truth, 6, copies=4, cluster="item") >= 0.9
    assert coverage(120, truth, 6, copies=4, cluster=None) <= 0.8


def test_order_of_ballots_and_sides_do_not_matter() -> None:
    comparisons = drawn(80, np.random.default_rng(7), nu=0.5)
    turned = [c.turned() if i % 2 else c for i, c in enumerate(comparisons)][::-1]
    for ties in ("half", "davidson"):
        one, other = fit(comparisons, ties=ties), fit(turned, ties=ties)
        assert one.names == other.names
        assert one.strength == pytest.approx(other.strength, abs=1e-9)
        assert one.covariance == pytest.approx(other.covariance, abs=1e-9)


def test_nothing_and_nonsense() -> None:
    empty = fit([])
    assert (empty.names, empty.groups, empty.ranking()) == ((), (), [])
    alone = fit([], names=["a", "b"])
    assert isinstance(alone, BradleyTerry)
    assert alone.estimate("a").value == 0
    with pytest.raises(ValueError, match="half or davidson"):
        fit([], ties="rao")
    with pytest.raises(ValueError, match="cluster"):
        fit([], cluster="day")


def test_recovery_with_much_data() -> None:
    found = fit(drawn(4000, np.random.default_rng(8), nu=0.5), ties="davidson")
    assert found.strength == pytest.approx(TRUE - TRUE.mean(), abs=0.2)
    assert found.log_tie == pytest.approx(math.log(0.5), abs=0.1)
    assert found.ranking() == NAMES[::-1]
    assert all(found.win_probability(a, b).high < 0.5 for a, b in combinations(NAMES, 2) if (a, b) != ("m2", "m3"))
