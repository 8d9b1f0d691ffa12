"""Sizes read from config.json are those of the model that transformers builds from it."""

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from posttrain.errors import ModelError
from posttrain.planning.job import Lora
from posttrain.planning.shapes import NAMED, read_shape, shape_of

CHANGES: dict[str, dict[str, Any]] = {
    "llama": {"attention_bias": True, "mlp_bias": True},
    "qwen3": {"attention_bias": True},
    "gpt_neox": {"tie_word_embeddings": True},
}
SIZES = {"model_type": "llama", "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1,
         "num_attention_heads": 1, "vocab_size": 8}  # fmt: skip
NAMES = ("llama", "qwen2", "qwen3", "mistral", "gemma", "gemma2", "gemma3", "gpt2", "gpt_neox")
SHAPES = [*((family, {}) for family in NAMES), *CHANGES.items(), ("qwen2", {"tie_word_embeddings": True})]


def built(tiny: ModuleType, family: str, changes: dict[str, Any]) -> Any:
    kind, options = tiny.FAMILIES.get(family, (family, tiny.FAMILIES["llama"][1]))
    config = AutoConfig.for_model(kind, **(options | changes))
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config)


@pytest.mark.parametrize(("family", "changes"), SHAPES)
def test_parameters_are_the_models(tiny: ModuleType, family: str, changes: dict[str, Any]) -> None:
    lm = built(tiny, family, changes)
    shape = shape_of(lm.config.to_dict())
    assert shape.parameters == sum(p.numel() for p in lm.parameters())
    body = [p.numel() for name, p in lm.named_parameters() if ".0." in name]
    assert shape.layer == sum(body)


@pytest.mark.parametrize("family", ["llama", "qwen3", "gpt2", "gpt_neox"])
def test_adapter_parameters_are_pefts(tiny: ModuleType, family: str) -> None:
    from posttrain.models.load import Policy
    from posttrain.models.lora import add_lora

    lm = built(tiny, family, {})
    shape = shape_of(lm.config.to_dict())
    policy = add_lora(Policy(lm, None, "tiny"), r=4)
    assert Lora(4).parameters(shape) == policy.num_trainable


def test_published_shapes_have_their_published_sizes() -> None:
    published = {"llama-7b": 6.7, "llama-13b": 13.0, "llama-70b": 69.0, "llama3-8b": 8.0, "llama-405b": 405.0}
    for name, billions in published.items():
        assert NAMED[name].parameters / 1e9 == pytest.approx(billions, rel=0.01)


def test_windows_follow_the_layer_types(tiny: ModuleType) -> None:
    shape = shape_of(built(tiny, "gemma3", {}).config.to_dict())
    assert (shape.window, shape.num_windowed) == (5, 1)
    assert shape_of(built(tiny, "llama", {}).config.to_dict()).window is None


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"model_type": "mixtral", "num_local_experts": 8}, "mixture of experts"),
        ({"model_type": "llama2"}, "llama is"),
        ({"model_type": "llama", "num_experts": [8]}, "mixture of experts"),
        ({"model_type": "llama"}, "gives no size for 'hidden_size'"),
        (SIZES | {"hidden_size": "wide"}, "a size in its config.json is none: .*'wide'"),
        (SIZES | {"hidden_size": -8}, "width is -8; it has to be 1 or more"),
        (SIZES | {"num_hidden_layers": 0}, "layers is 0"),
    ],
)
def test_what_cannot_be_planned_is_said(config: dict[str, Any], words: str) -> None:
    with pytest.raises(ModelError, match=words):
        shape_of(config)


def test_a_folder_without_config(tiny: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no config"):
        read_shape(tmp_path)
    (tmp_path / "config.json").write_text("{", encoding="utf-8")
    with pytest.raises(ModelError, match="not valid JSON"):
        read_shape(tmp_path)
    (tmp_path / "config.json").write_text("[1]", encoding="utf-8")
    with pytest.raises(ModelError, match="no configuration of a model"):
        read_shape(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(built(tiny, "llama", {}).config.to_dict()), encoding="utf-8")
    assert read_shape(tmp_path).layers == 2
