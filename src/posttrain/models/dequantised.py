"""Folders of eight- and four-bit weights read back: the numbers that they stand for, in a plain model.

So every part of the project works on them as on any other folder: it is a model whose weights happen to lie on a grid.
"""

import contextlib
import importlib.util
import io
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig

from posttrain.errors import ModelError
from posttrain.models.bitsandbytes import plain_, unpack_nf4
from posttrain.models.torchao import unpack_int4, unpack_torchao

METHODS = ("bitsandbytes", "torchao", "compressed-tensors")


def quantisation_of(path: str | Path) -> dict[str, Any] | None:
    """The `quantization_config` of a model folder that this file reads, else None."""
    file = Path(path) / "config.json"
    if not file.is_file():
        return None
    try:
        config = json.loads(file.read_text(encoding="utf-8")).get("quantization_config")
    except (ValueError, AttributeError):  # whoever loads the weights says what is wrong
        return None
    return config if isinstance(config, dict) and config.get("quant_method") in METHODS else None


def read_weights(path: str | Path, dtype: torch.dtype, kind: Any, **options: Any) -> Any:
    """The model of such a folder with its weights dequantised, as `kind` (an Auto class of transformers, or a model's
    own) builds it. Raises ModelError where a tensor is missing or the layout is another."""
    folder = Path(path)
    settings = quantisation_of(folder)
    assert settings is not None, "not a quantised folder"
    try:
        tensors, metadata = _read(folder)
        found = _unpack(tensors, metadata, settings)
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise ModelError(f"{path}: the quantised weights cannot be read: {error!r}".strip()) from error
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from error
    return _built(folder, found, dtype, kind, **options)


def _built(folder: Path, found: dict[str, Tensor], dtype: torch.dtype, kind: Any, **options: Any) -> Any:
    """A plain model of the folder's configuration with these weights."""
    config = AutoConfig.from_pretrained(folder, **options)
    del config.quantization_config
    with torch.device("meta"):
        made = kind.from_config(config) if hasattr(kind, "from_config") else kind(config)
    model, info = type(made).from_pretrained(
        None, config=config, state_dict=found, dtype=dtype, output_loading_info=True
    )
    missing = [name for name in info["missing_keys"] if not name.startswith("score.")]  # a new head is drawn later
    if missing:
        raise ModelError(f"{folder}: weights are missing: {', '.join(sorted(missing)[:3])}.")
    model.config._name_or_path = model.name_or_path = str(folder)
    if (folder / "generation_config.json").is_file() and model.can_generate():
        model.generation_config = GenerationConfig.from_pretrained(folder)
    return model


def _by_transformers(path: str | Path, method: str) -> Any:
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, use_safetensors=True)
    if method == "compressed-tensors":
        with torch.no_grad():
            model(torch.zeros(1, 1, dtype=torch.int64, device=model.device))  # it unpacks at the first forward
    return model


def _read(folder: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    tensors: dict[str, Tensor] = {}
    metadata: dict[str, str] = {}
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as opened:
            said = opened.metadata() or {}
            if "tensor_names" in said and "tensor_names" in metadata:
                names = json.loads(metadata["tensor_names"]) + json.loads(said["tensor_names"])
                said["tensor_names"] = json.dumps(names)
            metadata |= said
            tensors |= {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 (no mapping)
    return tensors, metadata


def _unpack(tensors: dict[str, Tensor], metadata: dict[str, str], settings: dict[str, Any]) -> dict[str, Tensor]:
    if settings["quant_method"] == "torchao":
        return unpack_torchao(tensors, metadata)
    if settings["quant_method"] == "compressed-tensors":
        return unpack_int4(tensors, settings)
    return unpack_nf4(tensors)


def read_by_transformers(path: str | Path) -> Any:
    """The same as transformers itself reads it with the library of its format, and what that holds as numbers in fp32:
    a second opinion on a folder. Raises ModelError where the library is missing."""
    settings = quantisation_of(path)
    assert settings is not None, "not a quantised folder"
    if settings["quant_method"] == "compressed-tensors" and importlib.util.find_spec("compressed_tensors") is None:
        raise ModelError(f"{path}: transformers reads it with compressed-tensors, which is not installed.")
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # bars of compressed-tensors
            model = _by_transformers(path, settings["quant_method"])
    except (OSError, ValueError, KeyError, ImportError, RuntimeError, SafetensorError) as error:
        raise ModelError(f"{path}: transformers cannot read it: {str(error).strip().splitlines()[0]}") from error
    for module in model.modules():
        weight: Any = getattr(module, "weight", None)
        if hasattr(weight, "qdata"):  # torchao's own tensors
            module.weight = torch.nn.Parameter(weight.dequantize(torch.float32), requires_grad=False)
    parts = ("weight_scale", "weight_shape", "weight_zero_point")
    held = {name: tensor for name, tensor in plain_(model).state_dict().items() if name.rpartition(".")[2] not in parts}
    return _built(Path(path), held, torch.float32, AutoModelForCausalLM)
