"""Keys and values of answers that are being sampled, in pages, and attention over them by plain torch operations.

A page holds PAGE positions of one sequence. The pages of a prompt are kept once and looked at by every answer of its
group; each answer has pages of its own for what it said. One batched product scores every page in use against the
queries of the rows that look at it, whatever their lengths, and the softmax over a row's pages is put together from
their parts (as in flash decoding: Dao et al., 2023; pages: Kwon et al., 2023). No key is copied to be read, and what is
computed follows the tokens that there are, to a page.
"""

import heapq
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from posttrain.models.attention import segment_attention
from posttrain.types import Span

PAGE = 64
PAGE_MULTIPLE = 16  # CPU kernels are made anew for every shape they meet (1 to 5 ms), so few shapes may be met
FEW_PAGES = 4  # the same, below PAGE_MULTIPLE: one conversation alone shall not pay for 16 pages
GONE = -1e30  # the score of what is masked: finite, so that a page without anything to see gives no NaN
LEAST = -60.0  # below the largest score; a share of e^-60 is lost in rounding, and a smaller one underflows, slowly


class Pages:
    """A pool of pages for all layers. Up to `sharers` rows look at a page; `nobody` is the row that stands for none.
    `most`: pages that it may ever have."""

    def __init__(self, sharers: int, nobody: int, device: torch.device, most: int | None = None) -> None:
        self.sharers, self.nobody, self.device, self.most = sharers, nobody, device, most
        self.capacity = 0
        self.keys: dict[int, Tensor] = {}  # by layer, [pages, kv heads, head, PAGE]
        self.values: dict[int, Tensor] = {}  # [pages, kv heads, PAGE, head]
        self.free: list[int] = []
        self.in_use: set[int] = set()
        # By page, on the CPU: who looks at it, how many of its positions are filled, the position of its first.
        self.rows = torch.empty(0, sharers, dtype=torch.int64)
        self.filled = torch.empty(0, dtype=torch.int64)
        self.first = torch.empty(0, dtype=torch.int64)
        self.peak = 0

    def take(self, first: int) -> int:
        """A page for positions from `first` on. The lowest that is free, so that those in use lie together."""
        if not self.free:
            assert self.room, "whoever takes from a bounded pool looks at its room first"
            self._grow()
        page = heapq.heappop(self.free)
        self.in_use.add(page)
        self.peak = max(self.peak, len(self.in_use))
        self.rows[page], self.filled[page], self.first[page] = self.nobody, 0, first
        return page

    def give_back(self, pages: Sequence[int]) -> None:
        """Make pages free again."""
        for page in pages:
            self.in_use.remove(page)
            heapq.heappush(self.free, page)
            self.rows[page], self.filled[page] = self.nobody, 0

    @property
    def room(self) -> float:
        """Pages that can still be taken."""
        return math.inf if self.most is None else self.most - len(self.in_use)

    @property
    def extent(self) -> int:
        """As many pages from the start hold all those in use, rounded up."""
        last = max(self.in_use, default=-1) + 1
        multiple = PAGE_MULTIPLE if last > PAGE_MULTIPLE else FEW_PAGES
        return min(self.capacity, -(-last // multiple) * multiple)

    def write(self, layer: int, page_T: Tensor, offset_T: Tensor, key: Tensor, value: Tensor) -> None:
        """Put `key` and `value` [T, kv heads, head] of a layer into their places."""
        if layer not in self.keys:
            self.keys[layer] = self._empty(key, transposed=True)
            self.values[layer] = self._empty(value, transposed=False)
        self.keys[layer][page_T, :, :, offset_T] = key
        self.values[layer][page_T, :, offset_T] = value

    def _empty(self, like: Tensor, *, transposed: bool) -> Tensor:
        """Zeros, not whatever memory held: a masked NaN would still be one. Keys are [head, PAGE] to the product; how
        they lie in memory is what measured faster: with their head together in bf16, position by position in fp32."""
        _, heads, size = like.shape
        if not transposed:
            return like.new_zeros(self.capacity, heads, PAGE, size)
        if like.dtype == torch.bfloat16:
            return like.new_zeros(self.capacity, heads, PAGE, size).transpose(2, 3)
        return like.new_zeros(self.capacity, heads, size, PAGE)

    def _grow(self) -> None:
        more = max(2 * PAGE_MULTIPLE, self.capacity // 2 // PAGE_MULTIPLE * PAGE_MULTIPLE)
        if self.most is not None:
            more = min(more, self.most - self.capacity)
        for pool in (self.keys, self.values):
            for layer, old in pool.items():
                new = torch.empty_strided(
                    (self.capacity + more, *old.shape[1:]), old.stride(), dtype=old.dtype, device=old.device
                ).zero_()
                new[: self.capacity] = old
                pool[layer] = new
        for page in range(self.capacity, self.capacity + more):
            heapq.heappush(self.free, page)
        self.capacity += more
        self.rows = torch.cat([self.rows, torch.full((more, self.sharers), self.nobody)])
        self.filled = torch.cat([self.filled, torch.zeros(more, dtype=torch.int64)])
        self.first = torch.cat([self.first, torch.zeros(more, dtype=torch.int64)])


def copy_pages(source: Pages, pages: Sequence[int], target: Pages, places: Sequence[int]) -> None:
    """Keys and values of pages into those of another pool, or of the same one."""
    if not pages:
        return
    from_P, to_P = (torch.tensor(numbers, device=source.device) for numbers in (pages, places))
    for layer, key in source.keys.items():
        if layer not in target.keys:
            for pool, like in ((target.keys, key), (target.values, source.values[layer])):
                shape = (target.capacity, *like.shape[1:])
                pool[layer] = torch.empty_strided(shape, like.stride(), dtype=like.dtype, device=like.device).zero_()
        target.keys[layer][to_P] = key[from_P]
        target.values[layer][to_P] = source.values[layer][from_P]
    target.filled[list(places)] = source.filled[list(pages)]


def packed_rows(
    query: Tensor, key: Tensor, value: Tensor, spans: tuple[Span, ...], *, scaling: float | None, window: int | None,
    softcap: float | None,
) -> Tensor:  # fmt: skip
    """Causal attention inside each span of a row: the trainer's own, for [T, heads, head]."""
    q, k, v = (x.transpose(0, 1)[None] for x in (query, key, value))
    options: dict[str, Any] = {"scaling": scaling, "sliding_window": window, "softcap": softcap}
    out, _ = segment_attention(nn.Identity(), q, k, v, None, spans=spans, **options)
    return out[0]


class Prefill:
    """Attention of prompts in one packed row, which leaves their keys and values in `pages`. Called with a layer's
    queries [T, heads, head], keys and values [T, kv heads, head]; returns [T, heads, head]."""

    def __init__(self, pages: Pages, prompts: Sequence[Sequence[int]], length: int) -> None:
        """`length` of the row: what it has beyond the prompts is filler, which nothing sees."""
        self.pages = pages
        self.of_prompt: list[list[int]] = []
        spans: list[Span] = []
        places: list[tuple[int, int]] = []
        for prompt in prompts:
            start = spans[-1].stop if spans else 0
            spans.append(Span(start, start + len(prompt)))
            own = [pages.take(first) for first in range(0, len(prompt), PAGE)]
            self.of_prompt.append(own)
            places += [(own[place // PAGE], place % PAGE) for place in range(len(prompt))]
            for page, first in zip(own, range(0, len(prompt), PAGE), strict=True):
                pages.filled[page] = min(PAGE, len(prompt) - first)
        self.last_P = [span.stop - 1 for span in spans]
        self.real = spans[-1].stop
        if length > self.real:
            spans.append(Span(self.real, length))
        self.spans = tuple(spans)
        self.page_T, self.offset_T = torch.tensor(places, device=pages.device).unbind(1)

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
        self.pages.write(layer, self.page_T, self.offset_T, key[: self.real], value[: self.real])
        return packed_rows(query, key, value, self.spans, scaling=scaling, window=window, softcap=softcap)


class Step:
    """Attention of one new token in each of `num_rows` rows, over the rows' pages and their prompts'. Rows beyond
    `num_rows` are filler. The same call as Prefill's."""

    def __init__(self, prompt: Pages, own: Pages, page_B: Tensor, offset_B: Tensor, position_B: Tensor) -> None:
        """`page_B`, `offset_B`: where each row's new key goes; `position_B`: its position. All int64 on the CPU."""
        self.own, self.num_rows = own, len(page_B)
        self.page_B, self.offset_B = page_B.to(own.device), offset_B.to(own.device)
        own.filled[page_B] = offset_B + 1
        position_R = torch.zeros(own.nobody + 1, dtype=torch.int64)
        position_R[: self.num_rows] = position_B
        self.views = [_View(pages, position_R) for pages in (prompt, own) if pages.extent]
        self.sums: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}

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
        num, rows = self.num_rows, self.own.nobody + 1
        self.own.write(layer, self.page_B, self.offset_B, key[:num], value[:num])
        heads, size = query.shape[1], value.shape[2]
        flat = query.new_zeros(rows, heads * query.shape[2])
        scale = query.shape[2] ** -0.5 if scaling is None else scaling
        torch.mul(query[:num].flatten(1), scale, out=flat[:num])
        scores = [view.scores(layer, flat, window, softcap) for view in self.views]
        wide = scores[0].dtype
        top = torch.full((rows, heads), GONE, dtype=wide, device=flat.device)
        for view, score in zip(self.views, scores, strict=True):
            top.scatter_reduce_(0, view.row_index(heads), view.by_row(score.amax(-1)), "amax")
        out = torch.zeros(rows, heads * size, dtype=wide, device=flat.device)
        mass = torch.zeros(rows, heads, dtype=wide, device=flat.device)
        for view, score in zip(self.views, scores, strict=True):
            share = score.sub_(view.by_page(top, score)).clamp_(min=LEAST).exp_()
            mass.index_add_(0, view.rows, view.by_row(share.sum(-1)))
            out.index_add_(0, view.rows, view.mix(layer, share).to(wide))
        found = query.new_zeros(query.shape[0], heads, size)
        found[:num] = out[:num].view(num, heads, size).div_(mass[:num, :, None])
        return found


class _View:
    """A pool as one step sees it. Axes: pages, kv heads, sharers, queries of a kv head (g), positions of a page."""

    def __init__(self, pages: Pages, position_R: Tensor) -> None:
        self.pages, self.extent, self.sharers = pages, pages.extent, pages.sharers
        rows = pages.rows[: self.extent].flatten()
        self.position = position_R[rows].view(self.extent, self.sharers, 1)
        self.rows = rows.to(pages.device)
        self.masks: dict[int | None, Tensor] = {}
        self.index: dict[int, Tensor] = {}

    def scores(self, layer: int, flat: Tensor, window: int | None, softcap: float | None) -> Tensor:
        """[pages, kv heads, sharers, g, PAGE] in fp32 at least; what a row must not see is GONE."""
        key = self.pages.keys[layer][: self.extent]
        heads, size = key.shape[1], key.shape[2]
        query = flat.index_select(0, self.rows).view(self.extent, self.sharers, heads, -1, size)
        score = torch.bmm(query.transpose(1, 2).reshape(self.extent * heads, -1, size), key.flatten(0, 1))
        score = score.view(self.extent, heads, self.sharers, -1, PAGE)
        wide = torch.promote_types(score.dtype, torch.float32)
        if softcap is not None:
            score = score.to(wide).div_(softcap).tanh_().mul_(softcap)
        return score.to(wide).add_(self._mask(window, wide))

    def mix(self, layer: int, share: Tensor) -> Tensor:
        """Values weighted by `share`, one line per page and sharer: [pages * sharers, heads * head]."""
        value = self.pages.values[layer][: self.extent]
        flat = share.to(value.dtype).flatten(0, 1).flatten(1, 2)
        return self.by_row(torch.bmm(flat, value.flatten(0, 1)).view(*share.shape[:4], -1))

    def by_row(self, x: Tensor) -> Tensor:
        """[pages, kv heads, sharers, ...] to [pages * sharers, all else]."""
        return x.transpose(1, 2).reshape(self.extent * self.sharers, -1)

    def by_page(self, x_RH: Tensor, score: Tensor) -> Tensor:
        """A number per row and head to the page that the row looks at: [pages, kv heads, sharers, g, 1]."""
        pages, heads, sharers, g, _ = score.shape
        return x_RH.index_select(0, self.rows).view(pages, sharers, heads, g, 1).transpose(1, 2)

    def row_index(self, heads: int) -> Tensor:
        """The row of every page and sharer, as `scatter_reduce_` wants it."""
        if heads not in self.index:
            self.index[heads] = self.rows[:, None].expand(-1, heads)
        return self.index[heads]

    def _mask(self, window: int | None, dtype: torch.dtype) -> Tensor:
        """Added to scores: 0 where a page is filled and inside the row's window. [pages, 1, sharers or 1, 1, PAGE]."""
        if window not in self.masks:
            place = torch.arange(PAGE)
            seen = (place < self.pages.filled[: self.extent, None])[:, None]
            if window is not None:
                seen = seen & (self.pages.first[: self.extent, None, None] + place > self.position - window)
            mask = torch.zeros(seen.shape).masked_fill_(~seen, GONE)
            self.masks[window] = mask[:, None, :, None].to(self.pages.device, dtype)
        return self.masks[window]
