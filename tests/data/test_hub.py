"""Data sets by name and from `save_to_disk`, without a network: what is read, and what is said where there is none."""

import json
import socket
import time
from pathlib import Path
from typing import Any

import datasets
import pytest
from huggingface_hub import constants

from posttrain.data import hub
from posttrain.data.files import find_files, raw_rows
from posttrain.data.hub import hub_rows, is_hub_name
from posttrain.data.sources import read
from posttrain.errors import DataError

ROWS = [{"prompt": f"ask {i}", "completion": f"say {i}"} for i in range(600)]


def refuse(*_: Any, **__: Any) -> Any:
    raise OSError("no network")


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(hub.urllib.request, "getproxies", dict)


class TestNames:
    @pytest.mark.parametrize("name", ["squad", "owner/name", "HuggingFaceH4/ultrachat_200k", "a-b/c.d-1.0"])
    def test_names(self, name: str) -> None:
        assert is_hub_name(name)

    @pytest.mark.parametrize(
        "name",
        [
            "data/train.jsonl",
            "train.csv",
            "a.json.gz",
            "./data",
            "../data",
            "a/b/c",
            "data/*",
            "",
            "a b",
            "~/x",
            "x.YAML",
        ],
    )
    def test_paths(self, name: str) -> None:
        assert not is_hub_name(name)

    def test_what_is_on_disk_is_no_name(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        (tmp_path / "data").mkdir()
        assert not is_hub_name("data")
        assert is_hub_name("data/set")


@pytest.mark.usefixtures("offline")
class TestNamed:
    def test_rows_of_a_split(self, monkeypatch: pytest.MonkeyPatch) -> None:
        asked: list[Any] = []

        def load(*args: Any, **options: Any) -> Any:
            asked.append((args, options))
            return datasets.Dataset.from_list(ROWS)

        monkeypatch.setattr(datasets, "load_dataset", load)
        assert list(hub_rows("owner/name", config="main", split="test")) == list(enumerate(ROWS, 1))
        assert asked == [(("owner/name", "main"), {"split": "test"})]
        (source,) = read("owner/name", name="main", split="test")
        assert asked[1:] == asked[:1]
        assert (source.path, source.layouts, len(source.records)) == ("owner/name", {"prompt/completion": 600}, 600)
        assert source.records[599].source == "owner/name:600"
        assert len(source.sha256) == 64
        assert read("owner/name")[0].sha256 == source.sha256

    def test_pictures_are_not_decoded(self, monkeypatch: pytest.MonkeyPatch) -> None:
        table = datasets.Dataset.from_dict({"text": ["a"], "image": [{"bytes": b"no picture", "path": None}]})
        table = table.cast_column("image", datasets.Image())
        monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: table)
        assert next(hub_rows("owner/name"))[1]["text"] == "a"

    def test_messages_that_are_stored_as_columns(self, monkeypatch: pytest.MonkeyPatch) -> None:
        table = datasets.Dataset.from_list([{"conversations": {"from": ["human", "gpt"], "value": ["a", "b"]}}])
        monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: table)
        (record,) = read("owner/name")[0].records
        assert [message.content for message in record.messages] == ["a", "b"]  # type: ignore[union-attr]

    def test_a_table_of_single_messages_becomes_trees(self, monkeypatch: pytest.MonkeyPatch) -> None:
        rows = [
            {"message_id": "a", "parent_id": None, "role": "prompter", "text": "ask", "rank": None, "deleted": False},
            {"message_id": "b", "parent_id": "a", "role": "assistant", "text": "say", "rank": 0, "deleted": False},
        ]
        monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: datasets.Dataset.from_list(rows))
        (source,) = read("owner/name")
        assert source.layouts == {"OpenAssistant messages": 1}
        assert source.records[0].root.replies[0].message.content == "say"  # type: ignore[union-attr]

    def test_offline_and_absent(self) -> None:
        """One plain sentence, at once: the libraries alone would try for half a minute."""
        before, began = constants.HF_HUB_OFFLINE, time.monotonic()
        with pytest.raises(
            DataError, match="no file or folder has this name, and the Hugging Face hub cannot be"
        ) as caught:
            read("nowhere/nothing")
        assert time.monotonic() - began < 5
        assert str(caught.value).startswith("nowhere/nothing: ")
        assert caught.value.__cause__ is None
        assert before == constants.HF_HUB_OFFLINE
        assert before == datasets.config.HF_HUB_OFFLINE

    @pytest.mark.parametrize(
        ("error", "message"),
        [
            (datasets.exceptions.DatasetNotFoundError("gone"), "nor has a data set on the Hugging Face hub; check"),
            (ValueError('Unknown split "x".\nmore'), "cannot be loaded with split 'train' (Unknown split \"x\")."),
            (RuntimeError("Dataset scripts are no longer supported"), "(Dataset scripts are no longer supported)."),
            (TimeoutError(), "the Hugging Face hub cannot be reached"),
        ],
    )
    def test_what_cannot_be_loaded(self, error: Exception, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
        def load(*_: Any, **__: Any) -> Any:
            raise error

        monkeypatch.setattr(datasets, "load_dataset", load)
        with pytest.raises(DataError) as caught:
            read("owner/name")
        assert message in str(caught.value)
        assert "\n" not in str(caught.value)

    def test_an_empty_data_set(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: datasets.Dataset.from_dict({"text": []}))
        with pytest.raises(DataError, match="owner/name: the file is empty"):
            read("owner/name")


class TestSaved:
    def rows(self, folder: Path, split: str = "train") -> list[dict[str, Any]]:
        return [row for file in find_files(str(folder), split=split) for _, row in raw_rows(file)]  # type: ignore[misc]

    def test_one_data_set(self, tmp_path: Path) -> None:
        datasets.Dataset.from_list(ROWS).save_to_disk(tmp_path / "saved", num_shards=3)
        assert self.rows(tmp_path / "saved") == ROWS
        assert [len(source.records) for source in read(tmp_path / "saved")] == [200, 200, 200]

    def test_rows_that_were_chosen_and_moved(self, tmp_path: Path) -> None:
        """A selection is a list of indices in memory; saved, it must be the rows themselves, in order."""
        table = (
            datasets.Dataset.from_list(ROWS).shuffle(seed=3).select(range(100)).filter(lambda row: "1" in row["prompt"])
        )
        table.save_to_disk(tmp_path / "saved")
        assert self.rows(tmp_path / "saved") == list(table)
        assert 0 < len(table) < 100

    def test_splits(self, tmp_path: Path) -> None:
        parts = {"train": ROWS[:3], "test": ROWS[3:5]}
        datasets.DatasetDict({k: datasets.Dataset.from_list(v) for k, v in parts.items()}).save_to_disk(
            tmp_path / "saved"
        )
        assert self.rows(tmp_path / "saved") == ROWS[:3]
        assert self.rows(tmp_path / "saved", "test") == ROWS[3:5]
        with pytest.raises(DataError, match="there is no split 'dev'; there is train, test"):
            read(tmp_path / "saved", split="dev")

    @pytest.mark.parametrize("content", ["", "[]", '{"_data_files": 3}', '{"_data_files": []}', "[" * 10**5])
    def test_a_broken_folder(self, tmp_path: Path, content: str) -> None:
        datasets.Dataset.from_list(ROWS).save_to_disk(tmp_path / "saved")
        (tmp_path / "saved" / "state.json").write_text(content)
        with pytest.raises(DataError, match=r"the saved data set .*; save it again"):
            read(tmp_path / "saved")

    def test_a_missing_file(self, tmp_path: Path) -> None:
        datasets.Dataset.from_list(ROWS).save_to_disk(tmp_path / "saved")
        (name,) = (
            entry["filename"] for entry in json.loads((tmp_path / "saved/state.json").read_text())["_data_files"]
        )
        (tmp_path / "saved" / name).unlink()
        with pytest.raises(DataError, match=rf"the saved data set lacks .*{name}; save it again"):
            read(tmp_path / "saved")
