"""Two processes over gloo against one: with replicas and with shares they give the same weights."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from posttrain.models.load import Policy
from posttrain.recipes import ppo_models
from posttrain.recipes.ppo_config import PpoConfig

STEPS = 20
REWARD = '''
def score(rollout):
    """Something that differs within a group: how often a letter was said."""
    return sum(message.content.count("s") for message in rollout.messages) / 4
'''


@pytest.fixture(scope="module")
def commands(base: Path, rows: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., list[str]]:
    folder = tmp_path_factory.mktemp("several")
    (folder / "rewards.py").write_text(REWARD)
    pairs = [{"prompt": f"say {n}", "chosen": f"{n} {n}", "rejected": "no" + " no" * (n % 3)} for n in range(40)]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    compared = {"dataset": folder / "pairs.jsonl", "max_length": 48, "num_preview_samples": 0}
    shared: dict[str, Any] = {
        "model": base,
        "max_steps": STEPS,
        "bf16": "false",
        "learning_rate": 1e-3,
        "logging_steps": 1,
        "save_steps": 8,
    }
    rolled = {
        "dataset": rows,
        "reward": f"{folder / 'rewards.py'}:score",
        "num_prompts": 6,
        "max_completion_length": 12,
    }
    rolled |= {"micro_batch_tokens": 96, "allow_truncated": "true", "num_mini_batches": 2}
    own: dict[str, dict[str, Any]] = {
        "sft": {"dataset": rows, "max_length": 48, "eval_split": 0.1, "eval_steps": 7},
        "dpo": compared | {"eval_split": 0.1},
        "reward": compared | {"max_steps": 2, "bf16": "true"},
        "grpo": rolled | {"num_generations": 4, "beta": 0.05},
    }

    def made(verb: str, out: Path, world: int, **changes: object) -> list[str]:
        keys = shared | own[verb] | {"output_dir": out}
        if verb != "grpo":  # rows are asked for by process, prompts are not
            keys |= {"gradient_accumulation_steps": 4 // world}
        keys |= changes
        return [verb, *(word for key, value in keys.items() for word in (f"--{key.replace('_', '-')}", str(value)))]

    return made


def torchrun(plans: list[list[str]], folder: Path, world: int = 2) -> None:
    """All of these runs, one after the other, in the same processes."""
    plan = folder / "plan.json"
    plan.write_text(json.dumps(plans))
    words = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(world)]
    words += [str(Path(__file__).with_name("several_verbs.py")), str(plan)]
    variables = {**os.environ, "OMP_NUM_THREADS": "1", "POSTTRAIN_ALLOCATOR": "system"}
    with (folder / "said.txt").open("w") as said:
        child = subprocess.Popen(words, stdout=said, stderr=said, env=variables, start_new_session=True)
        try:
            code = child.wait(timeout=240)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
    assert code == 0, (folder / "said.txt").read_text()[-4000:]


def gaps(one: Path, other: Path) -> tuple[float, float]:
    """The largest differences of a weight, and of a loss at any step."""
    lines = [[json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()] for run in (one, other)]
    pairs = [(a, b) for a, b in zip(*lines, strict=True) if "loss" in a]
    assert len(pairs) == STEPS
    ours, theirs = (load_file(next(run.glob("*model.safetensors"))) for run in (one, other))
    assert ours.keys() == theirs.keys()
    weights = max(float((ours[name].double() - theirs[name].double()).abs().max()) for name in ours)
    return weights, max(abs(a["loss"] - b["loss"]) for a, b in pairs)


def moved(base: Path, run: Path) -> float:
    before, after = load_file(base / "model.safetensors"), load_file(run / "model.safetensors")
    return max(
        float((before[name] - after[name]).abs().max()) for name in before if before[name].shape == after[name].shape
    )


# The others, of every verb: benchmarks/ranks.py.
RUNS: dict[str, tuple[str, dict[str, object]]] = {
    "sft": ("sft", {"strategy": "fsdp", "reshard_after_forward": "false"}),
    "dpo": ("dpo", {"strategy": "fsdp"}),  # the shares are known again: the reference is asked and kept
    "grpo": ("grpo", {}),
}
HALF = ("reward", {"strategy": "fsdp"})
"""In bf16: weights are rounded before the products, which is more than the 1e-5 of the others."""


@pytest.fixture(scope="module")
def both(commands: Callable[..., list[str]], tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Path]]:
    """Every run in one process and in two."""
    from posttrain.cli import main

    folder = tmp_path_factory.mktemp("runs")
    found = {
        name: (folder / f"{name} one".replace(" ", "-"), folder / f"{name} two".replace(" ", "-")) for name in RUNS
    }
    for name, (verb, _) in RUNS.items():
        assert main(commands(verb, found[name][0], 1)) == 0
    plans = [commands(verb, found[name][1], 2, **changes) for name, (verb, changes) in RUNS.items()]
    torchrun([*plans, commands(HALF[0], folder / "half", 2, **HALF[1])], folder)
    return found | {"half": (folder / "half", folder / "half")}


@pytest.mark.parametrize("name", RUNS)
def test_two_processes_are_one(name: str, both: dict[str, tuple[Path, Path]], base: Path) -> None:
    one, two = both[name]
    weights, loss = gaps(one, two)
    assert weights < 1e-5
    assert loss < 1e-5
    assert moved(base, two) > 1e-3, "there was something to get wrong"
    record = json.loads((two / "run.json").read_text())
    assert record["processes"] == 2
    assert record["status"] == "finished"


def test_a_score_is_read_in_fp32(both: dict[str, tuple[Path, Path]]) -> None:
    """Of a model whose shares are put together in bf16."""
    run, _ = both["half"]
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    scores = [line["score_mean"] for line in lines if "score_mean" in line]
    assert len(scores) == 2
    assert any(torch.tensor(score).bfloat16().float() != torch.tensor(score) for score in scores)
    assert json.loads((run / "run.json").read_text())["status"] == "finished"


def test_shares_are_resumed_by_any_number(
    both: dict[str, tuple[Path, Path]], commands: Callable[..., list[str]], tmp_path: Path, inside: Any
) -> None:
    """What two processes have written in shards goes on in one, and what one has written goes on in two."""
    one, two = both["sft"]
    for left, right in ((two, tmp_path / "one-more"), (one, tmp_path / "two-more")):
        right.mkdir()
        (right / "run.json").write_text((left / "run.json").read_text())
        (right / "metrics.jsonl").write_text((left / "metrics.jsonl").read_text())
        (right / "checkpoint-00000008").symlink_to(left / "checkpoint-00000008")
    flags = {"resume_from_checkpoint": "true"}
    done = inside(*commands("sft", tmp_path / "one-more", 1, **flags))
    assert done.returncode == 0, done.stderr
    torchrun([commands("sft", tmp_path / "two-more", 2, strategy="fsdp", **flags)], tmp_path)
    for run in ("one-more", "two-more"):
        weights, loss = gaps(one, tmp_path / run)
        assert weights < 1e-5
        assert loss < 1e-5


@pytest.mark.parametrize(("strategy", "is_shared"), [("ddp", True), ("fsdp", False)])
def test_a_reward_adapter_shares_no_weights_that_are_taken_apart(
    strategy: str, is_shared: bool, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FSDP2 takes the policy's tensors to the device, and would leave the adapter and the head upon them behind."""
    (tmp_path / "adapter_config.json").write_text("{}")
    monkeypatch.setattr(ppo_models, "adapter_reward", lambda *_, **__: "on the policy's base")
    monkeypatch.setattr(ppo_models, "_value", lambda *_: SimpleNamespace(is_shared=True))
    monkeypatch.setattr(ppo_models, "model_reward", lambda scorer, **_: scorer)
    given = {"model": str(base), "dataset": "pocket", "reward_model": str(tmp_path), "use_peft": True}
    config = PpoConfig.model_validate(given | {"strategy": strategy})
    _, (scorer,) = ppo_models.load_models(config, Policy(None, None, "policy"))
    assert scorer == ("on the policy's base" if is_shared else str(tmp_path))


def test_a_step_of_other_rows_is_refused(
    both: dict[str, tuple[Path, Path]], commands: Callable[..., list[str]], inside: Any
) -> None:
    _, two = both["sft"]
    wrong = commands("sft", two, 1, resume_from_checkpoint="true", gradient_accumulation_steps=2)
    done = inside(*wrong)
    assert done.returncode == 2
    assert "set gradient_accumulation_steps to 4" in done.stderr
