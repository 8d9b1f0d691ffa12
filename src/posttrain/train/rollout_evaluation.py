"""Rewards on held-out prompts while a policy learns by reinforcement: before, every so many steps, and after."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean, pstdev
from typing import Any

from posttrain.models.load import Policy
from posttrain.rollouts.grading import Grader
from posttrain.train import distributed
from posttrain.train.checkpoint import State
from posttrain.train.collect import Groups, rollout_metrics
from posttrain.train.objectives import Objective
from posttrain.types import Prompt, Rollout

KEPT = ("length", "length_max", "truncated", "failed", "grader_errors")


@dataclass(frozen=True)
class RolloutEvaluation:
    """One sampled answer to each prompt, at the temperature of training and with the same seeds every time, so that
    what changes is the policy. `every`: steps between evaluations (0: only first and last)."""

    prompts: Sequence[Prompt]
    roll: Callable[[Sequence[Prompt], int, int], Groups]
    """(prompts, seed, version) -> one rollout each."""
    grader: Callable[[], Grader]
    sampler: Any
    seed: int
    every: int = 0
    keep_best: bool = False
    gold: Callable[[], Grader] | None = None
    """Rewards that are measured here alone and never trained on."""

    def is_due(self, step: int) -> bool:
        """Whether to measure after this step."""
        return self.every > 0 and step % self.every == 0

    def is_patience_over(self, state: State) -> bool:  # noqa: ARG002 (what the loop asks)
        """Never: rewards have no best that training should end at."""
        return False

    def run(self, policy: Policy, objective: Objective, state: State, *, bf16: bool) -> dict[str, float]:  # noqa: ARG002
        """Mean reward, its parts, lengths and failures, each under `eval_`; see `gold_metrics` for the gold reward."""
        was_training = policy.model.training
        policy.model.eval()
        self.sampler.refresh(state.step)
        keys = [repr(prompt.messages) for prompt in self.prompts]
        groups = distributed.spread(self.prompts, lambda own: self.roll(own, self.seed, state.step), keys)
        self.sampler.release()
        policy.model.train(was_training)
        answers = [group[0] for group in groups]
        graded = distributed.spread(answers, self.grader().grade)
        told = rollout_metrics([[rollout] for rollout in graded])
        found = {f"eval_{k}": v for k, v in told.items() if k in KEPT or k == "reward" or k.startswith("reward/")}
        if self.gold is not None:
            found |= gold_metrics(distributed.spread(answers, self.gold().grade))
        return found


def gold_metrics(graded: Sequence[Rollout]) -> dict[str, float]:
    """Of answers to different prompts that the gold rewards have graded: `eval_gold`, the mean of their weighted sums,
    its standard error `eval_gold_se`, the means of several parts as eval_gold/NAME, and `eval_gold_errors`, the share
    of the answers of which nothing is known."""
    known = [rollout for rollout in graded if rollout.is_known]
    told = {"eval_gold_errors": 1 - len(known) / len(graded)}
    if not known:
        return told
    rewards = [rollout.reward for rollout in known]
    told |= {"eval_gold": fmean(rewards), "eval_gold_se": pstdev(rewards) / math.sqrt(max(len(rewards) - 1, 1))}
    names = sorted({name for rollout in known for name in rollout.scores})
    for name in names if len(names) > 1 else ():
        told[f"eval_gold/{name}"] = fmean(rollout.scores[name].value for rollout in known if name in rollout.scores)
    return told
