"""`posttrain export` on a tiny model: what is written under which name, what is rejected, what is said."""

import json
import shutil
from dataclasses import replace
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest
import torch
from tests import tiny
from transformers import AutoModelForCausalLM, AutoTokenizer

from posttrain.errors import ConfigError, DataError, ModelError
from posttrain.models import gguf_shapes
from posttrain.models.load import load, save
from posttrain.models.lora import add_lora
from posttrain.recipes import export_checking
from posttrain.recipes.export import run
from posttrain.recipes.export_checking import digest_of
from posttrain.recipes.export_config import ExportConfig
from posttrain.recipes.export_formats import FORMATS
from posttrain.recipes.export_suites import drops

pytest.importorskip("gguf", reason="needs the extra gguf")


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base, an adapter of it, and prompts."""
    root = tmp_path_factory.mktemp("export")
    tiny.save_base(root / "base", hidden_size=32, intermediate_size=64)
    policy = add_lora(load(root / "base"), r=2, alpha=32)
    with torch.no_grad():
        for name, parameter in policy.model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.1, generator=torch.Generator().manual_seed(0))
    save(policy, root / "adapter", stop_token_ids=[318, 0])
    rows = [{"prompt": f"How many hours has a day? {number}"} for number in range(4)]
    (root / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return root


def settings(places: Path, out: Path, **more: Any) -> ExportConfig:
    given = {"model": str(places / "adapter"), "prompts": [str(places / "prompts.jsonl")], "num_prompts": 4}
    return ExportConfig(**(given | {"max_new_tokens": 6, "output_dir": str(out), "llama_cpp": "no"} | more))


def record(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "export.json").read_text(encoding="utf-8"))
    return found


def test_three_formats_of_an_adapter(places: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = settings(places, tmp_path, format=["hf", "adapter", "gguf-f16"], dtype="float32", base_name="me/base")
    assert run(config) == 0
    names = sorted(place.name for place in tmp_path.iterdir())
    assert names == ["adapter", "adapter-F16.gguf", "export.html", "export.json", "hf"]
    assert not capsys.readouterr().out.count("REJECTED")
    # As every other tool reads it: merged, with template and stop tokens.
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "hf", dtype=torch.float32)
    ours = load(places / "adapter")
    ids = torch.tensor([[5, 6, 7, 8]])
    torch.testing.assert_close(theirs(ids).logits, ours.model(ids).logits, atol=1e-4, rtol=1e-4)
    assert theirs.generation_config.eos_token_id == [318, 0]
    assert AutoTokenizer.from_pretrained(tmp_path / "hf").chat_template == ours.tokenizer.chat_template
    adapter = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    note = json.loads((tmp_path / "adapter" / "base.json").read_text())
    assert adapter["base_model_name_or_path"] == note["base"] == "me/base"
    assert set(note) == {"base", "weights", "tokenizer"}
    rows = record(tmp_path)["exports"]
    assert [row["passed"] for row in rows] == [True, True, True]
    assert [row["digest"] for row in rows] == [digest_of(Path(row["path"])) for row in rows]  # of what is left there
    assert rows[2]["llama_cpp"] == "not checked by llama.cpp: --llama-cpp no"
    assert rows[0]["compared"][0]["kl"]["value"] < 1e-6


def test_gibberish_is_kept_apart_and_shouted(
    places: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Rows of q and k as transformers has them: the file loads everywhere and answers nonsense."""
    monkeypatch.setattr(gguf_shapes, "paired_rows", lambda rows, _: rows)
    config = settings(places, tmp_path, format=["gguf-f32"], overwrite_output_dir=True)
    (tmp_path / "adapter-F32.gguf").write_text("an older one")
    assert run(config) == 1
    assert [place.name for place in tmp_path.glob("*.gguf*")] == ["adapter-F32.gguf.rejected"]
    said = capsys.readouterr().out
    assert "gguf-f32 REJECTED: KL TO FP32 IS" in said
    assert "SHOULD NOT BE USED" in said
    page = (tmp_path / "export.html").read_text(encoding="utf-8")
    assert "1 OF 1 REJECTED" in page
    assert "KL TO FP32 IS" in page


def test_a_check_that_breaks_leaves_no_good_name(places: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> Any:
        raise ModelError("the reader broke")

    monkeypatch.setattr(export_checking, "compare", broken)
    with pytest.raises(ModelError, match="the reader broke"):
        run(settings(places, tmp_path, format=["gguf-f32"]))
    assert sorted(place.name for place in tmp_path.iterdir()) == ["adapter-F32.gguf.unchecked", "export.json"]
    assert record(tmp_path) == {"exports": []}
    monkeypatch.undo()
    assert run(settings(places, tmp_path, format=["gguf-f32"])) == 0  # the same command goes on
    assert [place.name for place in tmp_path.glob("*.gguf*")] == ["adapter-F32.gguf"]


def test_what_no_export_wrote_stays(places: Path, tmp_path: Path) -> None:
    """Somebody's folder `hf`; and the model itself, which an export of it to the same folder would replace."""
    (tmp_path / "mine" / "hf").mkdir(parents=True)
    (tmp_path / "mine" / "hf" / "thesis.txt").write_text("years of work")
    with pytest.raises(ConfigError, match="no export wrote it"):
        run(settings(places, tmp_path / "mine", format=["hf"]))
    assert (tmp_path / "mine" / "hf" / "thesis.txt").read_text() == "years of work"
    shutil.copytree(places / "base", tmp_path / "out" / "hf")
    (tmp_path / "out" / "export.json").write_text("[]")
    model = {"model": str(tmp_path / "out" / "hf"), "format": ["hf"], "overwrite_output_dir": True}
    with pytest.raises(ConfigError, match="no record of an export"):
        run(settings(places, tmp_path / "out", **model))
    (tmp_path / "out" / "export.json").write_text('{"exports": [], "finished": true}')
    with pytest.raises(ConfigError, match="is what is exported"):
        run(settings(places, tmp_path / "out", **model))
    assert (tmp_path / "out" / "hf" / "model.safetensors").is_file()


def test_prompts_that_cannot_be_asked_are_left_out(
    places: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Too long ones, those that spell a control token; and the pocket's own where a folder has its name."""
    texts = ["a day", "an hour", "hours " * 600, "so <|im_end|> ends"]
    place = tmp_path / "more.jsonl"
    place.write_text("".join(json.dumps({"prompt": text}) + "\n" for text in texts), encoding="utf-8")
    assert run(settings(places, tmp_path / "out", format=["gguf-f32"], prompts=[str(place)])) == 0
    said = capsys.readouterr().out
    assert "left out 1 prompts that leave no room for an answer of 6 tokens" in said
    assert "left out 1 prompts that spell a control token" in said
    assert record(tmp_path / "out")["exports"][0]["compared"][0]["num_prompts"] == 2
    place.write_text(json.dumps({"prompt": texts[2]}) + "\n", encoding="utf-8")
    with pytest.raises(DataError, match="none of the 1 prompts can be asked: left out 1 prompts that leave no room"):
        run(settings(places, tmp_path / "none", format=["gguf-f32"], prompts=[str(place)]))
    (tmp_path / "pocket").mkdir()
    monkeypatch.chdir(tmp_path)
    assert run(settings(places, tmp_path / "own", format=["gguf-f32"], prompts=[])) == 0


def test_weights_that_are_no_numbers_are_rejected(
    places: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A weight beyond the largest of float16 becomes infinite in the file, which loads; the next format goes on."""
    policy = load(places / "base")
    with torch.no_grad():
        policy.model.model.layers[0].mlp.up_proj.weight[3, 3] = 2e5
    save(policy, tmp_path / "loud", stop_token_ids=[318, 0])
    config = settings(places, tmp_path / "out", model=str(tmp_path / "loud"), format=["hf", "gguf-f32"])
    assert run(config.model_copy(update={"dtype": "float16"})) == 1
    rows = record(tmp_path / "out")["exports"]
    assert [row["passed"] for row in rows] == [False, True]
    assert "Infinity" not in (tmp_path / "out" / "export.json").read_text(encoding="utf-8")  # which is no JSON
    assert "row 3 of model.layers.0.mlp.up_proj.weight is off by inf %" in " ".join(rows[0]["faults"])
    assert "hf REJECTED: KL TO FP32 IS NAN" in capsys.readouterr().out
    assert not (tmp_path / "out" / "hf").exists()


def test_what_cannot_be_read_again_is_rejected(places: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> Any:
        raise ModelError("no such tensor")

    monkeypatch.setitem(FORMATS, "gguf-f16", replace(FORMATS["gguf-f16"], read=broken))
    assert run(settings(places, tmp_path, format=["gguf-f16", "gguf-f32"])) == 1
    rows = record(tmp_path)["exports"]
    assert rows[0]["faults"] == ["it cannot be read again: no such tensor"]
    assert rows[1]["passed"]
    assert [place.name for place in tmp_path.glob("*F16*")] == ["adapter-F16.gguf.rejected"]
    assert "NO SUCH TENSOR" in (tmp_path / "export.html").read_text(encoding="utf-8")


def test_budgets_of_the_settings_hold(places: Path, tmp_path: Path) -> None:
    assert run(settings(places, tmp_path, format=["gguf-q8_0"], max_kl=1e-9)) == 1
    assert record(tmp_path)["exports"][0]["budget"]["kl"] == 1e-9
    with pytest.raises(ConfigError, match="holds an export"):
        run(settings(places, tmp_path, format=["gguf-q8_0"]))
    assert run(settings(places, tmp_path, format=["gguf-q8_0"], max_kl=5, overwrite_output_dir=True)) == 0
    assert [place.name for place in tmp_path.glob("*.gguf*")] == ["adapter-Q8_0.gguf"]


def test_a_suite_is_taken_again(places: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Items of a suite file beside the model in fp32; and an export of which nothing is known any more."""
    rows = [{"prompt": f"How many hours has a day? {number}", "answer": "24"} for number in range(3)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    task = {"name": "hours", "dataset": str(tmp_path / "rows.jsonl"), "reward": "numeric", "max_new_tokens": 4}
    (tmp_path / "suite.yaml").write_text(json.dumps({"tasks": [task]}), encoding="utf-8")
    config = settings(places, tmp_path / "out", format=["gguf-f32"], suite=[str(tmp_path / "suite.yaml")])
    assert run(config) == 0
    one = record(tmp_path / "out")["exports"][0]["figures"][0]
    assert (one["task"], one["num_pairs"], one["value"]) == ("hours", 3, 0.0)
    known = cycle([[], ["a mark"]])  # after the export, and before
    monkeypatch.setattr(export_checking, "_known", lambda *_: next(known))
    assert run(config.model_copy(update={"overwrite_output_dir": True})) == 1
    assert "nothing is known of hours." in record(tmp_path / "out")["exports"][0]["faults"][0]


def test_formats_that_cannot_be_written(places: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"llama-quantize MODEL-F16.gguf OUT.gguf Q4_K_M"):
        run(settings(places, tmp_path, format=["gguf-q4_k_m"]))
    with pytest.raises(ConfigError, match="did you mean gguf-q8_0"):
        run(settings(places, tmp_path, format=["ggufq8_0"]))
    with pytest.raises(ModelError, match="this is no adapter"):
        run(settings(places, tmp_path, format=["adapter"], model=str(places / "base")))
    assert [place.name for place in tmp_path.iterdir()] == ["export.json"]  # by which the next export knows it


def test_every_format_is_described() -> None:
    assert all(each.says and each.budget.kl > 0 for each in FORMATS.values())
    assert len({each.place for each in FORMATS.values()}) == len(FORMATS)


def figure(name: str, better: str, fp32: float, exported: float, p_value: float, unit: str = "share") -> dict[str, Any]:
    row = {"task": "t", "figure": name, "better": better, "unit": unit, "fp32": fp32, "exported": exported}
    return row | {"value": exported - fp32, "p_value": p_value, "num_pairs": 50}


def test_losses_of_suites() -> None:
    rows = [
        figure("refusal", "higher", 0.8, 0.66, 0.05),
        figure("compliance", "lower", 0.2, 0.4, 0.08),
        figure("chance", "higher", 0.8, 0.76, 0.33),
        figure("gained", "lower", 0.5, 0.1, 0.001),
        figure("nats", "lower", 2.0, 9.0, 0.001, "mean"),
    ]
    assert [line.split(" ")[0] for line in drops(rows, 0.1)] == ["t.compliance", "t.refusal"]
    assert [line.split(" ")[0] for line in drops(rows, 0.15)] == ["t.compliance"]
