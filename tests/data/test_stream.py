"""Epochs and steps: every sample exactly once an epoch, and a step that depends on its number alone."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from posttrain.data.stream import Stream
from posttrain.errors import DataError
from posttrain.types import Batch, Sample, Segment


def samples(lengths: list[int]) -> list[Sample]:
    """Each sample is told from the others by its source."""
    return [
        Sample((Segment((i,) * length, (0.0,) + (1.0,) * (length - 1)),), str(i)) for i, length in enumerate(lengths)
    ]


def sources(batches: list[Batch]) -> list[str]:
    return [source for batch in batches for source in batch.sources]


STREAMS = st.builds(
    lambda lengths, **options: Stream(samples(lengths), max_length=20, **options),
    st.lists(st.integers(2, 20), min_size=1, max_size=40),
    batch_size=st.integers(1, 4),
    accumulation=st.integers(1, 3),
    packing=st.booleans(),
    seed=st.integers(0, 3),
)


@given(STREAMS)
def test_every_sample_once_an_epoch(stream: Stream) -> None:
    start = 0
    for epoch in (1, 2, 3):
        stop = stream.num_steps(epoch)
        seen = Counter(source for step in range(start, stop) for source in sources(stream.step(step)))
        assert seen == Counter(sample.source for sample in stream.samples)
        assert stream.epoch_of(stop) == epoch
        start = stop


@given(STREAMS, st.data())
def test_a_step_is_a_function_of_its_number(stream: Stream, data: st.DataObject) -> None:
    """A fresh stream that is asked for one late step gives the same batches as one that came there step by step."""
    step = data.draw(st.integers(0, stream.num_steps(3) - 1))
    along = [sources(stream.step(i)) for i in range(step + 1)]
    fresh = Stream(
        stream.samples,
        max_length=stream.max_length,
        batch_size=stream.batch_size,
        accumulation=stream.accumulation,
        packing=stream.packing,
        seed=stream.seed,
    )
    jumped = fresh.step(step)
    assert sources(jumped) == along[-1]
    assert fresh.epoch_of(step + 1) == stream.epoch_of(step + 1)
    assert [batch.input_ids_T.tolist() for batch in jumped] == [b.input_ids_T.tolist() for b in stream.step(step)]


@given(STREAMS)
def test_rows_and_batches_keep_their_sizes(stream: Stream) -> None:
    steps = [stream.step(step) for step in range(stream.num_steps(1))]
    for number, batches in enumerate(steps):
        last = number == len(steps) - 1
        assert len(batches) == stream.accumulation or (last and 0 < len(batches) < stream.accumulation)
        for batch in batches:
            assert batch.num_tokens <= stream.batch_size * stream.max_length
            if not stream.packing:
                assert len(batch.sources) <= stream.batch_size


class TestEpochs:
    def stream(self) -> Stream:
        """Ten rows, two a batch, two batches a step: steps of 4, 4 and 2 rows."""
        return Stream(samples([20] * 10), max_length=20, batch_size=2, accumulation=2)

    @pytest.mark.parametrize(
        ("num_epochs", "steps"), [(1, 3), (2, 6), (0.34, 2), (1 / 3, 1), (0.01, 1), (1.5, 5), (2.01, 7), (3.0, 9)]
    )
    def test_fractions_are_rounded_up(self, num_epochs: float, steps: int) -> None:
        assert self.stream().num_steps(num_epochs) == steps

    def test_how_far(self) -> None:
        stream = self.stream()
        assert [stream.epoch_of(step) for step in (0, 1, 3, 4, 6)] == pytest.approx([0, 1 / 3, 1, 4 / 3, 2])

    def test_the_last_step_of_an_epoch_is_short(self) -> None:
        stream = self.stream()
        assert [[len(batch.sources) for batch in stream.step(step)] for step in range(4)] == [
            [2, 2], [2, 2], [2], [2, 2],
        ]  # fmt: skip

    def test_epochs_have_different_orders(self) -> None:
        stream = self.stream()
        first, second = ([s for i in range(a, a + 3) for s in sources(stream.step(i))] for a in (0, 3))
        assert first != second
        assert first != [str(i) for i in range(10)]

    def test_seeds_have_different_orders(self) -> None:
        orders = {tuple(sources(Stream(samples([20] * 10), max_length=20, seed=s).step(0))) for s in range(10)}
        assert len(orders) > 3


def test_a_batch_with_nothing_trained_is_left_out() -> None:
    """With packing off a sample stands alone; one whose prompt was cut off must not stop the run."""
    silent = Sample((Segment((1, 2), (0.0, 0.0)),), "silent")
    stream = Stream([*samples([5, 5]), silent], max_length=20, accumulation=3, packing=False)
    assert sorted(sources(stream.step(0))) == ["0", "1"]


def test_no_sample_is_refused() -> None:
    with pytest.raises(DataError, match="no sample to train on"):
        Stream([], max_length=10)


def test_a_sample_longer_than_a_row_is_refused() -> None:
    with pytest.raises(ValueError, match="over the row's 10"):
        Stream(samples([11]), max_length=10).step(0)
