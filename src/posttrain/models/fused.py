"""Faster twins of what most decoders are made of, for packed training: RMSNorm, rotary attention, gated MLP.

transformers' modules keep the residual stream in fp32 under autocast and cast it for every projection; they also
allocate a temporary for every elementwise step. The twins write the compute dtype once, keep less for the backward and
work in place. They serve only packed forwards (those with `spans`); generation goes through the original modules.
`fuse` compares the whole model before and after and takes everything back where a family computes something else.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from posttrain.models.attention import packed_attention
from posttrain.models.logprobs import causal_lm, hidden_states
from posttrain.types import Batch, Span

# What these compute was read, not guessed: others may clip or scale in ways that a short probe does not feel.
ATTENTIONS = {f"{family}Attention" for family in ("Llama", "Mistral", "Qwen2", "Qwen3", "Gemma", "Gemma3")}
TOLERANCE = 2e-4  # fp32 rounding through a whole model, relative to the largest hidden value


def fuse(model: nn.Module) -> bool:
    """Replace the forwards of known modules in place; True where the model still computes the same, else undone."""
    probe = _probe(model)
    with torch.no_grad():
        before = hidden_states(model, probe)
        undo = _replace(causal_lm(model))
        after = hidden_states(model, probe)
    if (after - before).abs().max() <= TOLERANCE * before.abs().max().clamp(min=1e-6):
        return True
    for restore in undo:
        restore()
    return False


def _probe(model: nn.Module) -> Batch:
    """Two short spans, enough to see positions, norms and gates at work."""
    device = next(model.parameters()).device
    ids = torch.arange(3, 27, device=device) % causal_lm(model).config.vocab_size
    places = torch.cat([torch.arange(16, device=device), torch.arange(8, device=device)])
    none = torch.zeros(0, dtype=torch.int64, device=device)
    return Batch(ids, places, (Span(0, 16), Span(16, 24)), none, none, none.float(), none, ())


def _replace(lm: nn.Module) -> list[Callable[[], None]]:
    undo: list[Callable[[], None]] = []
    for module in lm.modules():
        forward = _twin(module)
        if forward is not None:
            module.forward = forward  # type: ignore[method-assign]
            undo.append(lambda module=module: module.__dict__.pop("forward"))  # type: ignore[misc]
    return undo


def _twin(module: Any) -> Callable[..., Any] | None:
    kind = type(module).__name__
    if kind.endswith("RMSNorm") and hasattr(module, "variance_epsilon"):
        return lambda x: rms_norm(x, module.weight, module.variance_epsilon)
    if kind.endswith("MLP") and type(getattr(module, "act_fn", None)).__name__ in ("SiLUActivation", "SiLU"):
        if all(hasattr(module, f"{name}_proj") for name in ("gate", "up", "down")):
            return lambda x: module.down_proj(_SiluGate.apply(module.gate_proj(x), module.up_proj(x)))
        return None
    if kind in ATTENTIONS and not _bends_scores(module):
        return _attention_twin(module)
    return None


def _bends_scores(module: nn.Module) -> bool:
    """Whether a softcap, or a window that the module does not carry itself, would be lost in the twin. Rows as short
    as the probe's feel neither, so comparing cannot tell."""
    window = None if hasattr(module, "sliding_window") else getattr(module.config, "sliding_window", None)
    return window is not None or getattr(module, "attn_logit_softcapping", None) is not None


def _attention_twin(module: Any) -> Callable[..., Any]:
    original = type(module).forward
    q_norm, k_norm = getattr(module, "q_norm", None), getattr(module, "k_norm", None)

    def forward(
        hidden_states: Tensor, position_embeddings: Any = None, attention_mask: Any = None, **kwargs: Any
    ) -> tuple[Tensor, None]:
        spans = kwargs.get("spans")
        if spans is None or position_embeddings is None:
            return original(
                module,
                hidden_states,
                position_embeddings=position_embeddings,
                attention_mask=attention_mask,
                **kwargs,
            )
        shape = (*hidden_states.shape[:-1], -1, module.head_dim)
        query = module.q_proj(hidden_states).view(shape)
        key = module.k_proj(hidden_states).view(shape)
        value = module.v_proj(hidden_states).view(shape)
        query = query if q_norm is None else q_norm(query)
        key = key if k_norm is None else k_norm(key)
        cos, sin = position_embeddings
        out, _ = packed_attention(module)(
            module,
            rotate(query, cos, sin).transpose(1, 2),
            rotate(key, cos, sin).transpose(1, 2),
            value.transpose(1, 2),
            None,
            scaling=module.scaling,
            dropout=module.attention_dropout if module.training else 0.0,
            sliding_window=getattr(module, "sliding_window", None),
            spans=spans,
        )
        return module.o_proj(out.reshape(*hidden_states.shape[:-1], -1)), None

    return forward


def _compute_dtype(x: Tensor) -> torch.dtype:
    device = x.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype


def rms_norm(x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    """`x / sqrt(mean(x^2) + epsilon) * weight` over the last axis (Zhang and Sennrich, 2019), in the compute dtype."""
    return _RMSNorm.apply(x, weight, epsilon, _compute_dtype(x))


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, epsilon: float, dtype: torch.dtype) -> Tensor:  # type: ignore[override]
        wide = x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
        norm = torch.linalg.vector_norm(wide, dim=-1, keepdim=True)
        rstd = norm.square_().div_(x.shape[-1]).add_(epsilon).rsqrt_()
        ctx.save_for_backward(x, weight, rstd)
        return (wide * rstd).mul_(weight).to(dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        x, weight, rstd = ctx.saved_tensors
        size = x.shape[-1]
        unit = (x * rstd).view(-1, size)
        wide = grad.reshape(-1, size).to(unit.dtype)
        along = wide * unit
        grad_weight = along.sum(0).to(weight.dtype) if ctx.needs_input_grad[1] else None
        share = (along @ weight.to(unit.dtype)).div_(-size)
        out = (wide * weight).addcmul_(unit, share[:, None]).mul_(rstd.reshape(-1, 1))
        return out.view(x.shape).to(x.dtype), grad_weight, None, None


class _SiluGate(torch.autograd.Function):
    """silu(gate) * up; the sigmoid is made again in the backward instead of being kept."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:  # type: ignore[override]
        ctx.save_for_backward(gate, up)
        return silu(gate).mul_(up)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        gate, up = ctx.saved_tensors
        grad_up = silu(gate).mul_(grad)
        return torch.ops.aten.silu_backward(grad * up, gate), grad_up


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary position embedding (Su et al., 2021) of [1, T, heads, head], halves as in transformers; also for heads
    that are rotated in their first part only."""
    half = cos.shape[-1] // 2
    return _Rotate.apply(x, cos[..., None, :half], sin[..., None, :half])


class _Rotate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:  # type: ignore[override]
        ctx.save_for_backward(cos, sin)
        return _turn(x, cos, sin)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        cos, sin = ctx.saved_tensors
        return _turn(grad, cos, -sin), None, None


def _turn(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    half = cos.shape[-1]
    wide = x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
    first, second = wide[..., :half], wide[..., half : 2 * half]
    out = torch.empty(x.shape, dtype=wide.dtype, device=x.device)
    torch.mul(first, cos, out=out[..., :half]).addcmul_(second, sin, value=-1)
    torch.mul(second, cos, out=out[..., half : 2 * half]).addcmul_(first, sin)
    if 2 * half < x.shape[-1]:
        out[..., 2 * half :] = wide[..., 2 * half :]
    return out.to(x.dtype)
