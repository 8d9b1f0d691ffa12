"""Chunked log-probabilities equal the dense formula, forward and backward, and never hold [tokens x vocabulary]."""

import copy
import dataclasses
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from posttrain.data.batch import pack
from posttrain.errors import ModelError
from posttrain.models.attention import install_attention
from posttrain.models.logprobs import ROW_MULTIPLE, Head, head_logps, head_of, token_logps

NUM_TOKENS, WIDTH, VOCABULARY = 61, 8, 29
# Rows in a chunk; none but the last divides the number of tokens.
ROWS = [16, 17, 60, 61, 1000]


@dataclasses.dataclass
class Case:
    hidden_ND: Tensor
    weight_VD: Tensor
    bias_V: Tensor | None
    target_N: Tensor
    coef_N: Tensor
    scale: float
    softcap: float | None

    def leaves(self) -> list[Tensor]:
        return [x for x in (self.hidden_ND, self.weight_VD, self.bias_V) if x is not None]

    def dense(self) -> Tensor:
        logits = self.hidden_ND @ self.weight_VD.t()
        logits = (logits if self.bias_V is None else logits + self.bias_V) * self.scale
        if self.softcap is not None:
            logits = self.softcap * torch.tanh(logits / self.softcap)
        return torch.log_softmax(logits, -1)[torch.arange(len(self.target_N)), self.target_N]

    def chunked(self, rows: int, hint_N: Tensor | None = None) -> Tensor:
        head = Head(self.weight_VD, self.bias_V, self.scale, self.softcap)
        size = rows * self.weight_VD.shape[0]
        return head_logps(self.hidden_ND, head, self.target_N, gradient_hint_N=hint_N, chunk_elements=size)


def case(
    *,
    dtype: torch.dtype = torch.float64,
    bias: bool = True,
    scale: float = 1.0,
    softcap: float | None = None,
    num_tokens: int = NUM_TOKENS,
) -> Case:
    generator = torch.Generator().manual_seed(0)

    def leaf(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()

    return Case(
        leaf(num_tokens, WIDTH),
        leaf(VOCABULARY, WIDTH),
        leaf(VOCABULARY) if bias else None,
        torch.randint(0, VOCABULARY, (num_tokens,), generator=generator),
        torch.randn(num_tokens, generator=generator, dtype=torch.float64).to(dtype),
        scale,
        softcap,
    )


HEADS = pytest.mark.parametrize(
    "head",
    [{}, {"bias": False}, {"softcap": 2.0}, {"scale": 0.25}, {"scale": 3.0, "softcap": 1.5}],
    ids=["bias", "no bias", "softcap", "scale", "scale and softcap"],
)


@HEADS
@pytest.mark.parametrize("hinted", [False, True], ids=["no hint", "hint"])
@pytest.mark.parametrize("rows", ROWS)
def test_chunked_is_dense(rows: int, hinted: bool, head: dict[str, Any]) -> None:
    made = case(**head)
    # The hint may differ from the coefficients by one common factor, here -3.
    found = made.chunked(rows, -made.coef_N / 3 if hinted else None)
    expected = made.dense()
    assert (found - expected).abs().max() <= 1e-12
    gradients = torch.autograd.grad(found @ made.coef_N, made.leaves())
    wanted = torch.autograd.grad(expected @ made.coef_N, made.leaves())
    for gradient, want in zip(gradients, wanted, strict=True):
        assert want.abs().max() > 0.1
        assert (gradient - want).abs().max() <= 1e-12


@HEADS
def test_gradcheck(head: dict[str, Any]) -> None:
    made = case(num_tokens=19, **head)

    def logps(*leaves: Tensor) -> Tensor:
        changed = dataclasses.replace(made, hidden_ND=leaves[0], weight_VD=leaves[1])
        changed.bias_V = leaves[2] if len(leaves) == 3 else None
        return changed.chunked(16)

    assert torch.autograd.gradcheck(logps, made.leaves())


def test_a_wrong_hint_raises() -> None:
    made = case()
    wrong = made.coef_N.clone()
    wrong[7] += 0.01
    total = made.chunked(17, wrong) @ made.coef_N
    with pytest.raises(RuntimeError, match="not linear in the log-probabilities"):
        total.backward()


def test_a_hint_of_a_nonlinear_loss_raises() -> None:
    made = case()
    with pytest.raises(RuntimeError, match="not linear in the log-probabilities"):
        (made.chunked(17, made.coef_N) ** 2 @ made.coef_N).backward()


@pytest.mark.parametrize("frozen", ["hidden", "weight", "bias"])
@pytest.mark.parametrize("hinted", [False, True], ids=["no hint", "hint"])
def test_frozen_parts_cost_nothing_to_the_others(frozen: str, hinted: bool) -> None:
    """LoRA freezes the head; training only the head freezes what lies below."""
    made = case()
    parts = {"hidden": made.hidden_ND, "weight": made.weight_VD, "bias": made.bias_V}
    parts.pop(frozen).requires_grad_(False)
    wanted = torch.autograd.grad(made.dense() @ made.coef_N, list(parts.values()))
    found = torch.autograd.grad(made.chunked(17, made.coef_N if hinted else None) @ made.coef_N, list(parts.values()))
    for gradient, want in zip(found, wanted, strict=True):
        assert (gradient - want).abs().max() <= 1e-12


# (values, gradients relative to their largest entry). Measured: 2.0e-6 and 1.5e-7 in fp32; in bf16, which rounds by
# 2^-9 = 0.002, 0.064 on log-probabilities down to -20, and 0.009.
BOUND_FP32 = (1e-5, 1e-6)
BOUND_BF16 = (0.1, 0.02)


@pytest.mark.parametrize("hinted", [False, True], ids=["no hint", "hint"])
def test_fp32_and_bf16_autocast(hinted: bool) -> None:
    """Rounding of the matrix products only: log-sum-exp and the head's gradient are summed in fp32."""
    exact = case()
    expected = exact.dense()
    wanted = torch.autograd.grad(expected @ exact.coef_N, exact.leaves())
    single = case(dtype=torch.float32)
    bounds = {torch.float32: BOUND_FP32, torch.bfloat16: BOUND_BF16}
    for dtype, (value, gradient) in bounds.items():
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            found = single.chunked(17, single.coef_N if hinted else None)
        assert found.dtype == torch.float32
        assert (found - expected).abs().max() <= value
        for got, want in zip(torch.autograd.grad(found @ single.coef_N, single.leaves()), wanted, strict=True):
            assert got.dtype == torch.float32
            assert (got - want).abs().max() <= gradient * want.abs().max()


class Sizes(TorchDispatchMode):
    """The shape of every tensor that any operation makes."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: set[tuple[int, ...]] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for made in out if isinstance(out, tuple | list) else [out]:
            if isinstance(made, Tensor):
                self.shapes.add(tuple(made.shape))
        return out

    @property
    def largest(self) -> int:
        return max(torch.Size(shape).numel() for shape in self.shapes)


@HEADS
@pytest.mark.parametrize("hinted", [False, True], ids=["no hint", "hint"])
def test_no_tensor_of_tokens_by_vocabulary(hinted: bool, head: dict[str, Any]) -> None:
    made = case(num_tokens=400, **head)
    with Sizes() as sizes:
        (made.chunked(16, made.coef_N if hinted else None) @ made.coef_N).backward()
    rows = -(-400 // ROW_MULTIPLE) * ROW_MULTIPLE
    assert sizes.largest == rows * WIDTH  # the hidden states, filled up; logits would be 400 * 29
    with Sizes() as dense:  # the control: the meter sees whole logits where they are made
        dense_total = made.dense() @ made.coef_N
        dense_total.backward()
    assert dense.largest == 400 * VOCABULARY


def test_only_trained_positions_reach_the_head(tiny: ModuleType) -> None:
    lm = tiny.model("llama", vocab_size=211)
    install_attention(lm)
    (sample,) = tiny.trees([[(90, -1), (20, 0)]])
    trained = dict.fromkeys((17, 40, 89), 0.5)
    weights = tuple(trained.get(i, 0.0) for i in range(90))
    prompt = dataclasses.replace(sample.segments[0], weights=weights)
    answer = dataclasses.replace(sample.segments[1], weights=(1.0,) + (0.0,) * 19)
    batch = pack([dataclasses.replace(sample, segments=(prompt, answer))])
    with Sizes() as sizes:
        token_logps(lm, batch, gradient_hint_N=batch.weight_N).sum()
    heights = {shape[0] for shape in sizes.shapes if len(shape) == 2 and shape[1] == 211}
    assert heights == {ROW_MULTIPLE, 32}  # four trained tokens, filled up, and the transposed weight of width 32


def test_no_gradient_where_none_is_wanted(tiny: ModuleType) -> None:
    lm = tiny.model("llama")
    install_attention(lm)
    batch = pack(tiny.trees([[(9, -1)]]))
    with torch.no_grad():
        assert not token_logps(lm, batch, gradient_hint_N=batch.weight_N).requires_grad


class TestHead:
    def test_gemma2_softcap(self, tiny: ModuleType) -> None:
        assert head_of(tiny.model("gemma2")).softcap == 3.0

    def test_cohere_multiplies_and_granite_divides(self, tiny: ModuleType) -> None:
        lm = tiny.model("llama")
        lm.config.logit_scale = 0.0625
        assert head_of(lm).scale == 0.0625
        lm.config.logit_scale, lm.config.logits_scaling = None, 8.0
        assert head_of(lm).scale == 0.125

    def test_a_model_without_a_head_is_refused(self, tiny: ModuleType) -> None:
        lm = copy.deepcopy(tiny.model("llama"))
        lm.set_output_embeddings(torch.nn.Identity())
        with pytest.raises(ModelError, match="no linear language-model head"):
            head_of(lm)
