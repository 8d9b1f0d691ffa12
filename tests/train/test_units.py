"""Law 1: any split of a step into micro-batches gives the same gradient, driving the real loop."""

import random
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from posttrain.data.batch import pack
from posttrain.models.load import Policy
from posttrain.train.checkpoint import Checkpoints
from posttrain.train.evaluation import held_out_loss
from posttrain.train.loop import train
from posttrain.train.objectives import SFT, Objective
from posttrain.types import Batch, Sample, Segment

# |difference| / |gradient|, measured over all splits: 2.5e-7 in fp32 and 1.5e-15 in fp64.
BOUND = {torch.float32: 1e-6, torch.float64: 1e-13}
NUM_SAMPLES = 12


class Captured(torch.optim.Optimizer):
    """Keeps the gradients that the loop hands to it, and leaves the weights alone."""

    def __init__(self, policy: Policy) -> None:
        super().__init__(policy.model.parameters(), {"lr": 1.0})
        self.names = {id(parameter): name for name, parameter in policy.model.named_parameters()}
        self.gradients: list[dict[str, Tensor]] = []

    def step(self, closure: Any = None) -> None:  # noqa: ARG002 (the base's signature)
        parameters = [p for group in self.param_groups for p in group["params"]]
        self.gradients.append({self.names[id(p)]: p.grad.clone() for p in parameters if p.grad is not None})


class OneStep:
    """Steps that are all alike: the given samples in the given micro-batches."""

    def __init__(self, parts: Sequence[Sequence[Sample]]) -> None:
        self.batches = [pack(part) for part in parts]

    def step(self, step: int) -> list[Batch]:  # noqa: ARG002 (the protocol's signature)
        return self.batches

    def epoch_of(self, step: int) -> float:
        return float(step)


def chats(tiny: ModuleType) -> list[Sample]:
    """Prompts of weight 0.1 and answers of weight 1, from one token to forty, so that no two samples weigh alike."""
    rng = random.Random(0)
    made = []
    for number in range(NUM_SAMPLES):
        prompt, answer = rng.randrange(2, 25), 1 + number * 4
        ids = tuple(rng.randrange(3, tiny.VOCABULARY) for _ in range(prompt + answer))
        made.append(Sample((Segment(ids, (0.0,) + (0.1,) * (prompt - 1) + (1.0,) * answer),)))
    return made


def run(
    tiny: ModuleType,
    folder: Path,
    parts: Sequence[Sequence[Sample]],
    dtype: torch.dtype = torch.float64,
    *,
    objective: Objective = SFT,
    **options: Any,
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The gradient of one step as the optimiser sees it, and the line of metrics."""
    policy = tiny.policy("llama", dtype)
    optimizer, log, stream = Captured(policy), tiny.Lines(), OneStep(parts)
    with tiny.exactly(dtype):
        train(
            policy,
            stream,
            objective,
            optimizer=optimizer,
            rate=lambda _: 1.0,
            total_steps=1,
            checkpoints=Checkpoints(folder),
            log=log,
            **({"max_grad_norm": 0.0} | options),
        )
    return optimizer.gradients[0], log.lines[-1]


def distance(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """|found - expected| / |expected| over all parameters together."""
    assert found.keys() == expected.keys()
    error = sum(float((found[name] - expected[name]).double().square().sum()) for name in expected)
    return (error / sum(float(gradient.double().square().sum()) for gradient in expected.values())) ** 0.5


def split(samples: Sequence[Sample], sizes: Sequence[int]) -> list[Sequence[Sample]]:
    ends = [sum(sizes[:i]) for i in range(len(sizes) + 1)]
    assert ends[-1] == len(samples)
    return [samples[a:b] for a, b in pairwise(ends)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["fp32", "fp64"])
@pytest.mark.parametrize("sizes", [(6, 6), (1, 11), (3, 3, 3, 3), (1, 2, 4, 5), (1,) * 12], ids=str)
def test_any_split_gives_the_same_gradient(
    tiny: ModuleType, tmp_path: Path, sizes: tuple[int, ...], dtype: torch.dtype
) -> None:
    samples = chats(tiny)
    whole, whole_line = run(tiny, tmp_path, [samples], dtype)
    parts, parts_line = run(tiny, tmp_path, split(samples, sizes), dtype)
    assert distance(parts, whole) <= BOUND[dtype]
    assert abs(parts_line["loss"] - whole_line["loss"]) <= BOUND[dtype] * whole_line["loss"]
    assert parts_line["trained_tokens"] == whole_line["trained_tokens"]


def test_the_order_of_samples_does_not_matter(tiny: ModuleType, tmp_path: Path) -> None:
    samples = chats(tiny)
    whole, _ = run(tiny, tmp_path, [samples])
    turned, _ = run(tiny, tmp_path, split(samples[::-1], (5, 7)))
    assert distance(turned, whole) <= BOUND[torch.float64]


def test_it_is_the_mean_over_weighted_tokens(tiny: ModuleType, tmp_path: Path) -> None:
    """The gradient of sum(w * -logp) / sum(w), with values from the padded oracle."""
    samples = chats(tiny)
    lm = tiny.model("llama", torch.float64)
    batch = pack(samples)
    with tiny.exactly(torch.float64):
        mean = -(tiny.padded_logps(lm, samples) @ batch.weight_N.double()) / batch.weight_N.double().sum()
    mean.backward()
    wanted = {name: p.grad for name, p in lm.named_parameters()}
    found, line = run(tiny, tmp_path, split(samples, (2, 10)))
    assert distance(found, wanted) <= BOUND[torch.float64]
    assert line["loss"] == pytest.approx(float(mean.detach()), rel=1e-13)


def test_a_mean_of_means_would_differ(tiny: ModuleType, tmp_path: Path) -> None:
    """The control: on these very samples the usual mistake is a thousand times over the bound."""
    samples = chats(tiny)
    whole, _ = run(tiny, tmp_path, [samples])
    parts = split(samples, (3, 3, 3, 3))
    each = [run(tiny, tmp_path, [part])[0] for part in parts]
    means = {name: sum(gradient[name] for gradient in each) / len(parts) for name in whole}
    assert distance(means, whole) > 1e-3
    # Counting tokens in place of weights is the other usual mistake.
    tokens = Objective("tokens", SFT.loss, lambda batch: float(batch.num_trained))
    counted, _ = run(tiny, tmp_path, [samples], objective=tokens)
    assert distance(counted, whole) > 1e-3


def test_held_out_loss_does_not_depend_on_the_split(tiny: ModuleType) -> None:
    policy = tiny.policy("llama", torch.float64)
    samples = chats(tiny)
    once, thrice = [pack(samples)], [pack(part) for part in split(samples, (1, 2, 9))]
    with tiny.exactly(torch.float64):
        whole = held_out_loss(policy, once, SFT)
        parts = held_out_loss(policy, thrice, SFT)
    assert abs(whole - parts) <= 1e-13 * whole


def test_clipping_sees_the_whole_step(tiny: ModuleType, tmp_path: Path) -> None:
    """The norm is that of the accumulated gradient, and what is clipped has exactly the norm that was asked for."""
    samples = chats(tiny)
    free, line = run(tiny, tmp_path, [samples])
    norm = float(torch.stack([gradient.square().sum() for gradient in free.values()]).sum().sqrt())
    assert line["grad_norm"] == pytest.approx(norm, rel=1e-9)
    limit = norm / 10
    clipped, line = run(tiny, tmp_path, split(samples, (4, 8)), max_grad_norm=limit)
    assert line["grad_norm"] == pytest.approx(norm, rel=1e-9)  # what was measured, before the clip
    small = float(torch.stack([gradient.square().sum() for gradient in clipped.values()]).sum().sqrt())
    assert small == pytest.approx(limit, rel=1e-4)  # torch adds 1e-6 to the divisor
    assert distance({n: g * 10 for n, g in clipped.items()}, free) <= 1e-4
    loose, _ = run(tiny, tmp_path, [samples], max_grad_norm=norm * 2)
    assert distance(loose, free) == 0.0
