"""What goes round with a run by reinforcement: where its groups come from, what is measured, what stops it."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch

from posttrain.evals.hacking import watch
from posttrain.evals.overoptimisation import early_stop_step
from posttrain.models.load import Policy
from posttrain.recipes.rewards import recipe_rewards
from posttrain.recipes.rollout_config import RolloutConfig
from posttrain.recipes.rollout_setup import Setup
from posttrain.recipes.sampler_precision import sampler_dtype
from posttrain.recipes.training import uses_bf16
from posttrain.rollouts.grading import Grader, Weighted
from posttrain.rollouts.vllm_sampler import VllmSampler
from posttrain.train import distributed
from posttrain.train.ahead import Ahead
from posttrain.train.collect import Collector, Groups
from posttrain.train.drift import drift_metrics
from posttrain.train.recorder import Recorder
from posttrain.train.rollout_evaluation import RolloutEvaluation
from posttrain.train.runlog import RunFolder
from posttrain.types import Prompt

STALE_MISMATCH = 0.5  # nats a token between the weights that sampled and those that learn, an iteration later


def collector(config: RolloutConfig, setup: Setup, *, dynamic: bool = False) -> Collector:
    """Where the groups of every iteration come from."""

    def roll(prompts: Sequence[Prompt], seed: int, version: int) -> Groups:
        return setup.roll(prompts, num_generations=config.num_generations, seed=seed, version=version)

    if isinstance(setup.sampler, Ahead):
        roll = setup.sampler.roll
    found = _Watched(setup.prompts, roll, setup.grader(), config.num_prompts, config.seed, dynamic)
    found.sampler = setup.sampler
    steps = config.num_updates * config.num_mini_batches
    found.last = config.max_steps if config.max_steps > 0 else steps * found.num_iterations(config.num_train_epochs)
    found.last -= steps
    return found


class _Watched(Collector):
    """A collector that also logs how the form of answers drifts, and asks for the next rollouts where they are sampled
    ahead, but for none behind step `last`."""

    sampler: Any = None
    last: int = 0

    def collect(self, version: int) -> tuple[Groups, dict[str, float]]:
        before = self.cursor, self.calls
        try:
            groups, told = super().collect(version)
        except BaseException:
            self.cursor, self.calls = before  # prompts that nobody learned from come again in a resumed run
            raise
        if isinstance(self.sampler, Ahead) and version < self.last:
            self.sampler.begin(*self.upcoming(), version)
        if isinstance(self.sampler, Ahead | VllmSampler):
            more = self.sampler.told()
            told["rollout_tokens_per_s"] *= told["rollout_s"] / more.get("rollout_s", told["rollout_s"])
            told |= more
        return groups, told | drift_metrics([*groups, *self.left_out])

    def upcoming(self) -> tuple[list[Prompt], int]:
        """This process's prompts of the next round, and its seed."""
        chosen = [self.prompts[self._index(self.cursor + place)] for place in range(self.num_prompts)]
        chosen = [chosen[number] for number in distributed.own_part([repr(prompt.messages) for prompt in chosen])]
        return chosen, self.seed * 1_000_003 + self.calls + 1

    def num_iterations(self, num_epochs: float) -> int:
        """Rounds in so many passes over the prompts."""
        return max(1, -(-int(num_epochs * len(self.prompts)) // self.num_prompts))


def evaluation(config: RolloutConfig, setup: Setup) -> RolloutEvaluation | None:
    """What is measured on held-out prompts, where there are any."""
    if not setup.held_out:
        return None

    def roll(prompts: Sequence[Prompt], seed: int, version: int) -> Groups:
        return setup.roll(prompts, num_generations=1, seed=seed, version=version)

    gold = gold_rewards(config, setup)
    return RolloutEvaluation(
        setup.held_out,
        roll,
        setup.grader,
        setup.sampler,
        config.seed,
        config.eval_steps,
        gold=partial(Grader, gold) if gold else None,
    )


def gold_rewards(config: RolloutConfig, setup: Setup) -> list[Weighted]:
    """The rewards that are measured and never trained on. Raises ConfigError for an unknown one."""
    return recipe_rewards(
        config.gold_reward,
        tokenizer=setup.sampler.policy.tokenizer,
        max_completion_length=config.max_completion_length,
    )


def note_hacking(config: RolloutConfig, folder: RunFolder, say: Callable[[str], None]) -> None:
    """Put into run.json what the metrics say of reward hacking (evals/hacking.py), and say every warning."""
    found = watch(folder.lines(), config.stop_at_peak_of or "")
    folder.record |= found
    for warning in found["watch"]:
        say(f"reward hacking? {warning['said']}")


def peak(config: RolloutConfig, folder: RunFolder, say: Callable[[str], None]) -> Callable[..., bool]:
    """Whether the reward that is watched is past the peak that its own curve predicts (Gao et al., 2022). What was
    measured before is read from the run's metrics, so that a resumed run decides as an uninterrupted one."""
    key = f"reward/{config.stop_at_peak_of}"

    def is_past(step: int, told: dict[str, float]) -> bool:
        if config.stop_at_peak_of is None or not {"kl", key} <= set(told):
            return False
        seen = [line for line in folder.lines() if key in line and line["step"] < step]
        curve = [(line["step"], line["kl"], line[key]) for line in [*seen, {**told, "step": step}]]
        found = early_stop_step([(at, kl, reward - curve[0][2]) for at, kl, reward in curve])
        if found is not None:
            say(f"step {step}: {config.stop_at_peak_of} is past its peak; from here on it pays for the other rewards")
        return found is not None

    return is_past


def recorder(config: RolloutConfig, policy: Policy) -> Recorder:
    """What stops a run that has gone wrong. Sampled ahead, the difference of sampler and trainer is what was learned
    since, too: single tokens have no bound then, and the mean a wide one; the probe at each hand-over stays."""
    known: dict[str, Any] = {"max_mismatch_kl": config.max_mismatch}
    if config.max_staleness:
        known = {"max_mismatch_kl": config.max_mismatch or STALE_MISMATCH, "max_mismatch": math.inf}
    return Recorder(
        bf16=uses_bf16(config, policy) or sampler_dtype(config, policy) == torch.bfloat16,
        max_version_lag=config.max_staleness,
        min_entropy_share=config.min_entropy,
        **known,
        max_kl=config.max_kl or None,
        **({"num_truncated": 0} if config.allow_truncated else {}),
    )
