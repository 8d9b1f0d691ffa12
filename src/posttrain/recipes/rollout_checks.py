"""What cannot work in the rewards of a recipe, said before the first step."""

from collections.abc import Sequence

from posttrain.errors import ConfigError, DataError
from posttrain.recipes.rollout_config import RolloutConfig
from posttrain.rollouts.grading import Weighted, check_gold, why_unjudged
from posttrain.types import Prompt


def require_named(config: RolloutConfig, names: Sequence[str]) -> None:
    """Raises ConfigError where the reward that is watched is unknown. An environment may give
    scores of other names, which nobody knows before it ran."""
    wanted = config.stop_at_peak_of
    if wanted is not None and wanted not in names and config.environment is None:
        raise ConfigError(f"stop_at_peak_of is {wanted!r}, and there is no reward of that name: {', '.join(names)}.")


def require_judged(prompts: Sequence[Prompt], rewards: Sequence[Weighted], config: RolloutConfig) -> None:
    """Raises DataError where a reward that compares with gold answers has none in the whole data. An environment may
    bring answers of its own."""
    if config.environment is not None:
        return
    for weighted in rewards:
        if weighted.has_gold and (why := why_unjudged(prompts, weighted.reward)):
            raise DataError(
                f"reward {weighted.name} can judge none of {len(prompts):,} prompts; the first: {why}",
                file=", ".join(entry.path for entry in config.dataset),
            )


def require_gold(prompts: Sequence[Prompt], rewards: Sequence[Weighted], config: RolloutConfig) -> None:
    """Raises DataError where a prompt's own answer does not earn the full reward, ConfigError where none is judged."""
    judges = [reward for reward in rewards if reward.has_gold]
    if not judges:
        names = ", ".join(reward.name for reward in rewards)
        raise ConfigError(
            f"check_gold has nothing to check: none of {names} compares with a gold answer; leave it out."
        )
    for weighted in judges:
        report = check_gold(prompts, weighted.reward)
        if report.failures or not report.num_checked:
            raise DataError(
                f"reward {weighted.name}: {report} Mend the answers or the reward, or set check_gold: false.",
                file=", ".join(entry.path for entry in config.dataset),
            )
