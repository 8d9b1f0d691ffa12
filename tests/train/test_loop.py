"""The loop on toys: what it minimises, when it stops, what it saves, and what it says when the loss is not a number."""

import math
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn

from posttrain.data.batch import pack
from posttrain.data.stream import Stream
from posttrain.errors import TrainError
from posttrain.losses.sft import Loss
from posttrain.train.checkpoint import Checkpoints, State
from posttrain.train.evaluation import Evaluation, held_out_loss
from posttrain.train.loop import Run, train
from posttrain.train.objectives import SFT, Objective
from posttrain.train.optim import adamw, schedule
from posttrain.types import Batch, Sample, Segment


def counting() -> list[Sample]:
    """A toy that two layers learn: every token is the one before it plus one."""
    starts = range(3, 67, 4)
    return [
        Sample((Segment(tuple(range(s, s + 12)), (0.0,) + (1.0,) * 11),), f"toy.jsonl:{i}")
        for i, s in enumerate(starts, 1)
    ]


def go(
    tiny: ModuleType,
    folder: Path,
    *,
    rate: Callable[[int], float] = lambda _: 3e-3,
    total_steps: int = 6,
    objective: Objective = SFT,
    **options: Any,
) -> tuple[Run, Any, Any]:
    """(run, policy, log) after training on the toy, two micro-batches of two rows a step."""
    policy, log = tiny.policy(), tiny.Lines()
    stream = Stream(counting(), max_length=12, batch_size=2, accumulation=2)
    done = train(
        policy,
        stream,
        objective,
        optimizer=adamw(policy.model, learning_rate=1.0),
        rate=rate,
        total_steps=total_steps,
        checkpoints=Checkpoints(folder, keep=1),
        log=log,
        **({"logging_steps": 1} | options),
    )
    return done, policy, log


def saved(folder: Path) -> list[int]:
    return [int(path.name[-8:]) for path in Checkpoints(folder).found()]


@pytest.mark.parametrize("bf16", [False, True], ids=["fp32", "bf16"])
def test_a_learnable_toy_is_learnt(tiny: ModuleType, tmp_path: Path, bf16: bool) -> None:
    done, _, log = go(tiny, tmp_path, total_steps=40, rate=lambda _: 1e-2, bf16=bf16)
    losses = log.column("loss")
    assert done.status == "finished"
    assert losses[0] > math.log(tiny.VOCABULARY) - 1
    assert losses[-1] < 0.5  # measured: 0.07


def test_a_rate_near_zero_learns_nothing(tiny: ModuleType, tmp_path: Path) -> None:
    """The control: what falls above falls because of the steps taken."""
    _, _, log = go(tiny, tmp_path, total_steps=40, rate=lambda _: 1e-12)
    first, last = log.column("loss")[:4], log.column("loss")[-4:]  # one epoch is four steps
    assert sum(last) == pytest.approx(sum(first), rel=1e-5)


def test_what_a_line_holds(tiny: ModuleType, tmp_path: Path) -> None:
    done, _, log = go(tiny, tmp_path, total_steps=5, logging_steps=2)
    assert log.column("step") == [2, 4, 5]  # and the last step, whatever its number
    assert log.column("epoch") == [0.5, 1.0, 1.25]
    assert log.column("learning_rate") == [3e-3] * 3
    assert log.column("trained_tokens") == [88, 176, 220]
    assert (done.state.num_tokens, done.state.num_trained) == (240, 220)
    assert all(norm > 0 for norm in log.column("grad_norm"))


def test_a_window_is_the_mean_over_its_steps(tiny: ModuleType, tmp_path: Path) -> None:
    _, _, each = go(tiny, tmp_path, total_steps=4)
    _, _, windows = go(tiny, tmp_path, total_steps=4, logging_steps=2)
    losses = each.column("loss")
    expected = [(losses[0] + losses[1]) / 2, (losses[2] + losses[3]) / 2]
    assert windows.column("loss") == pytest.approx(expected, rel=1e-6)


class TestNotANumber:
    def broken(self, at: str, value: float) -> Objective:
        """SFT, but with a loss that is not finite in the batch that holds the sample `at`."""

        def loss(model: nn.Module, batch: Batch) -> Loss:
            honest = SFT.loss(model, batch)
            spoilt = honest.sum + next(model.parameters()).sum() * value
            return Loss(spoilt, {}) if at in batch.sources else honest

        return Objective("broken", loss, SFT.units)

    @pytest.mark.parametrize("value", [math.nan, math.inf])
    @pytest.mark.parametrize("logging_steps", [1, 100])
    def test_it_names_the_batch_and_saves_nothing_more(
        self, tiny: ModuleType, tmp_path: Path, logging_steps: int, value: float
    ) -> None:
        stream = Stream(counting(), max_length=12, batch_size=2, accumulation=2)
        sources = [[batch.sources for batch in stream.step(step)] for step in range(4)]
        bad = sources[2][1]  # the second micro-batch of the third step
        with pytest.raises(TrainError, match=r"the loss is (nan|-?inf) at step 3") as caught:
            go(tiny, tmp_path, objective=self.broken(bad[0], value), save_steps=1, logging_steps=logging_steps)
        assert ", ".join(bad) in str(caught.value)
        assert saved(tmp_path) == [2]
        healthy = Checkpoints(tmp_path)
        policy = tiny.policy()
        healthy.resume(policy, adamw(policy.model, learning_rate=1.0))
        assert all(bool(parameter.isfinite().all()) for parameter in policy.model.parameters())

    def test_many_sources_are_cut_short(self, tiny: ModuleType, tmp_path: Path) -> None:
        policy = tiny.policy()
        stream = Stream(counting(), max_length=200)
        with pytest.raises(
            TrainError, match=r"in the batch of toy.jsonl:\d+, toy.jsonl:\d+, toy.jsonl:\d+ and 13 more"
        ):
            train(
                policy,
                stream,
                self.broken("toy.jsonl:1", math.nan),
                optimizer=adamw(policy.model, learning_rate=1.0),
                rate=lambda _: 1e-3,
                total_steps=1,
                checkpoints=Checkpoints(tmp_path),
                log=tiny.Lines(),
            )

    def test_a_gradient_that_is_not_finite_is_not_saved(self, tiny: ModuleType, tmp_path: Path) -> None:
        """The loss can be a number while its slope is none: the weights are gone one step before the loss says so."""

        def loss(model: nn.Module, batch: Batch) -> Loss:
            honest, some = SFT.loss(model, batch), next(model.parameters()).sum()
            edge = torch.sqrt(some - some.detach())  # 0, with an infinite slope
            return Loss(honest.sum + edge, {}) if "toy.jsonl:1" in batch.sources else honest

        with pytest.raises(TrainError, match=r"the gradient's norm is (nan|inf) at step \d"):
            go(tiny, tmp_path, objective=Objective("steep", loss, SFT.units), total_steps=8, save_steps=1)
        policy = tiny.policy()
        if saved(tmp_path):
            Checkpoints(tmp_path).resume(policy, adamw(policy.model, learning_rate=1.0))
        assert all(bool(parameter.isfinite().all()) for parameter in policy.model.parameters())

    def test_held_out(self, tiny: ModuleType) -> None:
        policy = tiny.policy()
        batch = pack(counting()[:1])
        with pytest.raises(TrainError, match="the held-out loss is nan"):
            held_out_loss(policy, [batch], self.broken("toy.jsonl:1", math.nan))


class TestSchedule:
    def test_warmup_rises_to_the_peak(self) -> None:
        rate = schedule("cosine", peak=0.8, total_steps=20, warmup_steps=4)
        assert [rate(step) for step in range(5)] == pytest.approx([0.2, 0.4, 0.6, 0.8, 0.8], abs=1e-15)

    def test_no_warmup_starts_at_the_peak(self) -> None:
        for kind in ("constant", "linear", "cosine"):
            assert schedule(kind, peak=0.8, total_steps=20)(0) == 0.8

    @pytest.mark.parametrize(
        ("kind", "middle", "end"), [("constant", 1.0, 1.0), ("linear", 0.55, 0.1), ("cosine", 0.55, 0.1)]
    )
    def test_middle_and_end(self, kind: str, middle: float, end: float) -> None:
        rate = schedule(kind, peak=2.0, total_steps=24, warmup_steps=4, min_ratio=0.1)
        assert rate(14) == pytest.approx(2.0 * middle, abs=1e-15)  # halfway between warm-up and end
        assert rate(24) == pytest.approx(2.0 * end, abs=1e-15)
        assert rate(1000) == pytest.approx(2.0 * end, abs=1e-15)

    def test_cosine_by_hand(self) -> None:
        rate = schedule("cosine", peak=1.0, total_steps=8)
        assert rate(2) == pytest.approx(0.5 * (1 + math.sqrt(0.5)), abs=1e-15)
        assert rate(6) == pytest.approx(0.5 * (1 - math.sqrt(0.5)), abs=1e-15)

    @pytest.mark.parametrize("kind", ["linear", "cosine"])
    def test_it_falls_at_every_step_after_the_warmup(self, kind: str) -> None:
        rates = [schedule(kind, peak=1.0, total_steps=30, warmup_steps=5)(step) for step in range(5, 31)]
        assert all(later < earlier for earlier, later in pairwise(rates))
        assert rates[-1] == pytest.approx(0.0, abs=1e-15)

    def test_a_warmup_as_long_as_the_run(self) -> None:
        rate = schedule("linear", peak=1.0, total_steps=3, warmup_steps=3)
        assert [rate(step) for step in range(3)] == pytest.approx([1 / 3, 2 / 3, 1.0])
        assert math.isfinite(rate(3))

    def test_the_loop_uses_it(self, tiny: ModuleType, tmp_path: Path) -> None:
        rate = schedule("linear", peak=1e-3, total_steps=6, warmup_steps=2)
        _, _, log = go(tiny, tmp_path, rate=rate)
        assert log.column("learning_rate") == [rate(step) for step in range(6)]


class TestOptimiser:
    def test_matrices_decay_and_vectors_do_not(self, tiny: ModuleType) -> None:
        lm = tiny.model("gpt2")
        groups = adamw(lm, learning_rate=0.1, weight_decay=0.3).param_groups
        decay = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
        assert {decay[id(p)] for p in lm.parameters() if p.ndim >= 2} == {0.3}
        assert {decay[id(p)] for p in lm.parameters() if p.ndim < 2} == {0.0}

    def test_frozen_parameters_are_left_out(self, tiny: ModuleType) -> None:
        lm = tiny.model("llama")
        lm.requires_grad_(False)
        lm.lm_head.weight.requires_grad_(True)
        groups = adamw(lm, learning_rate=0.1).param_groups
        assert [p for group in groups for p in group["params"]] == [lm.lm_head.weight]


def uphill(after: int) -> Callable[[int], float]:
    """Learns for a while, then climbs: a held-out loss that is best in the middle."""
    return lambda step: 3e-3 if step < after else -3e-3


class TestEvaluation:
    def held_out(self) -> list[Batch]:
        return [pack([sample]) for sample in counting()[:4]]

    def test_it_is_measured_at_the_start_when_due_and_at_the_end(self, tiny: ModuleType, tmp_path: Path) -> None:
        _, _, log = go(tiny, tmp_path, total_steps=5, evaluation=Evaluation(self.held_out(), every=2))
        assert [line["step"] for line in log.lines if "eval_loss" in line] == [0, 2, 4, 5]

    def test_it_leaves_the_model_as_it_was(self, tiny: ModuleType) -> None:
        policy = tiny.policy(attention_dropout=0.5)
        for training in (True, False):
            policy.model.train(training)
            first = held_out_loss(policy, self.held_out(), SFT)
            assert first == held_out_loss(policy, self.held_out(), SFT)  # dropout is off
            assert policy.model.training is training
        assert all(parameter.grad is None for parameter in policy.model.parameters())

    def test_patience(self, tiny: ModuleType, tmp_path: Path) -> None:
        evaluation = Evaluation(self.held_out(), every=1, patience=2)
        done, _, log = go(tiny, tmp_path, total_steps=20, rate=uphill(3), evaluation=evaluation)
        assert (done.status, done.state.step, done.state.best_step) == ("stopped early", 5, 3)
        assert done.state.best_loss == min(log.column("eval_loss"))

    def test_no_patience_goes_on(self, tiny: ModuleType, tmp_path: Path) -> None:
        evaluation = Evaluation(self.held_out(), every=1)
        done, _, _ = go(tiny, tmp_path, total_steps=8, rate=uphill(3), evaluation=evaluation)
        assert (done.status, done.state.step) == ("finished", 8)

    def test_the_best_model_comes_back(self, tiny: ModuleType, tmp_path: Path) -> None:
        """Later checkpoints do not push it out, although only one is kept."""
        evaluation = Evaluation(self.held_out(), every=1, keep_best=True)
        done, policy, log = go(tiny, tmp_path, total_steps=8, rate=uphill(3), evaluation=evaluation, save_steps=1)
        assert saved(tmp_path) == [3, 8]
        assert held_out_loss(policy, evaluation.batches, SFT) > done.state.best_loss + 0.01
        assert Checkpoints(tmp_path).restore_best(policy, done.state)
        assert held_out_loss(policy, evaluation.batches, SFT) == done.state.best_loss == min(log.column("eval_loss"))

    def test_without_a_best_one_nothing_is_restored(self, tiny: ModuleType, tmp_path: Path) -> None:
        assert not Checkpoints(tmp_path).restore_best(tiny.policy(), State())
        assert not Checkpoints(tmp_path).restore_best(tiny.policy(), State(best_step=4))


class TestStopping:
    def test_a_request_saves_and_says_so(self, tiny: ModuleType, tmp_path: Path) -> None:
        answers = iter([False, False, True])
        done, _, log = go(tiny, tmp_path, should_stop=lambda: next(answers), logging_steps=100)
        assert (done.status, done.state.step, done.total_steps) == ("interrupted", 3, 6)
        assert saved(tmp_path) == [3]
        assert log.column("step") == [3]

    def test_a_request_at_the_last_step_comes_too_late(self, tiny: ModuleType, tmp_path: Path) -> None:
        answers = iter([False, False, True])
        done, _, _ = go(tiny, tmp_path, total_steps=3, should_stop=lambda: next(answers))
        assert done.status == "finished"
        assert saved(tmp_path) == [3]

    def test_checkpoints_come_every_so_many_steps(self, tiny: ModuleType, tmp_path: Path) -> None:
        go(tiny, tmp_path, total_steps=5, save_steps=2)
        assert saved(tmp_path) == [4]  # the one at step 2 was pruned
        go(tiny, tmp_path / "none", total_steps=5, save_steps=0)
        assert saved(tmp_path / "none") == []
