"""int8 and int4 weights by torchao's primitives: the one file that imports torchao.

int8 has a scale for every output row and is stored as torchao's own tensors, flattened into safetensors, as
transformers and vLLM read them. int4 has a scale for every group of a row; torchao's own int4 tensors run and are saved
on CUDA alone, so its values are stored in the `pack-quantized` layout of compressed-tensors, which vLLM reads.
"""

import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from posttrain.errors import ModelError

MEND = "int8 and int4 need torchao: pip install 'posttrain[quant]'."
SHRINKS = [1.0 - 0.03 * step for step in range(11)]
"""Shares of the largest scale that are tried for each group: a few clipped values may cost less than a coarse grid."""


def _primitives() -> Any:
    try:
        from torchao.quantization import quant_primitives
    except ImportError as error:
        raise ModelError(MEND) from error
    return quant_primitives


def pack_int8(name: str, weight_OI: Tensor, dtype: torch.dtype) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a weight [O, I] (of the module `name`) in whole numbers -128 .. 127 times a scale (fp32)
    for each row; `dtype` is what a reader computes in."""
    _primitives()
    from torchao.prototype.safetensors.safetensors_support import flatten_tensor_state_dict
    from torchao.quantization import Int8Tensor, PerRow

    made = Int8Tensor.from_hp(weight_OI.detach().float().contiguous(), PerRow())
    typed = Int8Tensor(made.qdata, made.scale, made.block_size, dtype, zero_point=made.zero_point)
    tensors, metadata = flatten_tensor_state_dict({f"{name}.weight": typed})
    return tensors, {key: value for key, value in metadata.items() if key != "tensor_names"}


def int8_config(kept: list[str]) -> dict[str, Any]:
    """The `quantization_config` of a folder of int8 weights; `kept`: modules that stay as they are."""
    _primitives()
    from torchao.quantization import Int8WeightOnlyConfig
    from transformers import TorchAoConfig

    return TorchAoConfig(Int8WeightOnlyConfig(version=2), modules_to_not_convert=kept).to_dict()


def unpack_torchao(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> dict[str, Tensor]:
    """The weights of a folder that torchao's tensors were flattened into, in fp32; others as they are.

    Raises ModelError where the metadata is not torchao's or something is missing.
    """
    _primitives()
    from torchao.prototype.safetensors.safetensors_support import unflatten_tensor_state_dict
    from torchao.prototype.safetensors.safetensors_utils import is_metadata_torchao

    if not is_metadata_torchao(metadata):
        raise ModelError("the metadata of its *.safetensors does not say which torchao tensors they hold.")
    made, left = unflatten_tensor_state_dict(dict(tensors), dict(metadata))
    missing = set(json.loads(metadata["tensor_names"])) - set(made)
    if left or missing:
        raise ModelError(f"tensors are missing of {sorted(missing)[:3]}, or not told of: {sorted(left)[:3]}.")
    return {
        name: tensor if type(tensor) is Tensor else tensor.dequantize(torch.float32) for name, tensor in made.items()
    }


def pack_int4(weight_OI: Tensor, group_size: int, dtype: torch.dtype) -> dict[str, Tensor]:
    """`weight_packed` [O, I / 8], `weight_scale` [O, I / group_size] in `dtype` and `weight_shape` of a weight whose
    width is a multiple of the group: whole numbers -8 .. 7 times the scale of their group, eight to an int32.

    Each group's scale is the one of least squared error among shares of the largest.
    """
    ao = _primitives()
    weight_OI = weight_OI.detach().float().contiguous()
    assert weight_OI.shape[1] % group_size == 0, "a group does not cross rows"
    block, bounds = (1, group_size), {"quant_min": -8, "quant_max": 7}
    widest, zero = ao.choose_qparams_affine(
        weight_OI, ao.MappingType.SYMMETRIC, block, torch.int8, **bounds, zero_point_dtype=torch.int8
    )
    widest, zero = (found.view(len(weight_OI), -1) for found in (widest, zero))  # of one group a row it has no axis
    scale, least = widest.to(dtype), torch.full_like(widest, torch.inf)
    for shrink in SHRINKS:  # rounded as it is stored, before anything is divided by it
        tried = (widest * shrink).to(dtype).float()
        found = ao.quantize_affine(weight_OI, block, tried, zero, torch.int8, **bounds)
        back = ao.dequantize_affine(found, block, tried, zero, torch.int8, **bounds, output_dtype=torch.float32)
        error = (back - weight_OI).square_().view(len(weight_OI), -1, group_size).sum(2)
        better = error < least
        scale, least = torch.where(better, tried.to(dtype), scale), torch.where(better, error, least)
    values = ao.quantize_affine(weight_OI, block, scale.float(), zero, torch.int8, **bounds)
    nibbles = (values.to(torch.int32) + 8).view(len(values), -1, 8) << (4 * torch.arange(8, dtype=torch.int32))
    return {
        "weight_packed": nibbles.sum(2).to(torch.int32),
        "weight_scale": scale.contiguous(),
        "weight_shape": torch.tensor(weight_OI.shape, dtype=torch.int64),
    }


def int4_config(group_size: int, kept: list[str]) -> dict[str, Any]:
    """The `quantization_config` (compressed-tensors) of a folder of int4 weights; `kept`: modules that stay."""
    weights = {"num_bits": 4, "type": "int", "symmetric": True, "strategy": "group", "group_size": group_size}
    weights |= {"dynamic": False, "actorder": None, "observer": "minmax"}
    group = {"targets": ["Linear"], "weights": weights, "input_activations": None, "output_activations": None}
    return {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "quantization_status": "compressed",
        "config_groups": {"group_0": group},
        "ignore": kept,
        "kv_cache_scheme": None,
    }


def unpack_int4(tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> dict[str, Tensor]:
    """The weights of a `pack-quantized` folder in fp32; others as they are.

    Raises ModelError for what is not four bits, symmetric, with weights alone quantised.
    """
    groups = list(config.get("config_groups", {}).values())
    scheme = dict(groups[0].get("weights") or {}) if len(groups) == 1 else {}
    plain = config.get("format") == "pack-quantized" and scheme.get("num_bits") == 4 and scheme.get("symmetric", True)
    if not plain or groups[0].get("input_activations") or config.get("kv_cache_scheme"):
        raise ModelError("of compressed-tensors only pack-quantized, symmetric, four-bit weights are read.")
    found = {}
    for name, tensor in tensors.items():
        stem, _, part = name.rpartition(".")
        if part == "weight_packed":
            shape = tensors[f"{stem}.weight_shape"].tolist()
            found[f"{stem}.weight"] = _from_nibbles(tensor, tensors[f"{stem}.weight_scale"], shape)
        elif part not in ("weight_scale", "weight_shape"):
            found[name] = tensor
    return found


def _from_nibbles(packed: Tensor, scale: Tensor, shape: list[int]) -> Tensor:
    rows, width = shape
    nibbles = (packed[:, :, None] >> (4 * torch.arange(8, dtype=torch.int32))) & 15
    values = nibbles.reshape(rows, -1)[:, :width].float() - 8
    return values.view(rows, scale.shape[1], -1).mul_(scale.float()[:, :, None]).view(rows, width)
