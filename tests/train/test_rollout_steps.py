"""The steps whose batches the policy makes itself, on the real loop and the real sampler."""

import math
import random
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from posttrain.errors import TrainError
from posttrain.losses.policy import policy_loss
from posttrain.models.load import Policy
from posttrain.models.logprobs import token_logps
from posttrain.rollouts.grading import Grader, Weighted, each
from posttrain.rollouts.policy import PolicySampler
from posttrain.rollouts.run import run_groups
from posttrain.rollouts.sampling import Decoding
from posttrain.train.checkpoint import Checkpoints
from posttrain.train.collect import Collector, Groups, has_signal, rollout_metrics
from posttrain.train.credit import GroupCredit
from posttrain.train.loop import _clip, train
from posttrain.train.optim import adamw
from posttrain.train.recorder import Recorder
from posttrain.train.rollout_objective import rollout_objective
from posttrain.train.rollout_steps import MAX_EMPTY, Leash, RolloutSteps, Shape
from posttrain.types import Message, Prompt, Rollout, Score

PROMPTS = [
    Prompt((Message("user", f"say {word}"),), f"data:{i}") for i, word in enumerate(["one", "two", "three", "four"])
]


def talker(tiny: ModuleType, dtype: torch.dtype = torch.float32) -> Policy:
    """A tiny model that has a row for every token of its tokenizer."""
    return tiny.policy("llama", dtype=dtype, vocab_size=len(tiny.tokenizer()))  # type: ignore[no-any-return]


def parity(rollout: Rollout) -> float:
    """Any function of the answer will do."""
    return sum(rollout.token_ids) % 3 / 2


def rolling(policy: Policy, sampler: Any, *, group: int = 4, tokens: int = 6) -> Any:
    def roll(prompts: Sequence[Prompt], seed: int, version: int) -> Groups:
        return run_groups(
            prompts,
            sampler,
            tokenizer=policy.tokenizer,
            num_generations=group,
            decoding=Decoding(tokens),
            seed=seed,
            version=version,
        )

    return roll


def steps_of(policy: Policy, reward: Any = parity, *, leash: Leash | None = None, **shape: Any) -> RolloutSteps:
    sampler = PolicySampler(policy, dtype=torch.float32)
    collector = Collector(PROMPTS, rolling(policy, sampler), Grader([Weighted("parity", each(reward))]), 4, 0)
    recorder = Recorder(num_truncated=0, num_zero=0)
    return RolloutSteps(
        policy, sampler, collector, GroupCredit(), recorder, shape=Shape(**shape), leash=leash or Leash()
    )


def run(policy: Policy, steps: RolloutSteps, folder: Path, tiny: ModuleType, total: int, **options: Any) -> Any:
    log = tiny.Lines()
    train(
        policy,
        steps,
        rollout_objective("grpo", partial(policy_loss), temperature=1.0),
        optimizer=adamw(policy.model, learning_rate=0.01),
        rate=lambda _: 0.01,
        total_steps=total,
        checkpoints=Checkpoints(folder),
        log=log,
        companion=steps,
        **({"logging_steps": 1} | options),
    )
    return log


def test_the_first_step_is_on_policy(tiny: ModuleType, tmp_path: Path) -> None:
    """The trainer finds for every sampled token the log-probability that the sampler drew it with."""
    policy = talker(tiny)
    log = run(policy, steps_of(policy), tmp_path, tiny, 2)
    for line in log.lines:
        assert line["ratio"] == 1.0
        assert line["mismatch_max"] < 1e-5
        assert line["version_lag"] == 0


def test_later_minibatches_are_off_policy_and_say_so(tiny: ModuleType, tmp_path: Path) -> None:
    policy = talker(tiny)
    log = run(policy, steps_of(policy, num_epochs=2, num_mini_batches=2), tmp_path, tiny, 4)
    assert log.lines[0]["ratio"] == pytest.approx(1.0, abs=1e-5)
    assert "reward" in log.lines[0]
    for line in log.lines[1:]:
        assert line["approx_kl"] > 1e-6
        assert "reward" not in line
        assert line["mismatch_kl"] < 1e-9  # the sampler is compared with the policy that sampled, not with today's


def gradient(policy: Policy, row_length: int, aggregation: str) -> dict[str, Tensor]:
    steps = steps_of(policy, row_length=row_length, aggregation=aggregation)
    objective = rollout_objective("grpo", partial(policy_loss), temperature=1.0)
    policy.model.zero_grad()
    batches = steps.step(0)
    total = sum(objective.units(batch) for batch in batches)
    for batch in batches:
        (objective.loss(policy.model, batch).sum / total).backward()
    return {name: p.grad.clone() for name, p in policy.model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("aggregation", ["token_mean", "sequence_mean"])
def test_micro_batches_never_change_the_step(tiny: ModuleType, aggregation: str) -> None:
    """Law 1, also where a group is cut in two and where answers without an advantage are not computed."""
    policy = talker(tiny, torch.float64)
    whole, parts = gradient(policy, 8192, aggregation), gradient(policy, 24, aggregation)
    assert len(steps_of(policy, row_length=24).step(0)) > 3
    for name, expected in whole.items():
        assert float((parts[name] - expected).norm()) <= 1e-7 * float(expected.norm()), name


def test_what_is_not_computed_still_counts(tiny: ModuleType) -> None:
    """Answers of equal reward are passed over; the gradient is that of computing them all."""
    policy = talker(tiny, torch.float64)

    def mostly_equal(rollout: Rollout) -> float:
        return float("one" in rollout.prompt.messages[0].content and sum(rollout.token_ids) % 2)

    found = []
    for keep_idle in (False, True):
        steps = steps_of(policy, mostly_equal, keep_idle=keep_idle)
        objective = rollout_objective("grpo", partial(policy_loss), temperature=1.0)
        policy.model.zero_grad()
        batches = steps.step(0)
        total = sum(objective.units(batch) for batch in batches)
        for batch in batches:
            (objective.loss(policy.model, batch).sum / total).backward()
        found.append((sum(b.num_tokens for b in batches), policy.model.lm_head.weight.grad.clone()))
    assert found[0][0] < found[1][0] / 2
    assert float((found[0][1] - found[1][1]).norm()) <= 1e-7 * float(found[1][1].norm())


def test_rewards_rise(tiny: ModuleType, tmp_path: Path) -> None:
    """A wanted token is said more often; with rewards drawn by lot it is not."""

    def wanted(rollout: Rollout) -> float:
        return sum(token == 50 for token in rollout.token_ids) / 6

    def lot(rollout: Rollout) -> float:
        return random.Random(str(rollout.token_ids)).random()

    shares = {}
    for name, reward in (("wanted", wanted), ("lot", lot)):
        policy = talker(tiny)
        steps = steps_of(policy, reward, num_mini_batches=1)
        run(policy, steps, tmp_path / name, tiny, 10)
        steps.sampler.refresh(99)
        last = steps.collector.roll(PROMPTS, 7, 99)
        shares[name] = sum(wanted(r) for g in last for r in g) / 16
    assert shares["wanted"] > 0.5
    assert shares["lot"] < 0.2


def test_a_resumed_run_equals_an_uninterrupted_one(tiny: ModuleType, tmp_path: Path) -> None:
    """Stopped between two minibatches, so that the queue is part of what is kept; with the KL controller and a cached
    reward."""

    def fresh() -> tuple[Policy, RolloutSteps]:
        policy = talker(tiny)
        start = talker(tiny)
        steps = steps_of(policy, num_epochs=2, num_mini_batches=2, leash=Leash(0.1, target=0.01, horizon=20))
        steps.reference = lambda batch: token_logps(start.model, batch)
        return policy, steps

    quiet, steps = fresh()
    whole = run(quiet, steps, tmp_path / "quiet", tiny, 11)
    stopped, steps = fresh()
    count = iter(range(100))
    run(stopped, steps, tmp_path / "stopped", tiny, 11, should_stop=lambda: next(count) == 5)
    again, steps = fresh()
    rest = run(again, steps, tmp_path / "stopped", tiny, 11, resume=True)
    for name, parameter in quiet.model.named_parameters():
        assert torch.equal(parameter, dict(again.model.named_parameters())[name]), name
    times = {"rollout_s", "train_s", "rollout_tokens_per_s", "tokens_per_s", "memory_mb", "elapsed_s"}
    for one, other in zip(whole.lines[-5:], rest.lines[-5:], strict=True):
        assert {k: v for k, v in one.items() if k not in times} == {k: v for k, v in other.items() if k not in times}
    assert len({line["kl_coef"] for line in whole.lines if "kl_coef" in line}) > 1


def test_a_large_step_ends_the_iteration(tiny: ModuleType, tmp_path: Path) -> None:
    policy = talker(tiny)
    log = run(policy, steps_of(policy, num_epochs=4, num_mini_batches=2, target_kl=1e-9), tmp_path, tiny, 4)
    assert sum("reward" in line for line in log.lines) == 2  # a step on policy moves nothing yet, the next one does


def test_nothing_to_learn_from_is_said(tiny: ModuleType) -> None:
    policy = talker(tiny)
    with pytest.raises(TrainError, match=f"{MAX_EMPTY} times in a row no rollout could be learned from"):
        steps_of(policy, lambda _: 1.0).step(0)


def test_iterations_that_teach_nothing_are_counted_and_warned_of(tiny: ModuleType, tmp_path: Path) -> None:
    """The log has no line of them, so the next one says how many there were."""
    policy = talker(tiny)
    asked = iter(range(1000))
    steps = steps_of(policy, lambda rollout: parity(rollout) * (next(asked) >= 32))  # 16 answers an iteration
    said: list[str] = []
    steps.say = said.append
    log = run(policy, steps, tmp_path, tiny, 2)
    assert [line.get("empty_iterations") for line in log.lines] == [2.0, None]
    assert any("groups have equal rewards" in line for line in said)


def test_a_run_that_ends_early_is_logged_and_measured_to_its_end(tiny: ModuleType, tmp_path: Path) -> None:
    class Measure:
        keep_best = False

        def is_due(self, step: int) -> bool:  # noqa: ARG002
            return False

        def is_patience_over(self, state: Any) -> bool:  # noqa: ARG002
            return False

        def run(self, *_: Any, **__: Any) -> dict[str, float]:
            return {"eval_reward": 0.5}

    policy = talker(tiny)
    steps = steps_of(policy)
    steps.is_past_peak = lambda step, _: step == 3
    log = run(policy, steps, tmp_path, tiny, 9, logging_steps=5, evaluation=Measure())
    assert [line["step"] for line in log.lines if "eval_reward" in line] == [0, 3]
    assert [line["step"] for line in log.lines if "loss" in line] == [3]


def test_replayed_text_is_read_in_its_order(tiny: ModuleType) -> None:
    """A batch for every step, none left out: far numbers would plan epochs that nobody reads."""
    asked: list[int] = []
    steps = steps_of(talker(tiny), num_epochs=2, num_mini_batches=2)
    steps.replay = asked.append  # type: ignore[assignment]
    for step in range(8):
        steps.step(step)
    assert asked == list(range(8))


def test_a_gradient_that_is_no_number_is_seen_in_every_part() -> None:
    """A value model's too: what is clipped by it would be NaN, and saved."""
    good, bad = torch.nn.Parameter(torch.ones(2)), torch.nn.Parameter(torch.ones(2))
    optimizer = torch.optim.SGD([{"params": [good], "part": ""}, {"params": [bad], "part": "value"}], lr=0.1)
    good.grad, bad.grad = torch.tensor([3.0, 4.0]), torch.tensor([6.0, 8.0])
    assert float(_clip(optimizer, 1.0)) == pytest.approx(5)
    bad.grad = torch.tensor([1.0, float("inf")])
    assert not math.isfinite(float(_clip(optimizer, 1.0)))


def test_groups_without_a_signal_are_replaced() -> None:
    def rolled(reward: float, number: int) -> Rollout:
        return Rollout(PROMPTS[0], (1,), (2,), (True,), (-0.1,), (), number=number, reward=reward)

    calls: list[int] = []

    def roll(prompts: Sequence[Prompt], seed: int, version: int) -> Groups:  # noqa: ARG001
        calls.append(len(prompts))
        return [[rolled(float(i and int(p.source[-1]) % 2), i) for i in range(2)] for p in prompts]

    reward = Weighted("kept", lambda rollouts: [Score(r.reward) for r in rollouts])
    collector = Collector(PROMPTS, roll, Grader([reward]), 4, 0, dynamic=True)
    groups, told = collector.collect(0)
    assert len(groups) == 4
    assert all(has_signal(group) for group in groups)
    assert calls[0] == 4
    assert sum(calls) == collector.cursor == 4 + told["left_out_groups"]
    assert told["zero_signal"] == told["left_out_groups"] / sum(calls)


def test_where_nothing_is_known_nothing_more_is_sampled() -> None:
    calls: list[int] = []

    def roll(prompts: Sequence[Prompt], seed: int, version: int) -> Groups:  # noqa: ARG001
        calls.append(len(prompts))
        return [[Rollout(p, (1,), (2,), (True,), (-0.1,), (), number=i) for i in range(2)] for p in prompts]

    broken = Weighted("broken", lambda rollouts: [Score(0.0, error="away")] * len(rollouts))
    _, told = Collector(PROMPTS, roll, Grader([broken]), 4, 0, dynamic=True).collect(0)
    assert calls == [4]
    assert told["grader_errors"] == 1


def test_every_prompt_comes_once_an_epoch_and_a_state_goes_on() -> None:
    seen: list[str] = []

    def roll(prompts: Sequence[Prompt], seed: int, version: int) -> Groups:  # noqa: ARG001
        seen.extend(f"{prompt.source} {seed}" for prompt in prompts)
        return [[Rollout(p, (1,), (2,), (True,), (-0.1,), (), number=i) for i in range(2)] for p in prompts]

    reward = Weighted("number", each(lambda rollout: float(rollout.number)))
    one = Collector(PROMPTS, roll, Grader([reward]), 3, 5)
    for _ in range(4):
        one.collect(0)
    assert sorted(s.split()[0] for s in seen[:4]) == sorted(p.source for p in PROMPTS)
    assert len({s.split()[1] for s in seen}) == 4  # other random numbers every time
    half, seen[:] = list(seen), []
    two = Collector(PROMPTS, roll, Grader([reward]), 3, 5)
    for _ in range(2):
        two.collect(0)
    three = Collector(PROMPTS, roll, Grader([reward]), 3, 5)
    three.load(two.state())
    for _ in range(2):
        three.collect(0)
    assert seen == half


def test_failures_and_grader_errors_are_counted_apart() -> None:
    def made(**changes: Any) -> Rollout:
        given: dict[str, Any] = {"scores": {"r": Score(1.0)}, "reward": 1.0}
        return Rollout(PROMPTS[0], (1,), (2,), (True,), (-0.1,), (), **(given | changes))

    told = rollout_metrics(
        [
            [
                made(),
                made(error="hung", finish="error"),
                made(scores={"r": Score(0.0, error="timeout")}, reward=0.0),
                made(),
            ]
        ]
    )
    assert told["failed"] == 0.25
    assert told["grader_errors"] == 0.25
    assert told["reward"] == 1.0
    assert told["zero_signal"] == 1.0
