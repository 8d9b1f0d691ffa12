"""Prompts to graded groups: which prompts come next, and which of their groups can teach anything."""

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from statistics import fmean, pstdev
from typing import Any

from posttrain.rollouts.grading import Grader
from posttrain.train import distributed
from posttrain.types import Prompt, Rollout

Groups = list[list[Rollout]]
MAX_ROUNDS = 8  # times that groups without a signal are replaced in one iteration


@dataclass
class Collector:
    """Draws prompts in a seeded order, an epoch after the other, and has `roll` answer them; `grader` grades.

    `dynamic`: groups whose rewards are all equal teach nothing and are replaced by those of further prompts (Yu et al.,
    2025, DAPO), at most MAX_ROUNDS times.
    """

    prompts: Sequence[Prompt]
    roll: Callable[[Sequence[Prompt], int, int], Groups]
    """(prompts, seed, version) -> their groups."""
    grader: Grader
    num_prompts: int
    seed: int
    dynamic: bool = False
    cursor: int = 0
    calls: int = 0
    left_out: Groups = field(default_factory=list, init=False, repr=False)
    """What the last iteration sampled and did not keep, to be looked at."""
    _order: Callable[[int], list[int]] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._order = lru_cache(maxsize=2)(self._shuffled)

    def collect(self, version: int) -> tuple[Groups, dict[str, float]]:
        """The groups of one iteration, and what the log says of them."""
        started = time.perf_counter()
        everything: Groups = []
        kept: Groups = []
        for _ in range(MAX_ROUNDS if self.dynamic else 1):
            found = self._round(self.num_prompts - len(kept), version)
            everything += found
            kept += [group for group in found if has_signal(group)] if self.dynamic else found
            if len(kept) == self.num_prompts or not any(rollout.is_known for group in found for rollout in group):
                break  # where graders fail on everything, more of it would only delay that it is said
        told = rollout_metrics(everything)
        told["rollout_s"] = time.perf_counter() - started
        told["rollout_tokens_per_s"] = sum(sum(r.chosen) for g in everything for r in g) / told["rollout_s"]
        if self.dynamic:
            told["left_out_groups"] = float(len(everything) - len(kept))
            self.left_out = [group for group in everything if not has_signal(group)]
        return kept, told

    def _round(self, count: int, version: int) -> Groups:
        chosen = [self.prompts[self._index(self.cursor + i)] for i in range(count)]
        self.cursor += count
        self.calls += 1
        seed = self.seed * 1_000_003 + self.calls

        def answered(prompts: list[Prompt]) -> Groups:
            groups = self.roll(prompts, seed, version)
            graded = iter(self.grader.grade([rollout for group in groups for rollout in group]))
            return [[next(graded) for _ in group] for group in groups]

        # A prompt that comes twice is drawn anew the second time, by whoever drew it the first time.
        return distributed.spread(chosen, answered, [repr(prompt.messages) for prompt in chosen])

    def _index(self, cursor: int) -> int:
        epoch, place = divmod(cursor, len(self.prompts))
        return self._order(epoch)[place]

    def _shuffled(self, epoch: int) -> list[int]:
        order = list(range(len(self.prompts)))
        random.Random(f"{self.seed}:{epoch}").shuffle(order)
        return order

    def state(self) -> dict[str, Any]:
        """Where it stands, for a checkpoint."""
        return {"cursor": self.cursor, "calls": self.calls, "grader": self.grader.state()}

    def load(self, state: dict[str, Any]) -> None:
        """Go on from `state()`."""
        self.cursor, self.calls = state["cursor"], state["calls"]
        self.grader.load(state["grader"])


def has_signal(group: Sequence[Rollout]) -> bool:
    """Whether two answers of a group that are known have different rewards."""
    return len({rollout.reward for rollout in group if rollout.is_known}) > 1


def rollout_metrics(groups: Sequence[Sequence[Rollout]]) -> dict[str, float]:
    """Rewards, lengths and failures of one iteration. Means are over the rollouts that are known."""
    every = [rollout for group in groups for rollout in group]
    known = [rollout for rollout in every if rollout.is_known]
    told = {
        "failed": fmean(bool(rollout.error) for rollout in every),
        "grader_errors": fmean(any(score.error for score in rollout.scores.values()) for rollout in every),
    }
    if not known:
        return told
    lengths = [sum(rollout.chosen) for rollout in known]
    told |= {
        "reward": fmean(rollout.reward for rollout in known),
        "reward_std": fmean(pstdev(r.reward for r in g if r.is_known) for g in groups if any(r.is_known for r in g)),
        "length": fmean(lengths),
        "length_max": float(max(lengths)),
        "truncated": fmean(rollout.finish == "length" for rollout in known),
    }
    if any(len(group) > 1 for group in groups):
        told["zero_signal"] = fmean(not has_signal(group) for group in groups)
    for name in sorted({name for rollout in known for name in rollout.scores}):
        told[f"reward/{name}"] = fmean(rollout.scores[name].value for rollout in known if name in rollout.scores)
    return told
