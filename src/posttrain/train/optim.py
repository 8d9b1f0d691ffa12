"""Optimiser, parameter groups, and the learning rate as a pure function of the step."""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import nn

from posttrain.models.bitsandbytes import small_adamw

SCHEDULES = ("cosine", "linear", "constant")
SMALL: dict[str, dict[str, Any]] = {
    "adamw_8bit": {"bits": 8, "paged": False},
    "paged_adamw_8bit": {"bits": 8, "paged": True},
    "paged_adamw_32bit": {"bits": 32, "paged": True},
}
"""How the moments are held; the names are those of transformers."""


def adamw(
    model: nn.Module,
    *,
    kind: str = "adamw_torch_fused",
    learning_rate: float,
    weight_decay: float = 0.0,
    betas: tuple[float, float] = (0.9, 0.999),
    epsilon: float = 1e-8,
    parts: Mapping[str, tuple[Any, float]] | None = None,
) -> torch.optim.Optimizer:
    """AdamW (Loshchilov and Hutter, 2019) over what requires a gradient; matrices decay, vectors do not. `kind`:
    torch's fused one, or one of SMALL, whose moments of embeddings are in 32 bits all the same.

    `parts`: (model, rate) by name, of what is trained beside the model; `rate` multiplies the learning rate there. A
    parameter that two of them share belongs to the first.
    """
    groups: list[dict[str, Any]] = []
    held: set[int] = set()
    for name, (part, rate) in {"": (model, 1.0), **(parts or {})}.items():
        trained = [p for p in part.parameters() if p.requires_grad and id(p) not in held]
        held |= {id(p) for p in trained}
        marks = {"part": name, "rate": rate}
        groups.append({"params": [p for p in trained if p.ndim >= 2], "weight_decay": weight_decay, **marks})
        groups.append({"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0, **marks})
    groups = [group for group in groups if group["params"]]
    if kind in SMALL:
        options: dict[str, Any] = {"learning_rate": learning_rate, "betas": betas, "epsilon": epsilon}
        wide = _embeddings([model, *(part for part, _ in (parts or {}).values())])
        return small_adamw(groups, wide=wide, **SMALL[kind], **options)
    assert kind == "adamw_torch_fused", f"kind is {kind!r}, expected adamw_torch_fused or one of {tuple(SMALL)}"
    return torch.optim.AdamW(groups, lr=learning_rate, betas=betas, eps=epsilon, fused=True)


def _embeddings(trained: Iterable[Any]) -> set[int]:
    """Ids of the weights of embeddings. Rare tokens make their gradients uneven, which eight bits hold badly (Dettmers
    et al., 2022, section 2.3)."""
    found = set()
    for part in trained:
        model = part if isinstance(part, nn.Module) else part.policy.model  # a value model is no module itself
        found |= {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    return found


def schedule(
    kind: str, *, peak: float, total_steps: int, warmup_steps: int = 0, min_ratio: float = 0.0
) -> Callable[[int], float]:
    """step -> learning rate: linear warm-up from peak / warmup_steps, then constant, linear or cosine down to
    `min_ratio * peak`, which it would reach at `rate(total_steps)`. It keeps no state, so a resumed run needs none.
    """
    assert kind in SCHEDULES, f"schedule is {kind!r}, expected one of {SCHEDULES}"

    def rate(step: int) -> float:
        if step < warmup_steps:
            return peak * (step + 1) / warmup_steps
        done = (step - warmup_steps) / max(1, total_steps - warmup_steps)
        left = {"constant": 1.0, "linear": 1 - done, "cosine": 0.5 * (1 + math.cos(math.pi * min(1.0, done)))}[kind]
        return peak * (min_ratio + (1 - min_ratio) * max(0.0, left))

    return rate
