"""`posttrain grpo` and `posttrain ppo` from the command line: what they write, what they refuse, how they go on."""

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from posttrain.losses.kl import kl_terms
from posttrain.recipes.config import command, load
from posttrain.recipes.grpo_config import GrpoConfig
from posttrain.recipes.rollout_samples import shower
from posttrain.train.experience import answers_of
from posttrain.train.runlog import RunFolder
from posttrain.types import Message, Prompt, Rollout, Score

Command = Callable[..., Any]
TIMES = {"tokens_per_s", "memory_mb", "elapsed_s", "rollout_s", "train_s", "rollout_tokens_per_s"}
REWARD = """
def digits(rollout):
    said = sum(character.isdigit() for character in rollout.text)
    return said / 8, f"{said} digits"

def trl(prompts, completions, **columns):
    return [float(len(completion[0]["content"])) / 20 for completion in completions]

def broken(rollout):
    raise RuntimeError("the judge is away")
"""


@pytest.fixture(scope="module")
def rewards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("rewards") / "mine.py"
    path.write_text(REWARD)
    return path


def words(verb: str, base: Path, rows: Path, rewards: Path, out: Path, *more: object) -> list[object]:
    shape = ["--num-prompts", 4, "--num-generations", 4, "--max-completion-length", 8, "--max-steps", 4]
    start = [verb, "--model", base, "--dataset", rows, "--reward", f"{rewards}:digits", "--output-dir", out]
    return [*start, *shape, "--learning-rate", "1e-3", "--allow-truncated", "--sampler-dtype", "float32", *more]


def lines(folder: Path, name: str = "metrics.jsonl") -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


@pytest.fixture(scope="module")
def grpo(base: Path, rows: Path, rewards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from posttrain.cli import main

    out = tmp_path_factory.mktemp("runs") / "grpo"
    more = ["--no-bf16", "--beta", 0.1, "--eval-dataset", rows, "--max-eval-samples", 8, "--sample-steps", 2]
    assert main([str(word) for word in words("grpo", base, rows, rewards, out, *more)]) == 0
    return out


def test_grpo_writes_a_model_metrics_and_rollouts(grpo: Path) -> None:
    assert (grpo / "model.safetensors").exists()
    assert "reward" in (grpo / "report.html").read_text()
    record = json.loads((grpo / "run.json").read_text())
    assert record["status"] == "finished"
    told = [line for line in lines(grpo) if "reward" in line]
    assert len(told) == 4
    for line in told:
        assert line["ratio"] == 1.0
        assert line["mismatch_max"] < 1e-4
        assert line["reward"] == pytest.approx(line["reward/digits"])
        assert {"kl", "kl_coef", "entropy", "length", "zero_signal", "failed", "grader_errors"} <= set(line)
    assert [line["step"] for line in lines(grpo) if "eval_reward" in line] == [0, 4]
    groups = [line for line in lines(grpo, "samples.jsonl") if "rollouts" in line]
    assert [group["step"] for group in groups] == [0, 0, 2, 2]
    for rollout in groups[0]["rollouts"]:
        assert len(rollout["pieces"]) == len(rollout["logps"]) == len(rollout["advantages"])
        assert "digits" in rollout["scores"]["digits"]["reason"]


def test_the_leash_starts_at_nothing(grpo: Path) -> None:
    first, *_, last = [line for line in lines(grpo) if "reward" in line]
    assert first["kl"] == pytest.approx(0, abs=1e-4)
    assert last["kl"] > 1e-3


def same(one: Path, other: Path) -> None:
    mine, theirs = load_file(one / "model.safetensors"), load_file(other / "model.safetensors")
    assert all(mine[name].equal(theirs[name]) for name in mine)
    for a, b in zip(lines(one), lines(other), strict=True):
        assert {k: v for k, v in a.items() if k not in TIMES} == {k: v for k, v in b.items() if k not in TIMES}


KILLS: dict[str, list[object]] = {
    "grpo": ["--num-iterations", 2, "--num-mini-batches", 2, "--beta", 0.1, "--dynamic-sampling"],
    "ppo": ["--num-ppo-epochs", 2, "--num-mini-batches", 2, "--target-reference-kl", 0.5, "--normalise-rewards"],
}


@pytest.mark.parametrize("verb", KILLS)
def test_a_killed_run_equals_one_that_was_left_alone(
    verb: str, inside: Command, process: Any, base: Path, rows: Path, rewards: Path, tmp_path: Path
) -> None:
    """Checkpoints fall between two minibatches of one iteration; the kill comes after one."""
    more = [*KILLS[verb], "--no-bf16", "--max-steps", 7, "--save-steps", 3]
    assert inside(*words(verb, base, rows, rewards, tmp_path / "quiet", *more)).returncode == 0
    killed = [str(word) for word in words(verb, base, rows, rewards, tmp_path / "killed", *more)]
    process.kill_at(killed, tmp_path / "killed", 4)
    assert not (tmp_path / "killed" / "model.safetensors").exists()
    assert inside(*killed, "--resume-from-checkpoint").returncode == 0
    same(tmp_path / "quiet", tmp_path / "killed")
    if verb == "ppo":
        value = [load_file(tmp_path / run / "value" / "model.safetensors") for run in ("quiet", "killed")]
        assert all(value[0][name].equal(value[1][name]) for name in value[0])


@pytest.fixture(scope="module")
def reward_models(base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A whole reward model and one that is an adapter of the same base."""
    from posttrain.cli import main

    folder = tmp_path_factory.mktemp("reward")
    pairs = folder / "pairs.jsonl"
    rng = __import__("random").Random(0)
    rows = [
        {"prompt": f"say {i}", "chosen": f"{i} {rng.randrange(100)} 7 7 7", "rejected": "well " * rng.randrange(1, 4)}
        for i in range(24)
    ]
    pairs.write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name, more in {"whole": [], "adapter": ["--use-peft", "--lora-r", "4"]}.items():
        shape = ["--model", base, "--dataset", pairs, "--output-dir", folder / name, "--max-steps", 2]
        assert main([str(w) for w in ["reward", *shape, "--data-checks", "off", *more]]) == 0
    return {name: folder / name for name in ("whole", "adapter")}


@pytest.mark.parametrize(
    "more",
    [
        ["whole", "--value-model", "reward"],
        ["whole", "--value-model", "shared"],
        ["whole", "--value-model", "policy", "--use-peft", "--lora-r", "4"],
        ["adapter", "--use-peft", "--lora-r", "4"],
    ],
    ids=lambda more: "-".join(word for word in more if word.isalpha()),
)
def test_ppo_with_every_make_of_value_model(
    more: list[str],
    inside: Command,
    base: Path,
    rows: Path,
    rewards: Path,
    reward_models: dict[str, Path],
    tmp_path: Path,
) -> None:
    given = ["--reward-model", reward_models[more[0]], *more[1:], "--replay-dataset", rows, "--whiten-rewards"]
    given += ["--num-ppo-epochs", 1, "--num-mini-batches", 2, "--max-steps", 2]
    done = inside(*words("ppo", base, rows, rewards, tmp_path / "run", *given))
    assert done.returncode == 0, done.stderr
    first, last = lines(tmp_path / "run")
    assert {"reward/model", "reward/digits", "value_loss", "replay_nll", "kl"} <= {*first, *last}
    assert first["ratio"] == pytest.approx(1, abs=1e-2)
    assert (tmp_path / "run" / "value").is_dir()


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--reward", "numerik"], "did you mean 'numeric'"),
        (["--reward", "{mine}:digit"], "digit"),
        (["--num-generations", "1"], "num_generations is 1, and advantage group_mean compares answers of a group"),
        (["--importance-sampling-level", "sequence"], "needs aggregation sequence_mean"),
        (["--max-completion-length", "600"], "leaves no room for a prompt"),
        (["--max-prompt-length", "2"], "no prompt has at most 2 tokens; raise max_prompt_length"),
        (["--eval-steps", "2"], "eval_steps needs eval_dataset"),
        (["--reward", "numeric", "--check-gold", "--dataset", "{odd}"], "reward numeric"),
        (["--check-gold"], "none of digits compares with a gold answer"),
        (["--stop-at-peak-of", "digit", "--measure-kl"], "there is no reward of that name: digits"),
        (["--max-kl", "5"], "max_kl needs measure_kl"),
        (["--loss-type", "cispo", "--delta", "3"], "delta bounds a clipped ratio"),
        (["--loss-type", "rloo", "--aggregation", "token_mean"], "aggregation has to be sequence_mean"),
        (["--num-mini-batches", "5"], "num_mini_batches 5 is over num_prompts 4"),
        (["--loss-type", "reinforce_pp", "--num-generations", "1", "--dynamic-sampling"], "would replace every group"),
    ],
)
def test_what_cannot_work_is_refused_before_the_first_step(
    more: list[str], said: str, inside: Command, base: Path, rows: Path, rewards: Path, tmp_path: Path
) -> None:
    odd = tmp_path / "odd.jsonl"
    odd.write_text('{"prompt": "how many?", "answer": "several"}\n')
    given = [word.format(mine=rewards, odd=odd) for word in more]
    done = inside(*words("grpo", base, rows, rewards, tmp_path / "run", *given))
    assert done.returncode == 2
    assert said in done.stderr
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_prompts_without_answers_are_refused_by_a_reward_that_compares(
    inside: Command, base: Path, rewards: Path, tmp_path: Path
) -> None:
    bare = tmp_path / "bare.jsonl"
    bare.write_text('{"prompt": "how many?"}\n{"prompt": "how few?"}\n')
    done = inside(*words("grpo", base, bare, rewards, tmp_path / "run", "--reward", "numeric"))
    assert done.returncode == 2
    assert f"{bare}: reward numeric can judge none of 2 prompts; the first: ValueError: {bare}:1 has no" in done.stderr


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--target-reference-kl", "1", "--kl-coef", "0"], "target_reference_kl needs kl_coef above 0"),
        (["--target-reference-kl", "1", "--kl-horizon", "3"], "kl_horizon 3 is too short for iterations of 16 answers"),
    ],
)
def test_a_controller_that_cannot_work_is_refused(
    more: list[str], said: str, inside: Command, base: Path, rows: Path, rewards: Path, tmp_path: Path
) -> None:
    done = inside(*words("ppo", base, rows, rewards, tmp_path / "run", *more))
    assert done.returncode == 2
    assert said in done.stderr


def test_a_grader_that_breaks_stops_the_run_and_its_error_can_be_read(
    inside: Command, base: Path, rows: Path, rewards: Path, tmp_path: Path
) -> None:
    start = words("grpo", base, rows, rewards, tmp_path / "run")
    start[start.index(f"{rewards}:digits")] = f"{rewards}:broken"
    done = inside(*start)
    assert done.returncode == 2
    assert "graders failed on 100 % of the rollouts" in done.stderr
    group = lines(tmp_path / "run", "samples.jsonl")[0]
    assert {r["scores"]["broken"]["error"] for r in group["rollouts"]} == {"RuntimeError: the judge is away"}


def rolled(number: int, error: str = "") -> Rollout:
    prompt = Prompt((Message("user", "q"),), "data:1")
    return Rollout(prompt, (1,), (2,), (True,), (-0.1,), (), number=number, scores={"r": Score(0.0, error=error)})


def test_samples_show_failures_first_and_are_written_once(tmp_path: Path, tiny: Any) -> None:
    """Killed after the rollouts of step 4 were written and gone on with from a checkpoint of step 4."""
    good = [[rolled(0), rolled(1)] for _ in range(3)]
    failing = [*good, [rolled(0), rolled(1, "timeout")]]

    def show(folder: RunFolder, every: int) -> Any:
        made = shower(folder, tiny.tokenizer(), every)
        return lambda step, groups: made(step, groups, answers_of(groups))

    quiet, killed = RunFolder(tmp_path / "quiet"), RunFolder(tmp_path / "killed")
    plan = [(0, good), (2, good), (3, failing), (4, failing), (6, failing), (7, failing)]
    one, two = show(quiet, 3), show(killed, 3)
    for step, groups in plan:
        one(step, groups)
    for step, groups in plan[:4]:
        two(step, groups)
    killed.rewind(4)
    two = show(killed, 3)
    for step, groups in plan[3:]:
        two(step, groups)
    found = lines(quiet.path, "samples.jsonl")
    assert found == lines(killed.path, "samples.jsonl")
    assert [line["step"] for line in found] == [0, 0, 3, 3, 6, 6]
    assert found[2]["rollouts"][0]["scores"]["r"]["error"] == "timeout"


def test_a_failure_does_not_wait_for_its_turn(tmp_path: Path, tiny: Any) -> None:
    folder = RunFolder(tmp_path)
    show = shower(folder, tiny.tokenizer(), 10)
    for step, error in enumerate(["", "", "timeout", "timeout"]):
        groups = [[rolled(0, error)]]
        show(step, groups, answers_of(groups))
    assert [line["step"] for line in lines(tmp_path, "samples.jsonl")] == [0, 2]


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"dynamic_sampling": False},
        {"epsilon_high": None},
        {"loss_type": "rloo", "kl_in": "loss"},
        {"loss_type": "reinforce_pp", "kl_estimator": "k3"},
    ],
)
def test_the_command_of_a_run_says_the_same_again(given: dict[str, Any]) -> None:
    """Also where a key is set back to its default against the named combination."""
    config = GrpoConfig(dataset=["x"], reward=["numeric"], **given)  # type: ignore[arg-type]
    said = iter(shlex.split(command(config))[2:])
    flags: dict[str, object] = {}
    for word in said:
        key = word.removeprefix("--").replace("-", "_")
        is_switch = isinstance(getattr(config, key.removeprefix("no_")), bool)
        flags[key.removeprefix("no_")] = not key.startswith("no_") if is_switch else next(said)
    flags = {key: None if value == "none" else value for key, value in flags.items()}
    assert load(GrpoConfig, None, flags) == config


def test_a_leash_in_the_reward_pulls() -> None:
    """The mean gradient of a penalty is that of the KL with k1 alone; with k3 it is gone near the reference."""
    assert GrpoConfig(dataset=["x"], reward=["r"]).kl_estimator == "k3"  # type: ignore[arg-type]
    for name in ("rloo", "reinforce_pp"):
        config = GrpoConfig(dataset=["x"], reward=["r"], loss_type=name)  # type: ignore[arg-type]
        reference = torch.linspace(-1, 1, 6, dtype=torch.float64).log_softmax(0)
        logits = (reference + 0.1 * torch.tensor([1.0, -1, 0, 2, -2, 1])).requires_grad_()
        logp = logits.log_softmax(0)
        kl = (logp.exp() * (logp - reference)).sum()
        (exact,) = torch.autograd.grad(kl, logits, retain_graph=True)
        found = {}
        for estimator in (config.kl_estimator, "k3"):
            penalty = kl_terms(logp.detach(), reference, estimator)
            (found[estimator],) = torch.autograd.grad(
                (logp.exp().detach() * logp * penalty).sum(), logits, retain_graph=True
            )
        torch.testing.assert_close(found["k1"], exact)
        assert float(found["k3"].norm()) < 0.1 * float(exact.norm())


def test_a_reward_of_trl_is_taken_as_it_is(
    inside: Command, base: Path, rows: Path, rewards: Path, tmp_path: Path
) -> None:
    done = inside(*words("grpo", base, rows, rewards, tmp_path / "run", "--reward", f"{rewards}:trl=0.5"))
    assert done.returncode == 0, done.stderr
    for line in lines(tmp_path / "run"):
        assert line["reward"] == pytest.approx(line["reward/digits"] + 0.5 * line["reward/trl"])


@pytest.mark.parametrize(
    "bundle", ["grpo", "dr_grpo", "rloo", "reinforce_pp", "reinforce_pp_baseline", "gspo", "cispo"]
)
def test_every_bundle_runs(bundle: str, inside: Command, base: Path, rows: Path, rewards: Path, tmp_path: Path) -> None:
    more = ["--loss-type", bundle, "--beta", 0.05, "--num-mini-batches", 2, "--max-steps", 2]
    done = inside(*words("grpo", base, rows, rewards, tmp_path / "run", *more))
    assert done.returncode == 0, done.stderr
    assert all(abs(line["grad_norm"]) > 0 for line in lines(tmp_path / "run"))
