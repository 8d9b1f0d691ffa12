"""The only file where the vocabulary axis exists: hidden states to log-probabilities, in chunks.

Only trained positions pass the head, and no [tokens x vocabulary] tensor ever lives whole, forward or backward.
Matrix products run in the training dtype; log-sum-exp, log-probabilities and head gradients are summed in fp32.
"""

from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from functools import wraps
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from posttrain.errors import ModelError
from posttrain.models.within import within
from posttrain.types import Batch, Span

# Elements of one chunk of logits: 4M fp32 values are 16 MB, which stays in a CPU's shared cache and is a small part
# of any GPU.
CHUNK_ELEMENTS = 4 * 1024 * 1024

# CPU matrix kernels are compiled for every shape they meet: rows are filled up so that few shapes are met. The filler
# is a span of its own that nothing sees and nothing trains.
ROW_MULTIPLE = 64


# No entropy, one to look at, or one to reward.
Entropy = bool | Literal["differentiable"]


@dataclass(frozen=True)
class Head:
    """The last linear map and what a family does to its logits: `softcap * tanh(scale * (Wh + b) / softcap)`."""

    weight_VD: Tensor
    bias_V: Tensor | None
    scale: float = 1.0
    softcap: float | None = None


def causal_lm(model: Any) -> Any:
    """The transformers causal LM itself, also where peft has wrapped it."""
    return model.get_base_model() if hasattr(model, "peft_config") else model


def head_of(model: nn.Module) -> Head:
    """Weights and post-processing of the language-model head."""
    lm = causal_lm(model)
    linear = lm.get_output_embeddings()
    if linear is None or not hasattr(linear, "weight"):
        raise ModelError(f"{type(lm).__name__} has no linear language-model head to train.")
    config = lm.config
    scale = getattr(config, "logit_scale", None) or 1.0  # Cohere multiplies, Granite divides
    scale = scale / (getattr(config, "logits_scaling", None) or 1.0)
    return Head(
        _trained_weight(linear), getattr(linear, "bias", None), scale, getattr(config, "final_logit_softcapping", None)
    )


def _trained_weight(linear: Any) -> Tensor:
    """The head's matrix; where peft trains single rows of it, with those rows in place for gradients to reach."""
    rows = getattr(linear, "token_adapter", None)
    if rows is None or rows.disable_adapters:
        return linear.weight  # type: ignore[no-any-return]
    return rows.get_merged_weights(rows.active_adapters)  # type: ignore[no-any-return]


# Model, batch and hidden states that were just computed: see `known_states` in models/distributions.py.
KNOWN: ContextVar[tuple[nn.Module, Batch, Tensor] | None] = ContextVar("known", default=None)


def hidden_states(model: nn.Module, batch: Batch) -> Tensor:
    """Final hidden states [T, D] of a packed batch; attention must have been installed on the model."""
    known = KNOWN.get()
    if known is not None and known[0] is model and known[1] is batch:
        return known[2]
    backbone = causal_lm(model).base_model
    ids, positions, spans = batch.input_ids_T, batch.position_ids_T, batch.spans
    extra = -batch.num_tokens % ROW_MULTIPLE if ids.device.type == "cpu" else 0
    if extra:
        ids, positions = pad(ids, (0, extra)), torch.cat([positions, torch.arange(extra)])
        spans = (*spans, Span(batch.num_tokens, batch.num_tokens + extra))
    out = backbone(input_ids=ids[None], position_ids=positions[None], use_cache=False, spans=spans)
    return out.last_hidden_state[0]


def token_logps(
    model: nn.Module, batch: Batch, *, temperature: float = 1.0, gradient_hint_N: Tensor | None = None
) -> Tensor:
    """Log-probability [N] (fp32) of every trained token of a batch, of the distribution at `temperature`.

    `gradient_hint_N`: where the loss is linear in the log-probabilities, its coefficients up to one common factor.
    The head's gradient is then made in the forward pass, without a second product for the logits.
    """
    return token_stats(model, batch, temperature=temperature, gradient_hint_N=gradient_hint_N)[0]


def token_stats(
    model: nn.Module,
    batch: Batch,
    *,
    temperature: float = 1.0,
    entropy: Entropy = False,
    gradient_hint_N: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Log-probability [N] of every trained token and, where asked, the entropy [N] (nats) of the distribution that
    predicts it; see `head_stats`."""

    def found() -> tuple[Tensor, Tensor | None]:
        return head_stats(
            hidden_states(model, batch).index_select(0, batch.source_N),
            head_of(model),
            batch.target_ids_N,
            temperature=temperature,
            entropy=entropy,
            gradient_hint_N=gradient_hint_N,
        )

    return within(model, found)


def head_logps(
    hidden_ND: Tensor,
    head: Head,
    target_ids_N: Tensor,
    *,
    temperature: float = 1.0,
    gradient_hint_N: Tensor | None = None,
    chunk_elements: int = CHUNK_ELEMENTS,
) -> Tensor:
    """`log softmax(head(hidden_n) / temperature)[target_n]` for each n: [N], fp32 (fp64 where the hidden states are).

    Gradients flow to hidden states, weight and bias; they equal those of the dense formula to rounding.
    """
    return head_stats(
        hidden_ND,
        head,
        target_ids_N,
        temperature=temperature,
        gradient_hint_N=gradient_hint_N,
        chunk_elements=chunk_elements,
    )[0]


def head_stats(
    hidden_ND: Tensor,
    head: Head,
    target_ids_N: Tensor,
    *,
    temperature: float = 1.0,
    entropy: Entropy = False,
    gradient_hint_N: Tensor | None = None,
    chunk_elements: int = CHUNK_ELEMENTS,
) -> tuple[Tensor, Tensor | None]:
    """Log-probabilities [N] as `head_logps` gives them, and in the same pass the entropy [N] of each distribution.

    `temperature` divides the logits as the head leaves them, scaled and capped: what a sampler draws from.
    `entropy`: True gives a figure without a gradient; "differentiable" one to reward, whose gradient takes the product
    for the logits once more in the backward pass.
    """
    assert temperature > 0, "at temperature 0 a token is certain or impossible"
    device = hidden_ND.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else head.weight_VD.dtype
    rows = max(16, chunk_elements // head.weight_VD.shape[0])
    extra = -hidden_ND.shape[0] % ROW_MULTIPLE if device == "cpu" else 0
    count = hidden_ND.shape[0]
    if extra:
        hidden_ND, target_ids_N = pad(hidden_ND, (0, 0, 0, extra)), pad(target_ids_N, (0, extra))
        gradient_hint_N = None if gradient_hint_N is None else pad(gradient_hint_N, (0, extra))
    inputs = hidden_ND, head.weight_VD, head.bias_V
    work = Chunks(*inputs, target_ids_N, head, dtype, rows, temperature)
    needs_grad = torch.is_grad_enabled()
    if entropy == "differentiable" and needs_grad:
        assert gradient_hint_N is None, "a loss with an entropy in it is not linear in the log-probabilities"
        logp_N, entropy_N = _HeadStats.apply(*inputs, work)
    else:
        logp_N, entropy_N = _HeadLogps.apply(*inputs, work, gradient_hint_N, needs_grad, bool(entropy))
    return logp_N[:count], None if entropy_N is None else entropy_N[:count]


class _HeadLogps(torch.autograd.Function):
    """d logp_n / d hidden_n is known in the forward pass, so it is kept ([N, D]) and only scaled in the backward.
    The weight's gradient mixes tokens, so it is made forward only where the mixing coefficients are hinted."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any,
        hidden_ND: Tensor,
        weight_VD: Tensor,
        bias_V: Tensor | None,
        work: "Chunks",
        hint_N: Tensor | None,
        needs_grad: bool,
        entropy: bool,
    ) -> tuple[Tensor, Tensor | None]:
        train_head = needs_grad and (weight_VD.requires_grad or (bias_V is not None and bias_V.requires_grad))
        train_hidden = needs_grad and hidden_ND.requires_grad
        slope_ND = torch.empty_like(hidden_ND, dtype=work.dtype) if train_hidden else None
        sums = work.sums() if train_head and hint_N is not None else None
        entropy_N = work.empty() if entropy else None
        logp_N = work.run(slope_ND, sums, hint_N, entropy_N)
        ctx.work, ctx.sums, ctx.hint, ctx.train_head = work, sums, hint_N, train_head
        ctx.save_for_backward(slope_ND)
        if entropy_N is not None:
            ctx.mark_non_differentiable(entropy_N)
        return logp_N, entropy_N

    @staticmethod
    def backward(ctx: Any, grad_N: Tensor, _: Any) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        (slope_ND,) = ctx.saved_tensors
        work, sums = ctx.work, ctx.sums
        grad_hidden = None if slope_ND is None else (slope_ND * grad_N[:, None]).to(work.hidden_ND.dtype)
        grad_weight = grad_bias = None
        if ctx.train_head:
            if sums is None:
                sums, factor = work.sums(), None
                work.run(None, sums, grad_N)
            else:
                factor = _common_factor(grad_N, ctx.hint)
            grad_weight, grad_bias = sums.finish(factor)
        return grad_hidden, grad_weight, grad_bias, None, None, None, None


class _HeadStats(torch.autograd.Function):
    """Log-probabilities and entropies, both to be differentiated: the two slopes of a token are known together only in
    the backward pass, so all is made there, a chunk at a time."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, hidden_ND: Tensor, weight_VD: Tensor, bias_V: Tensor | None, work: "Chunks"
    ) -> tuple[Tensor, Tensor]:
        ctx.work, ctx.train_hidden = work, hidden_ND.requires_grad
        ctx.train_head = weight_VD.requires_grad or (bias_V is not None and bias_V.requires_grad)
        entropy_N = work.empty()
        return work.run(None, None, None, entropy_N), entropy_N

    @staticmethod
    def backward(ctx: Any, grad_N: Tensor, grad_entropy_N: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        work = ctx.work
        grad_ND = torch.empty_like(work.hidden_ND) if ctx.train_hidden else None
        sums = work.sums() if ctx.train_head else None
        work.pull(grad_N, grad_entropy_N, grad_ND, sums)
        grad_weight, grad_bias = (None, None) if sums is None else sums.finish(None)
        return grad_ND, grad_weight, grad_bias, None


def _common_factor(grad_N: Tensor, hint_N: Tensor) -> Tensor:
    """The c in grad = c * hint. A loss that breaks the promise would train the head wrongly in silence."""
    hint_N = hint_N.to(grad_N.dtype)
    factor = grad_N.dot(hint_N) / hint_N.dot(hint_N)
    close = (grad_N - factor * hint_N).abs().max() <= 1e-5 * grad_N.abs().max()
    sound = close | ~grad_N.isfinite().all()  # a slope that is not a number is the loop's to report
    torch._assert_async(sound, "the loss is not linear in the log-probabilities with the hinted coefficients")
    return factor


class HeadGradient:
    """Running sums of the head's gradients, in fp32 at least."""

    def __init__(self, weight_VD: Tensor, bias_V: Tensor | None, dtype: torch.dtype) -> None:
        self.weight = torch.zeros(weight_VD.shape, dtype=dtype, device=weight_VD.device)
        self.bias = None if bias_V is None else torch.zeros(bias_V.shape, dtype=dtype, device=bias_V.device)
        self.finished = False
        self.dtypes = weight_VD.dtype, None if bias_V is None else bias_V.dtype

    def add(self, slope_CV: Tensor, hidden_CD: Tensor, coef_C1: Tensor) -> None:
        self.weight.add_(slope_CV.t() @ (hidden_CD * coef_C1).to(hidden_CD.dtype))
        if self.bias is not None:
            self.bias.addmv_(slope_CV.t().to(self.bias.dtype), coef_C1[:, 0].to(self.bias.dtype))

    def finish(self, factor: Tensor | None) -> tuple[Tensor, Tensor | None]:
        assert not self.finished, "a hinted head scales its gradient in place: it can be differentiated once"
        self.finished = True
        if factor is not None:
            self.weight.mul_(factor)
            self.bias = None if self.bias is None else self.bias.mul_(factor)
        return self.weight.to(self.dtypes[0]), None if self.bias is None else self.bias.to(self.dtypes[1])


def plainly(method: Callable[..., Any]) -> Callable[..., Any]:
    """Neither recorded nor cast: a pass over the chunks chooses its own types."""

    @wraps(method)
    def run(work: "Chunks", *args: Any) -> Any:
        with torch.no_grad(), torch.autocast(work.hidden_ND.device.type, enabled=False):
            return method(work, *args)

    return run


class Chunks:
    """One pass over the tokens, a chunk of logits at a time."""

    def __init__(
        self,
        hidden_ND: Tensor,
        weight_VD: Tensor,
        bias_V: Tensor | None,
        target_N: Tensor,
        head: Head,
        dtype: torch.dtype,
        rows: int,
        temperature: float,
    ) -> None:
        self.hidden_ND, self.weight_VD, self.bias_V = hidden_ND.detach(), weight_VD.detach(), bias_V
        self.target_N, self.head, self.dtype, self.rows = target_N, head, dtype, rows
        self.temperature = temperature
        self.sum_dtype = torch.promote_types(dtype, torch.float32)

    def empty(self) -> Tensor:
        """Room for a figure of every token."""
        return torch.empty(self.hidden_ND.shape[0], dtype=self.sum_dtype, device=self.hidden_ND.device)

    def sums(self) -> HeadGradient:
        """Room for the head's gradient."""
        return HeadGradient(self.weight_VD, self.bias_V, self.sum_dtype)

    @plainly
    def run(
        self,
        slope_ND: Tensor | None,
        sums: HeadGradient | None,
        coef_N: Tensor | None,
        entropy_N: Tensor | None = None,
    ) -> Tensor:
        """Log-probabilities [N]; fills `entropy_N`, and `slope_ND` with d logp / d hidden, and adds to `sums` weighted
        by `coef_N`."""
        logp_N = self.empty()
        for at, hidden, weight, logp_CV, damp_CV in self.chunks():
            target = self.target_N[at, None]
            logp_N[at] = logp_CV.gather(1, target)[:, 0]
            if entropy_N is None:
                p_CV = None
            else:
                p_CV = logp_CV.exp()
                entropy_N[at] = -logp_CV.mul_(p_CV).sum(1)
            if slope_ND is None and sums is None:
                continue
            # Minus d logp / d logits: the probabilities, less 1 at the target. Signs and coefficients go onto the
            # narrow side of each product.
            excess = logp_CV.exp_() if p_CV is None else p_CV
            excess.scatter_add_(1, target, excess.new_full((len(target), 1), -1.0))
            excess = self.below(excess, damp_CV)
            if slope_ND is not None:
                torch.mm(excess, weight, out=slope_ND[at]).neg_()
            if sums is not None and coef_N is not None:
                sums.add(excess, hidden, -coef_N[at, None])
        return logp_N

    @plainly
    def pull(self, grad_N: Tensor, grad_entropy_N: Tensor, grad_ND: Tensor | None, sums: HeadGradient | None) -> None:
        """The backward pass of log-probabilities and entropies H at once: d H / d logit_v is -p_v (log p_v + H)."""
        for at, hidden, weight, logp_CV, damp_CV in self.chunks():
            p_CV = logp_CV.exp()
            entropy_C1 = -(p_CV * logp_CV).sum(1, keepdim=True)
            slope = logp_CV.add_(entropy_C1).mul_(grad_entropy_N[at, None]).add_(grad_N[at, None])
            slope.mul_(p_CV).neg_().scatter_add_(1, self.target_N[at, None], grad_N[at, None])
            slope = self.below(slope, damp_CV)
            if grad_ND is not None:
                grad_ND[at] = slope @ weight
            if sums is not None:
                sums.add(slope, hidden, torch.ones_like(grad_N[at, None]))

    def chunks(self) -> Iterator[tuple[slice, Tensor, Tensor, Tensor, Tensor | None]]:
        """Of each chunk its place, hidden states, the head's weight, log-probabilities of all tokens, and the slope of
        the softcap where there is one."""
        weight = self.weight_VD.to(self.dtype)
        bias = None if self.bias_V is None else self.bias_V.detach().to(self.sum_dtype)
        hidden = self.hidden_ND.to(self.dtype)
        for start in range(0, hidden.shape[0], self.rows):
            at = slice(start, start + self.rows)
            logits_CV, damp_CV = self._logits(hidden[at], weight, bias)
            yield at, hidden[at], weight, torch.log_softmax(logits_CV, 1), damp_CV

    def below(self, slope_CV: Tensor, damp_CV: Tensor | None) -> Tensor:
        """From the slope at the logits that the softmax sees to that at the matrix product, in the training dtype."""
        if damp_CV is not None:
            slope_CV.mul_(damp_CV)
        if self.head.scale != self.temperature:
            slope_CV.mul_(self.head.scale / self.temperature)
        return slope_CV.to(self.dtype)

    def _logits(self, hidden_CD: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Logits over temperature in the summing dtype and, where a softcap bends them, its derivative."""
        logits = (hidden_CD @ weight.t()).to(self.sum_dtype)
        if bias is not None:
            logits.add_(bias)
        if self.head.softcap is None:
            factor = self.head.scale / self.temperature
            return logits if factor == 1.0 else logits.mul_(factor), None
        if self.head.scale != 1.0:
            logits.mul_(self.head.scale)
        bent = logits.div_(self.head.softcap).tanh_()
        damp = 1 - bent * bent
        return bent.mul_(self.head.softcap / self.temperature), damp
