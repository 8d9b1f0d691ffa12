"""What goes to the CPU between a forward and its backward, seen without a GPU: the hooks do not ask where tensors are."""

from types import ModuleType

import pytest
import torch
from torch import Tensor, nn

from posttrain.models.attention import install_attention
from posttrain.models.logprobs import token_logps
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
    lm, batch = tiny.model("llama").train(), tiny.pack(tiny.trees([[(9, -1), (5, 0)], [(7, -1)]]))
    install_attention(lm)
    if checkpointing:
        lm.gradient_checkpointing_enable({"use_reentrant": False})
    found = []
    away = Away()
    for device in (torch.device("cpu"), ELSEWHERE):
        lm.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16), offloading(device, away=away, smallest=1):
            total = token_logps(lm, batch).sum()
        if device.type == "cpu":
            assert not away.seen
        total.backward()
        found.append(gradients(lm))
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])
    assert away.seen
    sizes = {p.shape for p in lm.parameters() if p.ndim == 2}
    assert not {tensor.shape for tensor in away.seen} & (sizes | {size[::-1] for size in sizes})
    layers = lm.config.num_hidden_layers
    assert (len(away.seen) < 8 * layers) == checkpointing, "recomputation leaves the inputs of layers alone to be kept"


def test_what_is_small_stays(tiny: ModuleType) -> None:
    lm, batch, away = tiny.model("gpt2"), tiny.pack(tiny.trees([[(9, -1)]])), Away()
    install_attention(lm)
    with offloading(ELSEWHERE, away=away):
        token_logps(lm, batch).sum().backward()
    assert not away.seen
