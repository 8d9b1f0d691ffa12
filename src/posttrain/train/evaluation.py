"""Held-out loss during training: best so far, and when to stop."""

import math
from dataclasses import dataclass

import torch

from posttrain.errors import TrainError
from posttrain.models.load import Policy
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
        """Mean loss over the held-out batches, in nats per unit; `state` learns whether it is the best so far."""
        loss = held_out_loss(policy, self.batches, objective, bf16=bf16)
        if loss < state.best_loss:
            state.best_loss, state.best_step, state.evals_since_best = loss, state.step, 0
        else:
            state.evals_since_best += 1
        return {"eval_loss": loss}


@torch.no_grad()
def held_out_loss(policy: Policy, batches: list[Batch], objective: Objective, *, bf16: bool = False) -> float:
    """Summed loss over summed units, dropout off."""
    was_training = policy.model.training
    policy.model.eval()
    total = torch.zeros((), dtype=torch.float64)
    for batch in batches:
        with torch.autocast(policy.device.type, torch.bfloat16, enabled=bf16):
            total += objective.loss(policy.model, batch.to(policy.device)).sum.double().cpu()
    policy.model.train(was_training)
    loss = float(total) / sum(objective.units(batch) for batch in batches)
    if not math.isfinite(loss):
        raise TrainError(f"the held-out loss is {loss}; lower the learning rate, or look for broken records.")
    return loss
