"""What a plan proposes to make a recipe fit is a recipe that its verb takes."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from posttrain.cli import main
from posttrain.recipes.config import load
from posttrain.recipes.plan_config import STAGES, config_of

SHARED = {"strategy": "fsdp", "cpu_offload": True, "reshard_after_forward": False}
SERVED = {"sampler": "http://gpu:8000/v1"}
MORE: dict[str, dict[str, Any]] = {
    "plain": {},
    "shared": SHARED,
    "moments in eight bits": {"optim": "adamw_8bit"},
    "held to the base": {"protect": "l2_sp"},
    "adapter": {"use_peft": True},
    "adapter, shared": {"use_peft": True, **SHARED},
    "served": SERVED,
    "served, whole": {**SERVED, "weight_transfer": "reload"},
    "served, an adapter merged": {**SERVED, "weight_transfer": "reload", "use_peft": True},
    "served, shared": {**SERVED, **SHARED},
}
CASES = [(stage, name) for stage in STAGES for name in MORE if "served" not in name or stage in ("ppo", "grpo")]


def recipe(stage: str, name: str) -> dict[str, Any]:
    own: dict[str, Any] = {"model": "llama-7b", "dataset": ["pocket"], "max_steps": 2, **MORE[name]}
    if stage in ("ppo", "grpo"):
        return own | {"reward": "numeric"} | ({"value_model": "policy"} if stage == "ppo" else {})
    return own | {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2}


def meant(said: str) -> dict[str, Any]:
    """The keys that a line of the plan names, as a reader would write them into the recipe."""
    parts = [part.split(" ", 1) for part in said.split(", ")]
    return {key: yaml.safe_load(value) for key, value in parts if value != "devices"}


@pytest.mark.parametrize(("stage", "name"), CASES)
@pytest.mark.parametrize("memory_gb", [1, 30])
def test_every_proposal_is_a_recipe(stage: str, name: str, memory_gb: int, tmp_path: Path) -> None:
    given, path, found = recipe(stage, name), tmp_path / "mine.yaml", tmp_path / "plan.json"
    load(config_of(stage), None, given)
    path.write_text(yaml.safe_dump({"stage": stage, **given}), encoding="utf-8")
    words = ["plan", str(path), "--hardware", "4xH100", "--memory-gb", str(memory_gb), "--json-file", str(found)]
    assert main(words) == 0
    plan = json.loads(found.read_text(encoding="utf-8"))
    assert plan["fits"] or plan["knobs"]
    for said in (*(knob["keys"] for knob in plan["knobs"]), ", ".join(plan["mend"] or ())):
        made: Any = load(config_of(stage), None, given | meant(said)) if said else None
        if made is not None and made.strategy == "fsdp":
            assert not made.protection, "l2_sp needs every weight in one piece"
    if plan["mend"]:
        assert {key: value for key, value in meant(", ".join(plan["mend"])).items() if key != "num"} == plan[
            "mend_keys"
        ]
