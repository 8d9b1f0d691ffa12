"""Who answers the questions of `posttrain eval`: the model in this process, or the workers of a Ray cluster."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from functools import partial

import torch

from posttrain.data.template import stop_token_ids
from posttrain.models.load import Policy, context_length
from posttrain.recipes.eval_config import EvalConfig
from posttrain.recipes.eval_prompts import PLAIN_STOP, plain_prompt
from posttrain.recipes.policy import load_packed
from posttrain.recipes.tool_setup import recipe_tools
from posttrain.rollouts.policy import PolicySampler
from posttrain.rollouts.run import run_groups
from posttrain.rollouts.sampling import Decoding, Sampler
from posttrain.rollouts.tools.tool import ToolBox
from posttrain.types import Prompt, Rollout

Job = tuple[str, Prompt, Prompt]
"""The key, the question as the data has it, and as it is asked."""
Part = Sequence[Job]
Groups = list[list[Rollout]]
Roll = Callable[[Sequence[Prompt]], Groups]
Say = Callable[[str], None]


def asked(
    config: EvalConfig, folder: str, box: ToolBox | None, parts: Sequence[Part], stack: ExitStack, say: Say
) -> tuple[Policy, Iterator[tuple[Part, Groups]]]:
    """The model, without weights where workers have them, and the parts with their answers, in order."""
    if config.ray is not None:
        from posttrain.recipes.ray_eval import begin, side_by_side

        sampler = begin(config, folder, stack, say)
        roll = partial(_rolled, roller(config, sampler.policy, box, sampler))
        # Tools are this process's own, and one answer's calls are not to wait for another part's.
        return sampler.policy, side_by_side(roll, parts, config.num_workers if box is None else 0)
    policy = load_packed(folder)
    dtype = None if config.sampler_dtype == "auto" else getattr(torch, config.sampler_dtype)
    answer = roller(config, policy, box, PolicySampler(policy, dtype=dtype, slots=config.sampler_slots))
    return policy, ((part, _rolled(answer, part)) for part in parts)


def _rolled(roll: Roll, part: Part) -> Groups:
    return roll([prompt for _, _, prompt in part])


def roller(config: EvalConfig, policy: Policy, box: ToolBox | None, sampler: Sampler) -> Roll:
    """What answers prompts with groups of rollouts."""
    tools = recipe_tools(config, policy.tokenizer, box)
    is_plain = policy.tokenizer.chat_template is None
    decoding = Decoding(
        max_new_tokens=config.max_new_tokens,
        temperature=config.drawn_at,
        top_p=config.top_p,
        top_k=config.top_k,
        min_p=config.min_p,
        stop_token_ids=tuple(stop_token_ids(policy.tokenizer)),
        stop_strings=(*config.stop_strings, *([PLAIN_STOP] if is_plain else [])),
    )
    return partial(
        run_groups,
        sampler=sampler,
        tokenizer=policy.tokenizer,
        num_generations=config.num_samples,
        decoding=decoding,
        seed=config.seed,
        context_length=context_length(policy),
        render=plain_prompt(policy) if is_plain else None,
        **(tools.rolling() if tools else {}),
    )
