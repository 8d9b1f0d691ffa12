"""Held-out loss during training: best so far, and when to stop."""

import math
from dataclasses import dataclass, replace

import torch
from torch import nn

from posttrain.errors import TrainError
from posttrain.losses.sft import Loss
from posttrain.models.load import Policy
from posttrain.models.within import within
from posttrain.train import distributed
from posttrain.train.checkpoint import State
from posttrain.train.objectives import Objective
from posttrain.types import Batch


@dataclass(frozen=True)
class Evaluation:
    """`every`: steps between evaluations (0: only first and last). `patience`: evaluations without a better loss
    before training stops (0: never). `keep_best`: save a checkpoint at every new best.
    """

    batches: list[Batch]
    every: int = 0
    patience: int = 0
    keep_best: bool = False

    def is_due(self, step: int) -> bool:
        return self.every > 0 and step % self.every == 0

    def is_patience_over(self, state: State) -> bool:
        return 0 < self.patience <= state.evals_since_best

    def run(self, policy: Policy, objective: Objective, state: State, *, bf16: bool) -> dict[str, float]:
        """Mean loss over the held-out batches, per unit, and the objective's own metrics; `state` learns whether the
        loss is the best so far."""
        loss, metrics = measure(policy, self.batches, objective, bf16=bf16)
        if loss < state.best_loss:
            state.best_loss, state.best_step, state.evals_since_best = loss, state.step, 0
        else:
            state.evals_since_best += 1
        return {"eval_loss": loss} | {f"eval_{name}": value for name, value in metrics.items()}


def held_out_loss(policy: Policy, batches: list[Batch], objective: Objective, *, bf16: bool = False) -> float:
    """Summed loss over summed units, dropout off."""
    return measure(policy, batches, objective, bf16=bf16)[0]


@torch.no_grad()
def measure(
    policy: Policy, batches: list[Batch], objective: Objective, *, bf16: bool = False
) -> tuple[float, dict[str, float]]:
    """Summed loss over summed units, dropout off, and the mean of every metric."""
    was_training = policy.model.training
    policy.model.eval()
    total = torch.zeros((), dtype=torch.float64)
    sums: dict[str, torch.Tensor] = {}
    with torch.autocast(policy.device.type, torch.bfloat16, enabled=bf16):
        own = [
            replace(batches[number], is_filler=is_filler)
            for number, is_filler in distributed.share([batch.num_tokens for batch in batches])
        ]
        objective = objective.at_step(policy.model, own)
        for batch in own:
            found = loss_of(policy.model, objective, batch.to(policy.device))
            if not batch.is_filler:
                total += found.sum.double().cpu()
                add_metrics(sums, found)
    policy.model.train(was_training)
    whole, units = distributed.total(float(total), sum(objective.units(b) for b in own if not b.is_filler))
    loss, sums = whole / units, distributed.merged(sums)
    if not math.isfinite(loss):
        raise TrainError(f"the held-out loss is {loss}; lower the learning rate, or look for broken records.")
    return loss, mean_metrics(sums)


def loss_of(model: nn.Module, objective: Objective, batch: Batch) -> Loss:
    """The objective's loss of a batch, in one forward of whatever engine runs the model."""

    def parts() -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        found = objective.loss(model, batch)
        return found.sum, found.metrics

    return Loss(*within(model, parts))


def add_metrics(sums: dict[str, torch.Tensor], loss: Loss) -> None:
    """Add the sums and counts of one batch; of a name that ends in `_max` the largest stays. Nothing waits for the
    device."""
    for name, value in loss.metrics.items():
        join = torch.maximum if name.endswith("_max") else torch.add
        sums[name] = join(sums[name], value) if name in sums else value


def mean_metrics(sums: dict[str, torch.Tensor]) -> dict[str, float]:
    """Every sum over its count; what was counted nowhere is left out."""
    if not sums:
        return {}
    found = torch.stack([value.double() for value in sums.values()]).cpu().tolist()
    return {name: total / count for name, (total, count) in zip(sums, found, strict=True) if count}
