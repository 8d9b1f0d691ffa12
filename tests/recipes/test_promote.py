"""A live folder: versions that stay, `good` that names one, and what a pipeline and a loader make of it."""

import errno
import json
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from posttrain.errors import ConfigError, ModelError, PosttrainError
from posttrain.recipes import promote as promoting
from posttrain.recipes.config import load
from posttrain.recipes.good_model import good_model
from posttrain.recipes.pipeline_config import PipelineConfig
from posttrain.recipes.pipeline_graph import Graph
from posttrain.recipes.pipeline_places import Places
from posttrain.recipes.pipeline_reading import graph_of
from posttrain.recipes.policy import resolve_model
from posttrain.recipes.promote import go_back, promote, run
from posttrain.recipes.promote_config import PromoteConfig


@pytest.fixture
def models(tmp_path: Path) -> list[Path]:
    """Three folders that look like models of different weights."""
    found = []
    for number in range(3):
        folder = tmp_path / f"model-{number}"
        (folder / "checkpoint-1").mkdir(parents=True)
        (folder / "config.json").write_text('{"model_type": "llama"}')
        (folder / "model.safetensors").write_bytes(bytes([number]) * 64)
        tokenizer = {"version": "1.0", "model": {"type": "BPE", "vocab": {"a": 0}, "merges": []}, "added_tokens": []}
        (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
        (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
        found.append(folder)
    return found


def test_versions_stay_and_good_names_one(models: list[Path], tmp_path: Path) -> None:
    live = tmp_path / "live"
    first = promote(str(models[0]), live)
    second = promote(str(models[1]), live, "it won")
    assert (first["before"], second["before"], second["note"]) == ("", first["version"], "it won")
    assert good_model(str(live)) == resolve_model(str(live)) == second["version"]
    assert (live / "0001" / "model.safetensors").read_bytes() == bytes(64)
    assert not (live / "0002" / "checkpoint-1").exists()
    (models[1] / "model.safetensors").write_bytes(b"trained on")  # the version is a copy
    assert (live / "0002" / "model.safetensors").read_bytes() == bytes([1]) * 64


def test_what_is_live_or_was_is_not_copied_again(models: list[Path], tmp_path: Path) -> None:
    live = tmp_path / "live"
    first = promote(str(models[0]), live)
    assert promote(str(models[0]), live) == promote(str(live), live) == first
    promote(str(models[1]), live)
    assert promote(str(models[0]), live)["version"] == first["version"]
    assert sorted(path.name for path in live.iterdir() if path.is_dir()) == ["0001", "0002"]


def test_back_goes_further_back_each_time(models: list[Path], tmp_path: Path) -> None:
    live = tmp_path / "live"
    versions = [promote(str(model), live)["version"] for model in models]
    assert [go_back(live)["version"], go_back(live)["version"]] == [versions[1], versions[0]]
    with pytest.raises(ConfigError, match="no version before"):
        go_back(live)
    assert good_model(str(live)) == versions[0]


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda folder: (folder / "model.safetensors").unlink(), "no \\*.safetensors"),
        (lambda folder: (folder / "tokenizer.json").unlink(), "tokenizer"),
        (lambda folder: (folder / "run.json").write_text('{"status": "running"}'), "has not come to its end"),
        (
            lambda folder: (folder / "config.json").write_text(
                '{"model_type": "llama", "architectures": ["LlamaForSequenceClassification"]}'
            ),
            "reward model",
        ),
    ],
)
def test_what_cannot_answer_is_refused(models: list[Path], tmp_path: Path, spoil: object, said: str) -> None:
    spoil(models[0])  # type: ignore[operator]
    with pytest.raises((ConfigError, ModelError), match=said):
        promote(str(models[0]), tmp_path / "live")
    assert not (tmp_path / "live" / "good").exists()


def test_the_verb(models: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    live, record = str(tmp_path / "live"), tmp_path / "record"
    run(PromoteConfig(model=str(models[0]), to=live, output_dir=str(record)))
    run(PromoteConfig(model=str(models[1]), to=live))
    run(PromoteConfig(back=True, to=live))
    told = capsys.readouterr().out.splitlines()
    assert told[0].startswith("live: ")
    assert "before it" in told[1]
    assert told[2].startswith(f"live: {live}/0001")
    assert json.loads((record / "promoted.json").read_text())["version"] == f"{live}/0001"
    for wrong in ({"back": False}, {"model": "x", "back": True}):
        with pytest.raises(ConfigError, match="model is needed"):
            load(PromoteConfig, None, wrong)


def test_a_moved_folder_finds_its_model(models: list[Path], tmp_path: Path) -> None:
    live = tmp_path / "live"
    promote(str(models[0]), live)
    moved = live.rename(tmp_path / "elsewhere")
    assert good_model(str(moved)) == str(moved / "0001")
    (moved / "good").write_text("runs/gone\n")
    with pytest.raises(ConfigError, match="no model folder"):
        good_model(str(moved))


def test_a_stage_may_name_the_model_that_the_pipeline_began_with(tmp_path: Path) -> None:
    stages = [
        {"name": "dpo", "verb": "dpo", "dataset": "pocket"},
        {
            "name": "exam",
            "verb": "compare",
            "model": ["{dpo}", "{start}"],
            "dataset": "pocket",
            "reward": "pocket_gold",
        },
        {"name": "live", "verb": "promote", "model": "{dpo}", "to": str(tmp_path / "live")},
    ]
    graph: Graph = graph_of(PipelineConfig(stages=stages, model="runs/one", output_dir="runs/out"))
    places = Places("runs/out", graph)
    assert places.settings(graph.stages[1]).model == ["runs/out/dpo", "runs/one"]  # type: ignore[attr-defined]
    depends = places.depends_on(graph.stages[2])
    assert "model" in depends
    assert depends["to"] == str(tmp_path / "live")  # by its name: another one is promoted to, its content is no matter
    for name in ("start", "good"):
        with pytest.raises(ConfigError):
            graph_of(PipelineConfig(stages=[{"name": name, "verb": "dpo"}], output_dir="runs/out"))


def test_a_folder_of_the_same_path_elsewhere_is_not_taken_for_it(
    models: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for place, model in (("here", models[0]), ("there", models[1])):
        (tmp_path / place).mkdir()
        monkeypatch.chdir(tmp_path / place)
        promote(str(model), Path("runs/live"))
    monkeypatch.chdir(tmp_path / "there")
    asked = tmp_path / "here/runs/live"
    assert (Path(good_model(str(asked))) / "model.safetensors").read_bytes() == bytes(64)
    promote(str(models[2]), asked)
    assert sorted(path.name for path in asked.iterdir() if path.is_dir()) == ["0001", "0002"]
    assert promote(str(models[2]), Path("../here/runs/live"))["version"].endswith("0002")
    go_back(asked)
    monkeypatch.chdir(tmp_path / "here")
    assert Path(good_model("runs/live")).name == "0001"
    assert len(list((tmp_path / "here/runs/live").glob("0*"))) == 2


def test_many_promote_at_once(models: list[Path], tmp_path: Path) -> None:
    live = tmp_path / "live"
    with ThreadPoolExecutor(6) as pool:
        done = list(pool.map(lambda number: promote(str(models[number % 3]), live), range(12)))
    assert sorted(path.name for path in live.iterdir() if path.is_dir()) == ["0001", "0002", "0003"]
    history = [json.loads(line) for line in (live / "history.jsonl").read_text().splitlines()]
    assert {row["version"] for row in done} == {row["version"] for row in history}
    assert [row["before"] for row in history] == ["", *(row["version"] for row in history[:-1])]
    assert good_model(str(live)) == history[-1]["version"]


def test_a_killed_copy_is_swept_and_a_whole_one_is_used(models: list[Path], tmp_path: Path) -> None:
    live = tmp_path / "live"
    first = promote(str(models[0]), live)
    (live / f".making-{os.getpid()}").mkdir()  # numbers of processes come again, in containers at once
    (live / ".making-1").mkdir()
    shutil.copytree(models[1], live / "0002", ignore=shutil.ignore_patterns("checkpoint-*"))  # killed before its line
    second = promote(str(models[1]), live)
    assert (second["version"], second["before"]) == (str(live / "0002"), first["version"])
    promote(str(models[2]), live)
    assert not list(live.glob(".making*"))


@pytest.mark.parametrize("fails", ["copy2", "write_rows", "write_text"])
def test_a_full_disk_leaves_what_was_live(
    models: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: str
) -> None:
    live = tmp_path / "live"
    first = promote(str(models[0]), live)

    def full(*_: object, **__: object) -> None:
        error = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        raise error if fails == "copy2" else PosttrainError("cannot be written: No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(shutil if fails == "copy2" else promoting, fails, full)
        with pytest.raises(PosttrainError, match="No space left"):
            promote(str(models[1]), live)
    assert good_model(str(live)) == first["version"]
    assert fails == "write_text" or sorted(path.name for path in live.iterdir() if path.is_dir()) == ["0001"]
    assert promote(str(models[1]), live)["before"] == first["version"]
    assert len([path for path in live.iterdir() if path.is_dir()]) == 2
    assert go_back(live)["version"] == first["version"]


@pytest.mark.parametrize("text", ["", "\n", "x" * 5000, "a\0b", "\udcff", "runs/a\nruns/b"])
def test_odd_contents_of_good_are_told(tmp_path: Path, text: str) -> None:
    (tmp_path / "good").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(ConfigError, match="good"):
        good_model(str(tmp_path))


def test_odd_folders_are_told(models: list[Path], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is a model"):
        promote(str(models[0]), models[1])  # there `good` would name nothing: the folder is a model itself
    (models[0] / "run.json").write_text("{")
    with pytest.raises(ConfigError, match=r"run\.json"):
        promote(str(models[0]), tmp_path / "live")
