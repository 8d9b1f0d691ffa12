"""How llama.cpp holds a Llama, Mistral, Qwen2 or Qwen3: the fields of the shape, and every weight under its name there.

Each rule was read from what llama.cpp's loader does with it (src/models/llama.cpp, qwen2.cpp, qwen3.cpp and
ggml's rope). What a file cannot say is refused: a model that computes otherwise after export is worth nothing.
"""

import math
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor as Weights

from posttrain.errors import ModelError
from posttrain.models.gguf import BLOCK, Tensor, tensor_name

ARCHITECTURES = {"llama": "llama", "mistral": "llama", "qwen2": "qwen2", "qwen3": "qwen3"}
"""transformers' model_type: llama.cpp's architecture."""
ROTATED_PAIRS = ("llama",)
"""Architectures whose rope turns neighbours (2i, 2i + 1) there, where transformers turns i and i + d/2."""
ROWS_KEPT = ("token_embd.weight", "output.weight")
"""Kept at 8 bits where the rest has fewer, as llama-quantize keeps them finer: every answer goes through them."""


def architecture_of(config: Any) -> str:
    """llama.cpp's name for a model's shape. ModelError for one that it would compute otherwise, or that is not known
    here."""
    kind = config.model_type
    if kind not in ARCHITECTURES:
        raise ModelError(f"a model of type {kind!r} cannot be written as GGUF; can be: {', '.join(ARCHITECTURES)}.")
    for wrong, said in _strange(config):
        if wrong:
            raise ModelError(f"this {kind} cannot be written as GGUF: llama.cpp knows no {said}.")
    return ARCHITECTURES[kind]


def _strange(config: Any) -> list[tuple[bool, str]]:
    kind = config.model_type
    rope = _rope(config)
    sliding = "sliding_attention" in (getattr(config, "layer_types", None) or ())
    return [
        (config.hidden_act != "silu", f"activation {config.hidden_act!r} in this shape"),
        (rope["partial_rotary_factor"] != 1.0, "rotary positions on a part of a head in this shape"),
        (rope["rope_type"] not in ("default", "linear", "yarn", "llama3"), f"rope scaling {rope['rope_type']!r}"),
        (rope["rope_type"] == "llama3" and kind not in ("llama", "mistral"), "llama3 rope scaling in this shape"),
        (rope["rope_type"] == "yarn" and not _is_usual_factor(rope), "yarn with an attention_factor of its own"),
        (rope["rope_type"] == "yarn" and not rope.get("truncate", True), "yarn without whole bounds"),
        (rope["rope_type"] == "yarn" and bool(rope.get("mscale_all_dim")), "yarn with mscale_all_dim here"),
        (kind.startswith("qwen") and sliding, "sliding window in this shape"),
        (kind == "qwen3" and bool(getattr(config, "attention_bias", False)), "biases of attention in this shape"),
    ]


def _is_usual_factor(rope: Mapping[str, Any]) -> bool:
    """Whether yarn scales attention as llama.cpp does by itself, by 0.1 ln(factor) + 1."""
    told = rope.get("attention_factor")
    return told is None or math.isclose(told, 0.1 * math.log(rope["factor"]) + 1, rel_tol=1e-6)


def _rope(config: Any) -> dict[str, Any]:
    """Rope of a configuration, whichever way it is written: `rope_parameters` of transformers 5, or the older keys."""
    found = dict(getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {})
    found.setdefault("rope_type", found.get("type") or "default")
    found.setdefault("rope_theta", getattr(config, "rope_theta", None) or 10000.0)
    part = found.get("partial_rotary_factor") or getattr(config, "partial_rotary_factor", None)
    found["partial_rotary_factor"] = float(1.0 if part is None else part)
    return found


def _head_dim(config: Any) -> int:
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


def shape_fields(config: Any) -> tuple[dict[str, Any], list[str]]:
    """The fields of a shape, and what should be told of it."""
    name, told = architecture_of(config), list[str]()
    heads, width = config.num_attention_heads, _head_dim(config)
    context = int(config.max_position_embeddings)
    window = getattr(config, "sliding_window", None) if config.model_type == "mistral" else None
    if window and window < context:
        told.append(f"llama.cpp looks at all positions of a Mistral, so the context ends at the window, {window}")
        context = int(window)
    fields: dict[str, Any] = {
        "context_length": context,
        "embedding_length": int(config.hidden_size),
        "block_count": int(config.num_hidden_layers),
        "feed_forward_length": int(config.intermediate_size),
        "attention.head_count": int(heads),
        "attention.head_count_kv": int(getattr(config, "num_key_value_heads", None) or heads),
        "attention.key_length": width,
        "attention.value_length": width,
        "attention.layer_norm_rms_epsilon": float(config.rms_norm_eps),
        "rope.dimension_count": width,
        "rope.freq_base": float(_rope(config)["rope_theta"]),
        "vocab_size": int(config.vocab_size),
    }
    fields |= _scaling_fields(config)
    return {f"{name}.{key}": value for key, value in fields.items()}, told


def _scaling_fields(config: Any) -> dict[str, Any]:
    rope = _rope(config)
    if rope["rope_type"] not in ("linear", "yarn"):
        return {}
    found: dict[str, Any] = {"rope.scaling.type": rope["rope_type"], "rope.scaling.factor": float(rope["factor"])}
    if rope["rope_type"] == "yarn":
        before = rope.get("original_max_position_embeddings") or config.max_position_embeddings
        found["rope.scaling.original_context_length"] = int(before)
        found["rope.scaling.yarn_beta_fast"] = float(rope.get("beta_fast") or 32.0)
        found["rope.scaling.yarn_beta_slow"] = float(rope.get("beta_slow") or 1.0)
    return found


def rope_factors(config: Any) -> np.ndarray | None:
    """What each frequency of Llama 3's scaling is divided by [head_dim / 2], which llama.cpp reads as a tensor; None
    for other models. As transformers computes them."""
    if _rope(config)["rope_type"] != "llama3":
        return None
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](config, "cpu")
    width = _head_dim(config)
    plain = _rope(config)["rope_theta"] ** -(torch.arange(0, width, 2, dtype=torch.float32) / width)
    found: np.ndarray = (plain / scaled).numpy().astype(np.float32)
    return found


def shape_tensors(model: Any, kind: str) -> tuple[list[Tensor], list[str]]:
    """Every weight of a model, and what should be told of it. ModelError where one has no name there."""
    config, told = model.config, list[str]()
    name = architecture_of(config)
    weights = dict(model.state_dict())
    if config.tie_word_embeddings:
        weights.pop("lm_head.weight", None)
    found, unlike = list[Tensor](), list[str]()
    factors = rope_factors(config)
    if factors is not None:
        found.append(Tensor("rope_freqs.weight", factors.shape, "F32", lambda: factors))
    for key, weight in weights.items():
        place = tensor_name(name, config.num_hidden_layers, key)
        if place is None:
            raise ModelError(f"the weight {key} has no name in llama.cpp's {name}, so the model cannot be written.")
        chosen = _kind(place, tuple(weight.shape), kind)
        if chosen == "F16" and kind.startswith("Q"):
            unlike.append(place)
        found.append(Tensor(place, tuple(weight.shape), chosen, partial(_numbers, weight, _pairs(config, name, key))))
    if unlike:
        told.append(f"{len(unlike)} weights are F16: their rows are no multiple of {BLOCK}, as {unlike[0]}")
    return found, told


def _kind(place: str, shape: tuple[int, ...], kind: str) -> str:
    """Norms, biases and everything with one dimension stay in fp32."""
    if len(shape) == 1:
        return "F32"
    if not kind.startswith("Q"):
        return kind
    if shape[-1] % BLOCK:
        return "F16"
    return "Q8_0" if place in ROWS_KEPT else kind


def _pairs(config: Any, architecture: str, key: str) -> int:
    """How many heads' rows of a weight change places; 0: none."""
    if architecture not in ROTATED_PAIRS:
        return 0
    if ".q_proj." in key:
        return int(config.num_attention_heads)
    if ".k_proj." in key:
        return int(getattr(config, "num_key_value_heads", None) or config.num_attention_heads)
    return 0


def paired_rows(rows: Weights, heads: int) -> Weights:
    """The rows of each head so that what rope turns together stand side by side: i, i + d/2 become 2i, 2i + 1.

    >>> paired_rows(torch.tensor([0, 1, 2, 3]), 1).tolist()
    [0, 2, 1, 3]
    """
    return rows.unflatten(0, (heads, 2, -1)).transpose(1, 2).reshape(rows.shape)


def _numbers(weight: Weights, heads: int) -> np.ndarray:
    full = weight.detach().to("cpu", torch.float32)
    found: np.ndarray = (paired_rows(full, heads) if heads else full).contiguous().numpy()
    return found


def file_fields(fields: Mapping[str, Any], kind_number: int, name: str) -> dict[str, Any]:
    """All fields about the file as a whole, and those of the shape. `general.architecture` is the writer's own."""
    whole: dict[str, Any] = {"general.type": "model", "general.name": name, "general.file_type": kind_number}
    return whole | {"general.quantization_version": 2} | dict(fields)
