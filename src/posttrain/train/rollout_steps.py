"""Steps whose batches the policy makes itself: sample, grade, compare, then a few optimiser steps on what was found.

An iteration is one round of rollouts; its minibatches wait in a queue that the loop takes its steps from. Queue,
cursor, controllers and caches are part of a checkpoint, so a resumed run equals an uninterrupted one.
"""

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from posttrain.errors import RunStopped
from posttrain.losses.kl import adapted_coef
from posttrain.losses.policy import token_weights
from posttrain.models.load import Policy
from posttrain.models.logprobs import token_logps
from posttrain.train import distributed
from posttrain.train.batch_state import dump, load
from posttrain.train.collect import Collector, Groups
from posttrain.train.credit import Credit
from posttrain.train.experience import Answer, answers_of, fill, packed
from posttrain.train.recorder import Recorder
from posttrain.train.rollout_objective import with_replay
from posttrain.types import Batch

MAX_EMPTY = 20  # iterations in a row without anything to learn from


@dataclass(frozen=True)
class Shape:
    """How rollouts become optimiser steps. `num_epochs` passes over the rollouts, each in `num_mini_batches` steps;
    micro-batches of at most `row_length` positions. `aggregation`, `constant`: see `token_weights`. `mask_truncated`:
    answers that were cut off are compared but not trained. `target_kl`: the rest of an iteration is left out once the
    policy is so far from the one that sampled (approx_kl, nats a token). `keep_idle`: train answers without an
    advantage too, for a term that does not need one (KL in the loss, entropy)."""

    num_epochs: int = 1
    num_mini_batches: int = 1
    row_length: int = 8192
    aggregation: str = "token_mean"
    constant: float | None = None
    mask_truncated: bool = False
    target_kl: float | None = None
    keep_idle: bool = False
    temperature: float = 1.0
    bf16: bool = False
    seed: int = 0


@dataclass(frozen=True)
class Leash:
    """The coefficient of the KL: fixed, or adapted towards `target` nats an answer (Ziegler et al., 2019)."""

    coef: float = 0.0
    target: float | None = None
    horizon: float = 10_000


class RolloutSteps:
    """Implements the loop's `Steps` and `Companion`."""

    def __init__(
        self,
        policy: Policy,
        sampler: Any,
        collector: Collector,
        credit: Credit,
        recorder: Recorder,
        *,
        shape: Shape,
        leash: Leash,
        reference: Callable[[Batch], Tensor] | None = None,
        value: Callable[[Batch], Tensor] | None = None,
        replay: Callable[[int], Batch] | None = None,
        show: Callable[[int, Groups, Sequence[Answer]], None] = lambda *_: None,
        say: Callable[[str], None] = lambda _: None,
        is_past_peak: Callable[[int, dict[str, float]], bool] = lambda *_: False,
    ) -> None:
        self.policy, self.sampler, self.collector, self.credit = policy, sampler, collector, credit
        self.recorder, self.shape, self.leash = recorder, shape, leash
        self.reference, self.value, self.replay = reference, value, replay
        self.show, self.say, self.is_past_peak = show, say, is_past_peak
        self.kl_coef = leash.coef
        self.iteration = 0
        self._queue: list[list[Batch]] = []
        self._told: dict[str, float] = {}
        self._is_first = False
        self._is_over = False
        self._started = time.perf_counter()

    # --- the loop's Steps ---

    def step(self, step: int) -> list[Batch]:
        """The micro-batches of one optimiser step; samples anew where none waits."""
        for empty in range(MAX_EMPTY):
            if self._queue:
                return dealt(self._queue.pop(0))
            self._collect(step)
            if empty:  # of iterations that teach nothing the log has this number alone
                self._told["empty_iterations"] = float(empty)
        raise RunStopped(
            f"{MAX_EMPTY} times in a row no rollout could be learned from: every group had equal rewards, or failed. "
            "Look at the reward and its errors in samples.jsonl; take easier or harder prompts, a higher temperature, "
            "or larger groups."
        )

    def epoch_of(self, step: int) -> float:  # noqa: ARG002 (the loop's signature)
        """How often the prompts were gone through."""
        return self.collector.cursor / len(self.collector.prompts)

    def num_steps(self, num_epochs: float) -> int:
        """Optimiser steps in so many passes over the prompts, where no group is replaced and no step left out."""
        iterations = -(-int(num_epochs * len(self.collector.prompts)) // self.collector.num_prompts)
        return max(1, iterations * self.shape.num_epochs * self.shape.num_mini_batches)

    # --- the loop's Companion ---

    def learned(self, step: int, metrics: dict[str, float]) -> None:
        """Look at what the step did: the recorder may stop the run, a large step ends the iteration."""
        if self._is_first:
            metrics = {**metrics, "first_ratio_error": abs(metrics.get("ratio", 1.0) - 1)}
        told = self._told if self._is_first else {}
        self._is_first = False  # before the check, which may end the run with a checkpoint of this state
        self._is_over = distributed.from_main(bool(told) and distributed.is_main() and self.is_past_peak(step, told))
        self._check(step, {**metrics, **told})
        target = self.shape.target_kl
        if target is not None and metrics.get("approx_kl", 0.0) > target and self._queue:
            self._told["steps_left_out"] = float(len(self._queue))
            self._queue.clear()

    def _check(self, step: int, metrics: dict[str, float]) -> None:
        for warning in self.recorder.check(step, metrics):
            self.say(f"step {step}: {warning}")

    def is_over(self) -> bool:
        """Whether the reward that is watched has passed its peak."""
        return self._is_over

    def line(self) -> dict[str, float]:
        """What the log says of the iteration, once."""
        told, self._told = self._told, {}
        if not self._queue:
            told["train_s"] = time.perf_counter() - self._started
        return told

    def state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Everything that the next step depends on beside the weights."""
        queue, tensors = dump(self._queue)
        credit = self.credit.state() if hasattr(self.credit, "state") else {}
        record = {
            "iteration": self.iteration,
            "kl_coef": self.kl_coef,
            "collector": self.collector.state(),
            "recorder": self.recorder.state(),
            "credit": credit,
            "queue": queue,
            "is_first": self._is_first,
            "told": self._told,
        }
        return record, tensors

    def load(self, record: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        """Go on from `state()`."""
        self.iteration, self.kl_coef = record["iteration"], record["kl_coef"]
        self._is_first, self._told = record["is_first"], record["told"]
        self.collector.load(record["collector"])
        self.recorder.load(record["recorder"])
        if record["credit"]:
            self.credit.load(record["credit"])  # type: ignore[attr-defined]
        self._queue = load(record["queue"], tensors)

    # --- one iteration ---

    def _collect(self, step: int) -> None:
        self.policy.model.eval()
        self.sampler.refresh(step)
        groups, told = self.collector.collect(step)
        self.sampler.release()  # training wants its memory
        self._started = time.perf_counter()
        answers = answers_of(groups)
        told["version_lag"] = float(step - min((r.version for g in groups for r in g), default=step))
        self.iteration += 1
        if answers:
            self._fill(answers, told)
            told |= self._kl(answers) | self.credit(answers, self.kl_coef)
            told["advantage_abs"] = _mean_size(answers)
            self._queue = self._minibatches(answers)
            self._adapt(told, len(answers))
        self.show(step, [*groups, *self.collector.left_out], answers)
        self.policy.model.train()
        self._told, self._is_first = told, True
        if not self._queue:
            self._check(step, told)

    def _fill(self, answers: Sequence[Answer], told: dict[str, float]) -> None:
        """The passes without a gradient: what policy, reference and value model say before the first step."""
        shape = self.shape
        known: dict[str, Any] = {"row_length": shape.row_length, "device": self.policy.device, "bf16": shape.bf16}
        if shape.num_epochs * shape.num_mini_batches > 1:
            fill(answers, "old", lambda b: token_logps(self.policy.model, b, temperature=shape.temperature), **known)
            gaps = [(answer.old - answer.behaviour).abs().max() for answer in answers if answer.old is not None]
            told["mismatch_max"] = float(torch.stack(gaps).max())
        if self.reference is not None:
            fill(answers, "reference", self.reference, **known)
        if self.value is not None:
            fill(answers, "value", self.value, **known)

    def _kl(self, answers: Sequence[Answer]) -> dict[str, float]:
        """KL(policy || reference) in nats an answer, estimated on the policy's own samples."""
        if self.reference is None:
            return {}
        gaps = [
            float(((a.behaviour if a.old is None else a.old) - a.reference).sum())
            for a in answers
            if a.reference is not None
        ]
        return {"kl": sum(gaps) / len(gaps), "kl_coef": self.kl_coef}

    def _adapt(self, told: dict[str, float], num_samples: int) -> None:
        leash = self.leash
        if leash.target is not None and "kl" in told:
            self.kl_coef = adapted_coef(
                self.kl_coef, told["kl"], target=leash.target, horizon=leash.horizon, num_samples=num_samples
            )

    def _minibatches(self, answers: Sequence[Answer]) -> list[list[Batch]]:
        """Every optimiser step of the iteration: groups in a new random order each epoch, cut into equal parts."""
        shape = self.shape
        steps: list[list[Batch]] = []
        before = (self.iteration - 1) * shape.num_epochs * shape.num_mini_batches
        numbers = sorted({answer.group for answer in answers})
        rng = random.Random(f"{shape.seed}:{self.iteration}")
        for _ in range(shape.num_epochs):
            rng.shuffle(numbers)
            for part in range(shape.num_mini_batches):
                chosen = set(numbers[part :: shape.num_mini_batches])
                batches = self._batches([answer for answer in answers if answer.group in chosen])
                if batches:
                    replay = self.replay(before + len(steps)) if self.replay else None
                    steps.append(with_replay(batches, replay))
        return steps

    def _batches(self, answers: Sequence[Answer]) -> list[Batch]:
        """The micro-batches of one step. What gives no gradient is not computed, but counts in the divisor."""
        shape = self.shape
        counted = [a for a in answers if not (shape.mask_truncated and a.rollout.finish == "length")]
        if not counted:
            return []
        counts = torch.tensor([answer.num_chosen for answer in counted])
        answer_N = torch.repeat_interleave(torch.arange(len(counted)), counts)
        weight_N, units = token_weights(answer_N, len(counted), aggregation=shape.aggregation, constant=shape.constant)
        pairs = list(zip(counted, weight_N.split(counts.tolist()), strict=True))
        kept = [(answer, weight) for answer, weight in pairs if shape.keep_idle or answer.has_signal]
        rows = packed([answer for answer, _ in kept], shape.row_length, [weight for _, weight in kept]) if kept else []
        return [row.batch(units / len(rows)) for row in rows]


def dealt(batches: list[Batch]) -> list[Batch]:
    """Of the micro-batches of a step, which every process has, those that are this one's. Text to imitate goes with the
    first one of each: the forwards of all processes must be as many."""
    replay = next((batch.replay for batch in batches if batch.replay is not None), None)
    own = distributed.share([batch.num_tokens for batch in batches])
    return with_replay([replace(batches[i], is_filler=is_filler, replay=None) for i, is_filler in own], replay)


def _mean_size(answers: Sequence[Answer]) -> float:
    sizes = [answer.advantage.abs().mean() for answer in answers if answer.advantage is not None]
    return float(torch.stack(sizes).mean())
