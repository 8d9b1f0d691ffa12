"""`posttrain plan` from its command line: what it understands, what it says, and what it refuses."""

import json
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from posttrain.cli import main
from posttrain.errors import ConfigError, ModelError
from posttrain.recipes import plan_probe
from posttrain.recipes.plan_config import PlanConfig, joined, recognise
from posttrain.recipes.plan_here import this_machine
from posttrain.recipes.plan_shape import shape_named

EXAMPLES = Path(__file__).parents[2] / "examples"


def planned(tmp_path: Path, *words: str) -> dict[str, Any]:
    """What the plan of these words holds."""
    file = tmp_path / "plan.json"
    assert main(["plan", *words, "--json-file", str(file)]) == 0
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return found


def fault(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(["plan", *words]) == 2
    return capsys.readouterr().err


@pytest.fixture
def data(tmp_path: Path) -> Path:
    asked = {"role": "user", "content": "How many hours has a day?"}
    told = [{"role": "assistant", "content": "It has 24 hours. " * (number + 1)} for number in range(8)]
    rows = [{"messages": [asked, each]} for each in told]
    path = tmp_path / "chats.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_a_shipped_recipe_on_named_hardware(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = (str(EXAMPLES / "sft.yaml"), "--hardware", "8xH100-80G", "--model", "llama-7b", "--price-per-hour", "2")
    found = planned(tmp_path, *words)
    said = capsys.readouterr().out
    assert "a recipe of `posttrain sft`" in said
    assert "to make it fit, the least harmful first: strategy fsdp" in said
    assert found["mend"] == ["strategy fsdp"]
    assert found["steps"] == 240
    assert found["tokens"]["step"] == 8 * 1024
    assert found["price"] == pytest.approx(found["seconds"] / 3600 * 8 * 2)


def test_rows_are_read_from_the_data(tmp_path: Path, tiny: ModuleType, data: Path) -> None:
    base = str(tiny.save_base(tmp_path / "base"))
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(
        f'stage: sft\nmodel: {base}\ndataset: {data}\nmax_length: 256\nmax_steps: 3\ndata_checks: "off"\n',
        encoding="utf-8",
    )
    found = planned(tmp_path, str(recipe), "--hardware", "A100-40G")
    full = planned(tmp_path, str(recipe), "--hardware", "A100-40G", "--no-read-data")
    assert full["tokens"]["step"] == 256
    assert 0 < found["tokens"]["step"] <= 256
    assert found["fits"]


def test_keys_of_the_verb_are_flags_of_the_plan(tmp_path: Path) -> None:
    words = ("--stage", "sft", "--model", "llama-70b", "--hardware", "H100", "--max-steps", "10")
    whole = planned(tmp_path, *words)
    packed = planned(tmp_path, *words, "--use-peft", "--load-in-4bit", "--gradient-checkpointing")
    assert not whole["fits"]
    assert packed["fits"]
    assert packed["trained"] < whole["trained"] / 100


@pytest.mark.parametrize(("name", "stage"), [("dpo", "dpo"), ("grpo", "grpo"), ("ppo", "ppo"), ("reward", "reward")])
def test_every_kind_of_recipe(tmp_path: Path, name: str, stage: str) -> None:
    words = ("--hardware", "4xA100-80G", "--model", "llama-7b", "--no-read-data")
    found = planned(tmp_path, str(EXAMPLES / f"{name}.yaml"), *words)
    assert found["stage"] == stage
    assert found["step"]["seconds"] > 0
    if stage == "ppo":
        assert {"reference", "value model"} <= set(found["memory"]["parts"])
    if stage == "grpo":
        assert "sampling" in found["step"]["parts"]


@pytest.mark.parametrize("data", ["someone/prompts", "/shared/prompts.jsonl"])
def test_prompts_that_are_not_here_are_taken_to_be_short(
    data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--stage", "grpo", "--hardware", "H100", "--model", "pocket", "--reward", "numeric", "--dataset", data)
    planned(tmp_path, *words)
    assert "prompts are taken to be 64 tokens long" in capsys.readouterr().out


def test_rollouts_on_servers_are_not_in_the_plan(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("--stage", "grpo", "--hardware", "4xA100-80G", "--model", "llama-7b", "--use-peft", "--reward", "numeric")
    words += ("--num-prompts", "64", "--sampler-slots", "512")
    local = planned(tmp_path, *words)
    served = planned(tmp_path, *words, "--sampler", "http://gpu:8000/v1")
    assert "servers' memory and the time of their answers are not in this plan" in capsys.readouterr().out
    assert local["memory"]["moment"] == "sampling"
    assert served["memory"]["moment"] != "sampling"
    assert "sampling" in local["step"]["parts"]
    assert "sampling" not in served["step"]["parts"]


def test_checkpoints_are_counted_by_the_steps_of_all_processes(tmp_path: Path, tiny: ModuleType, data: Path) -> None:
    base = str(tiny.save_base(tmp_path / "base"))
    words = ("--stage", "sft", "--model", base, "--dataset", str(data), "--data-checks", "off", "--save-steps", "8")
    words += ("--max-length", "64", "--num-train-epochs", "4", "--hardware")
    one, eight = planned(tmp_path, *words, "H100"), planned(tmp_path, *words, "8xH100")
    assert one["steps"] >= 8 > eight["steps"]
    assert one["disk"]["most"] > one["disk"]["export"]
    assert eight["disk"]["most"] == eight["disk"]["export"]


def test_as_many_gpus_here_as_there_are_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    found = SimpleNamespace(name="NVIDIA H100 80GB HBM3", total_memory=int(79.2 * 2**30))
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 8)
    monkeypatch.setattr("torch.cuda.get_device_properties", lambda _: found)
    given = dict.fromkeys(("memory_gb", "tflops", "bandwidth_gbs", "link_gbs", "net_gbs", "efficiency"))
    here = this_machine(shape_named("llama-7b"), tokens=64, given=given, processes=2)
    assert (here.count, here.device.name) == (2, "H100-80G")
    assert here.host is not None
    assert here.host > 0


def test_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--table"]) == 0
    of_h100 = capsys.readouterr().out
    assert "| llama-405b | LoRA | 256 |" in of_h100
    assert main(["plan", "--table", "--hardware", "MI300X"]) == 0
    assert "| llama-7b | full | 1 | 103 | yes |" in capsys.readouterr().out


def test_what_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = str(EXAMPLES / "sft.yaml")
    assert "did you mean 8xH100-80G" in fault(capsys, recipe, "--hardware", "8xH10")
    assert "did you mean --max-length" in fault(capsys, recipe, "--max-lenght", "5")
    assert "stage is missing" in fault(capsys, "--hardware", "H100")
    assert "plan them one by one" in fault(capsys, str(EXAMPLES / "preferences.yaml"))
    assert "Did you mean llama-7b" in fault(capsys, recipe, "--model", "llama-7", "--hardware", "H100")
    assert "leave one of the two out" in fault(capsys, recipe, "--hardware", "H100", "--probe")
    assert "cannot be written" in fault(capsys, recipe, "--hardware", "H100", "--json-file", str(tmp_path))
    assert "--stage is 'sfd'" in fault(capsys, "--stage", "sfd")
    other = tmp_path / "recipe.yaml"
    other.write_text("model: pocket\ndataset: pocket\nbeta: 0.1\n", encoding="utf-8")
    assert "say which: --stage dpo" in fault(capsys, str(other))


def test_verbs_are_known_by_keys_and_names() -> None:
    assert recognise({"cliprange": 0.2}, Path("x.yaml")) == "ppo"
    assert recognise({"loss_type": "dapo", "epsilon": 0.2}, Path("x.yaml")) == "grpo"
    assert recognise({"max_length": 5}, Path("orpo-lora.yaml")) == "orpo"
    assert recognise({"max_length": 5, "output_dir": "runs/kto"}, Path("x.yaml")) == "kto"
    with pytest.raises(ConfigError, match="may be a recipe of"):
        recognise({"max_length": 5}, Path("x.yaml"))
    with pytest.raises(ConfigError, match="no training verb"):
        recognise({"nonsense": 5}, Path("x.yaml"))


def test_no_key_of_a_verb_is_hidden_by_the_plan() -> None:
    from posttrain.recipes.plan_config import STAGES, PlanKeys, config_of

    for stage in STAGES:
        assert not set(config_of(stage).model_fields) & set(PlanKeys.model_fields), stage
        assert set(config_of(stage).model_fields) <= set(joined(stage).model_fields)
    assert PlanConfig.meant(["x"]) is PlanConfig


def test_adapters_are_planned_as_their_base(tmp_path: Path, tiny: ModuleType) -> None:
    base = tiny.save_base(tmp_path / "base")
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    told = {"base_model_name_or_path": str(base)}
    (adapter / "adapter_config.json").write_text(json.dumps(told), encoding="utf-8")
    assert shape_named(str(adapter)).layers == 2
    (adapter / "adapter_config.json").write_text("{}", encoding="utf-8")
    with pytest.raises(ModelError, match="names no base model"):
        shape_named(str(adapter))
    with pytest.raises(ModelError, match="no such folder"):
        shape_named("./nowhere")


def test_a_reward_model_that_is_an_adapter_stands_on_the_policys_base(tmp_path: Path, tiny: ModuleType) -> None:
    base, scorer = tiny.save_base(tmp_path / "base"), tmp_path / "scorer"
    scorer.mkdir()
    told = {"base_model_name_or_path": str(base)}
    (scorer / "adapter_config.json").write_text(json.dumps(told), encoding="utf-8")
    words = (
        "--stage",
        "ppo",
        "--model",
        str(base),
        "--reward-model",
        str(scorer),
        "--hardware",
        "2xH100",
        "--use-peft",
    )
    assert "reward model" not in planned(tmp_path, *words)["memory"]["parts"]
    assert "reward model" in planned(tmp_path, *words, "--strategy", "fsdp")["memory"]["parts"]
    assert "reward model" in planned(tmp_path, *words[:-1])["memory"]["parts"]


def test_a_probe_corrects_the_plan(
    tmp_path: Path, tiny: ModuleType, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan_probe, "sizes", lambda _: [{"max_length": 128}])  # one run is slow enough
    base = str(tiny.save_base(tmp_path / "base"))
    words = ("--stage", "sft", "--model", base, "--dataset", str(data), "--max-length", "128", "--data-checks", "off")
    plain = planned(tmp_path, *words)
    probed = planned(tmp_path, *words, "--probe")
    assert plain["hardware"].startswith("1xCPU")
    assert probed["memory"]["total"] != plain["memory"]["total"]
    assert probed["step"]["seconds"] != plain["step"]["seconds"]
    # The libraries that training loads are most of what so small a model takes.
    assert 10 * 2**20 < probed["memory"]["total"] < 400 * 2**20
