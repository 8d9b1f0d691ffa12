"""What the loop minimises: a loss that returns a sum, and the unit count that the loop divides by."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn

from posttrain.losses.answers import Answers, Pairs, answer_sums
from posttrain.losses.kto import kto_baseline, kto_loss
from posttrain.losses.reward import reward_loss
from posttrain.losses.sft import Loss, sft_loss
from posttrain.models.logprobs import token_logps
from posttrain.models.reward import answer_scores
from posttrain.models.within import place_of
from posttrain.train import distributed
from posttrain.types import Batch, Judged


@dataclass(frozen=True)
class Objective:
    """`loss(model, batch)` returns a sum over the batch; `units(batch)` is what one batch adds to the divisor.

    `prepare(model, batches)` gives the objective of one optimiser step, where that depends on all its batches; it is
    asked before the first backward, so that no split into micro-batches changes the gradient.

    `penalties(model)`: losses of the parameters alone, each added once an optimiser step and divided by nothing.
    `held_out`: what is measured on held-out data, where that is not what is minimised.
    """

    name: str
    loss: Callable[[nn.Module, Batch], Loss]
    units: Callable[[Batch], float]
    prepare: "Callable[[nn.Module, Sequence[Batch]], Objective] | None" = None
    penalties: Callable[[nn.Module], Iterable[Loss]] | None = None
    held_out: "Objective | None" = None

    def at_step(self, model: nn.Module, batches: Sequence[Batch]) -> "Objective":
        """The objective of the step that these batches make."""
        return self.prepare(model, batches) if self.prepare else self


def _sft(model: nn.Module, batch: Batch) -> Loss:
    weight_N = batch.weight_N
    return sft_loss(token_logps(model, batch, gradient_hint_N=weight_N), weight_N)


SFT = Objective("sft", _sft, lambda batch: float(batch.weight_N.double().sum()))


def pair_objective(name: str, loss: Callable[..., Loss], *, shift_beta: float = 0.0) -> Objective:
    """A loss of compared answers (the DPO family); its unit is a comparison, or all those of one ranking. With
    `shift_beta` the loss is given `bco_shift`, the mean reward of the step's answers (Jung et al., 2024, BCO)."""

    def of(loss: Callable[..., Loss]) -> Callable[[nn.Module, Batch], Loss]:
        return lambda model, batch: loss(answers_of(model, batch), pairs_of(batch))

    def prepare(model: nn.Module, batches: Sequence[Batch]) -> Objective:
        ratio_A = _step_ratios(model, [(batch, batch.is_filler) for batch in batches])
        shift = shift_beta * ratio_A.mean()
        return Objective(name, of(partial(loss, bco_shift=shift)), _num_pairs)

    return Objective(name, of(loss), _num_pairs, prepare if shift_beta else None)


def _step_ratios(model: nn.Module, batches: Sequence[tuple[Batch, bool]]) -> Tensor:
    """[A]: the log-ratios of all answers of a step, of every process; what is a filler is asked and left out."""
    found = [(_log_ratios(model, batch), is_filler) for batch, is_filler in batches]
    own = [ratio_A for ratio_A, is_filler in found if not is_filler]
    return distributed.everyone(torch.cat(own) if own else found[0][0][:0])


@torch.no_grad()
def _log_ratios(model: nn.Module, batch: Batch) -> Tensor:
    """[A]: log-probability of every answer under the policy less that under the reference."""
    answers = answers_of(model, batch.to(place_of(model)))
    assert answers.reference_N is not None, "this objective needs the reference's log-probabilities"
    return answer_sums(answers.logp_N - answers.reference_N, answers)


def reward_objective(*, center_coef: float = 0.0) -> Objective:
    """Bradley-Terry on the scores of compared answers; the same unit."""

    def loss(model: nn.Module, batch: Batch) -> Loss:
        return reward_loss(answer_scores(model, batch), pairs_of(batch), center_coef=center_coef)

    return Objective("reward", loss, _num_pairs)


def kto_objective(
    *, beta: float, desirable_weight: float, undesirable_weight: float, loss_type: str = "kto"
) -> Objective:
    """KTO on rated answers; its unit is an answer. The baseline is measured once a step on answers behind prompts that
    they do not belong to (`Batch.baseline`)."""

    def at(baseline: Tensor) -> Callable[[nn.Module, Batch], Loss]:
        return lambda model, batch: kto_loss(
            answers_of(model, batch),
            judged(batch).score_A,
            baseline,
            beta=beta,
            desirable_weight=desirable_weight,
            undesirable_weight=undesirable_weight,
            loss_type=loss_type,
        )

    def prepare(model: nn.Module, batches: Sequence[Batch]) -> Objective:
        return replace(objective, loss=at(_kto_baseline(model, batches)), prepare=None)

    start = Objective("kto", at(torch.zeros(())), lambda batch: float(len(judged(batch).score_A)))
    objective = replace(start, prepare=prepare) if loss_type == "kto" else start
    return objective


def _kto_baseline(model: nn.Module, batches: Sequence[Batch]) -> Tensor:
    assert all(batch.baseline for batch in batches), "KTO needs mismatched answers for its baseline"
    every = distributed.evened([(mixed, batch.is_filler) for batch in batches for mixed in batch.baseline])
    ratio_A = _step_ratios(model, [(mixed, one or other) for (mixed, one), other in every])
    return kto_baseline(ratio_A, torch.zeros_like(ratio_A))


def answers_of(model: nn.Module, batch: Batch) -> Answers:
    """The trained tokens of a batch of preference data under the policy, by answer."""
    known = judged(batch)
    return Answers(token_logps(model, batch), known.answer_N, len(known.last_A), known.reference_N)


def pairs_of(batch: Batch) -> Pairs:
    """The comparisons of a batch of preference data."""
    known = judged(batch)
    return Pairs(known.better_M, known.worse_M, known.label_M, known.margin_M, known.weight_M)


def judged(batch: Batch) -> Judged:
    """What is known of the answers of a batch of preference data."""
    assert batch.judged is not None, f"no answer of {batch.sources[0]} was compared or rated"
    return batch.judged


def _num_pairs(batch: Batch) -> float:
    return float(judged(batch).weight_M.double().sum())
