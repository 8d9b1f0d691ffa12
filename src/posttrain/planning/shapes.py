"""The sizes of a model, from its config.json or from a publication; weights are never opened."""

import difflib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from posttrain.errors import ModelError

GATED = ("llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text")
FAMILIES = (*GATED, "gpt2", "gpt_neox")
# What the twins of models/fused.py stand in for; the others run transformers' own modules, which keep more.
FUSED = ("llama", "mistral", "qwen2", "qwen3")
EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")


@dataclass(frozen=True)
class Map:
    """A linear map of a layer: its name, input, output, and whether it has a bias."""

    name: str
    size_in: int
    size_out: int
    has_bias: bool = False

    @property
    def weights(self) -> int:
        """Numbers of its matrix."""
        return self.size_in * self.size_out


@dataclass(frozen=True)
class Shape:
    """What decides what a decoder takes. `norms`: numbers in the norms of one layer; `others`: those outside of layers,
    but for embedding and head. `window`: of the layers that look back so far alone, `num_windowed` of them."""

    name: str
    family: str
    layers: int
    width: int
    inner: int
    heads: int
    kv_heads: int
    head: int
    vocab: int
    context: int
    tied: bool
    maps: tuple[Map, ...]
    norms: int
    others: int
    window: int | None = None
    num_windowed: int = 0
    softcap: bool = False
    qk_norm: bool = False

    @property
    def layer_matrix(self) -> int:
        """Weights in the linear maps of one layer."""
        return sum(each.weights for each in self.maps)

    @property
    def layer(self) -> int:
        """Parameters of one layer."""
        return self.layer_matrix + sum(each.size_out for each in self.maps if each.has_bias) + self.norms

    @property
    def embedding(self) -> int:
        """Numbers of the embedding, as of the head where that is a matrix of its own."""
        return self.vocab * self.width

    @property
    def trunk(self) -> int:
        """Parameters without a head of their own: all of a reward model but its one row."""
        return self.layers * self.layer + self.embedding + self.others

    @property
    def parameters(self) -> int:
        """Of the language model."""
        return self.trunk + (0 if self.tied else self.embedding)

    @property
    def attended(self) -> int:
        """Width of all heads' queries together."""
        return self.heads * self.head


def read_shape(folder: str | Path) -> Shape:
    """The shape of a model folder. Raises ModelError for one without config.json, and for an unknown family."""
    path = Path(folder) / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except OSError:
        raise ModelError(
            f"{folder}: no config.json to plan from; give a model folder, or one of {', '.join(NAMED)}."
        ) from None
    except ValueError as error:
        raise ModelError(f"{path}: this is not valid JSON: {error}.") from None
    if not isinstance(config, dict):
        raise ModelError(f"{path}: this is no configuration of a model; give the folder of one.")
    return shape_of(config, name=str(folder))


def shape_of(config: Mapping[str, Any], *, name: str = "model") -> Shape:
    """The shape that a configuration of transformers describes."""
    family = str(config.get("model_type", ""))
    if any(config.get(key) not in (None, 0, 1) for key in EXPERTS):
        raise ModelError(f"{name}: a mixture of experts ({family}) cannot be planned yet; its layers are not all used.")
    if family not in FAMILIES:
        near = difflib.get_close_matches(family, FAMILIES, n=1, cutoff=0.5)
        hint = f" ({near[0]} is)" if near else ""
        raise ModelError(
            f"{name}: models of the kind {family!r} cannot be planned{hint}; known: {', '.join(FAMILIES)}."
        )
    try:
        shape = {"gpt2": _gpt2, "gpt_neox": _neox}.get(family, _gated)(name, family, config)
    except KeyError as error:
        raise ModelError(f"{name}: its config.json gives no size for {error}.") from None
    except (TypeError, ValueError, ZeroDivisionError) as error:
        raise ModelError(f"{name}: a size in its config.json is none: {error}.") from None
    sizes = ("layers", "width", "inner", "heads", "kv_heads", "head", "vocab", "context")
    wrong = next((size for size in sizes if getattr(shape, size) < 1), None)
    if wrong is not None:
        raise ModelError(f"{name}: by its config.json {wrong} is {getattr(shape, wrong)}; it has to be 1 or more.")
    return shape


def _gated(name: str, family: str, config: Mapping[str, Any]) -> Shape:
    width, inner, heads = (int(config[key]) for key in ("hidden_size", "intermediate_size", "num_attention_heads"))
    kv_heads = int(config.get("num_key_value_heads") or heads)
    head = int(config.get("head_dim") or width // heads)
    layers = int(config["num_hidden_layers"])
    biased = bool(config.get("attention_bias", False)) or family == "qwen2"
    mlp = bool(config.get("mlp_bias", False))
    maps = (
        Map("q_proj", width, heads * head, biased),
        Map("k_proj", width, kv_heads * head, biased),
        Map("v_proj", width, kv_heads * head, biased),
        Map("o_proj", heads * head, width, biased and family != "qwen2"),
        Map("gate_proj", width, inner, mlp),
        Map("up_proj", width, inner, mlp),
        Map("down_proj", inner, width, mlp),
    )
    has_qk_norm = family in ("qwen3", "gemma3_text")
    num_norms = 4 if family in ("gemma2", "gemma3_text") else 2
    window, num_windowed = _window(family, config, layers)
    return Shape(
        name,
        family,
        layers,
        width,
        inner,
        heads,
        kv_heads,
        head,
        int(config["vocab_size"]),
        int(config.get("max_position_embeddings") or 1 << 20),
        bool(config.get("tie_word_embeddings", family.startswith("gemma"))),
        maps,
        norms=num_norms * width + (2 * head if has_qk_norm else 0),
        others=width,
        window=window,
        num_windowed=num_windowed,
        softcap=family == "gemma2" and config.get("attn_logit_softcapping", 50.0) is not None,
        qk_norm=has_qk_norm,
    )


def _window(family: str, config: Mapping[str, Any], layers: int) -> tuple[int | None, int]:
    """How far back windowed layers look, and how many there are."""
    window = config.get("sliding_window")
    if window is None or not config.get("use_sliding_window", family not in ("qwen2", "qwen3")):
        return None, 0
    kinds = config.get("layer_types") or (
        ["sliding_attention"] * layers
        if family == "mistral"
        else ["full_attention" if (i + 1) % (6 if family == "gemma3_text" else 2) == 0 else "sliding_attention"
              for i in range(layers)]
    )  # fmt: skip
    return int(window), sum(kind == "sliding_attention" for kind in kinds[:layers])


def _gpt2(name: str, family: str, config: Mapping[str, Any]) -> Shape:
    width, heads, layers = int(config["n_embd"]), int(config["n_head"]), int(config["n_layer"])
    inner, context = int(config.get("n_inner") or 4 * width), int(config["n_positions"])
    maps = (
        Map("c_attn", width, 3 * width, True),
        Map("c_proj", width, width, True),
        Map("c_fc", width, inner, True),
        Map("c_proj", inner, width, True),
    )
    tied = bool(config.get("tie_word_embeddings", True))
    others = 2 * width + context * width
    sizes = (layers, width, inner, heads, heads, width // heads, int(config["vocab_size"]), context, tied)
    return Shape(name, family, *sizes, maps, norms=4 * width, others=others)


def _neox(name: str, family: str, config: Mapping[str, Any]) -> Shape:
    width, heads, layers = (int(config[k]) for k in ("hidden_size", "num_attention_heads", "num_hidden_layers"))
    inner, biased = int(config["intermediate_size"]), bool(config.get("attention_bias", True))
    maps = (
        Map("query_key_value", width, 3 * width, biased),
        Map("dense", width, width, biased),
        Map("dense_h_to_4h", width, inner, True),
        Map("dense_4h_to_h", inner, width, True),
    )
    context = int(config.get("max_position_embeddings") or 1 << 20)
    tied = bool(config.get("tie_word_embeddings", False))
    sizes = (layers, width, inner, heads, heads, width // heads, int(config["vocab_size"]), context, tied)
    return Shape(name, family, *sizes, maps, norms=4 * width, others=2 * width)


def _llama(name: str, layers: int, width: int, inner: int, heads: int, kv: int, vocab: int, context: int) -> Shape:
    config = {
        "hidden_size": width,
        "intermediate_size": inner,
        "num_attention_heads": heads,
        "num_key_value_heads": kv,
        "num_hidden_layers": layers,
        "vocab_size": vocab,
        "max_position_embeddings": context,
    }
    return shape_of(config | {"model_type": "llama"}, name=name)


# Touvron et al., 2023a (LLaMA, table 2) and 2023b (Llama 2, table 1 and appendix); Grattafiori et al., 2024 (Llama 3,
# table 3). Vocabularies: 32,000 and 128,256.
NAMED: dict[str, Shape] = {
    "llama-7b": _llama("llama-7b", 32, 4096, 11008, 32, 32, 32_000, 4096),
    "llama-13b": _llama("llama-13b", 40, 5120, 13824, 40, 40, 32_000, 4096),
    "llama-70b": _llama("llama-70b", 80, 8192, 28672, 64, 8, 32_000, 4096),
    "llama3-8b": _llama("llama3-8b", 32, 4096, 14336, 32, 8, 128_256, 131_072),
    "llama3-70b": _llama("llama3-70b", 80, 8192, 28672, 64, 8, 128_256, 131_072),
    "llama-405b": _llama("llama-405b", 126, 16384, 53248, 128, 8, 128_256, 131_072),
}
