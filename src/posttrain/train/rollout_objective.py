"""What the loop minimises on rollouts: the policy's loss, a value model's beside it, and text to imitate (PPO-ptx)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from posttrain.losses.policy import Tokens
from posttrain.losses.sft import Loss, sft_loss
from posttrain.losses.value import value_loss
from posttrain.models.logprobs import token_logps, token_stats
from posttrain.train import distributed
from posttrain.train.objectives import Objective
from posttrain.types import Batch, Rolled


@dataclass(frozen=True)
class ValueTerm:
    """The value model's part: `coef` times the clipped squared error of what it expects."""

    model: Any
    coef: float
    clip: float | None


def rollout_objective(
    name: str,
    loss: Callable[[Tokens], Loss],
    *,
    temperature: float,
    entropy_coef: float = 0.0,
    value: ValueTerm | None = None,
    replay_coef: float = 0.0,
) -> Objective:
    """`loss(tokens)` of the policy, at the temperature that its tokens were drawn with; its unit is what the batches
    say. The terms beside it are means of their own over the step, brought to that unit.
    """

    def objective(model: nn.Module, batch: Batch, replay_scale: float = 0.0) -> Loss:
        tokens, values = _tokens(model, batch, temperature, entropy_coef, value)
        found = loss(tokens)
        if "kl" in found.metrics:  # the log's `kl` is that of whole answers
            found.metrics["kl_token"] = found.metrics.pop("kl")
        if rolled(batch).old_N is None:
            gap = (tokens.old_N - tokens.behaviour_N).abs().max()
            found.metrics["mismatch_max"] = torch.stack([gap, gap.new_ones(())])
        if value is not None and values is not None:
            found = _add_value(found, values, batch, value)
        if batch.replay is not None and replay_coef:
            found = _add_replay(found, model, batch.replay, replay_scale)
        return found

    def prepare(model: nn.Module, batches: Sequence[Batch]) -> Objective:  # noqa: ARG001 (an objective's signature)
        counted = [batch for batch in batches if not batch.is_filler]
        tokens = sum(float(batch.replay.weight_N.sum()) for batch in counted if batch.replay is not None)
        tokens, units = distributed.total(tokens, sum(map(_units, counted)))
        scale = replay_coef * units / max(tokens, 1.0)
        return Objective(name, lambda model, batch: objective(model, batch, scale), _units)

    return Objective(name, objective, _units, prepare if replay_coef else None)


def rolled(batch: Batch) -> Rolled:
    """What is known of the sampled tokens of a batch of rollouts."""
    assert batch.rolled is not None, f"{batch.sources[0]} is no rollout"
    return batch.rolled


def _units(batch: Batch) -> float:
    return rolled(batch).units


def _tokens(
    model: nn.Module, batch: Batch, temperature: float, entropy_coef: float, value: ValueTerm | None
) -> tuple[Tokens, Tensor | None]:
    known = rolled(batch)
    entropy: Any = "differentiable" if entropy_coef else True
    values = None
    if value is not None and value.model.is_shared:
        logp_N, entropy_N, values = value.model.stats_and_values(model, batch, temperature=temperature, entropy=entropy)
    else:
        logp_N, entropy_N = token_stats(model, batch, temperature=temperature, entropy=entropy)
        values = None if value is None else value.model.values(batch)
    tokens = Tokens(
        logp_N=logp_N,
        old_N=logp_N.detach() if known.old_N is None else known.old_N,
        behaviour_N=known.behaviour_N,
        advantage_N=known.advantage_N,
        weight_N=batch.weight_N,
        answer_N=known.answer_N,
        num=known.num_answers,
        reference_N=known.reference_N,
        entropy_N=entropy_N,
    )
    return tokens, values


def _add_value(found: Loss, values: Tensor, batch: Batch, value: ValueTerm) -> Loss:
    known = rolled(batch)
    assert known.value_N is not None, "a value model needs the values before the first step"
    assert known.return_N is not None, "a value model needs returns"
    error = value_loss(values, known.value_N, known.return_N, batch.weight_N, clip=value.clip)
    return Loss(found.sum + value.coef * error.sum, found.metrics | error.metrics)


def _add_replay(found: Loss, model: nn.Module, replay: Batch, scale: float) -> Loss:
    imitation = sft_loss(token_logps(model, replay), replay.weight_N)
    return Loss(found.sum + scale * imitation.sum, found.metrics | {"replay_nll": imitation.metrics["nll"]})


def with_replay(batches: list[Batch], replay: Batch | None) -> list[Batch]:
    """The batches of one step, the first with the step's text to imitate."""
    return [replace(batches[0], replay=replay), *batches[1:]] if batches else batches
