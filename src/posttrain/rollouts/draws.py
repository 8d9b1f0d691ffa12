"""Sampling in which each answer has its own random numbers, whatever else is in the batch."""

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import LogitsProcessor


def draw_seed(seed: int, prompt_ids: Sequence[int], number: int) -> int:
    """The seed of the `number`-th answer to a prompt: it depends on these three alone."""
    text = f"{seed}:{number}:{','.join(map(str, prompt_ids))}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


class Draws(LogitsProcessor):
    """Leaves one token possible in each row: the inverse of the cumulative distribution at that row's next number.

    One number a token, made beforehand on the CPU in float64, so an answer is a function of its seed and of its own
    probabilities. Those are equal in another batch but for rounding, which changes a token where a number falls into
    the last digits of a border: about once in a million tokens in float32, more often in bfloat16.
    """

    def __init__(self, seeds: Sequence[int], num_steps: int, *, temperature: float, top_p: float, width: int) -> None:
        rows = [torch.rand(num_steps, generator=torch.Generator().manual_seed(s), dtype=torch.float64) for s in seeds]
        self.numbers = torch.stack(rows)
        self.temperature, self.top_p, self.width = temperature, top_p, width

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Scores [rows, V] to the same shape: 0 at the token that was drawn, -inf elsewhere."""
        probability = torch.softmax(scores.double() / self.temperature, dim=-1)
        if self.top_p < 1:
            ordered, order = probability.sort(dim=-1, descending=True)
            ordered[ordered.cumsum(-1) - ordered >= self.top_p] = 0  # the likeliest always stays
            probability = torch.zeros_like(probability).scatter_(-1, order, ordered)
        below = probability.cumsum(-1)
        step = input_ids.shape[1] - self.width
        number = self.numbers[:, step : step + 1].to(below.device) * below[:, -1:]
        drawn = torch.searchsorted(below, number, right=True)
        return torch.full_like(scores, -torch.inf).scatter_(-1, drawn, 0.0)
