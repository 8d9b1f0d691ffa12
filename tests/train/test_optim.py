"""AdamW with moments in eight bits, and in pages: against the formula, and resumed to the same bits."""

import importlib
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from posttrain.data.batch import pack
from posttrain.errors import ModelError
from posttrain.models import bitsandbytes
from posttrain.models.attention import install_attention
from posttrain.models.load import Policy, load
from posttrain.models.logprobs import token_logps
from posttrain.train.checkpoint import Checkpoints, State
from posttrain.train.optim import SMALL, adamw

BETAS, EPSILON, RATE, DECAY = (0.9, 0.999), 1e-8, 1e-2, 0.1


@pytest.fixture
def library() -> Any:
    return pytest.importorskip("bitsandbytes")


class Layers(nn.Module):
    """A map whose moments go to eight bits, one that is too small for that, and an embedding, which is not asked to."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.large, self.small, self.rows = nn.Linear(70, 90), nn.Linear(8, 8), nn.Embedding(90, 64)


def steps(layers: Layers, optimizer: torch.optim.Optimizer, num: int, seed: int = 1) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    for _ in range(num):
        for parameter in layers.parameters():
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        optimizer.step()
    return {name: value.detach().clone() for name, value in layers.state_dict().items()}


def made(kind: str, layers: Layers) -> torch.optim.Optimizer:
    return adamw(layers, kind=kind, learning_rate=RATE, weight_decay=DECAY, betas=BETAS, epsilon=EPSILON)


class InEightBits:
    """Moments by hand: 256 levels times the largest magnitude of each block of 256."""

    def __init__(self, levels: Tensor, size: int) -> None:
        self.levels, self.numbers = levels, torch.zeros(size, dtype=torch.int64)
        self.scales = torch.zeros(-(-size // 256))

    def read(self) -> Tensor:
        return self.levels[self.numbers] * self.scales.repeat_interleave(256)[: len(self.numbers)]

    def write(self, values: Tensor) -> None:
        for block, start in enumerate(range(0, len(values), 256)):
            part = values[start : start + 256]
            self.scales[block] = part.abs().max()
            near = (part[:, None] / self.scales[block] - self.levels).abs().argmin(1)
            self.numbers[start : start + 256] = near


def by_hand(layers: Layers, num: int, levels: tuple[Tensor, Tensor]) -> Tensor:
    """The large map's weight after `num` steps."""
    weight = layers.large.weight.detach().flatten().clone()
    first, second = (InEightBits(level, len(weight)) for level in levels)
    generator = torch.Generator().manual_seed(1)
    for step in range(1, num + 1):
        for parameter in layers.parameters():
            grad = torch.randn(parameter.shape, generator=generator)
            if parameter is layers.large.weight:
                mine = grad.flatten()
        mean = BETAS[0] * first.read() + (1 - BETAS[0]) * mine
        square = BETAS[1] * second.read() + (1 - BETAS[1]) * mine**2
        corrected = mean / (1 - BETAS[0] ** step), square / (1 - BETAS[1] ** step)
        weight = weight * (1 - RATE * DECAY) - RATE * corrected[0] / (corrected[1].sqrt() + EPSILON)
        first.write(mean)
        second.write(square)
    return weight.view(layers.large.weight.shape)


def test_eight_bits_follow_the_formula(library: Any) -> None:
    functional = library.functional
    levels = functional.create_dynamic_map(signed=True), functional.create_dynamic_map(signed=False)
    wanted = by_hand(Layers(), 12, levels)
    layers = Layers()
    found = steps(layers, made("adamw_8bit", layers), 12)["large.weight"]
    layers = Layers()
    in_full = steps(layers, made("adamw_torch_fused", layers), 12)["large.weight"]
    rounding = float((in_full - wanted).abs().mean())
    assert float((found - wanted).abs().mean()) < 0.1 * rounding  # its table for CPUs is coarse near zero
    assert rounding > 1e-4


def test_small_maps_and_embeddings_keep_all_their_bits(library: Any) -> None:  # noqa: ARG001
    layers, plain = Layers(), Layers()
    optimizer = made("adamw_8bit", layers)
    found, wanted = steps(layers, optimizer, 5), steps(plain, made("adamw_torch_fused", plain), 5)
    for name in ("small.weight", "small.bias", "large.bias", "rows.weight"):
        assert torch.allclose(found[name], wanted[name], atol=1e-6), name
    assert not torch.allclose(found["large.weight"], wanted["large.weight"], atol=1e-5)
    held = {name: optimizer.state[p]["state1"].dtype for name, p in layers.named_parameters()}
    assert [name for name, dtype in held.items() if dtype == torch.uint8] == ["large.weight"]


def test_the_plain_one_is_torchs_own(tiny: ModuleType) -> None:
    layers, own = Layers(), Layers()
    groups = [
        {"params": [p for p in own.parameters() if p.ndim >= 2], "weight_decay": DECAY},
        {"params": [p for p in own.parameters() if p.ndim < 2], "weight_decay": 0.0},
    ]
    wanted = steps(own, torch.optim.AdamW(groups, lr=RATE, betas=BETAS, eps=EPSILON, fused=True), 3)
    found = steps(layers, made("adamw_torch_fused", layers), 3)
    assert all(found[name].equal(wanted[name]) for name in wanted)
    assert type(adamw(tiny.model("llama"), learning_rate=1.0)) is torch.optim.AdamW


def policy_and_optimiser(base: Path) -> tuple[Policy, torch.optim.Optimizer]:
    policy = load(base, device="cpu")
    install_attention(policy.model)
    return policy, adamw(policy.model, kind="adamw_8bit", learning_rate=RATE, weight_decay=DECAY)


def learn(policy: Policy, optimizer: torch.optim.Optimizer, tiny: ModuleType, first: int, last: int) -> None:
    for step in range(first, last):
        batch = pack(tiny.trees([[(9 + step, -1), (4, 0)]]))
        (-token_logps(policy.model, batch).mean()).backward()
        optimizer.step()
        optimizer.zero_grad()


@pytest.mark.parametrize("lost", ["", "state1", "absmax2", "step"])
def test_a_resumed_run_has_the_same_bits(library: Any, tiny: ModuleType, tmp_path: Path, lost: str) -> None:  # noqa: ARG001
    """And it would not, were any part of the state lost."""
    base = tiny.save_base(tmp_path / "base", intermediate_size=160)
    policy, optimizer = policy_and_optimiser(base)
    learn(policy, optimizer, tiny, 0, 3)
    saved = Checkpoints(tmp_path).save(policy, optimizer, State(step=3))
    learn(policy, optimizer, tiny, 3, 5)
    if lost:
        drop(saved / "training.safetensors", lost)
    again, other = policy_and_optimiser(base)
    learn(again, other, tiny, 0, 1)  # a state that has to give way
    assert Checkpoints(tmp_path).resume(again, other).step == 3
    learn(again, other, tiny, 3, 5)
    assert any(entry["state1"].dtype == torch.uint8 for entry in other.state.values())
    pairs = zip(policy.model.state_dict().values(), again.model.state_dict().values(), strict=True)
    assert all(mine.equal(theirs) for mine, theirs in pairs) == (not lost)


def drop(file: Path, key: str) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(file)
    hit = [name for name in tensors if name.startswith(f"optimizer/{key}/")]
    assert hit
    save_file(tensors | {name: torch.zeros_like(tensors[name]) for name in hit}, file)


def test_moments_from_a_checkpoint_go_to_pages_again(library: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no GPU here, so what stands in for pages is marked memory."""
    kind = importlib.import_module("posttrain.models.bitsandbytes")._kept_adamw()
    fetched = []

    def in_pages(_: Any, p: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        made = torch.zeros_like(p, dtype=dtype)
        made.is_paged = True
        return made

    monkeypatch.setattr(kind, "get_state_buffer", in_pages)
    monkeypatch.setattr(library.functional, "prefetch_tensor", fetched.append)

    def paged(layers: Layers) -> Any:
        return kind([{"params": list(layers.parameters())}], wide=frozenset(), lr=RATE, is_paged=True)

    layers, again = Layers(), Layers()
    optimizer, other = paged(layers), paged(again)
    steps(layers, optimizer, 3)
    for mine, theirs in zip(layers.parameters(), again.parameters(), strict=True):
        theirs.data.copy_(mine.data)
        for key, value in optimizer.state[mine].items():
            other.state[theirs][key] = value.detach().clone()
    assert not any(getattr(entry["state1"], "is_paged", False) for entry in other.state.values())
    found, wanted = steps(again, other, 2, seed=2), steps(layers, optimizer, 2, seed=2)
    assert all(found[name].equal(wanted[name]) for name in wanted)
    assert all(entry[name].is_paged for entry in other.state.values() for name in ("state1", "state2"))
    assert fetched


@pytest.mark.parametrize("kind", [kind for kind, how in SMALL.items() if how["paged"]])
def test_pages_need_a_gpu(kind: str) -> None:
    with pytest.raises(ModelError, match="on no GPU: set optim to adamw_8bit, or leave it out"):
        made(kind, Layers())


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    bitsandbytes._kept_adamw.cache_clear()
    with pytest.raises(ModelError, match=r"moments in 8 bits or in pages need bitsandbytes .*posttrain\[qlora\]"):
        made("adamw_8bit", Layers())
    bitsandbytes._kept_adamw.cache_clear()
