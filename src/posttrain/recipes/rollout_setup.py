"""From the rollout keys of a recipe to prompts, graders and the sampler: what `grpo` and `ppo` have in common."""

import copy
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from posttrain.data.template import stop_token_ids
from posttrain.errors import ConfigError, DataError
from posttrain.models.load import Policy, context_length
from posttrain.recipes.dataset_config import DatasetEntry
from posttrain.recipes.rewards import recipe_rewards
from posttrain.recipes.rollout_checks import require_gold, require_judged, require_named
from posttrain.recipes.rollout_config import RolloutConfig
from posttrain.recipes.rollout_vllm import server_sampler
from posttrain.recipes.sample_prompts import read_prompts
from posttrain.recipes.sampler_precision import sampler_dtype
from posttrain.recipes.tool_setup import offered, recipe_toolbox, recipe_tools, unweighted_counts
from posttrain.rollouts.bridge import Bridge
from posttrain.rollouts.environments import SingleTurn
from posttrain.rollouts.grading import Grader, Weighted
from posttrain.rollouts.named import environment_named
from posttrain.rollouts.policy import PolicySampler
from posttrain.rollouts.run import run_groups
from posttrain.rollouts.sampling import Decoding
from posttrain.rollouts.sandbox import missing_walls
from posttrain.rollouts.tool_use import CountingGrader
from posttrain.rollouts.vllm_sampler import VllmSampler
from posttrain.train.ahead import Ahead
from posttrain.train.collect import Groups
from posttrain.train.sharding import ReplicaSampler, plain_twin
from posttrain.types import Prompt

Say = Callable[[str], None]


@dataclass(frozen=True)
class Setup:
    """What answers and grades prompts. `roll`: `run_groups` of this recipe, but for its prompts, seed and version."""

    prompts: list[Prompt]
    held_out: list[Prompt]
    rewards: list[Weighted]
    sampler: PolicySampler | VllmSampler | Ahead
    roll: Callable[..., Groups]
    inputs: list[dict[str, Any]]
    has_tools: bool = False

    def grader(self) -> Grader:
        """A new one, with nothing kept."""
        return CountingGrader(self.rewards) if self.has_tools else Grader(self.rewards)


def set_up(config: RolloutConfig, policy: Policy, console: Console, rewards: Sequence[Weighted] = ()) -> Setup:
    """Read prompts, name the rewards, and make the sampler. Everything that is wrong with them is said now."""
    say: Say = partial(console.print, markup=False)
    graders = [*named_rewards(config, policy, say), *rewards]
    require_named(config, [weighted.name for weighted in graders])
    box = recipe_toolbox(config, say)
    tools = recipe_tools(config, policy.tokenizer, box)
    prompts = offered(read_prompts(config.dataset, config.max_samples, say), box)
    prompts = _fitting(config, policy, prompts, say)
    held_out = []
    if config.eval_dataset:
        entries = [_held_out(entry) for entry in config.eval_dataset]
        held_out = offered(read_prompts(entries, config.max_eval_samples, say), box)
        held_out = _fitting(config, policy, held_out, say)
    (require_gold if config.check_gold else require_judged)(prompts, graders, config)
    decoding = Decoding(
        max_new_tokens=config.max_completion_length,
        temperature=config.temperature,
        stop_token_ids=tuple(stop_token_ids(policy.tokenizer)),
        stop_strings=tuple(config.stop_strings),
    )
    sampler = _sampler(config, policy, decoding, say)
    inner = SingleTurn if config.environment is None else environment_named(config.environment, config.reward)
    turns: dict[str, Any] = {"environment": inner, "max_turns": config.max_turns}
    if tools is not None:
        turns = tools.rolling(inner, 1 if config.environment is None else config.max_turns)
    roll = partial(
        run_groups,
        sampler=sampler,
        # A thread of its own renders what comes next, and a tokenizer is nothing that two threads can share.
        tokenizer=copy.deepcopy(policy.tokenizer) if config.max_staleness else policy.tokenizer,
        decoding=decoding,
        context_length=context_length(policy),
        **turns,
    )
    door = Ahead(sampler, partial(_roll, roll, config.num_generations)) if config.max_staleness else sampler
    told = [{"path": entry.path, "prompts": len(prompts)} | _digest(entry.path) for entry in config.dataset]
    counts = [] if tools is None else unweighted_counts(graders)
    return Setup(prompts, held_out, [*graders, *counts], door, roll, told, tools is not None)


def _sampler(config: RolloutConfig, policy: Policy, decoding: Decoding, say: Say) -> Any:
    """Who answers: this process, or servers."""
    if config.is_remote:
        return server_sampler(config, policy, decoding, say)
    options: dict[str, Any] = {"dtype": sampler_dtype(config, policy), "slots": config.sampler_slots}
    if config.strategy != "fsdp":
        return PolicySampler(policy, **options)
    return ReplicaSampler(policy.model, PolicySampler(plain_twin(policy), **options))


def _roll(roll: Callable[..., Groups], size: int, prompts: Sequence[Prompt], seed: int, version: int) -> Groups:
    return roll(prompts, num_generations=size, seed=seed, version=version)


def named_rewards(config: RolloutConfig, policy: Policy, say: Say) -> list[Weighted]:
    """The rewards that the recipe names. Raises ConfigError for an unknown one."""
    found = recipe_rewards(
        config.reward, tokenizer=policy.tokenizer, max_completion_length=config.max_completion_length
    )
    if any(weighted.name == "code" for weighted in found) and missing_walls():
        say(missing_walls())
    return found


def _fitting(config: RolloutConfig, policy: Policy, prompts: Sequence[Prompt], say: Say) -> list[Prompt]:
    """Prompts that leave room for an answer; the others are counted aloud."""
    limit = min(config.max_prompt_length, context_length(policy) - config.max_completion_length)
    if limit < 1:
        raise ConfigError(
            f"max_completion_length {config.max_completion_length} leaves no room for a prompt in the model's "
            f"{context_length(policy)} positions; lower it."
        )
    bridge = Bridge(policy.tokenizer)
    kept = [prompt for prompt in prompts if len(bridge.ask(prompt.messages, prompt.tools)) <= limit]
    if len(kept) < len(prompts):
        say(f"{len(prompts) - len(kept):,} prompts are longer than {limit} tokens and left out")
    if not kept:
        raise DataError(f"no prompt has at most {limit} tokens; raise max_prompt_length.")
    return kept


def _held_out(entry: DatasetEntry) -> DatasetEntry:
    """Of the pocket world, what is kept for measuring."""
    given = "split" in entry.model_fields_set
    return entry.model_copy(update={"split": "test"}) if entry.path == "pocket" and not given else entry


def _digest(path: str) -> dict[str, str]:
    return {"sha256": hashlib.sha256(Path(path).read_bytes()).hexdigest()} if Path(path).is_file() else {}
