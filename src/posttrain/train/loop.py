"""The only training loop. It knows batches and steps; what is minimised comes in as an objective."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch

from posttrain.errors import RunStopped, TrainError
from posttrain.losses.sft import Loss
from posttrain.models.load import Policy
from posttrain.train import distributed
from posttrain.train.checkpoint import Checkpoints, State
from posttrain.train.evaluation import Evaluation, add_metrics, loss_of, mean_metrics
from posttrain.train.memory import memory_mb
from posttrain.train.objectives import Objective
from posttrain.train.sharding import engines_of, whole
from posttrain.types import Batch


class Steps(Protocol):
    """Batches as a pure function of the step's number, so that the data cursor is the step itself."""

    def step(self, step: int) -> list[Batch]: ...

    def epoch_of(self, step: int) -> float: ...


class Log(Protocol):
    """Where metrics go: one dict a line, with its step."""

    def write(self, line: dict[str, Any]) -> None: ...

    def rewind(self, step: int) -> None:
        """Forget what was written after `step`: it will be written again."""


class Companion(Protocol):
    """What goes along with a run whose batches the policy makes itself: it hears of every step, adds to the log, and
    its state is part of a checkpoint."""

    def learned(self, step: int, metrics: dict[str, float]) -> None:
        """Step `step` is done; these are its means."""

    def line(self) -> dict[str, float]:
        """What the next log line says of it."""

    def state(self) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
        """JSON and tensors from which `load` goes on."""

    def load(self, record: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None: ...

    def is_over(self) -> bool:
        """Whether training is to end here, before its last step."""


@dataclass
class Run:
    """How training ended: 'finished', 'stopped early' or 'interrupted', and where it stood."""

    status: str
    state: State
    total_steps: int


@dataclass
class _Window:
    """What happened since the last log line; tensors stay on the device until then."""

    losses: list[tuple[int, torch.Tensor, float, tuple[str, ...]]] = field(default_factory=list)
    units: float = 0.0
    num_tokens: int = 0
    metrics: dict[str, torch.Tensor] = field(default_factory=dict)
    started: float = field(default_factory=time.perf_counter)

    def add(self, step: int, loss: Loss, units: float, batch: Batch) -> None:
        self.losses.append((step, loss.sum.detach(), units, batch.sources))
        add_metrics(self.metrics, loss)

    def count(self, units: float, num_tokens: float) -> None:
        """One step of all processes."""
        self.units += units
        self.num_tokens += int(num_tokens)

    def mean_loss(self) -> float:
        """The window's loss per unit; the one place that waits for the device. Raises TrainError on NaN or inf."""
        (total,) = distributed.total(distributed.together(self._sum))
        return total / self.units

    def _sum(self) -> float:
        if not self.losses:  # this process had fillers alone
            return 0.0
        sums = torch.stack([loss for _, loss, _, _ in self.losses]).double().cpu().tolist()
        for total, (step, _, _, sources) in zip(sums, self.losses, strict=True):
            if not math.isfinite(total):
                named = ", ".join(source for source in sources[:3] if source) or "records without a source"
                more = f" and {len(sources) - 3} more" if len(sources) > 3 else ""
                raise TrainError(
                    f"the loss is {total} at step {step + 1}, in the batch of {named}{more}. Nothing was saved after "
                    "the last checkpoint; lower the learning rate, set max_grad_norm, or mend those records."
                )
        return sum(sums)


def train(
    policy: Policy,
    stream: Steps,
    objective: Objective,
    *,
    optimizer: torch.optim.Optimizer,
    rate: Callable[[int], float],
    total_steps: int,
    checkpoints: Checkpoints,
    log: Log,
    evaluation: Evaluation | None = None,
    max_grad_norm: float = 1.0,
    bf16: bool = False,
    logging_steps: int = 10,
    save_steps: int = 0,
    resume: bool = False,
    should_stop: Callable[[], bool] = lambda: False,
    companion: Companion | None = None,
) -> Run:
    """Minimise `objective` over `stream` for `total_steps` optimiser steps.

    Every loss is a sum, divided once, by the units of the whole step, counted over all processes before the first
    forward: any split into micro-batches or processes gives one gradient. A resumed run equals an uninterrupted one.
    """
    state, measured = State(), objective.held_out or objective
    if resume:
        state = checkpoints.resume(policy, optimizer, companion)
        distributed.by_main(partial(log.rewind, state.step))
    began = time.perf_counter() - state.elapsed_s
    if evaluation and not resume:
        _tell(log, {"step": 0, "epoch": 0.0} | evaluation.run(policy, measured, state, bf16=bf16))
        if evaluation.keep_best:  # the start itself may stay the best
            checkpoints.save(policy, optimizer, state, companion)
    policy.model.train()
    window, status = _Window(), "finished"
    while state.step < total_steps:
        with _kept(lambda: checkpoints.save(policy, optimizer, state, companion)):
            norm, lr = _step(policy, stream, objective, optimizer, rate, max_grad_norm, bf16, state, window, companion)
        state.elapsed_s = time.perf_counter() - began
        over = _is_over(companion)
        last, stopping = over or state.step == total_steps, any(distributed.gather(should_stop()))
        saving = bool(save_steps) and state.step % save_steps == 0
        evaluating = evaluation is not None and (last or evaluation.is_due(state.step))
        if last or stopping or saving or evaluating or state.step % logging_steps == 0:
            _tell(log, _line(window, state, stream, lr, norm) | (companion.line() if companion else {}))
            window = _Window()
        if evaluation is not None and evaluating:
            found = evaluation.run(policy, measured, state, bf16=bf16)
            _tell(log, {"step": state.step, "epoch": stream.epoch_of(state.step)} | found)
            saving = saving or (evaluation.keep_best and state.best_step == state.step)
            window.started = time.perf_counter()
        if saving or stopping:
            checkpoints.save(policy, optimizer, state, companion)
        if stopping and not last:
            status = "interrupted"
            break
        if state.step < total_steps and (over or (evaluation and evaluating and evaluation.is_patience_over(state))):
            status = "stopped early"
            break
    return Run(status, state, total_steps)


def _tell(log: Log, line: dict[str, Any]) -> None:
    distributed.by_main(partial(log.write, line))


@contextmanager
def _kept(save: Callable[[], Path]) -> Iterator[None]:
    """What ends a run though its weights are sound leaves them in a checkpoint."""
    try:
        yield
    except RunStopped as stop:
        raise RunStopped(f"{stop} What was learned until then is in {save()}.") from None


def _step(
    policy: Policy,
    stream: Steps,
    objective: Objective,
    optimizer: torch.optim.Optimizer,
    rate: Callable[[int], float],
    max_grad_norm: float,
    bf16: bool,
    state: State,
    window: _Window,
    companion: Companion | None,
) -> tuple[torch.Tensor, float]:
    """One optimiser step: count units, forward, backward, clip, step."""
    batches = stream.step(state.step)
    units = [0.0 if batch.is_filler else objective.units(batch) for batch in batches]
    counted = [batch for batch in batches if not batch.is_filler]
    divisor, num_tokens, num_trained = distributed.total(
        sum(units), sum(batch.num_tokens for batch in counted), sum(batch.num_trained for batch in counted)
    )
    device, lr, engines = policy.device, rate(state.step), engines_of(policy.model)
    with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
        objective = objective.at_step(policy.model, batches)
    heard: dict[str, torch.Tensor] = {}
    for number, (batch, share) in enumerate(zip(batches, units, strict=True), 1):
        with engines.accumulating(is_last=number == len(batches)):
            with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                loss = loss_of(policy.model, objective, batch.to(device))
            (loss.sum * (0.0 if batch.is_filler else engines.scale) / divisor).backward()
        if batch.is_filler:
            continue
        window.add(state.step, loss, share, batch)
        if companion:
            add_metrics(heard, loss)
    window.count(divisor, num_tokens)
    state.num_tokens += int(num_tokens)
    state.num_trained += int(num_trained)
    for penalty in objective.penalties(policy.model) if objective.penalties else ():
        penalty.sum.backward()
        if distributed.is_main():
            add_metrics(window.metrics, penalty)
    norm = _clip(optimizer, max_grad_norm or float("inf"))
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("rate", 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    state.step += 1
    if companion:
        companion.learned(state.step, mean_metrics(distributed.merged(heard)) | {"grad_norm": float(norm)})
    return norm, lr


def _is_over(companion: Companion | None) -> bool:
    return companion is not None and companion.is_over()


def _clip(optimizer: torch.optim.Optimizer, max_norm: float) -> torch.Tensor:
    """Clip the gradient of every part of what is trained, each by its own length: a value model that begins far from
    its target would else leave the policy nothing. Returns the length of the first part's, the policy's; no finite
    number where any part's is none."""
    parts: dict[str, list[torch.Tensor]] = {}
    for group in optimizer.param_groups:
        parts.setdefault(group.get("part", ""), []).extend(group["params"])
    norms = [whole(torch.nn.utils.clip_grad_norm_(parameters, max_norm)) for parameters in parts.values()]
    return norms[0] + 0 * sum(norms[1:])


def _line(window: _Window, state: State, stream: Steps, lr: float, norm: torch.Tensor) -> dict[str, Any]:
    loss, length = window.mean_loss(), float(norm)
    if not math.isfinite(length):
        raise TrainError(
            f"the gradient's norm is {length} at step {state.step}, though the loss is {loss:.4g}. Nothing was saved "
            "after the last checkpoint; lower the learning rate, or turn bf16 off."
        )
    return {
        "step": state.step,
        "epoch": round(stream.epoch_of(state.step), 4),
        "loss": loss,
        **mean_metrics(distributed.merged(window.metrics)),
        "learning_rate": lr,
        "grad_norm": length,
        "tokens_per_s": window.num_tokens / (time.perf_counter() - window.started),
        "trained_tokens": state.num_trained,
        "memory_mb": distributed.largest(memory_mb()),
        "elapsed_s": state.elapsed_s,
    }
