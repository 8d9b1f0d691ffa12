"""GGUF files through the `gguf` package: fields and tensors to a file, and back. What they mean is elsewhere.

The one file that imports `gguf`. GGUF is the file of llama.cpp (ggml-org/ggml, docs/gguf.md): typed fields, then
tensors in blocks of 32 weights with a scale each, or in whole numbers.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from posttrain.errors import ModelError

KINDS = ("F32", "F16", "BF16", "Q8_0", "Q5_1", "Q5_0", "Q4_1", "Q4_0")
"""Kinds of weights that the `gguf` package writes. K-quants (Q4_K_M, ...) it only reads: llama.cpp's own llama-quantize
makes them of an F16 file."""
BLOCK = 32
"""Weights of a row that share a scale in the kinds beginning with Q."""
FILE_TYPES = {"F32": 0, "F16": 1, "Q4_0": 2, "Q4_1": 3, "Q8_0": 7, "Q5_0": 8, "Q5_1": 9, "BF16": 32}
"""llama.cpp's `llama_ftype`: what most tensors are."""


@dataclass(frozen=True)
class Tensor:
    """A tensor to write: `make()` is its numbers in fp32, called once, when its turn comes."""

    name: str
    shape: tuple[int, ...]
    kind: str
    make: Callable[[], np.ndarray]


def _package() -> Any:
    try:
        import gguf
    except ImportError as error:
        raise ModelError(
            "GGUF needs the package gguf, which is not installed: pip install 'posttrain[gguf]'."
        ) from error
    return gguf


def tensor_name(architecture: str, num_layers: int, name: str) -> str | None:
    """llama.cpp's name for a parameter of a transformers model; None where it has none."""
    gguf = _package()
    number = next((key for key, text in gguf.MODEL_ARCH_NAMES.items() if text == architecture), None)
    if number is None:
        return None
    found: str | None = gguf.get_tensor_name_map(number, num_layers).get_name(name, (".weight", ".bias"))
    return found


def write_file(path: Path, architecture: str, fields: Mapping[str, Any], tensors: Sequence[Tensor]) -> None:
    """Write a whole file, tensor by tensor. A field is text, a bool, an int (u32), a float (f32), or a list of one of
    them (ints are i32 there)."""
    gguf = _package()
    writer = gguf.GGUFWriter(path, architecture)
    for key, value in fields.items():
        _add(writer, key, value)
    for tensor in tensors:
        kind = gguf.GGMLQuantizationType[tensor.kind]
        shape: tuple[int, ...] = tensor.shape
        dtype = {"F32": np.float32, "F16": np.float16}.get(tensor.kind, np.uint8)
        if dtype is np.uint8:
            shape = gguf.quant_shape_to_byte_shape(shape, kind)
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        writer.add_tensor_info(tensor.name, shape, np.dtype(dtype), size, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for tensor in tensors:
        data = np.ascontiguousarray(tensor.make(), dtype=np.float32)
        writer.write_tensor_data(gguf.quantize(data, gguf.GGMLQuantizationType[tensor.kind]))
    writer.close()


def _add(writer: Any, key: str, value: Any) -> None:
    match value:
        case bool():
            writer.add_bool(key, value)
        case int():
            writer.add_uint32(key, value)
        case float():
            writer.add_float32(key, value)
        case str():
            writer.add_string(key, value)
        case _:
            writer.add_array(key, value)


def read_fields(path: Path) -> dict[str, Any]:
    """Every field of a file, as Python values. ModelError for what is no GGUF file."""
    gguf = _package()
    try:
        reader = gguf.GGUFReader(path)
    except (ValueError, OSError, IndexError) as error:
        raise ModelError(f"{path}: this is no GGUF file that can be read: {error}") from error
    return {key: field.contents() for key, field in reader.fields.items()}


def tensor_kinds(path: Path) -> dict[str, str]:
    """The kind of every tensor of a file, by its name."""
    return {tensor.name: tensor.tensor_type.name for tensor in _package().GGUFReader(path).tensors}


def read_tensor(path: Path, name: str) -> np.ndarray | None:
    """One tensor in fp32; None where there is none of that name."""
    gguf = _package()
    for tensor in gguf.GGUFReader(path).tensors:
        if tensor.name == name:
            found: np.ndarray = gguf.dequantize(tensor.data, tensor.tensor_type)
            return found
    return None
