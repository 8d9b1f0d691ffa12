"""A lean twin of Llama-shaped models for sampling: its own copy of the weights, few and large operations.

Query, key and value are one matrix, gate and up another; norms' weights are folded into the matrices behind them; heads
are reordered so that a rotary embedding is one complex product; on CPU matrices lie as oneDNN wants them. Adapters are
merged in this copy alone, in fp32, before it is rounded. The residual stream stays in fp32.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding, linear, rms_norm, silu

from posttrain.models.bitsandbytes import is_4bit, plain_copy
from posttrain.models.decoding import Attend, PlainDecoder, finish_logits
from posttrain.models.decoding_pages import packed_rows
from posttrain.models.logprobs import Head, causal_lm, head_of
from posttrain.types import Span

# What these compute was read, not guessed: others may clip or scale in ways that a short probe does not feel.
ATTENTIONS = {f"{family}Attention" for family in ("Llama", "Mistral", "Qwen2", "Qwen3")}
ROPES = {"default", "linear", "llama3", "yarn"}  # the others depend on the longest row of a batch
PROBE = 24  # tokens that every layer is compared on
# Of the largest value, between a layer and its twin in fp32; for models that are themselves of lower precision.
TOLERANCE = {torch.float32: 2e-4, torch.bfloat16: 5e-2, torch.float16: 1e-2}
PACK_ROWS = 64  # rows that oneDNN lays a matrix out for; it is as fast for fewer


class _Matrix:
    """`x W^T + b` in a dtype, with W laid out by oneDNN where that works."""

    def __init__(self, weight: Tensor, bias: Tensor | None, dtype: torch.dtype) -> None:
        self.weight, self.bias = weight.to(dtype), None if bias is None else bias.to(dtype)
        self.is_packed = weight.device.type == "cpu" and _packs(dtype)
        if self.is_packed:
            self.weight = torch.ops.mkldnn._reorder_linear_weight(self.weight, PACK_ROWS)

    def __call__(self, x: Tensor) -> Tensor:
        if self.is_packed:
            return torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, "none", [], "")  # type: ignore[no-any-return]
        return linear(x, self.weight, self.bias)


@lru_cache(maxsize=4)
def _packs(dtype: torch.dtype) -> bool:
    """Whether torch's oneDNN operators for packed weights are there and compute the product. They are not public."""
    x, weight = torch.linspace(-1, 1, 64).view(4, 16).to(dtype), torch.linspace(-1, 1, 512).view(32, 16).to(dtype)
    try:
        packed = torch.ops.mkldnn._reorder_linear_weight(weight, PACK_ROWS)
        found = torch.ops.mkldnn._linear_pointwise(x, packed, None, "none", [], "")
    except (RuntimeError, AttributeError, NotImplementedError):
        return False
    return torch.allclose(found.float(), linear(x.float(), weight.float()), rtol=0.02, atol=0.02)


@dataclass
class _Layer:
    """A decoder layer; matrices in fp32 until they are cast."""

    qkv: Any
    out: Any
    gate_up: Any
    down: Any
    num_heads: int
    num_kv_heads: int
    head_dim: int
    qk_weight: Tensor | None  # [heads + kv heads, head], where queries and keys are normalised
    eps: float
    options: dict[str, Any]  # scaling, window, softcap: as the model gave them to its attention

    def cast(self, dtype: torch.dtype) -> "_Layer":
        for name in ("qkv", "out", "gate_up", "down"):
            weight, bias = getattr(self, name)
            setattr(self, name, _Matrix(weight, bias, dtype))
        return self

    def attention(self, index: int, h: Tensor, turn: Tensor, attend: Attend) -> Tensor:
        """`h` [T, D] normalised; `turn` [T, 1, head / 2] the complex rotation of each position."""
        both = self.num_heads + self.num_kv_heads
        qkv = self.qkv(h).view(len(h), both + self.num_kv_heads, self.head_dim)
        qk = qkv[:, :both].float()
        if self.qk_weight is not None:
            qk = rms_norm(qk, (self.head_dim,), None, self.eps).mul_(self.qk_weight)
        torch.view_as_complex(qk.unflatten(2, (-1, 2))).mul_(turn)
        qk = qk.to(h.dtype)
        found = attend(index, qk[:, : self.num_heads], qk[:, self.num_heads :], qkv[:, both:], **self.options)
        return self.out(found.flatten(1))  # type: ignore[no-any-return]

    def mlp(self, h: Tensor) -> Tensor:
        gate, up = self.gate_up(h).chunk(2, 1)
        return self.down(silu(gate).mul_(up))  # type: ignore[no-any-return]

    def forward(self, index: int, x: Tensor, turn: Tensor, attend: Attend, dtype: torch.dtype) -> Tensor:
        """`x` [T, D], fp32, in place."""
        size = (x.shape[1],)
        x.add_(self.attention(index, rms_norm(x, size, None, self.eps).to(dtype), turn, attend))
        return x.add_(self.mlp(rms_norm(x, size, None, self.eps).to(dtype)))


class LeanDecoder:
    """See Decoder."""

    def __init__(self, model: nn.Module, dtype: torch.dtype, layers: Sequence[_Layer], head: Head) -> None:
        lm = causal_lm(model)
        self.dtype, self.layers = dtype, layers
        # Not the weight itself: whoever keeps the twin alone shall not keep the model's largest matrix with it.
        self.head = replace(head, weight_VD=head.weight_VD.new_empty(0), bias_V=None)
        self.rotary, self.eps = lm.model.rotary_emb, lm.model.norm.variance_epsilon
        self.embedding = merged(lm.get_input_embeddings())[0].to(dtype)
        self.wide: Tensor | None = None
        bias = None if head.bias_V is None else head.bias_V.float()
        self.output = _Matrix(head.weight_VD.float() * lm.model.norm.weight.float(), bias, dtype)

    def hidden(self, ids_T: Tensor, position_T: Tensor, attend: Attend) -> Tensor:
        x = embedding(ids_T, self.embedding).float()
        turn = rotation(self.rotary, x, position_T)
        for index, layer in enumerate(self.layers):
            layer.forward(index, x, turn, attend, self.dtype)
        return rms_norm(x, (x.shape[1],), None, self.eps).to(self.dtype)

    def logits(self, hidden_BD: Tensor) -> Tensor:
        found = self.output(hidden_BD)
        if found.dtype != torch.float32:  # one block of memory for all steps: a fresh one costs more than the copy
            if self.wide is None or len(self.wide) < len(found):
                self.wide = torch.empty(found.shape, dtype=torch.float32, device=found.device)
            found = self.wide[: len(found)].copy_(found)
        return finish_logits(found, self.head)


def rotation(rotary: Any, x: Tensor, position_T: Tensor) -> Tensor:
    """The model's own rotary embedding as complex numbers [T, 1, head / 2]."""
    cos, sin = rotary(x, position_T[None])
    half = cos.shape[-1] // 2
    return torch.complex(cos[0, :, None, :half], sin[0, :, None, :half])


def merged(module: Any) -> tuple[Tensor, Tensor | None]:
    """Weight and bias of a linear map or an embedding in fp32, with its adapter where it has one."""
    if hasattr(module, "token_adapter"):  # peft: single rows that are trained
        adapter = module.token_adapter
        rows = adapter.get_base_layer().weight if adapter.disable_adapters else None
        return (adapter.get_merged_weights(adapter.active_adapters) if rows is None else rows).float(), None
    if is_4bit(module):
        module = plain_copy(module)
    if hasattr(module, "merge") and hasattr(module, "get_base_layer"):
        if not module.disable_adapters and not module.merged:
            module = copy.deepcopy(module).float()
            module.merge()
        module = module.get_base_layer()
    bias = getattr(module, "bias", None)
    return module.weight.detach().float(), None if bias is None else bias.detach().float()


def lean_decoder(model: nn.Module, dtype: torch.dtype) -> LeanDecoder | None:
    """The twin of a model with its present weights; None where it is of another shape, or a layer's twin computes
    something else than the layer."""
    lm = causal_lm(model)
    if not _is_llama_shaped(lm):
        return None
    seen = _Seen(lm)
    seen.run(model)
    layers = []
    for index, module in enumerate(lm.model.layers):
        layer = _read_layer(module, seen.options[index])
        if layer is None:
            return None
        found = layer_twin(layer, index, seen)
        wanted = seen.outputs[index].float()
        if (found - wanted).abs().max() > TOLERANCE.get(seen.dtype, 2e-4) * wanted.abs().max().clamp(min=1e-6):
            return None
        layers.append(layer.cast(dtype))
    return LeanDecoder(model, dtype, layers, head_of(model))


def layer_twin(layer: _Layer, index: int, seen: "_Seen") -> Tensor:
    """What the twin makes of a layer's input on the probe, in fp32."""
    plain = copy.copy(layer)
    for name in ("qkv", "out", "gate_up", "down"):
        pair = getattr(layer, name)
        setattr(plain, name, lambda x, pair=pair: linear(x, *pair))
    x = seen.inputs[index].float().clone()
    return plain.forward(index, x, rotation(seen.lm.model.rotary_emb, x, seen.position_T), seen.attend, torch.float32)


def _is_llama_shaped(lm: Any) -> bool:
    backbone: Any = getattr(lm, "model", None)
    layers = getattr(backbone, "layers", None)
    if not layers or not all(hasattr(backbone, name) for name in ("norm", "rotary_emb")):
        return False
    if str(getattr(backbone.rotary_emb, "rope_type", "")) not in ROPES or not hasattr(
        backbone.norm, "variance_epsilon"
    ):
        return False
    return all(
        type(getattr(layer, "self_attn", None)).__name__ in ATTENTIONS
        and type(getattr(getattr(layer, "mlp", None), "act_fn", None)).__name__ in ("SiLUActivation", "SiLU")
        for layer in layers
    )


def _read_layer(module: Any, options: dict[str, Any]) -> _Layer | None:
    """A layer's weights, joined, folded and reordered, in fp32."""
    attn, mlp = module.self_attn, module.mlp
    size = attn.head_dim
    pairs = torch.arange(size).view(2, -1).t().reshape(-1)  # halves, as transformers rotates them, to neighbours
    parts = [merged(getattr(attn, f"{name}_proj")) for name in "qkv"]
    num_heads, num_kv_heads = (len(parts[i][0]) // size for i in (0, 1))
    order = torch.cat([*(torch.arange(n)[:, None] * size + pairs for n in (num_heads, num_kv_heads)),
                       torch.arange(num_kv_heads * size).view(-1, size)])  # fmt: skip
    order[num_heads : num_heads + num_kv_heads] += num_heads * size
    order[num_heads + num_kv_heads :] += (num_heads + num_kv_heads) * size
    order = order.flatten().to(parts[0][0].device)
    qkv, bias = _joined(parts)
    before, after = (norm.weight.detach().float() for norm in (module.input_layernorm, module.post_attention_layernorm))
    gate_up, gate_up_bias = _joined([merged(mlp.gate_proj), merged(mlp.up_proj)])
    norms: list[Any] = [getattr(attn, name, None) for name in ("q_norm", "k_norm")]
    epsilons = {n.variance_epsilon for n in (module.input_layernorm, module.post_attention_layernorm, *norms) if n}
    if len(epsilons) != 1 or (norms[0] is None) != (norms[1] is None):
        return None
    weight = None
    if norms[0] is not None and norms[1] is not None:
        rows = [norm.weight.detach().float()[pairs.to(qkv.device)] for norm in norms]
        weight = torch.cat([rows[0].expand(num_heads, -1), rows[1].expand(num_kv_heads, -1)])
    return _Layer(
        ((qkv * before)[order], None if bias is None else bias[order]), merged(attn.o_proj),
        (gate_up * after, gate_up_bias), merged(mlp.down_proj),
        num_heads, num_kv_heads, size, weight, epsilons.pop(), options,
    )  # fmt: skip


def _joined(parts: Sequence[tuple[Tensor, Tensor | None]]) -> tuple[Tensor, Tensor | None]:
    """Linear maps of one input as a single one."""
    weight = torch.cat([weight for weight, _ in parts])
    if all(bias is None for _, bias in parts):
        return weight, None
    return weight, torch.cat([w.new_zeros(len(w)) if bias is None else bias for w, bias in parts])


class _Seen:
    """What the model's own layers do with a few tokens: inputs, outputs, and how they call attention."""

    def __init__(self, lm: Any) -> None:
        self.lm, self.dtype = lm, next(lm.parameters()).dtype
        device = next(lm.parameters()).device
        self.ids_T = torch.arange(3, 3 + PROBE, device=device) % lm.config.vocab_size
        self.position_T = torch.arange(PROBE, device=device)
        self.inputs: dict[int, Tensor] = {}
        self.outputs: dict[int, Tensor] = {}
        self.options: dict[int, dict[str, Any]] = {}

    def run(self, model: nn.Module) -> None:
        hooks = [
            layer.register_forward_hook(self._keep(index), with_kwargs=True)
            for index, layer in enumerate(self.lm.model.layers)
        ]
        try:
            PlainDecoder(model).hidden(self.ids_T, self.position_T, self.attend)
        finally:
            for hook in hooks:
                hook.remove()

    def _keep(self, index: int) -> Any:
        def hook(module: Any, args: Any, kwargs: Any, out: Any) -> None:  # noqa: ARG001 (torch's signature)
            self.inputs[index] = (args[0] if args else kwargs["hidden_states"]).clone()
            self.outputs[index] = (out[0] if isinstance(out, tuple) else out).clone()
            self.inputs[index], self.outputs[index] = (
                x[0] if x.ndim == 3 else x for x in (self.inputs[index], self.outputs[index])
            )

        return hook

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, **options: Any) -> Tensor:
        self.options.setdefault(layer, options)
        return packed_rows(query, key, value, (Span(0, PROBE),), **options)
