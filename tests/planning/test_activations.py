"""What the formulas say a backward keeps is what autograd is given to keep."""

from types import ModuleType
from typing import Any

import pytest
import torch

from posttrain.data.batch import pack
from posttrain.models.attention import install_attention
from posttrain.models.fused import fuse
from posttrain.models.load import Policy
from posttrain.models.logprobs import hidden_states
from posttrain.models.lora import add_lora
from posttrain.planning.activations import kept, layer_bytes, reduced_copies
from posttrain.planning.job import Job, Lora, Micro
from posttrain.planning.shapes import shape_of

LENGTHS = (96, 96)


def saved(tiny: ModuleType, lm: Any, *, bf16: bool) -> float:
    """Bytes of storages that a forward saves, but for parameters."""
    install_attention(lm)
    fuse(lm)
    lm.train()
    batch = pack(tiny.trees([[(length, -1)] for length in LENGTHS]))
    own = {p.untyped_storage().data_ptr() for p in lm.parameters()}
    found: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            found[storage.data_ptr()] = storage
        return tensor

    hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
    with hooks, torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        states = hidden_states(lm, batch)
    assert states.requires_grad
    return float(sum(storage.nbytes() for storage in found.values()))


def a_layer(tiny: ModuleType, family: str, *, lora: bool, bf16: bool) -> tuple[float, Any]:
    """Bytes a layer, from models of four layers and of two."""
    sizes = []
    name = "n_layer" if family == "gpt2" else "num_hidden_layers"
    for layers in (4, 2):
        lm: Any = tiny.model(family, **{name: layers}, **({"sliding_window": None} if family == "mistral" else {}))
        config = lm.config.to_dict()
        if lora:
            lm = add_lora(Policy(lm, None, "tiny"), r=4).model
        sizes.append(saved(tiny, lm, bf16=bf16))
    return (sizes[0] - sizes[1]) / 2, shape_of(config)


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.parametrize("family", ["llama", "qwen3", "mistral", "gemma", "gpt2", "gpt_neox"])
def test_layers_keep_what_is_said(tiny: ModuleType, family: str, lora: bool, bf16: bool) -> None:
    measured, shape = a_layer(tiny, family, lora=lora, bf16=bf16)
    micro = Micro(192, 192, 0, 96)
    job = Job("sft", shape, micro, micro, 1, lora=Lora(4) if lora else None, bf16=bf16)
    said = 192 * layer_bytes(job, micro, on_cpu=True) + reduced_copies(job) / shape.layers
    # Of an adapter's own bf16 copies nothing is said: they are a few thousandths in models of any size.
    adapter = 2 * Lora(4).parameters(shape) / shape.layers if lora and bf16 else 0
    assert said + adapter == pytest.approx(measured, rel=0.02)


def test_a_layer_by_hand(tiny: ModuleType) -> None:
    shape = shape_of(tiny.model("llama").config.to_dict())
    micro = Micro(64, 64, 0, 64)
    job = Job("sft", shape, micro, micro, 1, bf16=False)
    # D 32, F 48, four heads of 8: two streams and their norms, q k v and attention twice, three of the MLP; statistics
    assert layer_bytes(job, micro, on_cpu=True) == 4 * (4 * 32 + 5 * 32 + 3 * 48) + 4 * (2 + 4)


def test_checkpointing_keeps_inputs_alone(tiny: ModuleType) -> None:
    shape = shape_of(tiny.model("llama").config.to_dict())
    micro = Micro(64, 64, 0, 64)
    job = Job("sft", shape, micro, micro, 1, bf16=False, checkpointing=True)
    assert kept(job, micro, on_cpu=True) == 64 * (2 * 32 * 4 + 32 * 4 + 4)
