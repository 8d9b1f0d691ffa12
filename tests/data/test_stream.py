"""Epochs and steps: every sample exactly once an epoch, and a step that depends on its number alone."""

import hashlib
import json
from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from posttrain.data.mixture import Part, epoch_order
from posttrain.data.packing import WINDOW
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


@pytest.mark.parametrize(
    ("packing", "steps", "digest"),
    [
        (True, 384, "1c70d3bb5519337920a739cf95d611dff50d13476798a26ea59b1ec7f7549ac3"),
        (False, 1000, "e9f3fb70d63c7ccb232007642509d2e03c202064e2cf9d1a53e133093c4b7774"),
    ],
)
def test_plans_stay_what_they_were(packing: bool, steps: int, digest: str) -> None:
    """Written down from the first release: a run that began under it is resumed on the same batches."""
    lengths = [2 + (i * i * 37) % 180 for i in range(3000)]
    stream = Stream(samples(lengths), max_length=256, batch_size=3, accumulation=2, seed=11, packing=packing)
    told = [[batch.sources for batch in stream.step(step)] for step in range(stream.num_steps(2))]
    assert len(told) == steps
    assert hashlib.sha256(json.dumps(told).encode()).hexdigest() == digest


class Unread:
    """Samples that know their lengths and count how often one is read."""

    def __init__(self, lengths: list[int], trained: list[int]) -> None:
        self.length_S, self.trained_S = np.array(lengths, np.int32), np.array(trained, np.int32)
        self.samples, self.num_read = samples(lengths), 0

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Sample:
        self.num_read += 1
        return self.samples[index]


class TestSamplesOnDisk:
    def test_planning_reads_no_sample(self) -> None:
        store: Any = Unread([5, 9, 14, 2, 20, 7], [1] * 6)
        stream = Stream(store, max_length=20, seed=2)
        assert stream.num_steps(3) == stream.num_steps(2) + stream.num_steps(1)
        assert store.num_read == 0
        listed = Stream(store.samples, max_length=20, seed=2)
        assert [sources(stream.step(i)) for i in range(9)] == [sources(listed.step(i)) for i in range(9)]

    def test_a_batch_with_nothing_trained_is_not_read(self) -> None:
        store: Any = Unread([5, 5, 5], [4, 0, 4])
        assert sorted(sources(Stream(store, max_length=9, accumulation=3, packing=False).step(0))) == ["0", "2"]
        assert store.num_read == 2


class TestMixtures:
    def stream(self, **options: Any) -> Stream:
        """Forty samples of 'a' and ten of 'b'; as many of each come."""
        parts = [Part(np.arange(40), weight=1, name="a"), Part(np.arange(40, 50), weight=1, name="b")]
        lengths = [2 + (7 * i) % 18 for i in range(50)]
        return Stream(samples(lengths), max_length=20, **({"parts": parts, "seed": 1, "accumulation": 2} | options))

    @pytest.mark.parametrize("packing", [True, False])
    def test_an_epoch_is_what_the_mixture_says(self, packing: bool) -> None:
        stream, start = self.stream(packing=packing), 0
        for epoch in range(3):
            stop = stream.num_steps(epoch + 1)
            seen = Counter(int(source) for step in range(start, stop) for source in sources(stream.step(step)))
            assert stream.parts is not None
            assert seen == Counter(epoch_order(stream.parts, epoch, seed=1).tolist())
            assert sum(seen[index] for index in range(40)) == 25
            assert stream.epoch_of(stop) == epoch + 1
            start = stop

    @given(step=st.integers(0, 60), packing=st.booleans())
    def test_a_resumed_stream_goes_on_as_if_uninterrupted(self, step: int, packing: bool) -> None:
        along = self.stream(packing=packing)
        for done in range(step):
            along.step(done)
        resumed = self.stream(packing=packing)
        assert sources(resumed.step(step)) == sources(along.step(step))
        assert resumed.epoch_of(step + 1) == along.epoch_of(step + 1)

    def test_nothing_comes_again_a_window_too_early(self) -> None:
        """Rows are shuffled inside a window only; shuffled over the epoch, a sample of the second pass would come
        among the first."""
        size = 3 * WINDOW
        stream = Stream(samples([10] * size), max_length=10, seed=0, parts=[Part(np.arange(size), epochs=2)])
        walk = [int(source) for step in range(stream.num_steps(1)) for source in sources(stream.step(step))]
        assert len(set(walk[:size])) == size

    def test_parts_share_rows_and_steps(self) -> None:
        lengths = [10] * 2000
        parts = [Part(np.arange(1000)), Part(np.arange(1000, 2000))]
        stream = Stream(samples(lengths), max_length=200, parts=parts)
        shares = [sum(int(s) < 1000 for s in sources(stream.step(i))) for i in range(100)]
        assert 8 < np.mean(shares) < 12
        assert min(shares) > 0  # by chance once in a million rows
        assert max(shares) < 20

    def test_a_temperature_reaches_the_plan(self) -> None:
        parts = [Part(np.arange(90)), Part(np.arange(90, 100))]
        stream = Stream(samples([5] * 100), max_length=10, parts=parts, temperature=2.0)
        drawn = [int(source) for step in range(stream.num_steps(1)) for source in sources(stream.step(step))]
        assert sum(index < 90 for index in drawn) == 75  # the root of 90 to 10 is 3 to 1
        assert [part.num_samples for part in stream.mixture()] == [75, 25]

    def test_seeds_and_epochs_differ(self) -> None:
        steps = self.stream().num_steps(1)
        orders = [[sources(self.stream(seed=seed).step(i)) for i in range(steps)] for seed in (1, 2)]
        later = [sources(self.stream().step(i)) for i in range(steps, 2 * steps)]
        assert orders[0] != orders[1]
        assert orders[0] != later

    def test_an_epoch_may_be_empty(self) -> None:
        """A tenth of two samples is due in the third epoch."""
        stream = Stream(samples([5, 5]), max_length=20, parts=[Part(np.arange(2), epochs=0.1)])
        assert [stream.num_steps(number) for number in (1, 2, 3, 7, 8)] == [1, 1, 1, 1, 2]
        assert len(sources(stream.step(0))) == 1
        assert stream.epoch_of(1) == 3
        assert sources(stream.step(1)) != sources(stream.step(0))

    def test_it_tells_what_came(self) -> None:
        stream = self.stream()
        told = stream.mixture(2)
        assert [(part.name, part.num_samples, part.num_passes) for part in told] == [("a", 50, 1.25), ("b", 50, 5.0)]
        steps = range(stream.num_steps(2))
        assert sum(part.num_tokens for part in told) == sum(b.num_tokens for i in steps for b in stream.step(i))
        assert Stream(samples([5]), max_length=20).mixture() == []

    def test_a_mixture_that_cannot_be_is_refused_at_once(self) -> None:
        parts = [Part(np.arange(40), weight=1, name="a"), Part(np.arange(40, 50), name="b")]
        with pytest.raises(DataError, match="b, field 'weight': it has no weight"):
            self.stream(parts=parts)
        with pytest.raises(ValueError, match="b: index 50 of 50 samples"):
            self.stream(parts=[Part(np.arange(51), name="b")])


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
