"""From the keys of `ppo` and `grpo` to what an iteration samples and learns from."""

from collections.abc import Callable
from statistics import fmean
from typing import Any

from posttrain.planning.job import Micro, Rollouts
from posttrain.recipes.plan_rows import Batches, reader_of

Say = Callable[[str], None]
PROMPT_LENGTH = 64  # where the data is not read


def rollouts_of(config: Any, stage: str, has_fast_bf16: bool, say: Say) -> Rollouts:
    """One iteration of `ppo` or `grpo`."""
    bf16 = has_fast_bf16 if config.bf16 is None else config.bf16
    width = 2 if config.sampler_dtype == "bfloat16" or (config.sampler_dtype == "auto" and bf16) else 4
    length = config.answer_length or config.max_completion_length
    if config.answer_length is None:
        say(f"answers are taken to have {config.max_completion_length} tokens, the most; --answer-length says better")
    steps = config.num_updates * config.num_mini_batches
    if config.is_remote:
        say("the sampling servers' memory and the time of their answers are not in this plan")
    is_leashed = stage == "ppo" or bool(config.beta or config.measure_kl)
    passes = int(steps > 1) + int(is_leashed)
    return Rollouts(
        config.num_prompts,
        config.num_generations,
        _prompt_length(config, say),
        length,
        config.max_completion_length,
        config.sampler_slots,
        width,
        steps,
        passes + int(stage == "ppo"),
        config.is_remote,
    )


def _prompt_length(config: Any, say: Say) -> float:
    """Mean tokens of a prompt."""
    place = reader_of(config)
    if place is None:
        say(f"prompts are taken to be {min(PROMPT_LENGTH, config.max_prompt_length)} tokens long")
        return float(min(PROMPT_LENGTH, config.max_prompt_length))
    from posttrain.data.template import install_template
    from posttrain.models.load import load_tokenizer
    from posttrain.recipes.sample_prompts import read_prompts
    from posttrain.rollouts.bridge import Bridge

    tokenizer = load_tokenizer(place)
    if config.chat_template or tokenizer.chat_template is None:
        install_template(tokenizer, config.chat_template if config.chat_template not in (None, "raw") else "chatml")
    prompts = read_prompts(config.dataset, config.max_samples, say)
    bridge = Bridge(tokenizer)
    return fmean(len(bridge.ask(prompt.messages, prompt.tools)) for prompt in prompts[:500])


def rollout_batches(config: Any, rolls: Rollouts, processes: int) -> tuple[Batches, int]:
    """The micro-batches of rollouts: trees of a prompt and its answers, packed to `micro_batch_tokens`."""
    group = rolls.prompt_length + rolls.generations * rolls.length
    groups = rolls.prompts / config.num_mini_batches / processes
    in_row = max(1.0, min(float(config.micro_batch_tokens // group), groups))
    part = min(1.0, config.micro_batch_tokens / group)  # a group that is too long is cut into several trees
    row = in_row * part
    answers = rolls.generations * row
    pairs = row * (rolls.prompt_length**2 / 2)
    pairs += answers * rolls.length * (rolls.length / 2 + rolls.prompt_length)
    span = (rolls.prompt_length**2 + rolls.generations * rolls.length**2) / group
    usual = Micro(row * group, answers * rolls.length, pairs, span, answers)
    longest = min(config.micro_batch_tokens, groups * (rolls.prompt_length + rolls.generations * rolls.longest))
    most = usual.scaled(max(1.0, longest / usual.positions))
    steps = config.max_steps if config.max_steps > 0 else None
    parts = int(most.positions // (rolls.prompt_length + rolls.longest))
    return Batches(most, usual, max(1.0, groups / row), steps), max(1, parts)
