"""The learning rate of every step, from the optimiser's keys."""

from collections.abc import Callable
from typing import Any

from posttrain.train.optim import schedule


def rate_of(config: Any, steps: int) -> Callable[[int], float]:
    """step -> learning rate, in a run of so many steps."""
    return schedule(
        config.lr_scheduler_type,
        peak=config.peak_rate,
        total_steps=steps,
        warmup_steps=config.warmup_steps or round(config.warmup_ratio * steps),
        min_ratio=config.min_lr_ratio,
    )
