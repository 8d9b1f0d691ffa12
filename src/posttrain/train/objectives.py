"""What the loop minimises: a loss that returns a sum, and the unit count that the loop divides by."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from posttrain.losses.sft import Loss, sft_loss
from posttrain.models.logprobs import token_logps
from posttrain.types import Batch


@dataclass(frozen=True)
class Objective:
    """`loss(model, batch)` returns a sum over the batch; `units(batch)` is what one batch adds to the divisor."""

    name: str
    loss: Callable[[nn.Module, Batch], Loss]
    units: Callable[[Batch], float]


def _sft(model: nn.Module, batch: Batch) -> Loss:
    weight_N = batch.weight_N
    return sft_loss(token_logps(model, batch, gradient_hint_N=weight_N), weight_N)


SFT = Objective("sft", _sft, lambda batch: float(batch.weight_N.double().sum()))
