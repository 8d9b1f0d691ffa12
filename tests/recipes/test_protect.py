"""`--protect` as its users give it: what each means sets, what is refused, and a run that is killed and goes on."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from posttrain.errors import ConfigError
from posttrain.recipes.config import command, load
from posttrain.recipes.grpo_config import GrpoConfig
from posttrain.recipes.ppo_config import PpoConfig
from posttrain.recipes.preference_config import DpoConfig
from posttrain.recipes.protect_text import base_text, is_pocket
from posttrain.recipes.reward_config import RewardConfig
from posttrain.recipes.sft_config import SftConfig


def sft(**keys: Any) -> SftConfig:
    return load(SftConfig, None, {"dataset": "pocket"} | keys)


def test_presets_set_the_keys_that_they_stand_for() -> None:
    config = sft(protect="lora=4,low_rate=0.5,replay=0.3")
    assert (config.use_peft, config.lora_r, config.lora_alpha) == (True, 4, 8)
    assert config.peak_rate == pytest.approx(0.5 * 2e-4)
    assert config.replay_ratio == 0.3
    assert [entry.path for entry in config.replay] == ["pocket-corpus"]
    assert sft(protect="lora", lora_alpha=64).lora_alpha == 64
    ppo = load(PpoConfig, None, {"dataset": "pocket", "reward": "numeric", "protect": "replay=2"})
    assert (ppo.ptx_coef, [entry.path for entry in ppo.replay]) == (2.0, ["pocket-corpus"])
    grpo = load(GrpoConfig, None, {"dataset": "pocket", "reward": "numeric", "protect": "lora=2,kl", "kl_in": "reward"})
    assert (grpo.lora_r, grpo.kl_estimator) == (2, "k1")
    plain = sft()
    assert (plain.protection, plain.replay, plain.use_peft, plain.rate_factor) == ({}, [], False, 1.0)


def test_the_printed_command_says_the_same_again() -> None:
    config = sft(protect=["lora=4", "low_rate=0.5"], learning_rate=1e-3)
    words = command(config).split()[2:]
    assert "--use-peft" not in words
    assert [words[at + 1] for at, word in enumerate(words) if word == "--protect"] == ["lora=4", "low_rate=0.5"]
    again = sft(protect=["lora=4", "low_rate=0.5"], learning_rate=1e-3)
    assert again.peak_rate == config.peak_rate == 5e-4


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"protect": "kll"}, "did you mean kl"),
        ({"protect": "kl,kl=2"}, "kl twice"),
        ({"protect": "l2_sp=0"}, "expected a number above 0"),
        ({"protect": "low_rate=1.5"}, "below 1"),
        ({"protect": "lora=x"}, "whole number"),
        ({"protect": "lora=4", "lora_r": 8}, "beside lora_r 8"),
        ({"protect": "lora", "use_peft": False}, "use_peft false"),
        ({"protect": "replay=0.2", "replay_ratio": 0.4}, "beside replay_ratio 0.4"),
        ({"protect": "freeze", "use_peft": True}, "an adapter trains none"),
        ({"protect": "ewc", "use_peft": True, "use_dora": True}, "use_dora"),
        ({"protect": "kl", "protect_dataset": "a.txt"}, "read by replay, distill and ewc alone"),
        (
            {"protect": "kl,freeze=2", "strategy": "fsdp"},
            "protect freeze needs every weight in one piece: set strategy",
        ),
    ],
)
def test_what_cannot_be_meant_is_refused(keys: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        sft(**keys)


@pytest.mark.parametrize("name", ["replay", "kl", "distill", "ewc"])
def test_a_reward_model_has_no_words_to_hold(name: str) -> None:
    with pytest.raises(ConfigError, match="take l2_sp, lora, low_rate or freeze"):
        load(RewardConfig, None, {"dataset": "pocket", "protect": name})


def test_whose_text_it_is(tmp_path: Path) -> None:
    for name, parent in (("first", "pocket"), ("second", str(tmp_path / "first")), ("other", "owner/name")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "run.json").write_text(json.dumps({"parent": parent}))
    assert is_pocket(str(tmp_path / "second"))
    assert not is_pocket(str(tmp_path / "other"))
    config = load(DpoConfig, None, {"dataset": "pocket", "protect": "distill", "model": str(tmp_path / "other")})
    with pytest.raises(ConfigError, match="give protect_dataset"):
        base_text(config)
    named = config.model_copy(update={"protect_dataset": sft(protect="ewc", protect_dataset="a.txt").protect_dataset})
    assert [entry.path for entry in base_text(named)] == ["a.txt"]


def test_killed_and_resumed_ends_with_the_same_bits(
    base: Path, rows: Path, tmp_path: Path, inside: Any, process: Any
) -> None:
    """The Fisher information is measured once, kept, named in run.json, and read again; the base of the KL is the model
    that training began with, not the checkpoint's."""
    (tmp_path / "text.txt").write_text("The capital of France is Paris. It has 24 hours.\n\n" * 40)
    keys = {"model": base, "dataset": rows, "max-steps": 12, "max-length": 48, "learning-rate": 1e-2, "save-steps": 3}
    keys |= {
        "protect": "ewc=10,kl=0.5,distill=0.5,freeze=1",
        "protect-dataset": tmp_path / "text.txt",
        "protect-tokens": 32,
    }
    keys |= {"logging-steps": 1, "num-preview-samples": 0}
    words = ["sft", *(str(word) for key, value in keys.items() for word in (f"--{key}", value))]
    quiet, loud = tmp_path / "quiet", tmp_path / "loud"
    assert inside(*words, "--output-dir", quiet).returncode == 0
    process.kill_at([*words, "--output-dir", str(loud)], loud, 7)
    said = inside(*words, "--output-dir", loud, "--resume-from-checkpoint")
    assert said.returncode == 0, said.stderr
    assert "measuring the Fisher" not in said.stdout
    for name in ("model.safetensors", "fisher.safetensors"):
        assert (quiet / name).read_bytes() == (loud / name).read_bytes(), name
    lines = [[json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()] for run in (quiet, loud)]
    for key in ("loss", "ewc", "kl_base", "kl_text"):
        assert [line[key] for line in lines[0]] == [line[key] for line in lines[1]]
    assert lines[0][-1]["ewc"] > 0
    digest = hashlib.sha256((quiet / "fisher.safetensors").read_bytes()).hexdigest()
    assert digest in [each.get("sha256") for each in json.loads((loud / "run.json").read_text())["inputs"]]
