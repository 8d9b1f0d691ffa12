"""Sampling one iteration ahead: while the trainer learns from one set of rollouts, the servers write the next.

What is under way lives outside of the collector: its cursor moves when rollouts are taken and not when they are asked
for. So a checkpoint knows nothing of them; a run that goes on from it asks again, with the weights that it has, and no
prompt is lost, seen twice or answered by the base.
"""

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from posttrain.train.collect import Groups
from posttrain.types import Prompt

Roll = Callable[[Sequence[Prompt], int, int], Groups]
"""(prompts, seed, version) -> their groups."""


class Ahead:
    """A `roll` for the collector that gives what was asked for before where that was the same question, and a sampler
    that changes its weights only once nothing is under way.

    `roll`: answers prompts, in this process or from servers; runs in a thread of its own, so it may touch nothing that
    training changes.
    """

    def __init__(self, sampler: Any, roll: Roll) -> None:
        self.sampler, self._roll = sampler, roll
        self._pending: _Pending | None = None
        self._told: dict[str, float] = {}

    # --- the sampler's door ---

    @property
    def policy(self) -> Any:
        """The policy that is sampled."""
        return self.sampler.policy

    @property
    def version(self) -> int:
        """Of the weights that are sampled from."""
        version: int = self.sampler.version
        return version

    def refresh(self, version: int) -> None:
        """Wait for what is under way, which ends under the weights that it began with, then hand over."""
        started = time.perf_counter()
        if self._pending is not None:
            self._pending.done.wait()
        waited = time.perf_counter() - started
        self._told["ahead_wait_s"] = self._told.get("ahead_wait_s", 0.0) + waited
        self.sampler.refresh(version)

    def release(self) -> None:
        """What is under way goes on."""

    # --- the collector's ---

    def roll(self, prompts: Sequence[Prompt], seed: int, version: int) -> Groups:
        """The groups of these prompts: those that were begun before, or new ones. An error in the thread is raised
        here."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.done.wait()
            if pending.is_of(prompts, seed):
                self._told |= {"ahead": 1.0, "rollout_s": pending.took_s}
                return pending.groups()
        return self._roll(prompts, seed, version)

    def begin(self, prompts: Sequence[Prompt], seed: int, version: int) -> None:
        """Start on what comes next."""
        self._pending = _Pending(self._roll, list(prompts), seed, version)

    def told(self) -> dict[str, float]:
        """What the log says since it was last asked, and what the sampler does; `ahead`: 1 where rollouts were begun
        before they were needed, `ahead_wait_s`: for which training stood still all the same."""
        found, self._told = {"ahead": 0.0} | self._told, {}
        return found | (self.sampler.told() if hasattr(self.sampler, "told") else {})


class _Pending:
    def __init__(self, roll: Roll, prompts: list[Prompt], seed: int, version: int) -> None:
        self.prompts, self.seed = prompts, seed
        self.done = threading.Event()
        self.took_s, self._began = 0.0, time.perf_counter()
        self._groups: Groups = []
        self._error: BaseException | None = None
        self._work = lambda: roll(prompts, seed, version)
        threading.Thread(target=self._run, name="ahead", daemon=True).start()

    def _run(self) -> None:
        try:
            self._groups = self._work()
        except BaseException as error:
            self._error = error
        finally:
            self.took_s = time.perf_counter() - self._began
            self.done.set()

    def is_of(self, prompts: Sequence[Prompt], seed: int) -> bool:
        return seed == self.seed and list(prompts) == self.prompts

    def groups(self) -> Groups:
        if self._error is not None:
            raise self._error
        return self._groups
