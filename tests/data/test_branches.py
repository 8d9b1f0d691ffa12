"""Trees of shared beginnings, and how they are made to fit a row."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from posttrain.data.branches import branch, chunk, fit
from posttrain.data.encode import Tokens
from posttrain.types import Sample, Segment

ROWS = st.lists(
    st.lists(st.tuples(st.integers(1, 3), st.sampled_from([0.0, 1.0])), min_size=1, max_size=6), min_size=1, max_size=4
)


def paths(sample: Sample) -> list[Tokens]:
    """Every root-to-leaf path as ids and weights."""
    inner = {segment.parent for segment in sample.segments}
    found = []
    for leaf in (i for i in range(len(sample.segments)) if i not in inner):
        ids: list[int] = []
        weights: list[float] = []
        index = leaf
        while index >= 0:
            ids = [*sample.segments[index].token_ids, *ids]
            weights = [*sample.segments[index].weights, *weights]
            index = sample.segments[index].parent
        found.append((ids, weights))
    return found


@given(rows=ROWS)
def test_every_row_is_a_path_and_nothing_shared_stands_twice(rows: list[list[tuple[int, float]]]) -> None:
    rows = [[(0, 0.0), *row] for row in rows]
    made = Sample(branch([([i for i, _ in row], [w for _, w in row]) for row in rows]))
    distinct = {tuple(row) for row in rows}
    leaves = {row for row in distinct if not any(row != other and other[: len(row)] == row for other in distinct)}
    assert {tuple(zip(*path, strict=True)) for path in paths(made)} == leaves
    prefixes = {row[:length] for row in distinct for length in range(1, len(row) + 1)}
    assert made.num_tokens == len(prefixes)


def test_branches_keep_their_order() -> None:
    made = branch([([0, 9, 1], [0.0, 1.0, 1.0]), ([0, 2, 1], [0.0, 1.0, 1.0])])
    assert [segment.token_ids for segment in made] == [(0,), (9, 1), (2, 1)]


class TestFit:
    def line(self, *weights: float) -> Sample:
        return Sample((Segment(tuple(range(len(weights))), weights),), "a:1")

    def test_a_short_sample_is_left_alone(self) -> None:
        sample = self.line(0.0, 0.0, 1.0)
        (found,) = fit(sample, 3)
        assert found is sample

    def test_a_long_one_keeps_its_start(self) -> None:
        assert fit(self.line(0.0, 1.0, 1.0, 1.0), 3) == [self.line(0.0, 1.0, 1.0)]

    def test_nothing_trained_is_left(self) -> None:
        assert fit(self.line(0.0, 0.0, 0.0, 1.0), 3) == []
        assert fit(self.line(0.0, 0.0), 3) == []

    @pytest.mark.parametrize("seed", range(20))
    def test_a_wide_tree_becomes_its_paths(self, seed: int) -> None:
        """Every trained token that stands within the length is trained once, behind the same tokens."""
        rng = random.Random(seed)
        segments = [Segment((0, 1, 2), (0.0, 0.0, 1.0))]
        for number in range(4):
            length = rng.randint(1, 5)
            ids = tuple(10 * (number + 1) + i for i in range(length))
            segments.append(Segment(ids, (1.0,) * length, rng.randrange(len(segments))))
        sample = Sample(tuple(segments), "a:1")
        for length in range(2, sample.num_tokens + 2):
            found = fit(sample, length)
            assert all(part.num_tokens <= length for part in found)
            assert all(part.source == "a:1" for part in found)
            trained = [
                tuple(ids[: place + 1])
                for part in found
                for ids, weights in paths(part)
                for place, weight in enumerate(weights)
                if weight
            ]
            whole = {
                tuple(ids[: place + 1])
                for ids, weights in paths(sample)
                for place, weight in enumerate(weights)
                if weight and place < length
            }
            if len(found) > 1 or len(sample.segments) == 1:
                assert len(trained) == len(set(trained))
            assert set(trained) == whole


@given(length=st.integers(1, 60), window=st.integers(2, 20))
def test_a_document_in_windows_loses_nothing(length: int, window: int) -> None:
    ids = tuple(range(length))
    sample = Sample((Segment(ids, (0.0,) + (1.0,) * (length - 1)),), "book:1")
    found = chunk(sample, window)
    trained = [
        (token, part.segments[0].token_ids[place - 1])
        for part in found
        for place, (token, weight) in enumerate(zip(*_columns(part), strict=True))
        if weight
    ]
    assert trained == [(token, token - 1) for token in ids[1:]]
    assert all(part.num_tokens <= window for part in found)


def _columns(sample: Sample) -> tuple[tuple[int, ...], tuple[float, ...]]:
    return sample.segments[0].token_ids, sample.segments[0].weights
