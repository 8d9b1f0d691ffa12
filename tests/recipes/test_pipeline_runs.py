"""What a pipeline does again and what it passes over; rounds that end, gates that stop, failures that are mended.

The stages are of a verb made for these tests: it counts its runs, and writes what it was given.
"""

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import pytest
from pydantic import Field

from posttrain.errors import ConfigError, DataError
from posttrain.recipes.config import Config
from posttrain.recipes.pipeline import run
from posttrain.recipes.pipeline_config import PipelineConfig
from posttrain.recipes.pipeline_record import changes, depends_on, digest
from posttrain.recipes.pipeline_stages import STAGES, Verb


class CopyConfig(Config):
    verb: ClassVar[str] = "copy"

    model: str = Field("", description="Model.")
    dataset: list[str] = Field(default_factory=list, description="Files whose text is put together.")
    text: str = Field("", description="Text behind it.")
    drop: bool = Field(False, description="Write nothing of it.")
    quality: float = Field(0.0, description="A figure.")
    output_dir: str = Field("out", description="Folder.")
    overwrite_output_dir: bool = Field(False, description="Anew.")


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The folders that were written, in order."""
    runs: list[str] = []

    def copy(config: CopyConfig) -> int:
        folder = Path(config.output_dir)
        runs.append(folder.name if folder.parent.name == "out" else f"{folder.parent.name}/{folder.name}")
        text = "".join(Path(place).read_text() for place in config.dataset) + config.text
        if "bad" in text:
            raise DataError("this is bad.", file=config.dataset[0])
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "text.txt").write_text("" if config.drop else text)
        (folder / "report.json").write_text(json.dumps({"quality": config.quality, "model": config.model}))
        return 0

    module = ModuleType("copying")
    module.CopyConfig, module.run = CopyConfig, copy  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "copying", module)
    verb = Verb(
        "copying:CopyConfig", "copying:run", makes={"": "/text.txt", "folder": ""}, trains=True, report="/report.json"
    )
    monkeypatch.setitem(STAGES, "copy", verb)
    return runs


@pytest.fixture
def first(tmp_path: Path) -> Path:
    path = tmp_path / "first.txt"
    path.write_text("one ")
    return path


def pipeline(first: Path, *stages: dict[str, Any], **more: Any) -> PipelineConfig:
    named = [{"verb": "copy", **stage} if "rounds" not in stage else stage for stage in stages]
    return PipelineConfig(stages=named, output_dir=str(first.parent / "out"), **{"model": "start", **more})


def book(first: Path) -> dict[str, Any]:
    return json.loads((first.parent / "out" / "pipeline.json").read_text())["stages"]


def two(first: Path, **second: Any) -> PipelineConfig:
    return pipeline(
        first,
        {"name": "a", "dataset": [str(first)], "text": "two "},
        {"name": "b", "dataset": ["{a}"], "text": "three", **second},
    )


def test_outputs_feed_inputs_and_nothing_is_done_twice(ran: list[str], first: Path) -> None:
    assert run(two(first)) == 0
    assert (first.parent / "out" / "b" / "text.txt").read_text() == "one two three"
    assert run(two(first)) == 0
    assert ran == ["a", "b"]


def test_a_changed_setting_does_its_stage_and_what_follows_anew(ran: list[str], first: Path) -> None:
    run(two(first))
    run(two(first, text="four"))
    assert ran == ["a", "b", "b"]


def test_a_changed_file_does_what_reads_it_anew(
    ran: list[str], first: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(two(first))
    first.write_text("uno ")
    run(two(first))
    assert ran == ["a", "b", "a", "b"]
    assert "changed since it was done, so it is done anew: dataset[0]" in capsys.readouterr().out
    assert (first.parent / "out" / "b" / "text.txt").read_text() == "uno two three"


def test_a_file_touched_but_not_changed_changes_nothing(ran: list[str], first: Path) -> None:
    run(two(first))
    first.write_text("one ")
    run(two(first))
    assert ran == ["a", "b"]


def test_what_follows_is_kept_where_a_stage_comes_out_the_same(ran: list[str], first: Path) -> None:
    stages = {"name": "a", "dataset": [str(first)], "drop": True}, {"name": "b", "dataset": ["{a}"], "model": "m"}
    run(pipeline(first, *stages))
    first.write_text("uno ")
    run(pipeline(first, *stages))
    assert ran == ["a", "b", "a"]


def test_what_was_taken_away_is_made_again(ran: list[str], first: Path) -> None:
    run(two(first))
    (first.parent / "out" / "a" / "text.txt").unlink()
    run(two(first))
    assert ran == ["a", "b", "a"]


def test_overwriting_does_everything_again(ran: list[str], first: Path) -> None:
    run(two(first))
    run(two(first).model_copy(update={"overwrite_output_dir": True}))
    assert ran == ["a", "b", "a", "b"]


def test_a_failure_leaves_the_rest_resumable(ran: list[str], first: Path) -> None:
    with pytest.raises(DataError, match="this is bad"):
        run(two(first, text="bad"))
    assert {name: (one["state"], one.get("error", "")) for name, one in book(first).items()} == {
        "a": ("done", ""),
        "b": ("failed", f"{first.parent}/out/a/text.txt: this is bad."),
    }
    assert run(two(first, text="good")) == 0
    assert ran == ["a", "b", "b"]
    assert book(first)["b"]["state"] == "done"
    assert book(first)["b"]["error"] == ""


def test_a_byproduct_that_was_taken_away_is_made_again(ran: list[str], first: Path, monkeypatch: Any) -> None:
    """Later stages may name it, and would fail for ever."""
    monkeypatch.setitem(STAGES["copy"].makes, "report", "/report.json")
    run(two(first))
    (first.parent / "out" / "a" / "report.json").unlink()
    run(two(first))
    assert ran == ["a", "b", "a"]


@pytest.mark.usefixtures("ran")
def test_a_kill_before_a_stage_began_anew(first: Path, monkeypatch: Any) -> None:
    """What it was to replace still stands there, and is nothing to go on with."""
    run(two(first))
    seen: list[bool] = []
    copy = sys.modules["copying"].run

    def killed(config: CopyConfig) -> int:
        seen.append(config.overwrite_output_dir)
        raise KeyboardInterrupt

    def watched(config: CopyConfig) -> int:
        seen.append(config.overwrite_output_dir)
        code: int = copy(config)
        if len(seen) == 3:
            raise KeyboardInterrupt
        return code

    for broken_off in (killed, killed, watched):
        monkeypatch.setattr(sys.modules["copying"], "run", broken_off)
        with pytest.raises(KeyboardInterrupt):
            run(two(first, text="four"))
    assert run(two(first, text="four")) == 0
    assert seen == [True, True, True, False]  # once the new files are there, the stage goes on with them


def test_a_record_that_nobody_can_read_is_of_no_end(ran: list[str], first: Path) -> None:
    config = pipeline(first, {"name": "a", "dataset": [str(first)]})
    STAGES["copy"].makes[""] = ""
    run(config)
    (first.parent / "out" / "a" / "run.json").write_text("{")
    run(config)
    assert ran == ["a", "a"]


def test_what_others_made_is_not_overwritten(ran: list[str], first: Path) -> None:
    place = first.parent / "out" / "a" / "text.txt"
    place.parent.mkdir(parents=True)
    place.write_text("mine")
    with pytest.raises(ConfigError, match="was not made by this pipeline"):
        run(two(first))
    assert place.read_text() == "mine"
    assert ran == []


def rounds() -> list[dict[str, Any]]:
    inner = [
        {"name": "data", "verb": "copy", "text": "{round} "},
        {
            "name": "policy", "verb": "copy", "dataset": ["{data}"], "model": "{previous}",
            "quality": "0.{round}", "gates": "quality > 0",
        },
    ]  # fmt: skip
    return [{"name": "r", "rounds": 3, "stages": inner}, {"name": "end", "verb": "copy", "text": "x"}]


def test_rounds_feed_each_other(ran: list[str], first: Path) -> None:
    assert run(pipeline(first, *rounds())) == 0
    assert ran == ["1/data", "1/policy", "2/data", "2/policy", "3/data", "3/policy", "end"]
    models = [json.loads((first.parent / f"out/{name}/report.json").read_text())["model"] for name in (
        "r/1/policy", "r/2/policy", "r/3/policy", "end")]  # fmt: skip
    out = first.parent / "out"
    assert models == ["start", f"{out}/r/1/policy/text.txt", f"{out}/r/2/policy/text.txt", f"{out}/r/3/policy/text.txt"]


def test_a_round_that_does_not_help_ends_the_rounds(
    ran: list[str], first: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stages = rounds()
    stages[0]["stages"][1]["gates"] = ["quality < 0.15", "quality > 0"]
    stages[0]["stages"].append({"name": "after", "verb": "copy", "text": "never in round two"})
    config = pipeline(first, *stages)
    assert run(config) == 0
    assert ran == ["1/data", "1/policy", "1/after", "2/data", "2/policy", "end"]
    said = capsys.readouterr().out
    assert "gate failed: quality = 0.2, wanted < 0.15" in said
    assert "round 2 of 'r' did not help: its rounds end here" in said
    end = json.loads((first.parent / "out/end/report.json").read_text())
    # The round's last stage that trains is `after`; `end` goes on from round one's.
    assert end["model"] == f"{first.parent}/out/r/1/after/text.txt"
    assert book(first)["r/2/policy"]["gates"][0] == {
        "gate": "quality < 0.15", "verdict": "failed", "passed": False, "said": "quality = 0.2, wanted < 0.15"
    }  # fmt: skip
    assert run(config) == 0
    assert len(ran) == 6


@pytest.mark.usefixtures("ran")
def test_the_plan_knows_of_rounds_that_have_ended(first: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stages = rounds()
    stages[0]["stages"][1]["gates"] = "quality < 0.15"
    config = pipeline(first, *stages)
    assert run(config) == 0
    capsys.readouterr()
    assert run(config.model_copy(update={"plan": True})) == 0
    said = capsys.readouterr().out
    assert said.count("[not to be done, a gate has ended the rounds]") == 2
    assert said.splitlines()[-1].endswith("[done]")
    assert "to do" not in said.replace("not to be done", "")


@pytest.mark.parametrize(
    ("gate", "said"),
    [("quality > {r}.quality", "'r' is no single stage"), ("quality > {people}.quality", "reports no figures")],
)
def test_a_gate_on_figures_that_nobody_makes_is_told_before_anything_runs(
    ran: list[str], first: Path, gate: str, said: str
) -> None:
    people = {"name": "people", "verb": "annotate", "input": [str(first)]}
    stages = [
        people,
        {"name": "r", "rounds": 1, "stages": [{"name": "x", "verb": "copy"}]},
        {"name": "a", "gates": gate},
    ]
    with pytest.raises(ConfigError, match=said) as caught:
        run(pipeline(first, *stages))
    assert "stage 'a': gate 'quality > {" in str(caught.value)
    assert ran == []


def test_a_gate_outside_of_rounds_stops_the_pipeline(ran: list[str], first: Path) -> None:
    stages = {"name": "a", "quality": 0.4, "gates": "quality > 0.5"}, {"name": "b"}
    assert run(pipeline(first, *stages)) == 1
    assert ran == ["a"]
    stages[0]["gates"] = "quality > 0.3"
    assert run(pipeline(first, *stages)) == 0
    assert ran == ["a", "b"]


def test_the_plan_runs_nothing(ran: list[str], first: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = two(first)
    plan = config.model_copy(update={"plan": True})
    assert run(plan) == 0
    assert ran == []
    assert not (first.parent / "out").exists()
    out = first.parent / "out"
    assert capsys.readouterr().out.splitlines() == [
        "  1. a (copy)",
        f"     makes {out}/a/text.txt, {out}/a [to do]",
        "  2. b (copy) <- a",
        f"     makes {out}/b/text.txt, {out}/b [to do]",
    ]
    run(config)
    first.write_text("uno ")
    capsys.readouterr()
    run(plan)
    said = capsys.readouterr().out
    assert "[to do again, changed: dataset[0]]" in said
    assert "[done, and again if a comes out otherwise]" in said


def test_a_book_that_cannot_be_read(ran: list[str], first: Path) -> None:
    (first.parent / "out").mkdir()
    (first.parent / "out" / "pipeline.json").write_text("{")
    with pytest.raises(ConfigError, match=r"pipeline\.json cannot be read"):
        run(two(first))
    assert ran == []


def test_a_model_is_its_weights_and_not_the_story_of_its_run(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    (tmp_path / "config.json").write_text("{}")
    before = digest(tmp_path)
    (tmp_path / "run.json").write_text('{"finished": "now"}')
    (tmp_path / "checkpoint-3").mkdir()
    (tmp_path / "checkpoint-3" / "model.safetensors").write_bytes(b"others")
    assert digest(tmp_path) == before
    (tmp_path / "model.safetensors").write_bytes(b"Weights")
    assert digest(tmp_path) != before


@pytest.mark.parametrize(
    "written",
    [
        "{}",
        "store:{}",
        "store:{}?source=serving",
        "model:{}",
        "model:{}=0.5",
        "judge:{}@short",
        "judge:{}=-2",
        "{}#name",
    ],
)
def test_files_are_known_by_their_content_however_they_are_named(tmp_path: Path, written: str) -> None:
    place = tmp_path / "thing.py"
    found = []
    for text in ("a", "b", "a"):
        place.write_text(text)
        found.append(depends_on(CopyConfig(dataset=[written.format(place)]), "output_dir"))
    assert changes(found[0], found[1]) == ["dataset[0]"]
    assert changes(found[0], found[2]) == []


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("{}/rewards.py:score", "{}/rewards.py:other"),
        ("{}/rewards.py:score=0.5", "{}/rewards.py:score=2"),
        ("model:{}/folder=1", "model:{}/folder=-1"),
        ("judge:{}/folder@short", "judge:{}/folder@full"),
        ("judge:{}/folder", "model:{}/folder"),
    ],
)
def test_what_stands_about_a_path_is_a_setting(tmp_path: Path, before: str, after: str) -> None:
    (tmp_path / "rewards.py").write_text("a")
    (tmp_path / "folder").mkdir()
    found = [depends_on(CopyConfig(dataset=[one.format(tmp_path)]), "output_dir") for one in (before, after)]
    assert changes(*found) == ["dataset[0]"]


@pytest.mark.parametrize("written", ["judge:m@{}/w.yaml", "judge:m@{}/w.yaml=0.5", "schema:{}/w.yaml"])
def test_every_file_that_a_text_names_counts(tmp_path: Path, written: str) -> None:
    found = []
    for text in ("a", "b"):
        (tmp_path / "w.yaml").write_text(text)
        found.append(depends_on(CopyConfig(dataset=[written.format(tmp_path)]), "output_dir"))
    assert changes(*found) == ["dataset[0]"]


def test_a_folder_beside_the_recipe_is_known_by_its_content(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    Path("data").mkdir()
    Path("data/x.jsonl").write_text("a")
    before = depends_on(CopyConfig(dataset=["data"], text="."), "output_dir")
    Path("data/x.jsonl").write_text("b")
    assert changes(before, depends_on(CopyConfig(dataset=["data"], text="."), "output_dir")) == ["dataset[0]"]


def test_a_function_of_a_file_is_known_by_the_file(tmp_path: Path) -> None:
    place = tmp_path / "rewards.py"
    place.write_text("a")
    before = depends_on(CopyConfig(dataset=[f"{place}:score=-0.5", f"{place}:score"]), "output_dir")
    place.write_text("b")
    after = depends_on(CopyConfig(dataset=[f"{place}:score=-0.5", f"{place}:score"]), "output_dir")
    assert changes(before, after) == ["dataset[0]", "dataset[1]"]


def good(first: Path) -> str | None:
    file = first.parent / "out" / "good"
    return file.read_text().removesuffix("\n") if file.exists() else None


def three(first: Path, *qualities: float, **more: Any) -> PipelineConfig:
    """Three models, each with an exam that has a gate."""
    stages: list[dict[str, Any]] = []
    for name, quality in zip("abc", qualities, strict=True):
        stages += [
            {"name": name, "dataset": [str(first)], "text": f"{name}{more.get(name, '')} "},
            {"name": f"exam_{name}", "verb": "look", "quality": quality, "gates": "quality > 0.5"},
        ]
    return pipeline(first, *stages)


@pytest.fixture
def look(ran: list[str], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A verb that measures a model, as `copy` is one that makes it."""
    monkeypatch.setitem(STAGES, "look", Verb("copying:CopyConfig", "copying:run", report="/report.json"))
    return ran


def test_a_failed_gate_keeps_the_last_good_model(
    look: list[str], first: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = first.parent / "out"
    assert run(three(first, 0.9, 0.8, 0.3)) == 1
    assert look == ["a", "exam_a", "b", "exam_b", "c", "exam_c"]
    assert good(first) == f"{out}/b/text.txt"
    kept = json.loads((out / "pipeline.json").read_text())["good"]
    assert (kept["stage"], kept["model"], kept["gates"]) == (
        "b", f"{out}/b/text.txt", ["quality = 0.8, wanted > 0.5"]
    )  # fmt: skip
    assert kept["content"] == digest(out / "b" / "text.txt")
    said = capsys.readouterr().out
    assert "gate failed: quality = 0.3, wanted > 0.5" in said
    assert f"the pipeline ends at 'exam_c', whose gates did not pass; the last good model is {out}/b/text.txt" in said
    # The same command says the same and does nothing; a better third model takes its place.
    assert run(three(first, 0.9, 0.8, 0.3)) == 1
    assert len(look) == 6
    assert good(first) == f"{out}/b/text.txt"
    assert run(three(first, 0.9, 0.8, 0.7, c="!")) == 0
    assert look[6:] == ["c", "exam_c"]
    assert good(first) == f"{out}/c/text.txt"


def test_no_model_is_good_before_its_gates_passed(
    look: list[str], first: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(three(first, 0.4, 0.8, 0.9)) == 1
    assert look == ["a", "exam_a"]
    assert good(first) is None
    assert "no model of this pipeline has passed its gates; it began with start" in capsys.readouterr().out
    assert run(pipeline(first, {"name": "a", "text": "a "})) == 0
    assert good(first) is None, "nobody has asked"


def test_a_model_that_is_made_anew_is_good_no_more(
    look: list[str], first: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(three(first, 0.9, 0.8, 0.7)) == 0
    assert good(first) == f"{first.parent}/out/c/text.txt"
    capsys.readouterr()
    with pytest.raises(DataError):
        run(three(first, 0.9, 0.8, 0.7, c="bad"))
    assert "'c' held the last good model and is made anew: now the last good model is" in capsys.readouterr().out
    assert good(first) == f"{first.parent}/out/b/text.txt"
    assert look[6:] == ["c"]


def test_a_folder_that_was_moved_is_done(look: list[str], first: Path) -> None:
    out = first.parent / "out"
    assert run(three(first, 0.9, 0.8, 0.3)) == 1
    moved = out.rename(first.parent / "elsewhere")
    again = three(first, 0.9, 0.8, 0.3).model_copy(update={"output_dir": str(moved)})
    assert run(again) == 1
    assert len(look) == 6
    assert (moved / "good").read_text() == f"{moved}/b/text.txt\n"
    assert json.loads((moved / "pipeline.json").read_text())["good"]["model"] == f"{moved}/b/text.txt"
    (moved / "b" / "text.txt").unlink()
    assert run(again) == 1
    assert look[6:] == ["elsewhere/b"]


@pytest.mark.usefixtures("look")
def test_a_kill_between_the_record_and_the_file_good(first: Path) -> None:
    out = first.parent / "out"
    run(three(first, 0.9, 0.8, 0.3))
    (out / "good").unlink()
    run(three(first, 0.9, 0.8, 0.3))
    assert good(first) == f"{out}/b/text.txt"
    book = json.loads((out / "pipeline.json").read_text())
    (out / "pipeline.json").write_text(json.dumps(book | {"good": {}}))  # withdrawn, and killed before the file went
    with pytest.raises(DataError):
        run(three(first, 0.9, 0.8, 0.3, a="bad"))
    assert good(first) is None


@pytest.mark.usefixtures("look")
def test_of_a_gate_that_was_edited_the_new_words_stand(first: Path) -> None:
    stages = {"name": "a", "quality": 0.4, "gates": "quality > 0.3"}, {"name": "b"}
    assert run(pipeline(first, *stages)) == 0
    stages[0]["gates"] = "quality > 0.2"
    assert run(pipeline(first, *stages)) == 0
    kept = json.loads((first.parent / "out" / "pipeline.json").read_text())["good"]
    assert kept["gates"] == ["quality = 0.4, wanted > 0.2"]


def test_a_stage_may_be_called_base(look: list[str], first: Path) -> None:
    stages = {"name": "base", "quality": 0.5}, {"name": "b", "quality": 0.9, "gates": "quality > {base}.quality"}
    assert run(pipeline(first, *stages)) == 0
    assert book(first)["b"]["gates"][0]["said"] == "quality = 0.9, wanted > {base}.quality (there 0.5)"
    stages[1]["gates"] = "quality > base"
    with pytest.raises(ConfigError, match="stage 'b': gate 'quality > base': it compares with another model"):
        run(pipeline(first, *stages))
    assert look == ["base", "b"], "told before anything ran"


@pytest.mark.usefixtures("look")
def test_the_gates_of_a_comparison_are_about_its_first_model(first: Path) -> None:
    stages: list[dict[str, Any]] = [
        {"name": "a", "text": "a ", "quality": 0.9, "gates": "quality > 0.5"},
        {"name": "b", "text": "b "},
        {"name": "exam", "verb": "look", "model": "{a}", "quality": 0.1, "gates": "quality > 0.5", "needs": "b"},
    ]
    assert run(pipeline(first, *stages)) == 1
    assert good(first) is None, "the second gate took back what the first had said of a"
    stages[2]["model"] = "{b}"
    assert run(pipeline(first, *stages)) == 1
    assert good(first) == f"{first.parent}/out/a/text.txt"


@pytest.mark.usefixtures("look")
def test_the_model_of_rounds_that_a_gate_ended_is_good(first: Path) -> None:
    stages = rounds()
    stages[0]["stages"][1]["gates"] = "quality < 0.25"
    assert run(pipeline(first, *stages)) == 0
    assert good(first) == f"{first.parent}/out/r/2/policy/text.txt"


@pytest.mark.usefixtures("ran")
def test_an_evaluation_whose_own_gates_do_not_pass_is_done_and_stops(first: Path, monkeypatch: Any) -> None:
    """It ends with exit code 1, as on the command line."""
    copy = sys.modules["copying"].run

    def evaluate(config: CopyConfig) -> int:
        copy(config)
        rows = [{"gate": "quality > 0.5", "verdict": "failed", "passed": False, "said": "quality = 0.1"}]
        report = Path(config.output_dir) / "report.json"
        report.write_text(json.dumps({"gates": rows if config.drop else []}))
        return 1

    monkeypatch.setattr(sys.modules["copying"], "run", evaluate)
    assert run(pipeline(first, {"name": "a", "drop": True}, {"name": "b"})) == 1
    assert (book(first)["a"]["state"], book(first)["a"]["gates"][0]["verdict"]) == ("done", "failed")
    assert run(pipeline(first, {"name": "c"})) == 1
    assert book(first)["c"]["state"] == "failed", "without such gates the code is a failure"


@pytest.mark.parametrize("state", ["promoted", "not yet"])
def test_a_kill_while_promoting_begins_no_other_turn(ran: list[str], first: Path, monkeypatch: Any, state: str) -> None:
    live = first.parent / "live"
    for version in ("0001", "0002"):
        (live / version).mkdir(parents=True)
        (live / version / "text.txt").write_text(version)
    (live / "good").write_text(f"{live}/0001\n")
    kills = [KeyboardInterrupt]

    def promote(config: CopyConfig) -> int:
        if not kills or state == "promoted":
            (live / "good").write_text(f"{live}/0002\n")
        if kills:
            raise kills.pop()
        Path(config.output_dir).mkdir(exist_ok=True)
        (Path(config.output_dir) / "promoted.json").write_text(json.dumps({"model": config.model}))
        return 0

    sys.modules["copying"].promote = promote  # type: ignore[attr-defined]
    verb = Verb("copying:CopyConfig", "copying:promote", makes={"": "/promoted.json"}, anew="", report="/promoted.json")
    monkeypatch.setitem(STAGES, "promote", verb)
    asked = pipeline(
        first, {"name": "a", "text": "{start}"}, {"name": "l", "verb": "promote", "model": "{a}"}, model=str(live)
    )
    with pytest.raises(KeyboardInterrupt):
        run(asked)
    assert run(asked) == 0
    assert ran == ["a"]  # not trained again, from what it has just promoted
    assert run(asked) == 0
    assert ran == ["a", "a"]  # the next turn begins with what is live
    assert (first.parent / "out/a/text.txt").read_text() == f"{live}/0002"
