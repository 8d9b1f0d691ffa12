"""Supervised fine-tuning: negative log-likelihood of the tokens that the assistant should say."""

from typing import NamedTuple

import torch
from torch import Tensor


class Loss(NamedTuple):
    """`sum`: a scalar to divide by the global unit count. `metrics`: detached, each a tensor [2] of (sum, count); add
    them over micro-batches and ranks, then divide once. A count of 0 means that nothing was seen."""

    sum: Tensor
    metrics: dict[str, Tensor]


def sft_loss(logp_N: Tensor, weight_N: Tensor) -> Loss:
    """`-sum_n weight_n * logp_n`; its unit is a weighted token: divide by `sum_n weight_n` over the global batch.

    `logp_N`: log-probability of each trained token, any float dtype. `weight_N`: float, >= 0.
    Source: Ouyang et al., 2022 (InstructGPT), section 3.5, the supervised phase.

    >>> import torch
    >>> sft_loss(torch.tensor([-1.0, -2.0]), torch.tensor([1.0, 0.5])).sum
    tensor(2.)
    """
    assert logp_N.shape == weight_N.shape, f"got {logp_N.shape} log-probabilities for {weight_N.shape} weights"
    total = -(logp_N * weight_N).sum()
    return Loss(total, {"nll": torch.stack([total.detach(), weight_N.sum().to(total)])})
