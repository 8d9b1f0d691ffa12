"""What a source gives to an epoch: exact counts, no sample again before all of its source came, honest reports."""

import math
from collections import Counter
from fractions import Fraction
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from posttrain.data.mixture import Part, amounts, describe, epoch_order, rates
from posttrain.errors import DataError

RECORDED = [[3, 4, 2, 5, 7, 1, 6, 6, 7, 0], [3, 5, 2, 4, 5, 7, 6, 1, 0], [3, 0, 5, 6, 2, 7, 4, 1, 7, 6]]


def parts_of(sizes: list[int], **wishes: list[Any]) -> list[Part]:
    """Parts named a, b, c … over consecutive indices; `weight=[1, 2]` gives the first part 1 and the second 2."""
    starts = np.cumsum([0, *sizes])
    return [
        Part(np.arange(a, b), name="abcdefgh"[n], **{wish: values[n] for wish, values in wishes.items()})
        for n, (a, b) in enumerate(pairwise(starts))
    ]


def epochs(parts: list[Part], number: int, **options: Any) -> list[np.ndarray]:
    return [epoch_order(parts, epoch, **({"seed": 0} | options)) for epoch in range(number)]


def counts(parts: list[Part], order: np.ndarray) -> list[int]:
    return [int(np.isin(order, part.indices).sum()) for part in parts]


SIZES = st.lists(st.integers(1, 12), min_size=1, max_size=5)
POSITIVE = st.floats(0.05, 4)


@st.composite
def mixtures(draw: st.DrawFn) -> tuple[list[Part], dict[str, Any]]:
    """Parts of every mode, with lengths for those that are replayed, and the options of `epoch_order`."""
    sizes = draw(SIZES)
    few = {"min_size": len(sizes), "max_size": len(sizes)}
    mode = draw(st.sampled_from(["plain", "epochs", "cap", "weight", "temperature", "replay"]))
    options = {"seed": draw(st.integers(0, 5)), "length_S": np.array(draw(st.lists(st.integers(1, 50), min_size=60)))}
    wishes: dict[str, list[Any]] = {}
    if mode in ("epochs", "weight"):
        wishes[mode] = draw(st.lists(POSITIVE, **few))
    if mode in ("cap", "temperature"):
        wishes["cap"] = draw(st.lists(st.none() | st.integers(1, 9), **few))
    if mode == "temperature":
        options["temperature"] = draw(st.floats(1, 50))
    if mode == "replay":
        wishes["replay"] = [None, *draw(st.lists(st.none() | st.floats(0.01, 0.2), min_size=4, max_size=4))]
    return parts_of(sizes, **wishes), options


class TestWalks:
    @given(mixtures())
    def test_no_sample_again_before_all_of_its_part_came(self, mixture: tuple[list[Part], dict[str, Any]]) -> None:
        """Every part's samples, read off the epochs one after another, are one permutation after another."""
        parts, options = mixture
        everything = np.concatenate(epochs(parts, 4, **options))
        for part in parts:
            walk = everything[np.isin(everything, part.indices)]
            for start in range(0, len(walk), len(part.indices)):
                once = walk[start : start + len(part.indices)]
                assert len(set(once.tolist())) == len(once)

    @given(mixtures(), st.integers(0, 6))
    def test_an_epoch_is_a_function_of_its_number(self, mixture: tuple[list[Part], dict[str, Any]], epoch: int) -> None:
        parts, options = mixture
        along = epochs(parts, epoch + 1, **options)[-1]
        np.testing.assert_array_equal(along, epoch_order(parts, epoch, **options))

    def test_orders_stay_what_they_were(self) -> None:
        """Written down, so that a run of yesterday is resumed rightly today and by any release of numpy."""
        parts = parts_of([5, 3], epochs=[1, 1.5])
        assert [order.tolist() for order in epochs(parts, 3)] == RECORDED

    def test_passes_epochs_seeds_and_parts_differ(self) -> None:
        parts = parts_of([50, 50], epochs=[3, 3])
        first, second = epochs(parts, 2)
        walk = np.concatenate([order[order < 50] for order in (first, second)]).reshape(6, 50)
        assert len({tuple(one_pass) for one_pass in walk.tolist()}) == 6
        assert tuple(walk[0]) != tuple(first[first >= 50][:50] - 50)
        assert first.tolist() != epoch_order(parts, 0, seed=1).tolist()

    def test_every_sample_stands_anywhere(self) -> None:
        """Over 3,000 seeds sample 0 of 6 comes at each place 500 times, with a deviation of 20.4."""
        places = Counter(epoch_order(parts_of([6]), 0, seed=seed).tolist().index(0) for seed in range(3000))
        assert all(abs(places[place] - 500) < 80 for place in range(6))

    def test_parts_are_mingled(self) -> None:
        order = epoch_order(parts_of([1000, 3000]), 0, seed=0)
        tenths = (order < 1000).reshape(10, 400).sum(1)
        assert all(abs(tenths - 100) < 35)  # 4 standard deviations


class TestCounts:
    @given(SIZES)
    def test_without_wishes_every_sample_comes_once(self, sizes: list[int]) -> None:
        for order in epochs(parts_of(sizes), 3):
            assert sorted(order.tolist()) == list(range(sum(sizes)))

    @given(mixtures())
    def test_after_any_epoch_a_part_is_within_half_a_sample_of_its_due(
        self, mixture: tuple[list[Part], dict[str, Any]]
    ) -> None:
        """The due in exact fractions, from the definitions."""
        parts, options = mixture
        main = [part for part in parts if part.replay is None]
        size = {part.name: Fraction(min(len(part.indices), part.cap or 99)) for part in main}
        temperature = options.get("temperature", 1.0)
        if main[0].weight is None and temperature == 1:
            due = {part.name: size[part.name] * Fraction(part.epochs or 1.0) for part in main}
        else:
            claim = {part.name: Fraction(part.weight or float(size[part.name]) ** (1 / temperature)) for part in main}
            due = {name: sum(size.values()) * claim[name] / sum(claim.values()) for name in claim}
        so_far: Counter[str] = Counter()
        for number, order in enumerate(epochs(parts, 5, **options), 1):
            so_far.update(dict(zip([part.name for part in parts], counts(parts, order), strict=True)))
            for name in due:
                assert abs(so_far[name] - number * due[name]) <= Fraction(1, 2) + Fraction(1, 10**9)

    @given(mixtures())
    def test_every_index_comes_as_often_as_its_part_was_walked(
        self, mixture: tuple[list[Part], dict[str, Any]]
    ) -> None:
        parts, options = mixture
        seen = Counter(np.concatenate(epochs(parts, 4, **options)).tolist())
        for part in parts:
            times = [seen[index] for index in part.indices.tolist()]
            assert max(times) - min(times) <= 1

    def test_weights_are_shares_of_the_samples(self) -> None:
        parts = parts_of([1000, 200, 50], weight=[7, 2, 1])
        assert [counts(parts, order) for order in epochs(parts, 2)] == [[875, 250, 125]] * 2

    @pytest.mark.parametrize(
        ("temperature", "expected"),
        [(1.0, [10000, 100]), (2.0, [9182, 918]), (4.0, [7673, 2427]), (math.inf, [5050, 5050])],
    )
    def test_temperature_by_hand(self, temperature: float, expected: list[int]) -> None:
        """Sizes 10,000 and 100: the shares are as 100 to 1, 10 to 1, 3.162 to 1 and 1 to 1."""
        parts = parts_of([10000, 100])
        assert counts(parts, epoch_order(parts, 0, seed=0, temperature=temperature)) == expected

    def test_a_cap_as_in_examples_proportional_mixing(self) -> None:
        """Over a cap of 3,000 a source counts as 3,000; all of it comes in its turn."""
        parts = parts_of([9000, 3000, 300], cap=[3000] * 3)
        orders = epochs(parts, 3)
        assert [counts(parts, order) for order in orders] == [[3000, 3000, 300]] * 3
        assert set(np.concatenate(orders).tolist()) == set(range(12300))

    def test_a_cap_bounds_what_a_temperature_sees(self) -> None:
        parts = parts_of([9000, 100], cap=[400, None])
        assert rates(parts, 2.0) == pytest.approx([500 * 2 / 3, 500 / 3])

    def test_fractions_of_a_source_go_on_where_they_stopped(self) -> None:
        parts = parts_of([8, 5], epochs=[0.25, 2.5])
        orders = epochs(parts, 4)
        assert [counts(parts, order) for order in orders] == [[2, 13], [2, 12], [2, 13], [2, 12]]
        assert sorted(index for order in orders for index in order.tolist() if index < 8) == list(range(8))

    def test_a_source_due_a_tenth_of_a_sample_comes_every_tenth_epoch(self) -> None:
        parts = parts_of([1, 3], epochs=[0.1, 1])
        assert [counts(parts, order)[0] for order in epochs(parts, 20)] == ([0] * 4 + [1] + [0] * 5) * 2


class TestReplay:
    @pytest.mark.parametrize("share", [0.05, 0.3, 0.9])
    @pytest.mark.parametrize("others", [{}, {"weight": [2, 1, None]}])
    def test_a_share_of_the_tokens(self, share: float, others: dict[str, list[Any]]) -> None:
        """The longest document is a fiftieth of all; the share is held after every epoch, not on average only."""
        length_S = np.random.default_rng(0).lognormal(3, 1.2, 900).astype(np.int64) + 1
        parts = parts_of([400, 200, 300], replay=[None, None, share], **others)
        replayed = rest = 0
        for order in epochs(parts, 6, length_S=length_S):
            replayed += int(length_S[order[order >= 600]].sum())
            rest += int(length_S[order[order < 600]].sum())
            assert abs(replayed - share / (1 - share) * rest) <= length_S[600:].max() / 2

    def test_two_replayed_sources(self) -> None:
        length_S = np.full(60, 10)
        parts = parts_of([30, 20, 10], replay=[None, 0.2, 0.3])
        assert [counts(parts, order) for order in epochs(parts, 2, length_S=length_S)] == [[30, 12, 18]] * 2

    def test_what_is_replayed_does_not_change_the_others_counts(self) -> None:
        parts = parts_of([30, 20, 10], weight=[2, 1, None], replay=[None, None, 0.5])
        order = epoch_order(parts, 0, seed=0, length_S=np.full(60, 7))
        assert counts(parts, order) == [33, 17, 50]

    def test_it_needs_lengths(self) -> None:
        with pytest.raises(ValueError, match="needs the length of every sample"):
            epoch_order(parts_of([3, 3], replay=[None, 0.1]), 0, seed=0)


class TestReport:
    @given(mixtures(), st.integers(1, 4))
    def test_it_tells_what_came(self, mixture: tuple[list[Part], dict[str, Any]], number: int) -> None:
        parts, options = mixture
        orders = np.concatenate(epochs(parts, number, **options))
        for part, told in zip(parts, amounts(parts, number, **options), strict=True):
            came = orders[np.isin(orders, part.indices)]
            assert (told.num_samples, told.num_tokens) == (len(came), options["length_S"][came].sum())
            assert told.num_passes == len(came) / len(part.indices)

    def test_in_words(self) -> None:
        parts = parts_of([100, 10], weight=[1, 3])
        told = describe(amounts(parts, 2, seed=0, length_S=np.repeat([20, 100], [100, 10])))
        assert list(told) == [
            "75.0% of the samples and 93.8% of the tokens from b: 165 samples, 16,500 tokens, 16.50 epochs of it",
            "25.0% of the samples and 6.2% of the tokens from a: 55 samples, 1,100 tokens, 0.55 epochs of it",
        ]


class TestErrors:
    @pytest.mark.parametrize(
        ("wish", "message"),
        [
            ({"weight": 0}, "a.jsonl, field 'weight': weight is 0, expected a number over 0; leave the source out"),
            ({"weight": math.nan}, "field 'weight': weight is nan"),
            ({"epochs": -1}, "field 'epochs': epochs is -1, expected a number over 0"),
            ({"epochs": math.inf}, "field 'epochs': epochs is inf"),
            ({"cap": 0}, "field 'cap': cap is 0"),
            ({"cap": 2.5}, "field 'cap': cap is 2.5, expected a whole number of samples"),
            ({"replay": 1.0}, "field 'replay': replay is 1.0, expected a number between 0 and 1"),
            ({"weight": 1, "epochs": 2}, "a.jsonl, field 'weight': weight and epochs cannot both say"),
            ({"indices": []}, "a.jsonl: no sample is left of it; leave it out of the mixture"),
        ],
    )
    def test_of_one_part(self, wish: dict[str, Any], message: str) -> None:
        with pytest.raises(DataError) as caught:
            Part(**({"indices": np.arange(3), "name": "a.jsonl"} | wish))
        assert message in str(caught.value)

    @pytest.mark.parametrize("indices", [[0, 1, 1], [0.5], [[0, 1]], [-1]])
    def test_of_indices(self, indices: list[Any]) -> None:
        with pytest.raises(ValueError, match=r"a\.jsonl: (indices are|an index is listed twice)"):
            Part(np.array(indices), name="a.jsonl")

    @pytest.mark.parametrize(
        ("parts", "temperature", "message"),
        [
            (parts_of([2, 2], weight=[1, None]), 1.0, "b, field 'weight': it has no weight, but another part has one"),
            (parts_of([2, 2], weight=[1, 2]), 2.0, "a, field 'weight': weight and a temperature both say"),
            (parts_of([2, 2], epochs=[None, 2]), 2.0, "b, field 'epochs': epochs and a temperature both say"),
            (parts_of([2, 2], replay=[0.5, 0.5]), 1.0, "a, field 'replay': the shares of replay leave no room"),
            (
                parts_of([2, 2, 2], replay=[None, 0.5, 0.5]),
                1.0,
                "b, field 'replay': the shares of replay leave no room",
            ),
            (parts_of([2]), 0.3, "field 'temperature': the temperature is 0.3, expected at least 1"),
            (parts_of([2]), math.nan, "field 'temperature': the temperature is nan"),
        ],
    )
    def test_of_parts_together(self, parts: list[Part], temperature: float, message: str) -> None:
        with pytest.raises(DataError) as caught:
            rates(parts, temperature)
        assert message in str(caught.value)

    def test_of_no_part(self) -> None:
        with pytest.raises(ValueError, match="at least one part"):
            epoch_order([], 0, seed=0)
