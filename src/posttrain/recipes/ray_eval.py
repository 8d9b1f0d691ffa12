"""`posttrain eval` over a Ray cluster: questions and suites, the same answers under the same keys."""

from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import torch

from posttrain.errors import DataError
from posttrain.evals.taking import Keep, Progress, Taker
from posttrain.evals.task import ChoiceTask, Taken, Task
from posttrain.recipes.eval_config import EvalConfig
from posttrain.recipes.ray_sampler import RaySampler, held_model, outline
from posttrain.recipes.ray_sampler import side_by_side as side_by_side
from posttrain.recipes.ray_spread import Spread

Say = Callable[[str], None]
AT_ONCE = 256
"""Questions or texts of a worker that are weighed before they are kept."""
LEAST = 16
"""Questions or texts that a worker should have at a time."""


def begin(config: EvalConfig, folder: str, stack: ExitStack, say: Say) -> RaySampler:
    """The model of `posttrain eval --dataset` in workers, until the stack is left."""
    policy, spread = outline(folder), stack.enter_context(_spread(config, say))
    held = held_model(config.model, folder, slots=config.sampler_slots, dtype=_dtype(config))
    spread.begin(held)
    return RaySampler(spread, held, policy)


def ray_taker(
    config: EvalConfig, model: str, folder: str, keep: Keep, dtype: torch.dtype | None, stack: ExitStack, say: Say
) -> Taker:
    """A Taker for the tasks of a suite, whose model is in workers until the stack is left."""
    spread = stack.enter_context(_spread(config, say))
    held = held_model(model, folder, slots=config.sampler_slots, dtype=_dtype(config), cpu_dtype="float32")
    return RayTaker(partial(outline, folder), partial(RaySampler, spread, held), keep=keep, dtype=dtype,
                    slots=config.sampler_slots * spread.workers.num)  # fmt: skip


class RayTaker(Taker):
    """`load` gives a policy without weights, `remote` the sampler of the workers: they sample and weigh."""

    def __init__(self, load: Callable[[], Any], remote: Callable[[Any], RaySampler], **how: Any) -> None:
        super().__init__(load, **how)
        self._remote = remote
        self._common: tuple[Any, ...] = ()

    @property
    def sampler(self) -> Any:
        """The workers as a sampler."""
        return self._remote(self.policy)

    def take(self, task: Task, progress: Progress | None = None) -> Taken:
        """See Taker."""
        self._common = (task.plain,) if isinstance(task, ChoiceTask) else ()
        return super().take(task, progress)

    def weighed(
        self, keys: Sequence[str], things: Sequence[Any], _: Callable[[Sequence[Any]], Iterable[Any]], say: Progress
    ) -> list[Any]:
        """See Taker."""
        found = {key: self.keep.value(key) for key in keys}
        missing = {key: thing for key, thing in zip(keys, things, strict=True) if found[key] is None}
        if not missing:
            return [found[key] for key in keys]
        workers, waiting, num_known = self.sampler, list(missing), len(found) - len(missing)
        op, size = ("options" if self._common else "texts"), AT_ONCE * workers.spread.workers.num
        for start in range(0, len(waiting), size):
            some = waiting[start : start + size]
            asked = [missing[key] for key in some]
            for place, value in workers.spread.ask(workers.held, op, asked, *self._common, least=LEAST):
                is_sum = op == "texts" and not isinstance(value, DataError)
                found[some[place]] = [-value[0], value[1]] if is_sum else value
                num_known += 1
                say(num_known, len(found))
            for key in some:  # in their order, whichever worker was first
                if not isinstance(found[key], DataError):
                    self.keep.put(key, found[key])
        return [found[key] for key in keys]


def _spread(config: EvalConfig, say: Say) -> Spread:
    return Spread(config, Path(config.output_dir) / "answers.ray.jsonl", say, anew=config.overwrite_output_dir)


def _dtype(config: EvalConfig) -> str | None:
    return None if config.sampler_dtype == "auto" else config.sampler_dtype
