"""Attention of parts of prompts: each looks at itself, causally, and at what its sequence has in pages already.

A long prompt goes through the model in parts (chunked prefill: Agrawal et al., 2023, SARATHI), so that others get their
next tokens in between; and one whose beginning was computed before begins behind it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from posttrain.models.decoding_pages import GONE, PAGE, Pages


@dataclass(frozen=True, slots=True)
class Part:
    """The positions from `start` up to `stop` of a sequence, whose position p lies in `pages[p // PAGE]`."""

    pages: Sequence[int]
    start: int
    stop: int


class Chunks:
    """Attention of several parts in one packed row; keys and values are left in `pages`. A layer's call is that of
    decoding_pages.Prefill. What the row has beyond the parts is filler: nobody sees it, and it sees zeros."""

    def __init__(self, pages: Pages, parts: Sequence[Part]) -> None:
        self.pages, self.parts = pages, parts
        places = [(part.pages[p // PAGE], p % PAGE) for part in parts for p in range(part.start, part.stop)]
        self.page_T, self.offset_T = torch.tensor(places, device=pages.device).unbind(1)
        for part in parts:
            for number in range(part.start // PAGE, -(-part.stop // PAGE)):
                pages.filled[part.pages[number]] = min(PAGE, part.stop - number * PAGE)
        self.read = [
            torch.tensor(part.pages[: -(-part.stop // PAGE)], device=pages.device) if part.start else None
            for part in parts
        ]
        self.masks: dict[tuple[int, int | None], Tensor] = {}

    def __call__(
        self,
        layer: int,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        *,
        scaling: float | None = None,
        window: int | None = None,
        softcap: float | None = None,
    ) -> Tensor:
        real = len(self.page_T)
        self.pages.write(layer, self.page_T, self.offset_T, key[:real], value[:real])
        found, first = query.new_zeros(query.shape[0], query.shape[1], value.shape[2]), 0
        scale = query.shape[2] ** -0.5 if scaling is None else scaling
        for number, part in enumerate(self.parts):
            last = first + part.stop - part.start
            if (read := self.read[number]) is None:
                k, v = key[first:last].transpose(0, 1), value[first:last].transpose(0, 1)
            else:
                k, v = self._held(layer, read, part.stop)
            q = query[first:last].transpose(0, 1)
            found[first:last] = self._attend(number, q, k, v, scale, window, softcap).transpose(0, 1)
            first = last
        return found

    def _held(self, layer: int, read: Tensor, stop: int) -> tuple[Tensor, Tensor]:
        """Keys and values [kv heads, stop, head] of a sequence."""
        key, value = self.pages.keys[layer][read], self.pages.values[layer][read]  # [pages, kv, head, PAGE] and turned
        k = key.permute(1, 0, 3, 2).reshape(key.shape[1], -1, key.shape[2])
        v = value.transpose(0, 1).reshape(value.shape[1], -1, value.shape[3])
        return k[:, :stop], v[:, :stop]

    def _attend(
        self, number: int, q: Tensor, k: Tensor, v: Tensor, scale: float, window: int | None, softcap: float | None
    ) -> Tensor:
        """[heads, queries, head] of one part. On CPU in fp32: bf16 kernels are made anew for every length they meet."""
        given = q.dtype
        if q.device.type == "cpu" and given != torch.float64:
            q, k, v = q.float(), k.float(), v.float()
        if (shared := len(q) // len(k)) > 1:
            k, v = k.repeat_interleave(shared, 0), v.repeat_interleave(shared, 0)
        if softcap is not None:
            score = (q @ k.transpose(1, 2)).mul_(scale).div_(softcap).tanh_().mul_(softcap)
            score = score.to(torch.promote_types(score.dtype, torch.float32)) + self._mask(number, window, q.device)
            return (torch.softmax(score, -1).to(v.dtype) @ v).to(given)
        if q.shape[1] == k.shape[1] and (window is None or window >= k.shape[1]):
            return scaled_dot_product_attention(q[None], k[None], v[None], is_causal=True, scale=scale)[0].to(given)
        mask = self._mask(number, window, q.device).to(q.dtype)
        return scaled_dot_product_attention(q[None], k[None], v[None], attn_mask=mask, scale=scale)[0].to(given)

    def _mask(self, number: int, window: int | None, device: torch.device) -> Tensor:
        """Added to the scores [queries, keys] of a part; the same for all layers."""
        if (number, window) not in self.masks:
            part = self.parts[number]
            distance = torch.arange(part.start, part.stop)[:, None] - torch.arange(part.stop)
            gone = distance < 0 if window is None else (distance < 0) | (distance >= window)
            self.masks[number, window] = torch.zeros(gone.shape).masked_fill_(gone, GONE).to(device)
        return self.masks[number, window]
