"""What goes to the CPU between a forward and its backward, seen without a GPU."""

from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn

from posttrain.data.batch import pack
from posttrain.models.attention import install_attention
from posttrain.models.logprobs import token_logps
from posttrain.recipes.policy import checkpoint_activations
from posttrain.train import sharding
from posttrain.train.offloading import offloading

ELSEWHERE = torch.device("cuda")  # where the loop would compute; the tensors of a test are on the CPU all the same


class Away:
    """Takes copies, and remembers of what."""

    def __init__(self) -> None:
        self.seen: list[Tensor] = []

    def __call__(self, tensor: Tensor) -> Tensor:
        self.seen.append(tensor)
        return tensor.clone()


def gradients(lm: nn.Module) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in lm.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("bf16", [False, True])
def test_gradients_are_the_same_and_no_weight_goes(tiny: ModuleType, checkpointing: bool, bf16: bool) -> None:
    lm, batch = tiny.model("llama").train(), pack(tiny.trees([[(9, -1), (5, 0)], [(7, -1)]]))
    install_attention(lm)
    if checkpointing:
        checkpoint_activations(lm)
    found = []
    away = Away()
    for device in (torch.device("cpu"), ELSEWHERE):
        lm.zero_grad()
        with offloading(device, away=away, smallest=1):
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                total = token_logps(lm, batch).sum()
            total.backward()
        if device.type == "cpu":
            assert not away.seen
        found.append(gradients(lm))
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])
    assert away.seen
    sizes = {p.shape for p in lm.parameters() if p.ndim == 2}
    assert not {tensor.shape for tensor in away.seen} & (sizes | {size[::-1] for size in sizes})
    layers = lm.config.num_hidden_layers
    assert (len(away.seen) < 8 * layers) == checkpointing, "recomputation leaves the inputs of layers alone to be kept"


def test_what_is_small_stays(tiny: ModuleType) -> None:
    lm, batch, away = tiny.model("gpt2"), pack(tiny.trees([[(9, -1)]])), Away()
    install_attention(lm)
    with offloading(ELSEWHERE, away=away):
        token_logps(lm, batch).sum().backward()
    assert not away.seen


def test_a_step_of_the_loop_is_made_so(tiny: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[torch.device] = []

    @contextmanager
    def seen(device: torch.device) -> Iterator[None]:
        asked.append(device)
        yield

    monkeypatch.setattr(sharding, "offloading", seen)
    lm = tiny.model("gpt2")
    for _ in range(2):
        with sharding.engines_of(lm).accumulating(is_last=True):
            pass
        sharding.offload_activations(lm, ELSEWHERE)
    assert asked == [ELSEWHERE]
    sharding.forget()
