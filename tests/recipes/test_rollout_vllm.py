"""`posttrain grpo` and `ppo` whose rollouts are sampled by servers in processes of their own (tests/vllm_server.py)."""

import importlib.util
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from posttrain.errors import ConfigError
from posttrain.models.load import Policy
from posttrain.recipes.config import load
from posttrain.recipes.grpo_config import GrpoConfig
from posttrain.recipes.rollout_vllm import server_sampler
from posttrain.rollouts.sampling import Decoding
from posttrain.train import distributed

Command = Callable[..., Any]
REWARD = """
def digits(rollout):
    said = sum(character.isdigit() for character in rollout.text)
    return said / 8, f"{said} digits"
"""
SHAPE = ["--num-prompts", 4, "--num-generations", 4, "--max-completion-length", 8, "--learning-rate", "1e-2"]


@pytest.fixture(scope="module")
def rewards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("rewards") / "mine.py"
    path.write_text(REWARD)
    return path


@pytest.fixture(scope="module")
def nursery() -> Iterator[Any]:
    spec = importlib.util.spec_from_file_location("vllm_stub", Path(__file__).parents[1] / "vllm_stub.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found = module.Nursery()
    yield found
    found.close()


@pytest.fixture(scope="module")
def server(nursery: Any, base: Path) -> Any:
    """One that no test plants a fault in."""
    return nursery.start(base)


@pytest.fixture
def words(base: Path, rows: Path, rewards: Path, tmp_path: Path, at_once: None) -> Callable[..., list[object]]:  # noqa: ARG001
    def made(out: str, *more: object, verb: str = "grpo") -> list[object]:
        start = [verb, "--model", base, "--chat-template", "raw", "--dataset", rows, "--reward", f"{rewards}:digits"]
        start += ["--output-dir", tmp_path / out, "--allow-truncated", "--sampler-dtype", "float32", "--no-bf16"]
        start += ["--max-prompt-length", 100]
        return [*start, *SHAPE, *more]

    return made


def lines(folder: Path, name: str = "metrics.jsonl") -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


def apart(one: Path, other: Path) -> float:
    """The largest difference of two models' weights."""
    name = "adapter_model.safetensors" if (one / "adapter_model.safetensors").exists() else "model.safetensors"
    mine, theirs = load_file(one / name), load_file(other / name)
    assert mine.keys() == theirs.keys()
    return max(float((mine[key] - theirs[key]).abs().max()) for key in mine)


WAYS = {"adapter": ["--use-peft", "--lora-r", 4], "reload": ["--learning-rate", "1e-3"]}


@pytest.mark.parametrize("way", WAYS)
def test_what_is_learned_is_what_a_sampler_of_this_process_teaches(
    way: str, words: Callable[..., list[object]], inside: Command, nursery: Any, base: Path, rows: Path, tmp_path: Path
) -> None:
    stub = nursery.start(base)
    more = [*WAYS[way], "--max-steps", 3, "--num-mini-batches", 2, "--eval-dataset", rows]
    more += ["--max-eval-samples", 4]
    assert inside(*words("local", *more)).returncode == 0
    found = inside(*words("served", *more, "--sampler", stub.url))
    assert found.returncode == 0, found.stderr
    ours, theirs = lines(tmp_path / "local", "samples.jsonl"), lines(tmp_path / "served", "samples.jsonl")
    assert len(ours) == len(theirs) > 0
    for one, other in zip(ours, theirs, strict=True):
        assert [rollout["pieces"] for rollout in one["rollouts"]] == [r["pieces"] for r in other["rollouts"]]
    assert apart(tmp_path / "local", tmp_path / "served") < 1e-5
    told = [line for line in lines(tmp_path / "served") if "hand_over_s" in line]
    assert all(line["probe_gap"] < 1e-4 and line["mismatch_max"] < 1e-4 for line in told)
    assert {"adapter": "/v1/load_lora_adapter", "reload": "/collective_rpc"}[way] in stub.seen()["calls"]


def test_sampling_ahead_is_one_iteration_behind_and_corrected(
    words: Callable[..., list[object]], inside: Command, server: Any, tmp_path: Path
) -> None:
    more = [*WAYS["adapter"], "--max-steps", 6, "--num-mini-batches", 2, "--max-staleness", 2, "--sampler", server.url]
    found = inside(*words("ahead", *more))
    assert found.returncode == 0, found.stderr
    told = [line for line in lines(tmp_path / "ahead") if "version_lag" in line]
    assert [line["version_lag"] for line in told] == [0, 2, 2]
    assert [line["ahead"] for line in told] == [0, 1, 1]
    assert [abs(line["correction"] - 1) < 1e-5 for line in told] == [True, False, False]
    names = [name.rpartition("-v")[2] for name in server.seen()["names"]]
    assert [name for place, name in enumerate(names) if name not in names[:place]] == ["0", "2", "4"]
    assert names.count("4") == 1, "after the last iteration's hand-over nothing is drawn but the probe"


@pytest.mark.parametrize("staleness", [0, 1])
def test_a_run_whose_last_server_dies_goes_on_without_losing_or_repeating_a_prompt(
    staleness: int, words: Callable[..., list[object]], inside: Command, nursery: Any, base: Path, tmp_path: Path
) -> None:
    """Sampled ahead, it dies over rollouts of an iteration that is not yet the trainer's."""
    stub, again = nursery.start(base), nursery.start(base)
    stub.fault(exit_after=40)
    more = [*WAYS["adapter"], "--max-steps", 6, "--max-staleness", staleness, "--sample-steps", 1]
    more += ["--num-prompts", 2, "--no-dynamic-sampling"]
    found = inside(*words("dead", *more, "--sampler", stub.url))
    assert found.returncode == 2
    assert "no sampling server is left of 1" in found.stderr
    assert "What was learned until then is in" in found.stderr
    (kept,) = (tmp_path / "dead").glob("checkpoint-*")
    record = json.loads((kept / "training.json").read_text())
    assert 2 <= record["state"]["step"] < 6
    assert record["companion"]["collector"]["cursor"] == 2 * record["state"]["step"]
    again_words = words("dead", *more, "--sampler", again.url, "--resume-from-checkpoint")
    found = inside(*again_words)
    assert found.returncode == 0, found.stderr
    labels = {place.name.rpartition("-v")[0] for place in (tmp_path / "dead" / "handed_over").iterdir()}
    assert len(labels) == 1, "weights of the run that ended are not kept beside those of this one"
    asked = [json.dumps(group["prompt"]) for group in lines(tmp_path / "dead", "samples.jsonl") if "rollouts" in group]
    assert len(set(asked)) == len(asked) == 12
    assert "base" not in again.seen()["names"], "no rollout is the base's"


def test_ppo_samples_ahead_too(
    words: Callable[..., list[object]], inside: Command, server: Any, tmp_path: Path
) -> None:
    more = [*WAYS["adapter"], "--num-ppo-epochs", 1, "--num-mini-batches", 1, "--max-steps", 2]
    found = inside(*words("ppo", *more, "--max-staleness", 1, "--sampler", server.url, verb="ppo"))
    assert found.returncode == 0, found.stderr
    assert [line["version_lag"] for line in lines(tmp_path / "ppo") if "version_lag" in line] == [0, 1]


SKEWS: dict[str, tuple[dict[str, Any], list[object], str]] = {
    "name": ({}, ["--sampler-model", "qwen"], "sampler_model 'qwen' is not served there; it serves base"),
    "away": (
        {},
        ["http://127.0.0.1:9/v1"],
        "none of the 1 servers can be used. http://127.0.0.1:9/v1: nobody",
    ),
    "room": ({"room": 64}, [], "it takes 64 tokens, and max_prompt_length with max_completion_length is 108"),
    "paths": ({"no": ["/v1/load_lora_adapter"]}, [], "VLLM_ALLOW_RUNTIME_LORA_UPDATING=True"),
    "no vllm": ({"no": ["/v1/models"]}, [], "the server does not know this path"),
    "key": ({}, ["--sampler-api-key-env", "NOT_SET_AT_ALL"], "NOT_SET_AT_ALL, which is not set"),
}


@pytest.mark.parametrize("skew", SKEWS)
def test_trainer_and_server_that_do_not_fit_say_so(
    skew: str, words: Callable[..., list[object]], inside: Command, nursery: Any, base: Path
) -> None:
    faults, more, told = SKEWS[skew]
    stub = nursery.start(base)
    stub.fault(**faults)
    sampler = [] if skew == "away" else [stub.url]
    found = inside(*words("bad", *WAYS["adapter"], "--max-steps", 1, "--sampler", *sampler, *more))
    assert found.returncode == 2
    assert told in " ".join(found.stderr.split())
    assert found.stderr.startswith("error: ")


def test_another_model_at_the_server_is_found_before_the_first_step(
    words: Callable[..., list[object]], inside: Command, nursery: Any, base: Path, tiny: Any, tmp_path: Path
) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base)
    other = tmp_path / "other"
    tiny.model("llama", vocab_size=len(tokenizer), seed=3).save_pretrained(other)
    tokenizer.save_pretrained(other)
    found = inside(*words("bad", *WAYS["adapter"], "--sampler", nursery.start(other).url, "--max-steps", 1))
    assert found.returncode == 2
    assert "it does not serve version 0, nor any other that this run has handed over" in found.stderr
    tokenizer.add_tokens(["twice"])
    tokenizer.save_pretrained(other)
    found = inside(*words("bad2", *WAYS["adapter"], "--sampler", nursery.start(other).url, "--max-steps", 1))
    assert found.returncode == 2


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "two kinds": ({"sampler": ["local", "http://a/v1"]}, "local and servers at once"),
    "no address": ({"sampler": ["a:8000"]}, "neither local nor an address"),
    "twice": ({"sampler": ["http://a/v1", "http://a/v1/"]}, "names one server twice"),
    "alone": ({"max_staleness": 1}, "max_staleness needs sampler"),
    "no adapter": ({"sampler": "http://a/v1", "weight_transfer": "adapter"}, "needs use_peft"),
    "merged in four bits": (
        {"sampler": "http://a/v1", "weight_transfer": "reload", "use_peft": True, "load_in_4bit": True},
        "load_in_4bit true does not allow: use weight_transfer adapter",
    ),
    "merged in shares": (
        {"sampler": "http://a/v1", "weight_transfer": "reload", "use_peft": True, "strategy": "fsdp"},
        "strategy fsdp does not allow: use weight_transfer adapter",
    ),
    "too stale": ({"sampler": "http://a/v1", "max_staleness": 1, "num_mini_batches": 2}, "use 2, or 0"),
    "uncorrected": ({"sampler": "http://a/v1", "max_staleness": 1, "correction": "none"}, "needs a correction"),
}


@pytest.mark.parametrize("case", WRONG)
def test_keys_that_do_not_agree_say_so(case: str) -> None:
    given, told = WRONG[case]
    with pytest.raises(ConfigError, match=told):
        load(GrpoConfig, None, {"model": "pocket", "dataset": ["pocket"], "reward": ["numeric"]} | given)


def test_processes_wait_for_each_other_longer_than_for_servers(monkeypatch: pytest.MonkeyPatch) -> None:
    given = {"model": "pocket", "dataset": ["pocket"], "reward": ["numeric"], "sampler": "http://a/v1"}
    config = load(GrpoConfig, None, given | {"sampler_timeout": 600, "ddp_timeout": 600})
    monkeypatch.setattr(distributed, "world", lambda: 2)
    with pytest.raises(ConfigError, match="sampler_timeout 600 is not under ddp_timeout 600"):
        server_sampler(config, Policy(None, None, "pocket"), Decoding(4), lambda _: None)
