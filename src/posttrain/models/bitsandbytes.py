"""Weights in NF4 (Dettmers et al., 2023, "QLoRA") and AdamW's moments in eight bits or in pages, by bitsandbytes: the
one file that imports it.

Blocks of 64 weights are divided by their largest magnitude and rounded to sixteen levels, which halve a normal
distribution into equal parts; with double quantisation the magnitudes themselves are kept in eight bits.
"""

import copy
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from posttrain.errors import ModelError

BLOCK = 64
MEND = "{} need bitsandbytes and accelerate: pip install 'posttrain[qlora]'."
MOMENTS = ("state1", "state2")
LEVELS = (("qmap1", "dynamic"), ("qmap2", "udynamic"))
"""What the library calls the 256 levels of the first and the second moment, in a state and in the optimiser."""


def _library(asked: str = "4-bit weights") -> Any:
    try:
        import accelerate  # noqa: F401 (transformers asks for it)
        import bitsandbytes
    except ImportError as error:
        raise ModelError(MEND.format(asked)) from error
    if not hasattr(bitsandbytes.functional.dequantize_4bit, "by_rows"):
        bitsandbytes.functional.dequantize_4bit = _in_one_row(bitsandbytes.functional.dequantize_4bit)
    return bitsandbytes


def _in_one_row(dequantize: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The library's function, mended for widths that are no multiple of a block: its kernel for CPUs takes the blocks
    of the wrong rows there (48, 96, 176, ...: 0.20 to 0.40 of the weights off for 0.09), and is right with one row."""

    def dequantize_4bit(packed: Tensor, quant_state: Any = None, *others: Any, **named: Any) -> Tensor:
        is_whole = quant_state is None or not quant_state.shape[-1] % quant_state.blocksize
        if is_whole or packed.device.type != "cpu" or others or named:
            return dequantize(packed, quant_state, *others, **named)
        row = copy.copy(quant_state)
        row.shape = torch.Size([1, quant_state.shape.numel()])
        found = dequantize(packed.reshape(-1, 1), row).reshape(quant_state.shape)
        return found.t() if packed.shape[0] == 1 else found  # as the library does it

    dequantize_4bit.by_rows = dequantize  # type: ignore[attr-defined]
    return dequantize_4bit


def pack_nf4(
    name: str, weight_OI: Tensor, dtype: torch.dtype, *, quant_type: str = "nf4", double_quant: bool = True
) -> dict[str, Tensor]:
    """Tensors of a weight [O, I] of the module `name`: two values a byte, the scales, and how to read them."""
    wide = weight_OI.detach().float().contiguous()
    packed, state = _library().functional.quantize_4bit(
        wide, blocksize=BLOCK, compress_statistics=double_quant, quant_type=quant_type
    )
    state.dtype = dtype  # what a reader computes in
    parts = {f"{name}.weight.{part}": tensor for part, tensor in state.as_dict(packed=True).items()}
    return {f"{name}.weight": packed} | parts


def nf4_config(
    kept: list[str], dtype: torch.dtype, *, quant_type: str = "nf4", double_quant: bool = True
) -> dict[str, Any]:
    """The `quantization_config` of a folder of such weights; `kept`: modules that stay as they are."""
    return _config(kept, dtype, quant_type, double_quant).to_dict()  # type: ignore[no-any-return]


def _config(kept: list[str] | None, dtype: torch.dtype, quant_type: str, double_quant: bool) -> Any:
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=quant_type,
        bnb_4bit_use_double_quant=double_quant,
        bnb_4bit_compute_dtype=dtype,
        llm_int8_skip_modules=kept,
    )


def unpack_nf4(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of a folder of 4-bit bitsandbytes in fp32; others as they are."""
    functional = _library().functional
    parts: dict[str, dict[str, Tensor]] = {}
    found = {}
    for name, tensor in tensors.items():
        stem, mark, part = name.rpartition(".weight.")
        if mark:
            parts.setdefault(f"{stem}.weight", {})[part] = tensor
    for name, tensor in tensors.items():
        if name in parts:
            state = functional.QuantState.from_dict(dict(parts[name]), device=torch.device("cpu"))
            state.dtype = torch.float32
            found[name] = functional.dequantize_4bit(tensor, state)
        elif ".weight." not in name:
            found[name] = tensor
    return found


def options_4bit(device: str, *, quant_type: str, double_quant: bool) -> dict[str, Any]:
    """What `from_pretrained` takes to quantise the linear maps of the layers to four bits as it reads them."""
    _library()
    return {
        "quantization_config": _config(None, torch.float32, quant_type, double_quant),
        "device_map": {"": device},
    }


def settle_4bit(model: nn.Module) -> int:
    """Let the 4-bit maps of a model compute in the dtype of their input, or of autocast, always: left to itself the
    library stays with the first dtype that it met and, on some CPUs, answers in bfloat16 and without a gradient once
    it was asked for an answer in evaluation mode. Returns how many there are."""
    kind, count = _steady_class(), 0
    for module in model.modules():
        if is_4bit(module) and isinstance(module, nn.Linear):
            module.__class__ = kind
            count += 1
    return count


class _Product(torch.autograd.Function):
    """x [..., I] times a weight [O, I] in four bits, which is turned into numbers in the forward and the backward anew;
    the gradient is that of x alone."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Any) -> Tensor:
        ctx.weight = weight
        return nn.functional.linear(x, _numbers(weight).to(x.dtype))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0] @ _numbers(ctx.weight).to(grads[0].dtype), None


@cache
def _steady_class() -> Any:
    library = _library()

    class SteadyLinear4bit(library.nn.Linear4bit):  # type: ignore[misc, name-defined]
        def forward(self, x: Tensor) -> Tensor:
            kind = x.device.type
            dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
            bias = None if self.bias is None else self.bias.to(dtype)
            if kind == "cpu" and self.in_features % BLOCK:  # see _in_one_row; the library's product does not go there
                found = _Product.apply(x.to(dtype), self.weight)
                return found if bias is None else found + bias
            found = library.matmul_4bit(x.to(dtype), self.weight.t(), self.weight.quant_state, bias=bias)
            return found.to(dtype)  # type: ignore[no-any-return]

    return SteadyLinear4bit


def is_4bit(module: Any) -> bool:
    """Whether a linear map, or the one below an adapter, holds its weight in four bits."""
    return getattr(getattr(module, "weight", None), "quant_state", None) is not None


def num_values(parameter: Tensor) -> int:
    """Weights that a parameter stands for: two for each byte of one in four bits."""
    state = getattr(parameter, "quant_state", None)
    return parameter.numel() if state is None else int(state.shape.numel())


def plain_copy(module: Any) -> Any:
    """A linear map in four bits, with its adapter where it has one, as a map in fp32 with weights of its own."""
    if not hasattr(module, "get_base_layer"):
        return _plain(module)
    from peft.tuners.lora.layer import Linear

    base = module.get_base_layer()
    made = copy.deepcopy(module, {id(base): _plain(base)})
    made.__class__ = Linear  # the same adapter on another map, which merges without rounding to four bits again
    return made.float()


def plain_(model: Any) -> Any:
    """Put maps in fp32 in place of all in four bits; the model is then one that knows nothing of quantisation."""
    for name, module in list(model.named_modules()):
        parent, _, last = name.rpartition(".")
        if is_4bit(module) and last != "base_layer":
            setattr(model.get_submodule(parent), last, plain_copy(module))
    for module in model.modules():
        for mark in ("is_quantized", "is_loaded_in_4bit", "quantization_method", "hf_quantizer"):
            module.__dict__.pop(mark, None)
        if hasattr(getattr(module, "config", None), "quantization_config"):
            del module.config.quantization_config
    return model


def _plain(module: Any) -> nn.Linear:
    weight = _numbers(module.weight)
    made = nn.Linear(module.in_features, module.out_features, module.bias is not None, device="meta")
    made.weight = nn.Parameter(weight, requires_grad=False)
    if module.bias is not None:
        made.bias = nn.Parameter(module.bias.detach().float().clone(), requires_grad=False)
    return made


def _numbers(weight: Any) -> Tensor:
    state = copy.copy(weight.quant_state)
    state.dtype = torch.float32  # it would round to what a reader was to compute in
    return _library().functional.dequantize_4bit(weight.data, state)  # type: ignore[no-any-return]


def small_adamw(
    groups: Sequence[Mapping[str, Any]],
    *,
    bits: int,
    paged: bool,
    wide: Collection[int] = (),
    learning_rate: float,
    betas: tuple[float, float],
    epsilon: float,
) -> torch.optim.Optimizer:
    """AdamW with moments in 8 bits (Dettmers et al., 2022, "8-bit Optimizers via Block-wise Quantization": blocks of
    256; what has under 4,096 values stays in 32) or 32, and, `paged`, in memory that the GPU's driver moves to the
    host where the GPU's runs out (QLoRA, section 3). `wide`: ids of parameters that stay in 32 bits.

    Its state is tensors, each its own, so that a checkpoint holds it and a resumed run goes on with the same bits.
    Raises ModelError where bitsandbytes is missing or `paged` meets a parameter that is on no GPU.
    """
    if paged and any(p.device.type != "cuda" for group in groups for p in group["params"]):
        raise ModelError(
            "paged_adamw moves its moments between a GPU and the host, and the model is on no GPU: set optim to "
            "adamw_8bit, or leave it out."
        )
    options = {"lr": learning_rate, "betas": betas, "eps": epsilon, "optim_bits": bits, "is_paged": paged}
    made: torch.optim.Optimizer = _kept_adamw()([dict(group) for group in groups], wide=frozenset(wide), **options)
    return made


@cache
def _kept_adamw() -> Any:
    library = _library("AdamW's moments in 8 bits or in pages")

    class KeptAdamW(library.optim.AdamW):  # type: ignore[misc, name-defined]
        """The library's, but the step in its state is a tensor, the levels, which all states share, are in none, and
        moments that were read from a checkpoint go to pages again."""

        def __init__(self, groups: Any, *, wide: frozenset[int], **options: Any) -> None:
            super().__init__(groups, **options)
            self.wide = wide
            self.settled: dict[Tensor, dict[str, Any]] = {}

        def get_config(self, gindex: int, pindex: int, group: Any) -> Any:
            found = super().get_config(gindex, pindex, group)
            is_wide = id(self.param_groups[gindex]["params"][pindex]) in self.wide
            return found | {"optim_bits": 32} if is_wide else found

        def init_state(self, group: Any, p: Tensor, gindex: int, pindex: int) -> None:
            super().init_state(group, p, gindex, pindex)
            known = {name: value for name, value in self.state[p].items() if name not in dict(LEVELS)}
            self.state[p] = self.settled[p] = known | {"step": torch.zeros((), dtype=torch.int64)}

        def prefetch_state(self, p: Tensor) -> None:
            if self.settled.get(p) is not self.state[p]:
                _settle(self, p, self.state[p])
                self.settled[p] = self.state[p]
            super().prefetch_state(p)

        def update_step(self, group: Any, p: Tensor, gindex: int, pindex: int) -> None:
            held = self.state[p]
            self.state[p] = held | _levels(self, p, held) | {"step": int(held["step"])}
            try:
                super().update_step(group, p, gindex, pindex)
            finally:
                self.state[p] = held
            held["step"] += 1

    return KeptAdamW


def _levels(optimizer: Any, p: Tensor, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What the numbers of a state in eight bits stand for."""
    if state["state1"].dtype != torch.uint8:
        return {}
    for kind in dict(LEVELS).values():
        optimizer.name2qmap[kind] = optimizer.name2qmap[kind].to(p.device)
    return {name: optimizer.name2qmap[kind] for name, kind in LEVELS}


def _settle(optimizer: Any, p: Tensor, read: dict[str, Any]) -> None:
    """Make of what a checkpoint gave back what `init_state` would have made."""
    read["step"] = read["step"].cpu()
    for name in MOMENTS if optimizer.is_paged else ():
        place = optimizer.get_state_buffer(p, dtype=read[name].dtype)
        read[name] = place.copy_(read[name])
