"""What `dataset:` may say, and what comes of it: mixtures, replay, splits, bad rows, checks."""

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from posttrain.errors import ConfigError, DataError
from posttrain.recipes.config import command, load
from posttrain.recipes.mixing import open_stream
from posttrain.recipes.sft_config import SftConfig
from posttrain.recipes.training_data import TrainingData, load_data


def write(path: Path, rows: list[Any]) -> str:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return str(path)


def pairs(count: int, word: str = "say", *, twins: int = 1) -> list[dict[str, str]]:
    """Questions with one answer each; `twins` of them ask the same."""
    return [{"prompt": f"{word} {i // twins}", "completion": f"{word} {i} it is"} for i in range(count)]


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def prepared(tiny: ModuleType, said: list[str]) -> Any:
    """`prepared(dataset=…)`: the training data of a recipe."""

    def make(**keys: Any) -> TrainingData:
        config = SftConfig(**({"max_length": 64, "data_checks": "off"} | keys))
        return load_data(config, tiny.tokenizer(), said.append)

    return make


def texts(tiny: ModuleType, data: TrainingData) -> list[str]:
    tokenizer = tiny.tokenizer()
    return [tokenizer.decode(sample.segments[0].token_ids) for sample in data.train]


class TestEntries:
    def test_text_list_and_mapping_say_the_same(self) -> None:
        one = SftConfig(dataset="a.jsonl")
        assert one == SftConfig(dataset=["a.jsonl"]) == SftConfig(dataset={"path": "a.jsonl"})
        assert one == SftConfig(dataset='{"path": "a.jsonl"}')

    def test_the_command_says_it_again(self) -> None:
        config = SftConfig(dataset=["a.jsonl", {"path": "b c.csv", "columns": {"prompt": "Q"}, "weight": 2}])
        line = command(config)
        assert "--dataset a.jsonl" in line
        assert '{"path": "b c.csv", "columns": {"prompt": "Q"}, "weight": 2.0}' in line

    @pytest.mark.parametrize(
        ("dataset", "message"),
        [
            ([{"path": "a", "wieght": 2}], r"dataset\[0\].wieght is an unknown key, did you mean weight\?"),
            ([{"path": "a", "weight": -1}], r"dataset\[0\].weight is -1, expected a number above 0"),
            ([{"weight": 1}], r"dataset\[0\].path is required"),
            (["a", 5], r"dataset\[1\] is 5, expected text, or a mapping with `path`"),
            ("{nonsense", "which is no JSON object"),
            ([{"path": "a", "weight": 1, "epochs": 2}], "weight is given beside epochs"),
            ([], "dataset is empty"),
        ],
    )
    def test_faults_name_their_place(self, dataset: Any, message: str) -> None:
        with pytest.raises(ConfigError, match=message):
            load(SftConfig, None, {"dataset": dataset})


def test_columns_of_any_name(prepared: Any, tiny: ModuleType, tmp_path: Path) -> None:
    path = write(tmp_path / "q.jsonl", [{"Q": "one?", "Best": "1."}, {"Q": "two?", "Best": "2."}])
    data = prepared(dataset={"path": path, "columns": {"prompt": "Q", "completion": "Best"}})
    assert any("one?<|im_end|>" in text for text in texts(tiny, data))


def test_a_split_keeps_twins_together(prepared: Any, tiny: ModuleType, tmp_path: Path) -> None:
    path = write(tmp_path / "twins.jsonl", pairs(60, twins=3))
    data = prepared(dataset=path, eval_split=0.2)
    tokenizer = tiny.tokenizer()
    asked = [set(), set()]
    for side, rows in enumerate(([sample.segments[0].token_ids for sample in data.train], _held(data))):
        for ids in rows:
            asked[side].add(tokenizer.decode(ids).split("<|im_end|>")[0])
    assert len(asked[1]) == 4
    assert len(asked[0]) == 16
    assert not asked[0] & asked[1]


def _held(data: TrainingData) -> list[list[int]]:
    return [list(sample.segments[0].token_ids) for sample in data.held_out]


def test_weights_and_replay(prepared: Any, said: list[str], tmp_path: Path) -> None:
    first = write(tmp_path / "a.jsonl", pairs(40, "left"))
    second = write(tmp_path / "b.jsonl", pairs(40, "right"))
    book = write(tmp_path / "book.jsonl", [{"text": f"Chapter {i}. It rained."} for i in range(50)])
    keys = {
        "dataset": [{"path": first, "weight": 3}, {"path": second, "weight": 1}],
        "replay_dataset": book,
        "replay_ratio": 0.25,
        "max_length": 64,
        "data_checks": "off",
    }
    data = prepared(**keys)
    stream = open_stream(SftConfig(**keys), data.train, data.parts, said.append)
    left, right, replay = sorted(stream.mixture(), key=lambda amount: amount.name)
    assert (left.num_samples, right.num_samples) == (60, 20)
    assert replay.name.endswith("(replay)")
    tokens = left.num_tokens + right.num_tokens + replay.num_tokens
    assert abs(replay.num_tokens / tokens - 0.25) < 0.02
    assert sum("a.jsonl" in line for line in said) >= 2  # what was read, and what an epoch takes of it


def test_max_samples_of_an_entry_and_of_all(prepared: Any, tmp_path: Path) -> None:
    first = write(tmp_path / "a.jsonl", pairs(30, "left"))
    second = write(tmp_path / "b.jsonl", pairs(30, "right"))
    entries = [{"path": first, "max_samples": 5}, second]
    assert len(prepared(dataset=entries).train) == 35
    assert len(prepared(dataset=entries, max_samples=10).train) == 10


def test_bad_rows_stop_the_run_or_are_listed(prepared: Any, said: list[str], tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [*pairs(5), "{broken", *pairs(3, "more")])
    with pytest.raises(DataError, match=r"a.jsonl, line 6"):
        prepared(dataset=path)
    assert len(prepared(dataset=path, on_bad_rows="skip").train) == 8
    assert any("skipped 1 rows" in line for line in said)
    assert any("a.jsonl, line 6" in line for line in said)


def test_the_preview_shows_conversations_of_the_held_out_side(prepared: Any, tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", pairs(20))
    data = prepared(dataset=path, eval_split=0.3, num_preview_samples=2)
    assert len(data.preview) == 2
    shown = {chat.messages[0].content for chat in data.preview}
    with_documents = write(tmp_path / "text.jsonl", [{"text": "No chat."}] * 3)
    assert prepared(dataset=with_documents).preview == []
    assert shown <= {row["prompt"] for row in pairs(20)}


def test_nothing_fits(prepared: Any, tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [{"prompt": "word " * 400, "completion": "yes"}])
    with pytest.raises(
        DataError,
        match=r"a.jsonl: nothing is left to train: 1 rows: no trained token before max_length; raise max_length \(64",
    ):
        prepared(dataset=path)


def test_data_that_is_not_fit_is_refused(prepared: Any, said: list[str], tmp_path: Path) -> None:
    """Most answers would lose their end: said with the mend, unless the recipe wants it all the same."""
    rows = [{"prompt": f"ask {i}", "completion": "word " * 200} for i in range(10)]
    path = write(tmp_path / "a.jsonl", rows)
    with pytest.raises(DataError, match=r"not fit to train on.*max_length"):
        prepared(dataset=path, data_checks="refuse")
    assert len(prepared(dataset=path, data_checks="warn").train) == 10
    assert any(line.startswith("warning:") for line in said)
