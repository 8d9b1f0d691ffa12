"""Whoever prepares the data, and however often it is interrupted, the samples are those of the plain way: read every
row, render every record alone."""

import json
import os
import pickle
import platform
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import psutil
import pytest

from posttrain.data import blocks
from posttrain.data import prepare as prepare_module
from posttrain.data.blocks import Rows, cut_blocks
from posttrain.data.branches import chunk, fit
from posttrain.data.cache import cache_folder, open_cache
from posttrain.data.convert import for_sft
from posttrain.data.prepare import Prepared, prepare, prepare_records
from posttrain.data.rendering import Settings
from posttrain.data.shards import SUFFIX, UNFINISHED, open_shard
from posttrain.data.sources import read
from posttrain.data.split import group_key
from posttrain.data.template import render, render_document
from posttrain.data.workers import Workers
from posttrain.errors import DataError, PosttrainError
from posttrain.types import Conversation, Document, Message, Sample

MAX_LENGTH = 48
WORDS = ("the", "capital", "of", "France", "is", "Paris", "How", "many", "hours", "24", "system", "<|im_end|>", "é")


def rows(count: int, seed: int = 0) -> Iterator[dict[str, Any]]:
    """Conversations of one to three turns, some over 48 tokens, and now and then a document or a row without answer."""
    rng = random.Random(seed)
    for number in range(count):
        if number % 9 == 4:
            yield {"text": text(rng, 60)}
        elif number % 9 == 7:
            yield {"prompt": text(rng, 4), "completion": text(rng, 3), "label": bool(number % 2)}
        else:
            turns = [
                {"role": role, "content": text(rng, 12)}
                for _ in range(rng.randint(1, 3))
                for role in ("user", "assistant")
            ]
            yield {"messages": turns}


def text(rng: random.Random, most: int) -> str:
    return " ".join(rng.choices(WORDS, k=rng.randint(1, most)))


def write(path: Path, found: list[Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = (row if isinstance(row, str) else json.dumps(row) for row in found)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of 20 rows, and a 'large' data set has more than 30."""
    monkeypatch.setattr(blocks, "BLOCK_ROWS", 20)
    monkeypatch.setattr(prepare_module, "SMALL_ROWS", 30)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Two files of 110 rows."""
    found = list(rows(110))
    write(tmp_path / "data" / "a.jsonl", found[:83])
    write(tmp_path / "data" / "b.jsonl", found[83:])
    return tmp_path / "data"


def plainly(path: Path, tokenizer: Any) -> list[tuple[Sample, int]]:
    """Samples and groups the slow way."""
    found = []
    for source in read(path):
        for record in source.records:
            item, _ = for_sft(record)
            if isinstance(item, Document):
                whole = render_document(item, tokenizer)
                found += [(part, group_key(item)) for part in chunk(whole, MAX_LENGTH) if part.num_trained]
            elif item is not None:
                found += [(part, group_key(item)) for part in fit(render(item, tokenizer), MAX_LENGTH)]
    return found


def facts(prepared: Prepared) -> dict[str, Any]:
    """Everything that two ways of preparing must agree on."""
    store = prepared.store
    names = ("length_S", "trained_S", "group_S", "digest_S", "long_S", "lost_S")
    arrays = {name: getattr(store, name).tolist() for name in names}
    counted = {name: value for name, value in vars(prepared).items() if name not in ("store", "num_made", "num_found")}
    return {"samples": list(store)} | arrays | counted


def test_small_data_is_what_rendering_every_record_gives(tiny: ModuleType, data: Path) -> None:
    tokenizer = tiny.tokenizer()
    prepared = prepare(data, tokenizer, max_length=MAX_LENGTH)
    expected = plainly(data, tokenizer)
    assert list(prepared.store) == [sample for sample, _ in expected]
    assert prepared.store.group_S.tolist() == [group for _, group in expected]
    assert prepared.store.length_S.max() <= MAX_LENGTH
    sources = read(data)
    assert prepared.layouts == {
        name: sum(source.layouts.get(name, 0) for source in sources)
        for name in dict.fromkeys(name for source in sources for name in source.layouts)
    }
    assert [(entry["path"], entry["sha256"], entry["records"]) for entry in prepared.inputs] == [
        (source.path, source.sha256, len(source.records)) for source in sources
    ]
    assert [entry["rows"] for entry in prepared.inputs] == [83, 27]
    assert sum(entry["samples"] for entry in prepared.inputs) == len(expected)
    assert prepared.left_out["the answer is rated bad"] == 6
    assert (prepared.num_made, prepared.num_found) == (0, 0)


@pytest.mark.usefixtures("small_blocks")
def test_workers_and_the_cache_change_nothing(
    tiny: ModuleType, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = tiny.tokenizer()
    said: list[str] = []
    found = {}
    for num_proc in (0, 1, 2):
        for again in (False, True):
            found[num_proc, again] = prepare(
                data,
                tokenizer,
                max_length=MAX_LENGTH,
                num_proc=num_proc,
                cache_dir=tmp_path / str(num_proc),
                say=said.append,
            )
    monkeypatch.setattr(prepare_module, "SMALL_ROWS", 1000)
    in_memory = facts(prepare(data, tokenizer, max_length=MAX_LENGTH, cache_dir=tmp_path / "none"))
    for (_, again), prepared in found.items():
        assert (prepared.num_made, prepared.num_found) == ((0, 6) if again else (6, 0))
        assert facts(prepared) == in_memory
    assert not (tmp_path / "none").exists()
    assert len({shard.name for shard in tmp_path.glob(f"?/prepared/*/*{SUFFIX}")}) == 6
    assert not list(tmp_path.glob(f"?/prepared/*/*{UNFINISHED}"))
    assert "6 parts prepared, 0 found" in said[0]
    assert "0 parts prepared, 6 found" in said[1]


@pytest.mark.usefixtures("small_blocks")
def test_only_what_changed_is_made_again(tiny: ModuleType, data: Path, tmp_path: Path) -> None:
    def run(path: Path, **changes: Any) -> Prepared:
        settings = {"max_length": MAX_LENGTH, "num_proc": 0, "cache_dir": tmp_path / "cache"} | changes
        return prepare(path, tiny.tokenizer(), **settings)

    first = run(data)
    data.rename(data.with_name("elsewhere"))
    moved = run(data.with_name("elsewhere"))
    assert (moved.num_made, moved.num_found) == (0, first.num_made)
    assert moved.store.source(0) == f"{data.with_name('elsewhere') / 'a.jsonl'}:1"
    grown = data.with_name("elsewhere") / "b.jsonl"
    grown.write_text(grown.read_text() + json.dumps({"text": "one more"}) + "\n")
    more = run(grown.parent)
    assert (more.num_made, more.num_found) == (1, first.num_made - 1)
    assert len(more.store) == len(first.store) + 1
    changes: list[dict[str, Any]] = [{"prompt_weight": 0.1}, {"train_on": "last"}, {"truncation": "drop"}]
    for change in [*changes, {"max_length": 47}, {"on_bad_rows": "skip"}]:
        assert run(grown.parent, **change).num_found == 0


def test_what_decides_the_samples_decides_the_folder(tiny: ModuleType, tmp_path: Path) -> None:
    settings = Settings(MAX_LENGTH)
    folder = open_cache(tmp_path, tiny.tokenizer(), settings)
    touched = tiny.tokenizer()
    touched(["a", "b c d"], padding=True, truncation=True, max_length=2)
    assert open_cache(tmp_path, touched, settings) == folder
    other_template, other_token = tiny.tokenizer(), tiny.tokenizer()
    other_template.chat_template += " "
    other_token.add_tokens(["capital"])
    for tokenizer in (other_template, other_token, tiny.tokenizer(bos=True)):
        assert open_cache(tmp_path, tokenizer, settings) != folder
    assert open_cache(tmp_path, tiny.tokenizer(), replace(settings, columns={"text": "body"})) != folder
    assert "Delete this folder" in (tmp_path / "prepared" / "README.txt").read_text()


def test_the_cache_lies_where_it_is_told_to(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("POSTTRAIN_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    assert cache_folder() == Path.home() / ".cache" / "posttrain"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "posttrain"
    monkeypatch.setenv("POSTTRAIN_CACHE", "~/x")
    assert cache_folder() == Path.home() / "x"


def test_unfinished_files_of_the_dead_are_removed(tiny: ModuleType, tmp_path: Path) -> None:
    folder = open_cache(tmp_path, tiny.tokenizer(), Settings(MAX_LENGTH))
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    dead = folder / f"a.{platform.node()}.{gone.pid}-1{UNFINISHED}"
    alive = folder / f"a.{platform.node()}.{os.getpid()}-1{UNFINISHED}"
    foreign, foreign_old = (folder / f"a.{name}.some.where.{gone.pid}-1{UNFINISHED}" for name in ("new", "old"))
    for path in (dead, alive, foreign, foreign_old):
        path.touch()
    os.utime(foreign_old, (0, 0))
    open_cache(tmp_path, tiny.tokenizer(), Settings(MAX_LENGTH))
    assert [path.exists() for path in (dead, alive, foreign, foreign_old)] == [False, True, True, False]


@pytest.mark.usefixtures("small_blocks")
def test_half_a_shard_is_made_again(tiny: ModuleType, data: Path, tmp_path: Path) -> None:
    first = prepare(data, tiny.tokenizer(), max_length=MAX_LENGTH, num_proc=0, cache_dir=tmp_path / "cache")
    expected = facts(first)
    broken = next((tmp_path / "cache").rglob(f"*{SUFFIX}"))
    open_shard.cache_clear()
    os.truncate(broken, broken.stat().st_size // 2)
    again = prepare(data, tiny.tokenizer(), max_length=MAX_LENGTH, num_proc=0, cache_dir=tmp_path / "cache")
    assert (again.num_made, again.num_found) == (1, first.num_made - 1)
    assert facts(again) == expected


def talk(*contents: str) -> dict[str, Any]:
    return {"messages": [{"role": ("user", "assistant")[i % 2], "content": c} for i, c in enumerate(contents)]}


def test_long_samples_are_counted(tiny: ModuleType, tmp_path: Path) -> None:
    tokenizer = tiny.tokenizer()
    short, cut_inside, cut_between, hopeless = (
        talk("a", "b"),
        talk("a", "x " * 60),
        talk("a", "b", "x " * 60, "c"),
        talk("x " * 60, "c"),
    )
    file = write(tmp_path / "a.jsonl", [short, cut_inside, cut_between, hopeless])
    kept = prepare(file, tokenizer, max_length=MAX_LENGTH)
    assert [sample.num_tokens for sample in kept.store] == [kept.store[0].num_tokens, MAX_LENGTH, MAX_LENGTH]
    assert kept.store.long_S.tolist() == [False, True, True]
    assert kept.store.lost_S.tolist() == [False, True, False]
    assert (kept.num_long, kept.num_lost) == (3, 1)
    assert kept.left_out == {"no trained token before max_length": 1}
    dropped = prepare(file, tokenizer, max_length=MAX_LENGTH, truncation="drop")
    assert [dropped.store.source(i) for i in range(len(dropped.store))] == [f"{file}:1"]
    assert dropped.left_out == {f"over max_length ({MAX_LENGTH} tokens)": 3}
    assert (dropped.num_long, dropped.num_lost) == (3, 0)
    weighed = prepare(file, tokenizer, max_length=MAX_LENGTH, prompt_weight=0.5)
    assert weighed.store.lost_S.tolist() == [False, True, False, False]


def test_documents_lose_nothing(tiny: ModuleType, tmp_path: Path) -> None:
    tokenizer = tiny.tokenizer()
    long = "How many hours has a day? " * 20
    file = write(tmp_path / "a.jsonl", [{"text": long}, {"text": "a"}])
    prepared = prepare(file, tokenizer, max_length=16)
    whole = render_document(Document(long), tokenizer)
    windows = [sample.segments[0] for sample in prepared.store[:-1]]
    trained = [token for w in windows for token, weight in zip(w.token_ids, w.weights, strict=True) if weight]
    assert tuple(trained) == whole.segments[0].token_ids[1:]
    assert prepared.store.length_S.max() <= 16
    assert (prepared.num_long, prepared.num_lost, prepared.left_out) == (0, 0, {})
    bare = tiny.tokenizer()
    bare.eos_token = None
    assert prepare(file, bare, max_length=16).left_out == {"a single token, which nothing predicts": 1}


BAD = ("{broken", {"neither": 1}, {"messages": "no list"})


@pytest.mark.usefixtures("small_blocks")
def test_a_bad_row_says_the_same_from_a_worker(tiny: ModuleType, tmp_path: Path) -> None:
    good = list(rows(90))
    file = write(tmp_path / "a.jsonl", [*good[:70], {"messages": "no list"}, *good[70:]])
    said = []
    for num_proc in (0, 2):
        with pytest.raises(DataError) as caught:
            prepare(file, tiny.tokenizer(), max_length=MAX_LENGTH, num_proc=num_proc, cache_dir=tmp_path / "cache")
        said.append((str(caught.value), caught.value.file, caught.value.line, caught.value.field))
    assert said[0] == said[1]
    assert said[0][1:] == (str(file), 71, "messages")
    assert not children()


@pytest.mark.usefixtures("small_blocks")
def test_skipped_rows_are_counted_and_listed(tiny: ModuleType, tmp_path: Path) -> None:
    good = list(rows(90))
    mixed = [*good[:30], BAD[0], *good[30:60], *BAD[1:], *good[60:]]
    file, clean = write(tmp_path / "mixed.jsonl", mixed), write(tmp_path / "clean.jsonl", good)
    settings = {"max_length": MAX_LENGTH, "num_proc": 0, "cache_dir": tmp_path / "cache"}
    prepared = prepare(file, tiny.tokenizer(), on_bad_rows="skip", **settings)
    assert [s.segments for s in prepared.store] == [
        s.segments for s in prepare(clean, tiny.tokenizer(), **settings).store
    ]
    assert prepared.num_skipped == 3
    whole = read(file, on_bad_rows="skip")[0].skipped
    assert prepared.skipped == tuple(why for _, why in whole)
    moved = prepare(file.rename(tmp_path / "moved.jsonl"), tiny.tokenizer(), on_bad_rows="skip", **settings)
    assert moved.num_made == 0
    assert moved.skipped == tuple(why.replace("mixed.jsonl", "moved.jsonl") for why in prepared.skipped)


def test_a_record_that_cannot_be_rendered_is_skipped_too(tiny: ModuleType, tmp_path: Path) -> None:
    tokenizer = tiny.tokenizer(template=False)
    file = write(tmp_path / "a.jsonl", [{"text": "a b c"}, talk("a", "b"), {"text": "c b a"}])
    with pytest.raises(DataError, match="no chat template"):
        prepare(file, tokenizer, max_length=MAX_LENGTH)
    prepared = prepare(file, tokenizer, max_length=MAX_LENGTH, on_bad_rows="skip")
    assert [sample.source for sample in prepared.store] == [f"{file}:1", f"{file}:3"]
    assert prepared.num_skipped == 1
    assert prepared.skipped[0].startswith(f"{file}, line 2: the tokenizer has no chat template")


def test_the_list_of_skipped_rows_ends_the_count_does_not(tiny: ModuleType, tmp_path: Path) -> None:
    file = write(tmp_path / "a.jsonl", [talk("a", "b"), *["{broken"] * 500])
    prepared = prepare(file, tiny.tokenizer(), max_length=MAX_LENGTH, on_bad_rows="skip")
    assert prepared.num_skipped == 500
    assert len(prepared.skipped) == 20
    with pytest.raises(DataError, match="none of the 1 rows can be read"):
        prepare(write(tmp_path / "b.jsonl", ["{broken"]), tiny.tokenizer(), max_length=9, on_bad_rows="skip")
    with pytest.raises(DataError, match="the file is empty"):
        prepare(write(tmp_path / "c.jsonl", []), tiny.tokenizer(), max_length=9)


def test_records_in_memory(tiny: ModuleType) -> None:
    tokenizer = tiny.tokenizer()
    sources = ["pocket:fact", "x.jsonl:12", "", "pocket:fact", "y:007"]
    talks = [Conversation((Message("user", source), Message("assistant", "b")), source) for source in sources[:3]]
    records = [*talks, *(Document("a b c", source) for source in sources[3:])]
    prepared = prepare_records(records, tokenizer, max_length=MAX_LENGTH)
    assert list(prepared.store) == [
        render(record, tokenizer) if isinstance(record, Conversation) else render_document(record, tokenizer)
        for record in records
    ]
    assert [entry["path"] for entry in prepared.inputs] == ["pocket:fact", "x.jsonl", "", "y:007"]
    assert [entry["records"] for entry in prepared.inputs] == [2, 1, 1, 1]


def test_rows_of_a_generator(tiny: ModuleType, tmp_path: Path) -> None:
    found = list(rows(30))
    file = write(tmp_path / "a.jsonl", found)
    given = Rows("made", ((number, row) for number, row in enumerate(found, 1)))
    prepared = prepare([given, file], tiny.tokenizer(), max_length=MAX_LENGTH)
    half = len(prepared.store) // 2
    assert [s.segments for s in prepared.store[:half]] == [s.segments for s in prepared.store[half:]]
    assert prepared.store.source(0) == "made:1"
    assert len(prepared.inputs[0]["sha256"]) == 64


def test_blocks_are_cut_by_rows_and_bytes_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "BLOCK_ROWS", 8)
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 400)
    lengths = [10, 10, 390, 10, 10, 10, 10, 10, 10, 10, 10, 10, 500, 10]
    first = write(tmp_path / "1.jsonl", [json.dumps({"text": "x" * (length - 12)}) for length in lengths])
    second = write(tmp_path / "2.jsonl", [{"text": "y"}] * 3)
    inputs: list[dict[str, Any]] = []
    made = list(cut_blocks([first, second], inputs))
    # 3 rows are over 400 bytes; then 8 rows; then a long one; the rest is too little for a block of its own
    assert [len(block.rows) for block in made] == [3, 8, 2, 4]
    assert [block.file_R for block in made][-1] == [0, 1, 1, 1]
    assert [line for block in made for line in block.line_R] == [*range(1, 15), 1, 2, 3]
    alone = list(cut_blocks([second], []))
    assert alone[0].digest not in {block.digest for block in made}
    assert [block.digest for block in cut_blocks([first, second], [])] == [block.digest for block in made]


class Pool:
    """Stands for Workers: remembers what was asked for and does it at once."""

    num = 2

    def __init__(self, make: Callable[..., Any]) -> None:
        self.submit = make


def test_few_blocks_wait_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny: ModuleType) -> None:
    """However large the data: rows are read only as shards come back."""
    monkeypatch.setattr(blocks, "BLOCK_ROWS", 10)
    pulled = 0

    def endless() -> Iterator[tuple[int, dict[str, Any]]]:
        nonlocal pulled
        for number in range(1, 10**9):
            pulled = number
            yield number, {"text": f"row {number}"}

    with Workers(0, tiny.tokenizer(), Settings(MAX_LENGTH)) as workers:
        pool: Any = Pool(workers.submit)
        progress = prepare_module._Progress(lambda _: None)
        parts = prepare_module._kept(cut_blocks([Rows("x", endless())], []), tmp_path, pool, progress)
        for number in range(5):
            next(parts)
            assert pulled == 10 * (2 * Pool.num + 1 + number)


def children() -> list[psutil.Process]:
    return [child for child in psutil.Process().children(recursive=True) if "posttrain" in " ".join(child.cmdline())]


class Deadly:
    """Whoever unpickles it is killed."""

    def __reduce__(self) -> tuple[Any, ...]:
        return signal.raise_signal, (signal.SIGKILL,)


def test_a_worker_that_dies_is_one_sentence(tiny: ModuleType, tmp_path: Path) -> None:
    (block,) = cut_blocks([write(tmp_path / "a.jsonl", [talk("a", "b")])], [])
    with Workers(1, tiny.tokenizer(), Settings(MAX_LENGTH)) as workers:
        workers.submit(block, tmp_path / f"good{SUFFIX}").result()
        deadly: Any = [Deadly()]
        with pytest.raises(PosttrainError, match=r"a\.jsonl, line 1: the worker process .* was killed by signal 9"):
            workers.submit(replace(block, rows=deadly), tmp_path / f"bad{SUFFIX}").result()
    assert [path.name for path in tmp_path.glob(f"*{SUFFIX}")] == [f"good{SUFFIX}"]
    assert not children()


def test_a_full_disk_is_one_sentence(
    tiny: ModuleType, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prepare_module, "SMALL_ROWS", 30)
    in_the_way = tmp_path / "file"
    in_the_way.touch()
    with pytest.raises(PosttrainError, match="name another folder in the environment variable POSTTRAIN_CACHE"):
        prepare(data, tiny.tokenizer(), max_length=MAX_LENGTH, num_proc=0, cache_dir=in_the_way)
    (block,) = cut_blocks([data / "b.jsonl"], [])
    with (
        Workers(0, tiny.tokenizer(), Settings(MAX_LENGTH)) as workers,
        pytest.raises(PosttrainError, match="make room"),
    ):
        workers.submit(block, in_the_way / f"x{SUFFIX}")


@pytest.mark.usefixtures("small_blocks")
def test_two_at_once_do_not_hurt_each_other(tiny: ModuleType, data: Path, tmp_path: Path) -> None:
    found: list[dict[str, Any]] = []

    def run() -> None:
        made = prepare(data, tiny.tokenizer(), max_length=MAX_LENGTH, num_proc=0, cache_dir=tmp_path / "cache")
        found.append(facts(made))

    threads = [threading.Thread(target=run) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 3
    assert found[0] == found[1] == found[2]


# It reads 200 rows of its 1,000 and then waits for the next as for a slow disk.
PROGRAM = """
import pickle, sys, time
from itertools import islice
from posttrain.data import blocks, prepare

def slowly(file, read=blocks.raw_rows):
    yield from islice(read(file), 200)
    time.sleep(300)

blocks.BLOCK_ROWS, prepare.SMALL_ROWS, blocks.raw_rows = 20, 30, slowly
tokenizer, data, cache, max_length = pickle.load(sys.stdin.buffer)
prepare.prepare(data, tokenizer, max_length=max_length, num_proc=2, cache_dir=cache)
"""


@pytest.mark.usefixtures("small_blocks")
def test_killed_and_started_again(tiny: ModuleType, tmp_path: Path) -> None:
    tokenizer, cache = tiny.tokenizer(), tmp_path / "cache"
    file = write(tmp_path / "a.jsonl", list(rows(1000)))
    process = subprocess.Popen([sys.executable, "-c", PROGRAM], stdin=subprocess.PIPE)
    assert process.stdin is not None
    pickle.dump((tokenizer, file, cache, MAX_LENGTH), process.stdin)
    process.stdin.close()
    while len(list(cache.rglob(f"*{SUFFIX}"))) < 3:
        assert process.poll() is None
        time.sleep(0.005)
    workers = psutil.Process(process.pid).children()
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert len(workers) == 2
    assert not psutil.wait_procs(workers, timeout=30)[1]
    finished = {path: path.stat().st_mtime_ns for path in cache.rglob(f"*{SUFFIX}")}
    assert 3 <= len(finished) <= 10
    again = prepare(file, tokenizer, max_length=MAX_LENGTH, num_proc=0, cache_dir=cache)
    assert (again.num_found, again.num_made) == (len(finished), 50 - len(finished))
    assert {path: path.stat().st_mtime_ns for path in finished} == finished
    anew = prepare(file, tokenizer, max_length=MAX_LENGTH, num_proc=0, cache_dir=tmp_path / "other")
    assert (anew.num_found, anew.num_made) == (0, 50)
    assert facts(again) == facts(anew)
