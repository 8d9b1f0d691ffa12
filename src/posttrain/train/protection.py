"""What a training run holds on to of the model that it began with, beside the objective that it minimises."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from posttrain.losses.protect import ewc, l2_sp, l2_sp_low_rank
from posttrain.losses.sft import Loss, sft_loss
from posttrain.models.distributions import forward_kl, known_states
from posttrain.models.logprobs import head_logps, head_of, hidden_states
from posttrain.models.reference import Reference, reference_states
from posttrain.models.shifts import Shift
from posttrain.train import distributed
from posttrain.train.objectives import Objective
from posttrain.train.rollout_objective import with_replay
from posttrain.types import Batch


@dataclass(frozen=True)
class Hold:
    """How an objective is held. Each coefficient multiplies a mean over the whole optimiser step.

    `kl_coef`: of KL(base || policy) at the trained positions of the batches; `distill_coef`: of the same on the step's
    text (`Batch.replay`); `replay_coef`: of that text's negative log-likelihood, a token. `reference`: the base, where
    there is a KL. `penalties`: on the parameters.
    """

    kl_coef: float = 0.0
    distill_coef: float = 0.0
    replay_coef: float = 0.0
    reference: Reference | None = None
    penalties: "Penalties | None" = None


def protected(objective: Objective, hold: Hold) -> Objective:
    """The same objective, held. Held-out data are measured by it alone, and the KL from the base beside it."""

    def prepare(model: nn.Module, batches: Sequence[Batch]) -> Objective:
        return _held(objective.at_step(model, batches), hold, _shares(objective, hold, batches))

    def measure(model: nn.Module, batches: Sequence[Batch]) -> Objective:
        return _held(objective.at_step(model, batches), hold, _Shares())

    start = _held(objective, hold, _Shares())
    return replace(start, prepare=prepare, held_out=replace(start, prepare=measure, penalties=None))


@dataclass(frozen=True)
class _Shares:
    """What a sum over one batch is multiplied by, so that after the loop's one division it is its part of a mean."""

    kl: float = 0.0
    distill: float = 0.0
    replay: float = 0.0


def _shares(objective: Objective, hold: Hold, batches: Sequence[Batch]) -> _Shares:
    batches = [batch for batch in batches if not batch.is_filler]
    texts = [batch.replay for batch in batches if batch.replay is not None]
    # Every process is held on the same text, which the sums over all of them count as often.
    units, trained, text_tokens, text_weight = distributed.total(
        sum(objective.units(batch) for batch in batches),
        sum(batch.num_trained for batch in batches),
        sum(text.num_trained for text in texts),
        sum(float(text.weight_N.double().sum()) for text in texts),
    )
    return _Shares(
        kl=hold.kl_coef * units / max(trained, 1),
        distill=hold.distill_coef * units / max(text_tokens, 1),
        replay=hold.replay_coef * units / max(text_weight, 1e-9),
    )


def _held(inner: Objective, hold: Hold, shares: _Shares) -> Objective:
    def loss(model: nn.Module, batch: Batch) -> Loss:
        if hold.kl_coef:
            with known_states(model, batch) as states_TD:
                found = inner.loss(model, batch)
            found = _add_kl(found, model, batch, states_TD, hold.reference, shares.kl, "kl_base")
        else:
            found = inner.loss(model, batch)
        if batch.replay is None or not (hold.distill_coef or hold.replay_coef):
            return found
        return _add_text(found, model, batch.replay, hold, shares)

    return Objective(inner.name, loss, inner.units, penalties=hold.penalties)


def _add_kl(
    found: Loss, model: nn.Module, batch: Batch, states_TD: Tensor, reference: Any, share: float, name: str
) -> Loss:
    base_TD, base_head = reference_states(reference, batch)
    hidden_ND, base_ND = (states.index_select(0, batch.source_N) for states in (states_TD, base_TD))
    divergence = forward_kl(hidden_ND, head_of(model), base_ND, base_head)
    told = {name: torch.stack([divergence.detach(), torch.full_like(divergence.detach(), batch.num_trained)])}
    return Loss(found.sum + share * divergence, found.metrics | told)


def _add_text(found: Loss, model: nn.Module, text: Batch, hold: Hold, shares: _Shares) -> Loss:
    states_TD = hidden_states(model, text)
    if hold.distill_coef:
        found = _add_kl(found, model, text, states_TD, hold.reference, shares.distill, "kl_text")
    if hold.replay_coef:
        hidden_ND = states_TD.index_select(0, text.source_N)
        logp_N = head_logps(hidden_ND, head_of(model), text.target_ids_N, gradient_hint_N=text.weight_N)
        imitation = sft_loss(logp_N, text.weight_N)
        told = {"replay_nll": imitation.metrics["nll"]}
        found = Loss(found.sum + shares.replay * imitation.sum, found.metrics | told)
    return found


class WithText:
    """The steps of a stream, each with text of its own to be held on. A step that brings its text keeps it."""

    def __init__(self, stream: Any, text: Callable[[int], Batch]) -> None:
        self.stream, self.text = stream, text

    def step(self, step: int) -> list[Batch]:
        """The micro-batches of one step; the first carries the text."""
        batches = self.stream.step(step)
        has_own = any(batch.replay is not None for batch in batches)
        return batches if has_own else with_replay(batches, self.text(step))

    def epoch_of(self, step: int) -> float:
        """That of the stream."""
        return float(self.stream.epoch_of(step))

    def num_steps(self, num_epochs: float) -> int:
        """That of the stream."""
        return int(self.stream.num_steps(num_epochs))


@dataclass(frozen=True)
class Penalties:
    """Penalties on how far parameters have moved, with their coefficients; `fisher`: by the name of the shift. Their
    metrics are the penalties themselves, before a coefficient: `l2_sp` is half the squared length of the whole shift,
    `ewc` half of it weighed by the Fisher information (nats a token)."""

    shifts: Sequence[Shift]
    l2_sp_coef: float = 0.0
    ewc_coef: float = 0.0
    fisher: Mapping[str, Tensor] = field(default_factory=dict)

    def __call__(self, model: nn.Module) -> Iterator[Loss]:  # noqa: ARG002 (the shifts know their parameters)
        """One loss a parameter, so that only one shift lives at a time."""
        counts = {"l2_sp": 1.0, "ewc": 1.0}  # a sum over all parameters counts once
        for shift in self.shifts:
            terms = self._terms(shift)
            if terms:
                told = {name: _metric(value, counts.pop(name, 0.0)) for name, (_, value) in terms.items()}
                total = torch.stack([coef * value for coef, value in terms.values()]).sum()
                yield Loss(total, told)

    def _terms(self, shift: Shift) -> dict[str, tuple[float, Tensor]]:
        """Coefficient and penalty by name."""
        terms = {}
        if self.l2_sp_coef:
            near = l2_sp(shift.shift()) if shift.factors is None else l2_sp_low_rank(*shift.factors())
            terms["l2_sp"] = self.l2_sp_coef, near
        if self.ewc_coef and shift.name in self.fisher:
            terms["ewc"] = self.ewc_coef, ewc(shift.shift(), self.fisher[shift.name])
        return terms


def _metric(value: Tensor, count: float) -> Tensor:
    total = value.detach().double()
    return torch.stack([total, torch.full_like(total, count)])
