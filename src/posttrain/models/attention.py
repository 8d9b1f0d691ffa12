"""The only file that knows masks. Packed trees go through transformers' public attention interface.

Each span attends to itself causally and to its ancestors in full, so the cost follows the sum of squared segment
lengths, not the square of the row. On CPU every span is one SDPA call; on CUDA one FlexAttention call serves the row.
The interface gets no attention mask from transformers: an attention without a registered mask function is given None.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad, scaled_dot_product_attention
from transformers import AttentionInterface

from posttrain.errors import ModelError
from posttrain.types import Span

SEGMENTS = "posttrain_segments"
FLEX = "posttrain_flex"

# On CPU, bf16 kernels are compiled anew for every length they meet, and convert tiles: they lose to fp32 on short
# spans (2 cores with AMX, forward and backward of 1,024 positions: 10.6 ms against 5.5 ms in spans of 128, 7.7 against
# 8.8 in spans of 256). Longer ones are rounded up to a multiple, so that few lengths are ever met.
SHORT_SPAN = 224
LENGTH_MULTIPLE = 64


def install_attention(model: nn.Module, kind: str = "auto") -> None:
    """Make `model` (a transformers causal LM) compute packed attention. `kind`: 'auto', 'segments' or 'flex'."""
    if kind == "auto":
        kind = "flex" if next(model.parameters()).is_cuda else "segments"
    _set_implementation(model, {"segments": SEGMENTS, "flex": FLEX}[kind])


def packed_attention(module: Any) -> Callable[..., tuple[Tensor, None]]:
    """The packed attention that was installed on the model of an attention module."""
    return {SEGMENTS: segment_attention, FLEX: flex_attention}[module.config._attn_implementation]


@contextmanager
def ordinary_attention(model: Any) -> Iterator[None]:
    """Padded batches and a key-value cache for the time of the block: what `generate` needs."""
    before: str = model.config._attn_implementation
    _set_implementation(model, "sdpa" if getattr(model, "_supports_sdpa", True) else "eager")
    try:
        yield
    finally:
        _set_implementation(model, before)


def _set_implementation(model: Any, name: str) -> None:
    try:
        model.set_attn_implementation(name)
    except (ValueError, AttributeError) as error:
        raise ModelError(
            f"{type(model).__name__} cannot take an attention function from outside ({error}); "
            "use a model of the transformers library that supports its attention interface."
        ) from error


def _refuse(kwargs: dict[str, Any]) -> None:
    if kwargs.get("s_aux") is not None:
        raise ModelError("attention sinks (as in gpt-oss) cannot be trained packed yet; choose another model.")
    if kwargs.get("position_bias") is not None:
        raise ModelError("attention with a learned position bias cannot be trained packed; choose another model.")


def segment_attention(
    module: nn.Module,  # noqa: ARG001 (the interface's signature)
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    spans: tuple[Span, ...] | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """`query` [1, heads, T, head], `key`/`value` [1, kv heads, T, head] -> [1, T, heads, head]."""
    _refuse(kwargs)
    assert spans is not None, "packed attention needs the batch's spans"
    assert attention_mask is None, "packed attention knows its own masks"
    groups, device = query.shape[1] // key.shape[1], query.device.type
    compute = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else query.dtype
    if groups > 1:
        key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
    lengths = [span.stop - span.start for span in spans]
    dtype = _attention_dtype(spans, compute, device)
    query, key, value = query.to(dtype), key.to(dtype), value.to(dtype)
    queries, keys, values = query.split(lengths, 2), key.split(lengths, 2), value.split(lengths, 2)
    outs = []
    with torch.autocast(device, enabled=False):
        for index in range(len(spans)):
            path = _path(spans, index)
            k = keys[index] if len(path) == 1 else torch.cat([keys[i] for i in path], 2)
            v = values[index] if len(path) == 1 else torch.cat([values[i] for i in path], 2)
            outs.append(_attend(queries[index], k, v, scaling, dropout, sliding_window, softcap))
    return torch.cat(outs, 2).transpose(1, 2).to(compute), None


@lru_cache(maxsize=16)
def _attention_dtype(spans: tuple[Span, ...], compute: torch.dtype, device: str) -> torch.dtype:
    """fp32 on CPU where most of the work is in short spans."""
    if device != "cpu" or compute != torch.bfloat16:
        return compute
    work = [(span.stop - span.start) ** 2 for span in spans]
    short = sum(size for size in work if size < SHORT_SPAN**2)
    return torch.float32 if 2 * short > sum(work) else compute


def _path(spans: tuple[Span, ...], index: int) -> list[int]:
    """Indices from the root to the span itself."""
    path = [index]
    while spans[path[0]].parent >= 0:
        path.insert(0, spans[path[0]].parent)
    return path


def _attend(
    q: Tensor, k: Tensor, v: Tensor, scale: float | None, dropout: float, window: int | None, softcap: float | None
) -> Tensor:
    """The last rows of a causal attention over the whole path: q may be shorter than k."""
    window = window if window is not None and window < k.shape[2] else None
    if softcap is not None:
        return _attend_softcapped(q, k, v, scale, dropout, window, softcap)
    if q.shape[2] == k.shape[2] and window is None:
        length = q.shape[2]
        extra = -length % LENGTH_MULTIPLE if q.dtype == torch.bfloat16 and q.device.type == "cpu" else 0
        if extra:  # causal: what stands to the right is seen by nobody
            q, k, v = (pad(x, (0, 0, 0, extra)) for x in (q, k, v))
        return scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=True, scale=scale)[:, :, :length]
    mask = _causal(q.shape[2], k.shape[2], window, q.device)
    return scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout, scale=scale)


def _attend_softcapped(
    q: Tensor, k: Tensor, v: Tensor, scale: float | None, dropout: float, window: int | None, softcap: float
) -> Tensor:
    """Gemma 2's `cap * tanh(score / cap)`, which SDPA has no place for."""
    score = q @ k.transpose(2, 3) * (q.shape[-1] ** -0.5 if scale is None else scale)
    score = softcap * torch.tanh(score / softcap)
    score = score.masked_fill(~_causal(q.shape[2], k.shape[2], window, q.device), float("-inf"))
    weights = torch.softmax(score, -1, dtype=torch.promote_types(score.dtype, torch.float32)).to(v.dtype)
    return torch.dropout(weights, dropout, dropout > 0) @ v


@lru_cache(maxsize=64)
def _causal(num_queries: int, num_keys: int, window: int | None, device: torch.device) -> Tensor:
    """True where query i of the last `num_queries` positions may look at key j."""
    distance = torch.arange(num_keys - num_queries, num_keys, device=device)[:, None]
    distance = distance - torch.arange(num_keys, device=device)[None, :]
    allowed = distance >= 0
    return allowed if window is None else allowed & (distance < window)


def flex_mask(
    spans: tuple[Span, ...], position_ids_T: Tensor, window: int | None
) -> Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]:
    """A FlexAttention mask function over the flat row: same span or an ancestor, not later, inside the window."""
    device = position_ids_T.device
    lengths = torch.tensor([span.stop - span.start for span in spans], device=device)
    owner_T = torch.repeat_interleave(torch.arange(len(spans), device=device), lengths)
    ancestor = torch.zeros(len(spans), len(spans), dtype=torch.bool)
    for index in range(len(spans)):
        ancestor[index, _path(spans, index)] = True
    ancestor = ancestor.to(device)

    def allowed(batch: Tensor, head: Tensor, q: Tensor, k: Tensor) -> Tensor:  # noqa: ARG001 (the API's signature)
        near = True if window is None else position_ids_T[q] - position_ids_T[k] < window
        return ancestor[owner_T[q], owner_T[k]] & (q >= k) & near

    return allowed


@lru_cache(maxsize=4)
def _block_mask(spans: tuple[Span, ...], window: int | None, device: torch.device) -> Any:
    """One mask a batch and window, shared by all layers."""
    from torch.nn.attention.flex_attention import create_block_mask

    positions: list[int] = []
    depths: list[int] = []
    for span in spans:
        first = 0 if span.parent < 0 else depths[span.parent]
        depths.append(first + span.stop - span.start)
        positions.extend(range(first, depths[-1]))
    allowed = flex_mask(spans, torch.tensor(positions, device=device), window)
    return create_block_mask(allowed, None, None, len(positions), len(positions), device=str(device))


def flex_attention(
    module: nn.Module,  # noqa: ARG001 (the interface's signature)
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    spans: tuple[Span, ...] | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """The same contract as `segment_attention`, in one kernel that skips blocks no span can see."""
    _refuse(kwargs)
    assert spans is not None, "packed attention needs the batch's spans"
    assert attention_mask is None, "packed attention knows its own masks"
    if dropout:
        raise ModelError("FlexAttention has no dropout; set attention_dropout to 0 or use attn: segments.")

    out = _flex_kernel(query.device.type)(
        query,
        key,
        value,
        score_mod=None if softcap is None else _capped(softcap),
        block_mask=_block_mask(spans, sliding_window, query.device),
        scale=scaling,
        enable_gqa=query.shape[1] != key.shape[1],
    )
    return out.transpose(1, 2), None


def _capped(softcap: float) -> Callable[..., Tensor]:
    return lambda score, *_: softcap * torch.tanh(score / softcap)


@lru_cache(maxsize=2)
def _flex_kernel(device_type: str) -> Any:
    """Compiled on CUDA; the plain reference elsewhere, which tests compare with."""
    from torch.nn.attention import flex_attention as flex

    return torch.compile(flex.flex_attention, dynamic=True) if device_type == "cuda" else flex.flex_attention


AttentionInterface.register(SEGMENTS, segment_attention)
AttentionInterface.register(FLEX, flex_attention)
