"""`load_in_4bit` as its users meet it: from the recipe to a run folder that answers, resumed, refused."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from posttrain.errors import ConfigError
from posttrain.models.load import load
from posttrain.recipes.config import load as load_config
from posttrain.recipes.export_formats import FORMATS
from posttrain.recipes.sft_config import SftConfig

pytest.importorskip("bitsandbytes")

STEPS = 6
QLORA = ["--use-peft", "--load-in-4bit", "--lora-r", "4"]


def flags(verb: str, model: Path, rows: Path, out: Path, **changes: object) -> list[str]:
    keys: dict[str, object] = {
        "model": model,
        "dataset": rows,
        "output_dir": out,
        "max_steps": STEPS,
        "max_length": 128,
        "learning_rate": 1e-2,
        "save_steps": 3,
        "logging_steps": 1,
        "num_preview_samples": 1,
        "eval_split": 0.2,
    } | changes
    return [verb, *(word for key, value in keys.items() for word in (f"--{key.replace('_', '-')}", str(value)))]


def held_out(out: Path) -> list[float]:
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [line["eval_loss"] for line in lines if "eval_loss" in line]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the first test leaves its run for the others."""
    return tmp_path_factory.mktemp("qlora") / "run"


def test_loss_falls_and_a_run_without_a_rate_learns_nothing(
    inside: Any, base: Path, rows: Path, run: Path, tmp_path: Path
) -> None:
    done = inside(*flags("sft", base, rows, run), *QLORA, "--gradient-checkpointing")
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    record = json.loads((run / "run.json").read_text())
    assert record["model"]["base_held_in"] == "nf4"
    assert record["model"]["parameters"] == load(run).num_parameters
    idle = inside(*flags("sft", base, rows, tmp_path / "idle", learning_rate=1e-9, max_steps=2), *QLORA)
    assert idle.returncode == 0, idle.stderr
    before, after = held_out(run)
    assert after < 0.8 * before
    assert held_out(tmp_path / "idle")[1] == pytest.approx(before, rel=1e-3)


def test_a_run_is_an_adapter_of_the_plain_folder(base: Path, run: Path, inside: Any) -> None:
    assert json.loads((run / "adapter_config.json").read_text())["base_model_name_or_path"] == str(base)
    assert not list(run.glob("model*.safetensors"))
    assert "</html>" in (run / "report.html").read_text()
    said = inside("chat", run, "--max-new-tokens", "4", text="1: say 1 twice\n")
    assert said.returncode == 0, said.stderr


def test_resumed_ends_with_the_same_bits(inside: Any, base: Path, rows: Path, run: Path, tmp_path: Path) -> None:
    again = tmp_path / "again"
    shutil.copytree(run, again)
    shutil.rmtree(again / f"checkpoint-{STEPS:08}", ignore_errors=True)
    (again / "adapter_model.safetensors").unlink()
    assert [place.name for place in again.glob("checkpoint-*")] == ["checkpoint-00000003"]
    words = [*flags("sft", base, rows, again), *QLORA, "--gradient-checkpointing", "--resume-from-checkpoint"]
    done = inside(*words)
    assert done.returncode == 0, done.stderr
    names = ("adapter_model.safetensors",)
    assert all((again / name).read_bytes() == (run / name).read_bytes() for name in names)
    assert held_out(again) == held_out(run)


def test_preferences_begin_where_the_adapter_ended(inside: Any, run: Path, tmp_path: Path) -> None:
    pairs = tmp_path / "pairs.jsonl"
    rows = [
        {"prompt": f"{number}: say {number % 10} twice", "chosen": f"{number % 10} {number % 10}", "rejected": "no"}
        for number in range(24)
    ]
    pairs.write_text("".join(json.dumps(row) + "\n" for row in rows))
    out = tmp_path / "dpo"
    done = inside(*flags("dpo", run, pairs, out, save_steps=0), *QLORA)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    found = [line["loss"] for line in lines if "loss" in line]
    assert found[0] == pytest.approx(0.6931, abs=1e-3)  # the reference is the base in four bits itself
    assert found[-1] < 0.6
    assert json.loads((out / "adapter_config.json").read_text())["base_model_name_or_path"] == f"{out}-base"


def test_a_reward_model_keeps_its_head_whole(inside: Any, base: Path, tmp_path: Path) -> None:
    pairs = tmp_path / "pairs.jsonl"
    rows = [{"prompt": f"say {number}", "chosen": f"{number}!", "rejected": "no"} for number in range(24)]
    pairs.write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = inside(*flags("reward", base, pairs, tmp_path / "reward", max_steps=4), *QLORA)
    assert done.returncode == 0, done.stderr
    before, after = held_out(tmp_path / "reward")
    assert after < before


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"load_in_4bit": True}, "load_in_4bit needs use_peft"),
        ({"use_peft": True, "bnb_4bit_quant_type": "fp4"}, "bnb_4bit_quant_type needs load_in_4bit"),
        ({"use_peft": True, "bnb_4bit_use_double_quant": False}, "bnb_4bit_use_double_quant needs load_in_4bit"),
        ({"use_peft": True, "load_in_4bit": True, "protect": ["ewc"]}, "protect ewc needs the gradient of the base"),
    ],
)
def test_keys_that_would_be_ignored_are_refused(given: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        load_config(SftConfig, None, {"dataset": "pocket", **given})


def test_a_quantised_folder_is_refused_as_a_base(inside: Any, base: Path, rows: Path, tmp_path: Path) -> None:
    class Source:
        policy, stop_ids = load(base), (0,)

    FORMATS["nf4"].write(Source(), tmp_path / "nf4")
    done = inside(*flags("sft", tmp_path / "nf4", rows, tmp_path / "out"), *QLORA)
    assert done.returncode != 0
    assert "its weights are quantised already" in done.stderr + done.stdout


@pytest.mark.parametrize("name", ["int8", "int4", "nf4"])
def test_exports_are_read_by_other_code(name: str, base: Path, tmp_path: Path) -> None:
    pytest.importorskip("torchao")
    pytest.importorskip("compressed_tensors")

    class Source:
        policy, stop_ids = load(base), (5, 0)

    said = FORMATS[name].write(Source(), tmp_path / name)
    assert "linear maps quantised" in said[0]
    assert len(said) == 2  # what was kept is told
    found = FORMATS[name].read(tmp_path / name)
    assert found.stop_ids == (5, 0)
    assert not found.notes
    mine = load(tmp_path / name)
    for ours, theirs in zip(mine.model.parameters(), found.policy.model.parameters(), strict=True):
        assert ours.allclose(theirs)
