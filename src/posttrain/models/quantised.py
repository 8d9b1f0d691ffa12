"""Language models with weights of eight or four bits, written as Hugging Face folders that other tools read.

The linear maps of the layers are quantised, weights alone and without data. Embeddings, head, norms and biases stay,
in bfloat16 by default. What does not fit the format stays too, and is counted.
"""

import copy
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import GenerationConfig

from posttrain.errors import ModelError
from posttrain.models.bitsandbytes import nf4_config, pack_nf4
from posttrain.models.load import Policy
from posttrain.models.logprobs import causal_lm
from posttrain.models.torchao import int4_config, int8_config, pack_int4, pack_int8

GROUP_SIZES = (32, 64, 128)
"""Groups of int4 that vLLM's kernels take."""


@dataclass(frozen=True)
class Quantised:
    """What was written. `num_bytes`: of all tensors; `kept`: linear maps that stay as they are, with the reason."""

    num_quantised: int
    num_bytes: int
    kept: dict[str, str] = field(default_factory=dict)

    def lines(self) -> list[str]:
        """For whoever started it."""
        said = [f"{self.num_quantised} linear maps quantised, {self.num_bytes / 1e6:.1f} MB of weights"]
        if self.kept:
            named = "; ".join(f"{name} ({why})" for name, why in list(self.kept.items())[:5])
            more = f"; and {len(self.kept) - 5} more" if len(self.kept) > 5 else ""
            said.append(f"{len(self.kept)} kept as they are: {named}{more}")
        return said


@dataclass
class _Folder:
    """A folder that is about to be written."""

    policy: Policy
    dtype: torch.dtype
    stop_token_ids: Sequence[int]
    linears: dict[str, nn.Linear]
    kept: dict[str, str]
    metadata: dict[str, str] = field(default_factory=dict)

    def pack(self, pack: Callable[[str, Tensor], Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """All tensors by name, one after the other; the model itself stays as it is."""
        if not self.linears:
            why = "; ".join(sorted(set(self.kept.values())))
            raise ModelError(f"{self.policy.name}: no linear map fits the format: {why}.")
        tensors: dict[str, Tensor] = {}
        for name, tensor in _tensors(self.policy.model):
            stem, _, part = name.rpartition(".")
            if part == "weight" and stem in self.linears:
                tensors |= pack(stem, tensor)
            else:
                tensors[name] = tensor.to(self.dtype) if tensor.is_floating_point() else tensor
        return tensors

    def write(self, folder: Path, tensors: Mapping[str, Tensor], settings: Mapping[str, Any]) -> Quantised:
        """Weights, configuration with `settings` of the quantisation, tokenizer and generation settings."""
        folder.mkdir(parents=True, exist_ok=True)
        held = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
        save_file(held, folder / "model.safetensors", metadata={"format": "pt"} | self.metadata)
        lm = self.policy.model
        config = lm.config.to_dict() | {"architectures": [type(lm).__name__], "quantization_config": dict(settings)}
        config["dtype"] = str(self.dtype).removeprefix("torch.")
        config.pop("_name_or_path", None)
        text = json.dumps(config, indent=2, sort_keys=True, default=str) + "\n"
        (folder / "config.json").write_text(text, encoding="utf-8")
        generation = copy.deepcopy(lm.generation_config) or GenerationConfig.from_model_config(lm.config)
        if self.stop_token_ids:
            generation.eos_token_id = list(self.stop_token_ids)
            generation.pad_token_id = self.policy.tokenizer.pad_token_id
        generation.save_pretrained(folder)
        self.policy.tokenizer.save_pretrained(folder)
        return Quantised(len(self.linears), sum(t.numel() * t.element_size() for t in held.values()), self.kept)


def write_int8(
    policy: Policy, folder: Path, *, dtype: torch.dtype = torch.bfloat16, stop_token_ids: Sequence[int] = ()
) -> Quantised:
    """Weights in eight bits with a scale for each row; transformers and vLLM read them with torchao."""
    made = _begin(policy, dtype, stop_token_ids)
    names = [name for name, _ in _tensors(policy.model)]

    def pack(name: str, weight_OI: Tensor) -> Mapping[str, Tensor]:
        tensors, said = pack_int8(name, weight_OI, dtype)
        made.metadata |= said
        return tensors

    tensors = made.pack(pack)
    plain = {name: json.dumps({"_type": "Tensor"}) for name in names if name not in made.metadata}
    made.metadata |= plain | {"tensor_names": json.dumps(names)}
    return made.write(folder, tensors, int8_config(sorted(made.kept)))


def write_int4(
    policy: Policy,
    folder: Path,
    *,
    group_size: int = 32,
    dtype: torch.dtype = torch.bfloat16,
    stop_token_ids: Sequence[int] = (),
) -> Quantised:
    """Weights in four bits with a scale for each group; vLLM reads them, and transformers with compressed-tensors.

    Raises ModelError for a group size that vLLM's kernels do not take.
    """
    if group_size not in GROUP_SIZES:
        raise ModelError(f"group_size is {group_size}; vLLM's kernels take {', '.join(map(str, GROUP_SIZES))}.")
    made = _begin(policy, dtype, stop_token_ids)
    for name, linear in list(made.linears.items()):
        if linear.weight.shape[1] % group_size:
            made.kept[name] = f"its width {linear.weight.shape[1]} is no multiple of {group_size}"
            del made.linears[name]

    def pack(name: str, weight_OI: Tensor) -> Mapping[str, Tensor]:
        parts = pack_int4(weight_OI, group_size, dtype)
        return {f"{name}.{part}": tensor for part, tensor in parts.items()}

    return made.write(folder, made.pack(pack), int4_config(group_size, sorted(made.kept)))


def write_nf4(
    policy: Policy,
    folder: Path,
    *,
    quant_type: str = "nf4",
    double_quant: bool = True,
    dtype: torch.dtype = torch.bfloat16,
    stop_token_ids: Sequence[int] = (),
) -> Quantised:
    """Weights in NF4 or FP4 as bitsandbytes packs them; transformers and vLLM read them with bitsandbytes."""
    made = _begin(policy, dtype, stop_token_ids)
    shape: dict[str, Any] = {"quant_type": quant_type, "double_quant": double_quant}
    tensors = made.pack(lambda name, weight_OI: pack_nf4(name, weight_OI, dtype, **shape))
    return made.write(folder, tensors, nf4_config(sorted(made.kept), dtype, **shape))


def _begin(policy: Policy, dtype: torch.dtype, stop_token_ids: Sequence[int]) -> _Folder:
    """The linear maps to quantise by name, and those that stay: the head."""
    lm = policy.model
    if causal_lm(lm) is not lm:
        raise ModelError(f"{policy.name} has an adapter apart from its weights; merge it before they are quantised.")
    head = lm.get_output_embeddings()
    found = {name: m for name, m in lm.named_modules() if isinstance(m, nn.Linear) and m is not head}
    if not found:
        raise ModelError(f"{policy.name}: {type(lm).__name__} has no linear maps to quantise (torch's nn.Linear).")
    kept = {name: "the head" for name, m in lm.named_modules() if head is not None and m is head}
    return _Folder(policy, dtype, stop_token_ids, found, kept)


def _tensors(lm: nn.Module) -> list[tuple[str, Tensor]]:
    """Parameters without those that are tied to another, and the buffers that a folder holds."""
    held = lm.state_dict()
    found = [(name, parameter.detach()) for name, parameter in lm.named_parameters()]
    return found + [(name, buffer) for name, buffer in lm.named_buffers() if name in held]
