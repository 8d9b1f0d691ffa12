"""Agreement against the definition, a published example, and simulated annotators."""

from dataclasses import replace
from itertools import combinations, permutations

import numpy as np
import pytest
from numpy.typing import NDArray

from posttrain.feedback.agreement import LEVELS, comparison_alpha, krippendorff_alpha, pairwise_agreement
from posttrain.feedback.comparisons import Comparison
from posttrain.intervals import clustered_share

NONE = float("nan")
# Krippendorff (2011), section C: four observers, twelve units, values missing.
PUBLISHED = [
    [1, 2, 3, 3, 2, 1, 4, 1, 2, NONE, NONE, NONE],
    [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, NONE, 3],
    [NONE, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, NONE],
    [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, NONE],
]


def by_definition(table: NDArray[np.float64], level: str) -> float:
    """Mean distance of values within units over that of all paired values."""
    units = [[float(v) for v in column if not np.isnan(v)] for column in table.T]
    units = [unit for unit in units if len(unit) > 1]
    values = [value for unit in units for value in unit]

    def distance(a: float, b: float) -> float:
        if level == "nominal":
            return float(a != b)
        if level == "interval":
            return (a - b) ** 2
        low, high = min(a, b), max(a, b)
        between = sum(low <= value <= high for value in values)
        return (between - (values.count(a) + values.count(b)) / 2) ** 2 if a != b else 0.0

    observed = sum(sum(distance(a, b) for a, b in permutations(unit, 2)) / (len(unit) - 1) for unit in units)
    expected = sum(distance(a, b) for a, b in permutations(values, 2)) / (len(values) - 1)
    return 1 - observed / expected


@pytest.mark.parametrize(("level", "published"), [("nominal", 0.743), ("ordinal", 0.815), ("interval", 0.849)])
def test_the_published_example(level: str, published: float) -> None:
    found = krippendorff_alpha(PUBLISHED, level)
    assert found.value == pytest.approx(published, abs=0.0005)
    assert found.low < found.value < found.high <= 1
    assert found.num_items == 11  # the last unit has one value, which pairs with nothing


def test_two_coders_by_hand() -> None:
    """Units (0,0), (0,1), (1,1), (1,1): coincidences 0-0: 2, 0-1: 1, 1-0: 1, 1-1: 4; n0 = 3, n1 = 5, n = 8.
    alpha = 1 - (n - 1) * 2 / (2 * 3 * 5) = 1 - 14/30."""
    found = krippendorff_alpha([[0, 0, 1, 1], [0, 1, 1, 1]])
    assert found.value == pytest.approx(1 - 14 / 30)
    assert (found.num_pairs, found.num_items) == (4, 4)


@pytest.mark.parametrize("level", LEVELS)
def test_random_tables_are_the_definition(level: str) -> None:
    rng = np.random.default_rng(1)
    for _ in range(40):
        table = rng.integers(0, 4, size=(rng.integers(2, 6), rng.integers(3, 12))).astype(float)
        table[rng.random(table.shape) < 0.3] = NONE
        if (~np.isnan(table)).sum(axis=0).max() < 2 or len(np.unique(table[~np.isnan(table)])) < 2:
            continue
        found = krippendorff_alpha(table, level, num_resamples=2)
        assert found.value == pytest.approx(by_definition(table, level), abs=1e-12)


def words(*pairs: tuple[object, str, float]) -> list[Comparison]:
    return [Comparison(item, "a", "b", outcome, name) for item, name, outcome in pairs]


def test_pairwise_by_hand() -> None:
    """Item 1: yes, yes, no: of three pairs one agrees. Item 2: yes, tie: half. Item 3: one voice. Item 4: tie, tie."""
    comparisons = words((1, "p", 1), (1, "q", 1), (1, "r", 0), (2, "p", 1), (2, "q", 0.5), (3, "p", 1))
    comparisons += words((4, "p", 0.5), (4, "r", 0.5))
    found = pairwise_agreement(comparisons)
    assert (found.value, found.num_pairs, found.num_items) == (pytest.approx(2.5 / 5), 5, 3)
    assert pairwise_agreement(comparisons, ties="leave_out").value == pytest.approx(1 / 3)
    # Seen from the other side, the same words.
    turned = [c.turned() if i % 2 else c for i, c in enumerate(comparisons)]
    assert pairwise_agreement(turned) == found
    assert comparison_alpha(turned) == comparison_alpha(comparisons)


def test_the_last_word_of_an_annotator_counts() -> None:
    assert pairwise_agreement(words((1, "p", 1), (1, "q", 0), (1, "q", 1))).value == 1


def test_nothing_judged_twice_is_unknown() -> None:
    for found in (pairwise_agreement(words((1, "p", 1), (2, "q", 0))), comparison_alpha(words((1, "p", 1)))):
        assert np.isnan(found.value)
        assert found.num_pairs == 0
    assert np.isnan(comparison_alpha([]).value)
    assert np.isnan(krippendorff_alpha([[1, 1], [1, 1]]).value)  # chance alone would agree
    with pytest.raises(ValueError, match="half or leave_out"):
        pairwise_agreement([], ties="drop")
    with pytest.raises(ValueError, match="level"):
        krippendorff_alpha([[1]], "ratio")


def test_full_agreement_is_not_certainty() -> None:
    found = pairwise_agreement(words(*((i, name, 1.0) for i in range(10) for name in "pq")))
    assert (found.value, found.high) == (1, pytest.approx(1))
    assert 0.6 < found.low < 0.8  # Wilson on ten items with Student's quantile for the normal one: 10 / (10 + 2.262^2)
    assert found.low == pytest.approx(10 / (10 + 2.262**2), abs=0.001)
    # A bootstrap of alpha would say [1, 1].
    alpha = comparison_alpha(words(*((i, name, float(i % 2)) for i in range(10) for name in "pq")))
    assert (alpha.value, alpha.num_items) == (1, 10)
    assert np.isnan([alpha.low, alpha.high]).all()


def test_few_or_equal_items_are_no_certainty() -> None:
    """Items on which one of two says a tie agree by half each: no bootstrap of them varies."""
    for num in (3, 9, 30):
        found = pairwise_agreement(words(*((i, name, 0.5 * k) for i in range(num) for k, name in enumerate("pq"))))
        assert (found.value, found.num_items) == (0.5, num)
        assert found.high - found.low > 1.5 / num**0.5
        assert (found.low + found.high) / 2 == pytest.approx(0.5)
    few = [(i, name, float(k and i > 4)) for i in range(9) for k, name in enumerate("pq")]  # five of nine agree
    found, alpha = pairwise_agreement(words(*few)), comparison_alpha(words(*few))
    assert (found.low, found.high) == clustered_share([1] * 5 + [0] * 4)[1:]
    assert not np.isnan(alpha.value)
    assert np.isnan([alpha.low, alpha.high]).all()
    assert not np.isnan(comparison_alpha(words(*few, (9, "p", 1.0), (9, "q", 0.0))).low)


def simulated(rng: np.random.Generator, num_items: int, accuracy: float, pairs: int = 1) -> list[Comparison]:
    """Two annotators; within an item both are right or wrong on all of its pairs together."""
    found = []
    for item in range(num_items):
        said = [float(rng.random() < accuracy) for _ in "pq"]
        found += [
            Comparison((item), f"a{k}", f"b{k}", outcome, name)
            for k in range(pairs)
            for name, outcome in zip("pq", said, strict=True)
        ]
    return found


def test_intervals_hold_the_truth_by_item() -> None:
    rng = np.random.default_rng(2)
    truth, held, held_wrongly = 0.8**2 + 0.2**2, 0, 0
    for run in range(150):
        comparisons = simulated(rng, 40, 0.8, pairs=4)
        found = pairwise_agreement(comparisons, num_resamples=300)
        held += found.low <= truth <= found.high
        if run % 3 == 0:
            alone = [replace(c, item=(c.item, c.first)) for c in comparisons]
            found = pairwise_agreement(alone, num_resamples=300)
            held_wrongly += found.low <= truth <= found.high
    assert 0.9 <= held / 150 <= 0.99
    assert held_wrongly / 50 < 0.75  # as if the pairs of an item were independent


def test_alpha_of_comparisons_is_chance_corrected() -> None:
    """Without ties and with sides at random about 2 * agreement - 1; of random clickers about 0."""
    rng = np.random.default_rng(3)
    comparisons = simulated(rng, 4000, 0.85)
    agreement, alpha = pairwise_agreement(comparisons), comparison_alpha(comparisons)
    assert alpha.value == pytest.approx(2 * agreement.value - 1, abs=0.001)
    random = comparison_alpha(simulated(rng, 4000, 0.5))
    assert random.low < 0 < random.high
    assert random.high - random.low < 0.08


def test_alpha_of_ties_is_the_symmetric_definition() -> None:
    """The sides of a pair are in no order, so that every unit counts from both."""
    rng = np.random.default_rng(4)
    said = rng.choice([0, 0.5, 1], size=(3, 30))
    comparisons = [Comparison(u, "a", "b", said[a, u], str(a)) for u in range(30) for a in range(3)]
    both = np.concatenate([said, 1 - said], axis=1)
    # Twice the units change only the small-sample factor (n - 1) / n.
    num = both.size
    expected = 1 - (1 - by_definition(both, "interval")) * (num / 2 - 1) / (num / 2) / ((num - 1) / num)
    assert comparison_alpha(comparisons).value == pytest.approx(expected, abs=1e-12)
    assert len(list(combinations(range(3), 2))) * 30 == comparison_alpha(comparisons).num_pairs
