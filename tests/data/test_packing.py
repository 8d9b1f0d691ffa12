"""Rows: every sample once, none over the capacity, the same plan for the same seed, little room left over."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from posttrain.data.packing import WINDOW, plan_rows

CAPACITY = 64
LENGTHS = st.lists(st.integers(1, CAPACITY), max_size=120)


@given(lengths=LENGTHS, seed=st.integers(0, 5), window=st.integers(1, 130))
def test_every_sample_once_and_no_row_over_capacity(lengths: list[int], seed: int, window: int) -> None:
    rows = plan_rows(lengths, CAPACITY, seed=seed, window=window)
    assert sorted(index for row in rows for index in row) == list(range(len(lengths)))
    assert all(sum(lengths[index] for index in row) <= CAPACITY for row in rows)
    assert all(rows)


@given(lengths=LENGTHS, seed=st.integers(0, 5))
def test_one_window_is_packed_as_tightly_as_best_fit_promises(lengths: list[int], seed: int) -> None:
    """Best-fit-decreasing needs at most 11/9 of the optimum and one row (Johnson, 1974); the optimum is at least the
    total length over the capacity, and at least the samples that are longer than half a row."""
    rows = plan_rows(lengths, CAPACITY, seed=seed)
    optimum_or_less = max(-(-sum(lengths) // CAPACITY), sum(length > CAPACITY / 2 for length in lengths))
    least = min(lengths, default=0)
    free = sorted(CAPACITY - sum(lengths[i] for i in row) for row in rows)
    assert len(rows) >= optimum_or_less
    assert sum(room >= CAPACITY / 2 for room in free) <= 1, "two rows that are half empty belong together"
    assert least == 0 or len(rows) <= max(1, 2 * optimum_or_less)


def test_the_same_seed_gives_the_same_rows_and_another_one_others() -> None:
    lengths = [1 + (7 * i) % 60 for i in range(300)]
    assert plan_rows(lengths, CAPACITY, seed=1) == plan_rows(lengths, CAPACITY, seed=1)
    assert plan_rows(lengths, CAPACITY, seed=1) != plan_rows(lengths, CAPACITY, seed=2)


@pytest.mark.parametrize(("capacity", "bound"), [(256, 0.04), (1024, 0.01)])
def test_little_is_wasted(capacity: int, bound: float) -> None:
    """Lengths from 8 to 187. Measured: 3.3 % and XX of the positions stay empty."""
    lengths = [8 + (i * i * 37) % 180 for i in range(4000)]
    rows = plan_rows(lengths, capacity, seed=0)
    waste = 1 - sum(lengths) / (len(rows) * capacity)
    print(waste)
    assert waste < bound


def test_the_shuffle_is_a_shuffle() -> None:
    """Neighbours in the file are not neighbours in the plan, and rows are not ordered by length."""
    lengths = [10] * (3 * WINDOW)
    order = [index for row in plan_rows(lengths, 10, seed=0) for index in row]
    assert sum(abs(a - b) == 1 for a, b in zip(order, order[1:], strict=False)) < 30  # 2 are expected by chance
    lengths = [1 + i % 50 for i in range(2 * WINDOW)]
    means = [sum(lengths[i] for i in row) / len(row) for row in plan_rows(lengths, 50, seed=0)]
    half = len(means) // 2
    assert abs(sum(means[:half]) / half - sum(means[half:]) / (len(means) - half)) < 3


def test_a_sample_over_the_capacity_is_refused() -> None:
    with pytest.raises(ValueError, match="sample 1 has 65 tokens, over the row's 64"):
        plan_rows([3, 65, 2], CAPACITY, seed=0)
