"""Logits to tokens: what decoding drops, and drawing by the inverse of the cumulative distribution.

`choose` serves a batch that is drawn one way, `filtered` and `choose_each` one whose rows each have a way of their own.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from posttrain.errors import ModelError
from posttrain.rollouts.sampling import Decoding

BLOCK = 128  # tokens whose probabilities are summed before any is looked at alone
COLDEST = 1e-30  # logits over a smaller temperature would be infinite, and what is drawn is the same
LIKELIEST = 256  # as many are sorted for top-p at first; the rest of the vocabulary only where they do not suffice


def uniform_numbers(seed: int, num: int) -> Tensor:
    """One number in [0, 1) per token of an answer: float64 [num], made on the CPU from its seed alone."""
    return torch.rand(num, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def uniform_block(seeds: Sequence[int], num: int) -> Tensor:
    """The numbers of several answers: float64 [answers, num]."""
    return torch.stack([uniform_numbers(seed, num) for seed in seeds])


def choose(logits_BV: Tensor, number_B: Tensor | None, decoding: Decoding) -> tuple[Tensor, Tensor]:
    """The next token of every row, int64 [B], and its log-probability, fp32 [B].

    `logits_BV`: fp32, overwritten. `number_B`: float64 in [0, 1), None at temperature 0. Raises ModelError where a row
    holds NaN, or nothing but -inf.
    """
    if decoding.temperature == 0 or number_B is None:
        top_B, token_B = logits_BV.max(1)
        _require_numbers(top_B)
        return token_B, -logits_BV.sub_(top_B[:, None]).exp_().sum(1).log_()
    if decoding.temperature != 1:
        logits_BV.div_(decoding.temperature)
    top_B = logits_BV.amax(1)
    _require_numbers(top_B)
    least_B = least_kept(logits_BV, top_B, decoding)
    if least_B is not None:
        logits_BV.masked_fill_(logits_BV < least_B[:, None], -math.inf)
    return _draw(logits_BV, top_B, number_B)


def least_kept(logits_BV: Tensor, top_B: Tensor, decoding: Decoding) -> Tensor | None:
    """The smallest logit of each row that top-k, top-p and min-p leave; None where all three are off."""
    least_B: Tensor | None = None
    if 0 < decoding.top_k < logits_BV.shape[1]:
        sorted_BK = logits_BV.topk(decoding.top_k, 1).values
        least_B = sorted_BK[:, -1]
        if decoding.top_p < 1:
            # Those as likely as the last one count too: they were not dropped.
            kept = torch.where(logits_BV >= least_B[:, None], logits_BV, -math.inf)
            least_B = _least_of_share(kept, top_B, decoding.top_p)
    elif decoding.top_p < 1:
        least_B = _least_of_share(logits_BV, top_B, decoding.top_p)
    if decoding.min_p > 0:
        least = top_B + math.log(decoding.min_p)
        least_B = least if least_B is None else torch.maximum(least_B, least)
    return least_B


def _least_of_share(logits_BV: Tensor, top_B: Tensor, share: float | Tensor) -> Tensor:
    """The logit of the last of the likeliest tokens that together hold `share` (one for all rows, or [B, 1]) of the
    probability."""
    mass_B = (logits_BV - top_B[:, None]).exp_().sum(1, dtype=torch.float64)
    for count in (min(LIKELIEST, logits_BV.shape[1]), logits_BV.shape[1]):
        sorted_BK = logits_BV.topk(count, 1).values
        held_BK = (sorted_BK - top_B[:, None]).double().exp_().cumsum_(1).div_(mass_B[:, None])
        if count == logits_BV.shape[1] or bool((held_BK[:, -1] >= share).all()):
            break
    last_B = (held_BK < share).sum(1).clamp_(max=count - 1)
    return sorted_BK.gather(1, last_B[:, None])[:, 0]


@dataclass(frozen=True)
class Ways:
    """How each row of a batch is drawn: `Decoding`, row by row. All [B], on the logits' device; rows as indices."""

    temperature_B: Tensor  # fp32; 1 for greedy rows
    min_p_B: Tensor | None  # log of it, -inf where it is off; None where it is off for all rows, as below
    top_k_B: Tensor | None
    top_p_B: Tensor | None  # float64
    with_k: Tensor | None  # rows with top-k
    with_p: Tensor | None
    greedy: Tensor
    drawn: Tensor
    largest_k: int
    is_cold: bool  # any temperature but 1

    @classmethod
    def of(cls, decodings: Sequence[Decoding], device: torch.device) -> "Ways":
        """Greedy rows look at none of the filters."""

        def rows(chosen: list[bool]) -> Tensor:
            return torch.tensor([row for row, is_in in enumerate(chosen) if is_in], dtype=torch.int64, device=device)

        def values(numbers: list[float] | list[int], dtype: torch.dtype) -> Tensor:
            return torch.tensor(numbers, dtype=dtype, device=device)

        warm = [d.temperature > 0 for d in decodings]
        k = [d.top_k if is_warm else 0 for d, is_warm in zip(decodings, warm, strict=True)]
        p = [d.top_p if is_warm else 1.0 for d, is_warm in zip(decodings, warm, strict=True)]
        least = [
            math.log(d.min_p) if is_warm and d.min_p > 0 else -math.inf
            for d, is_warm in zip(decodings, warm, strict=True)
        ]
        temperatures = [
            max(d.temperature, COLDEST) if is_warm else 1.0 for d, is_warm in zip(decodings, warm, strict=True)
        ]
        return cls(
            temperature_B=values(temperatures, torch.float32),
            min_p_B=values(least, torch.float32) if max(least) > -math.inf else None,
            top_k_B=values(k, torch.int64) if any(k) else None,
            top_p_B=values(p, torch.float64) if min(p) < 1 else None,
            with_k=rows([number > 0 for number in k]) if any(k) else None,
            with_p=rows([share < 1 for share in p]) if min(p) < 1 else None,
            greedy=rows([not is_warm for is_warm in warm]),
            drawn=rows(warm),
            largest_k=max(k),
            is_cold=any(t != 1 for t in temperatures),
        )


def choose_each(logits_BV: Tensor, number_B: Tensor, ways: Ways) -> tuple[Tensor, Tensor]:
    """As `choose`, every row in its own way; `filtered` comes before. Raises nothing: who calls it has looked."""
    if not len(ways.drawn):
        top_B, token_B = logits_BV.max(1)
        return token_B, -logits_BV.sub_(top_B[:, None]).exp_().sum(1).log_()
    if not len(ways.greedy):
        return _draw(logits_BV, logits_BV.amax(1), number_B)
    token_B, logp_B = torch.empty_like(number_B, dtype=torch.int64), torch.empty_like(number_B, dtype=torch.float32)
    greedy, drawn = logits_BV[ways.greedy], logits_BV[ways.drawn]
    top, token_B[ways.greedy] = greedy.max(1)
    logp_B[ways.greedy] = -greedy.sub_(top[:, None]).exp_().sum(1).log_()
    token_B[ways.drawn], logp_B[ways.drawn] = _draw(drawn, drawn.amax(1), number_B[ways.drawn])
    return token_B, logp_B


def filtered(logits_BV: Tensor, ways: Ways) -> Tensor:
    """Logits over their temperatures, those that are dropped at -inf, in place. Greedy rows stay as they are."""
    if ways.is_cold:
        logits_BV.div_(ways.temperature_B[:, None])
    if ways.with_k is None and ways.with_p is None and ways.min_p_B is None:
        return logits_BV
    top_B = logits_BV.amax(1)
    least_B = torch.full_like(top_B, -math.inf)
    if ways.with_k is not None and ways.top_k_B is not None:
        chosen = logits_BV[ways.with_k]
        k_K = ways.top_k_B[ways.with_k].clamp_max(chosen.shape[1])
        sorted_KK = chosen.topk(min(ways.largest_k, chosen.shape[1]), 1).values
        least_B[ways.with_k] = sorted_KK.gather(1, k_K[:, None] - 1)[:, 0]
    if ways.with_p is not None and ways.top_p_B is not None:
        chosen, least = logits_BV[ways.with_p], least_B[ways.with_p]
        chosen.masked_fill_(chosen < least[:, None], -math.inf)  # those as likely as the last one of top-k count too
        share = ways.top_p_B[ways.with_p][:, None]
        least_B[ways.with_p] = _least_of_share(chosen, top_B[ways.with_p], share)
    if ways.min_p_B is not None:
        least_B = torch.maximum(least_B, top_B + ways.min_p_B)
    return logits_BV.masked_fill_(logits_BV < least_B[:, None], -math.inf)


def _draw(logits_BV: Tensor, top_B: Tensor, number_B: Tensor) -> tuple[Tensor, Tensor]:
    """The first token whose cumulative probability exceeds the row's number. First the block of tokens that it lies
    in, then the token, so that the vocabulary is never sorted nor summed up one by one. All in place."""
    rows, vocabulary = logits_BV.shape
    extra = -vocabulary % BLOCK
    mass = logits_BV.sub_(top_B[:, None]).exp_()
    mass = pad(mass, (0, extra)) if extra else mass
    by_block = mass.view(rows, -1, BLOCK)
    upto_BK = by_block.sum(2).double().cumsum_(1)
    total_B = upto_BK[:, -1:].clone()
    wanted_B = number_B.to(total_B.device)[:, None] * total_B
    block_B = torch.searchsorted(upto_BK, wanted_B, right=True).clamp_(max=upto_BK.shape[1] - 1)
    before_B = torch.where(block_B > 0, upto_BK.gather(1, (block_B - 1).clamp_(min=0)), 0.0)
    inside = by_block[torch.arange(rows, device=mass.device), block_B[:, 0]].double()
    place_B = torch.searchsorted(inside.cumsum(1), wanted_B - before_B, right=True)
    # Sums rounded one way here and another there can point past the last token that is possible.
    likely = torch.arange(BLOCK, device=inside.device).where(inside > 0, -1).amax(1, keepdim=True)
    place_B = torch.minimum(place_B, likely).clamp_(min=0)
    logp_B = (inside.gather(1, place_B).log() - total_B.log())[:, 0].float()
    return (block_B * BLOCK + place_B)[:, 0], logp_B


def _require_numbers(top_B: Tensor) -> None:
    if not bool(top_B.isfinite().all()):
        row = int((~top_B.isfinite()).nonzero()[0, 0])
        raise ModelError(
            f"the model's logits are not numbers (row {row} of the batch has {float(top_B[row])}): its weights "
            "hold NaN or infinity, or overflow in this dtype; sample from an earlier checkpoint, or lower the learning "
            "rate."
        )
