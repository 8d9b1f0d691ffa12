"""Trees in a row: ids, positions, spans, and the state that predicts each trained token."""

from types import ModuleType

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from posttrain.data.batch import pack
from posttrain.types import Sample, Segment, Span


def segment(*ids: int, parent: int = -1, weights: tuple[float, ...] | None = None) -> Segment:
    if weights is None:
        weights = ((0.0,) if parent < 0 else (1.0,)) + (1.0,) * (len(ids) - 1)
    return Segment(ids, weights, parent)


def test_by_hand() -> None:
    tree = Sample(
        (
            segment(10, 11, 12, weights=(0.0, 0.0, 0.5)),
            segment(20, 21, parent=0),
            segment(30, parent=0, weights=(2.0,)),
            segment(40, 41, parent=1, weights=(0.0, 1.0)),
        ),
        "a.jsonl:1",
    )
    batch = pack([Sample((segment(1, 2),), "b.jsonl:9"), tree])
    assert batch.input_ids_T.tolist() == [1, 2, 10, 11, 12, 20, 21, 30, 40, 41]
    assert batch.position_ids_T.tolist() == [0, 1, 0, 1, 2, 3, 4, 3, 5, 6]
    assert batch.spans == (Span(0, 2, -1), Span(2, 5, -1), Span(5, 7, 1), Span(7, 8, 1), Span(8, 10, 2))
    #                                        2 ← 1   12 ← 11  20 ← 12  21 ← 20  30 ← 12  41 ← 40
    assert batch.target_ids_N.tolist() == [2, 12, 20, 21, 30, 41]
    assert batch.source_N.tolist() == [0, 3, 4, 5, 4, 8]
    assert batch.weight_N.tolist() == [1.0, 0.5, 1.0, 1.0, 2.0, 1.0]
    assert batch.span_N.tolist() == [0, 1, 2, 2, 3, 4]
    assert batch.sources == ("b.jsonl:9", "a.jsonl:1")
    assert (batch.num_tokens, batch.num_trained) == (10, 6)


def test_dtypes() -> None:
    batch = pack([Sample((segment(1, 2, 3),))])
    for name in ("input_ids_T", "position_ids_T", "target_ids_N", "source_N", "span_N"):
        assert getattr(batch, name).dtype == torch.int64
    assert batch.weight_N.dtype == torch.float32


def test_nothing_to_train_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one token to train"):
        pack([Sample((segment(1, 2, weights=(0.0, 0.0)),))])


def test_another_device(tiny: ModuleType) -> None:
    batch = pack(tiny.trees([[(4, -1), (3, 0)]]))
    moved = batch.to(torch.device("meta"))
    tensors = [value for value in (getattr(moved, name) for name in moved.__slots__) if isinstance(value, torch.Tensor)]
    assert len(tensors) == 6
    assert all(value.is_meta for value in tensors)
    assert moved.spans == batch.spans


SHAPES = st.lists(
    st.lists(st.integers(1, 5), min_size=1, max_size=5).flatmap(
        lambda lengths: st.tuples(
            st.just(lengths),
            st.tuples(*[st.integers(-1 if i == 0 else 0, max(i - 1, -1)) for i in range(len(lengths))]),
        )
    ),
    min_size=1,
    max_size=4,
)


@given(SHAPES, st.randoms(use_true_random=False))
def test_every_trained_token_follows_its_source(shapes: list[tuple[list[int], tuple[int, ...]]], rng: object) -> None:
    """Walking up the tree by hand gives the same predecessor, depth and weight as the flat row."""
    samples, expected = [], []
    fresh = iter(range(1, 10**6))
    for lengths, parents in shapes:
        made: list[Segment] = []
        paths: list[list[int]] = []
        for index, (length, parent) in enumerate(zip(lengths, (-1, *parents[1:]), strict=True)):
            ids = tuple(next(fresh) for _ in range(length))
            weights = [rng.choice((0.0, 0.3, 1.0)) for _ in ids]  # type: ignore[attr-defined]
            weights[0] = 0.0 if index == 0 else weights[0]
            before = [] if parent < 0 else paths[parent]
            paths.append([*before, *ids])
            for offset, (token, weight) in enumerate(zip(ids, weights, strict=True)):
                if weight:
                    depth = len(before) + offset
                    expected.append((token, paths[-1][depth - 1], depth - 1, weight))
            made.append(Segment(ids, tuple(weights), parent))
        samples.append(Sample(tuple(made)))
    if not expected:
        with pytest.raises(ValueError, match="at least one token"):
            pack(samples)
        return
    batch = pack(samples)
    predecessors = batch.input_ids_T[batch.source_N].tolist()
    depths = batch.position_ids_T[batch.source_N].tolist()
    found = zip(batch.target_ids_N.tolist(), predecessors, depths, batch.weight_N.tolist(), strict=True)
    assert [(t, p, d, pytest.approx(w)) for t, p, d, w in found] == expected
    assert batch.num_tokens == sum(sample.num_tokens for sample in samples)
    assert batch.num_trained == sum(sample.num_trained for sample in samples)
    for target, span in zip(batch.target_ids_N.tolist(), batch.span_N.tolist(), strict=True):
        held = batch.spans[span]
        assert target in batch.input_ids_T[held.start : held.stop].tolist()


class TestRecords:
    def test_a_root_cannot_begin_with_a_trained_token(self) -> None:
        with pytest.raises(ValueError, match="nothing predicts it"):
            Sample((segment(1, 2, weights=(1.0, 1.0)),))

    def test_a_parent_comes_first(self) -> None:
        with pytest.raises(ValueError, match="segment 0 has parent 0"):
            Sample((segment(1, 2, parent=0),))
        with pytest.raises(ValueError, match="segment 1 has parent -2"):
            Sample((segment(1), Segment((1,), (0.0,), -2)))

    def test_a_weight_for_every_token(self) -> None:
        with pytest.raises(ValueError, match="got 1 weights for 2 tokens"):
            Segment((1, 2), (0.0,))

    def test_an_empty_segment(self) -> None:
        with pytest.raises(ValueError, match="at least one token"):
            Segment((), ())
