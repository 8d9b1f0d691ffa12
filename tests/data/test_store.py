"""The store gives back what went in, sample by sample; every fact about them is counted by hand."""

import pickle
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from posttrain.data import shards
from posttrain.data.batch import pack
from posttrain.data.shards import Notes, Shard, ShardBuilder, is_whole, open_shard, save_shard
from posttrain.data.store import Facts, TokenStore, join_facts
from posttrain.errors import DataError
from posttrain.types import Sample, Segment


def shard_of(samples: list[Sample], pieces: int = 1) -> Shard:
    builder = ShardBuilder()
    for start in range(0, len(samples), pieces):
        part = samples[start : start + pieces]
        rows = list(range(start, start + len(part)))
        builder.add(part, rows, [2**63 + row for row in rows], [row % 2 == 0 for row in rows], [False] * len(rows))
    return builder.build([1] * len(samples), Notes())


def store_of(shard: Shard | Path, files: list[str] | None = None) -> TokenStore:
    opened = open_shard(shard) if isinstance(shard, Path) else shard
    count = len(opened)
    facts = Facts(
        np.zeros(count, np.int32),
        np.arange(count, dtype=np.int32),
        np.zeros(count, np.int32),
        opened.row.astype(np.int64) + 1,
        opened.length_S,
        opened.trained_S,
        opened.group,
        opened.digest,
        opened.was_long,
        opened.lost_stop,
    )
    return TokenStore([shard], files or ["a.jsonl"], facts)


@st.composite
def trees(draw: st.DrawFn) -> Sample:
    segments: list[Segment] = []
    for number in range(draw(st.integers(1, 4))):
        ids = draw(st.lists(st.integers(0, 2**31 - 1), min_size=1, max_size=6))
        weights = draw(st.lists(st.sampled_from([0.0, 1.0, 0.1, -2.5]), min_size=len(ids), max_size=len(ids)))
        parent = draw(st.integers(-1, number - 1))
        if parent < 0:
            weights[0] = 0.0
        segments.append(Segment(tuple(ids), tuple(weights), parent))
    return Sample(tuple(segments), "")


def named(samples: list[Sample], file: str = "a.jsonl") -> list[Sample]:
    return [Sample(sample.segments, f"{file}:{number}") for number, sample in enumerate(samples, 1)]


@given(st.lists(trees(), max_size=8), st.integers(1, 9))
def test_gives_back_what_went_in(samples: list[Sample], pieces: int) -> None:
    store = store_of(shard_of(samples, pieces))
    assert len(store) == len(samples)
    assert list(store) == named(samples)
    assert store.length_S.tolist() == [sample.num_tokens for sample in samples]
    assert store.trained_S.tolist() == [sample.num_trained for sample in samples]
    shapes = [tuple(segment.token_ids for segment in sample.segments) for sample in samples]
    for i, j in np.ndindex(len(store), len(store)):
        assert (store.digest_S[i] == store.digest_S[j]) == (shapes[i] == shapes[j])


@given(st.lists(trees(), max_size=8))
def test_a_file_holds_the_same_as_memory(tmp_path_factory: pytest.TempPathFactory, samples: list[Sample]) -> None:
    path = tmp_path_factory.mktemp("shard") / f"x{shards.SUFFIX}"
    shard = shard_of(samples, 3)
    shard.notes.layouts["messages"] = 3
    shard.notes.left_out["empty"] = 2
    shard.notes.skip(4, ": broken")
    save_shard(shard, path)
    opened = open_shard(path)
    assert opened.notes == shard.notes
    for name, values in vars(shard).items():
        if name != "notes":
            assert getattr(opened, name).dtype == values.dtype
            assert np.array_equal(getattr(opened, name), values)
    assert list(store_of(path)) == named(samples)
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_index_slice_and_source(tiny: ModuleType) -> None:
    samples = tiny.trees([[(5, -1)], [(3, -1), (2, 0), (4, 0)], [(7, -1)]])
    store = store_of(shard_of(samples))
    assert store[-1] == named(samples)[-1]
    assert list(store[1:]) == named(samples)[1:]
    assert store[1:].source(0) == "a.jsonl:2"
    with pytest.raises(IndexError):
        store[3]
    (whole,) = pack([samples[1]]).spans[:1]
    assert pack([store[1]]).spans[0] == whole


def test_select_repeats_and_reorders(tiny: ModuleType) -> None:
    samples = tiny.trees([[(n, -1)] for n in range(2, 8)])
    store = store_of(shard_of(samples))
    order = [5, 0, 0, 3]
    chosen = store.select(order)
    assert list(chosen) == [named(samples)[i] for i in order]
    for name in ("length_S", "trained_S", "group_S", "digest_S", "long_S", "lost_S"):
        assert getattr(chosen, name).tolist() == [getattr(store, name)[i] for i in order]
    assert list(chosen.select(np.array([1, 3]))) == [named(samples)[0], named(samples)[3]]
    assert len(store.select([])) == 0


def test_join_is_one_sequence(tiny: ModuleType, tmp_path: Path) -> None:
    first, second = tiny.trees([[(4, -1)], [(6, -1)]], seed=1), tiny.trees([[(3, -1), (5, 0)]], seed=2)
    path = tmp_path / f"x{shards.SUFFIX}"
    save_shard(shard_of(second), path)
    again = store_of(shard_of(first), ["d"])
    joined = TokenStore.join([store_of(shard_of(first), ["b"]), store_of(path, ["c"]), again])
    assert list(joined) == named(first, "b") + named(second, "c") + named(first, "d")
    assert joined.digest_S[0] == joined.digest_S[3] != joined.digest_S[1]
    for name in ("length_S", "trained_S", "group_S", "digest_S", "long_S", "lost_S"):
        assert getattr(joined, name).dtype == getattr(again, name).dtype
    assert list(TokenStore.join([joined[2:], joined[:1]])) == [joined[2], joined[3], joined[4], joined[0]]
    assert len(TokenStore.join([])) == 0


def test_a_store_travels_between_processes(tiny: ModuleType, tmp_path: Path) -> None:
    samples = tiny.trees([[(4, -1)], [(6, -1)]])
    path = tmp_path / f"x{shards.SUFFIX}"
    save_shard(shard_of(samples), path)
    for shard in (path, shard_of(samples)):
        assert list(pickle.loads(pickle.dumps(store_of(shard)))) == named(samples)


def test_part_of_a_file_is_no_shard(tiny: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / f"x{shards.SUFFIX}"
    save_shard(shard_of(tiny.trees([[(40, -1)]])), path)
    whole = path.read_bytes()
    for number, length in enumerate((0, 4, 100, len(whole) // 2, len(whole) - 1)):
        part = tmp_path / f"{number}{shards.SUFFIX}"
        part.write_bytes(whole[:length])
        assert not is_whole(part)
    assert is_whole(path)
    assert not is_whole(tmp_path / "nothing")


def test_a_deleted_shard_is_one_sentence(tiny: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / f"x{shards.SUFFIX}"
    save_shard(shard_of(tiny.trees([[(4, -1)]])), path)
    store = store_of(path)
    path.unlink()
    assert store[0].num_tokens == 4  # what is open stays open
    open_shard.cache_clear()
    with pytest.raises(DataError, match=r"x\.safetensors: this part of the prepared data was deleted"):
        store[0]


def test_facts_take_46_bytes_a_sample() -> None:
    assert sum(getattr(join_facts([]), name).itemsize for name in vars(join_facts([]))) == 46
