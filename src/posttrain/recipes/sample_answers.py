"""The prompts that leave room for an answer, and the answers that a model gives to them."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from rich.console import Console

from posttrain.data.template import render_prompt, stop_token_ids
from posttrain.errors import DataError
from posttrain.models.load import Policy, context_length
from posttrain.recipes.preview import bare_prompt
from posttrain.recipes.sample_config import SampleConfig
from posttrain.recipes.sample_file import Answer
from posttrain.rollouts.draws import draw_seed
from posttrain.rollouts.sampling import Completion, Decoding, Request, Sampler
from posttrain.types import Prompt

Job = tuple[Prompt, list[int], list[int]]


class OfPolicy(Sampler, Protocol):
    """A sampler that knows its policy, here or in other processes."""

    policy: Policy


def fitting(
    config: SampleConfig,
    policy: Policy,
    missing: Sequence[tuple[Prompt, list[int]]],
    console: Console,
    *,
    num_done: int,
) -> list[Job]:
    """Each prompt with its ids and the numbers to sample. One that leaves no room for the answer is left out, aloud;
    DataError where it is all of them. `num_done`: prompts that are answered already."""
    limit = context_length(policy) - config.max_new_tokens
    has_template = policy.tokenizer.chat_template is not None
    jobs, long = [], []
    for prompt, numbers in missing:
        if has_template:
            ids = render_prompt(prompt.messages, policy.tokenizer, prompt.tools)
        else:
            ids = bare_prompt(policy, prompt.messages[-1].content + "\n")
        if len(ids) <= limit:
            jobs.append((prompt, ids, numbers))
        else:
            long.append((prompt.source, len(ids)))
    mend = f"the context holds {context_length(policy):,} tokens, max_new_tokens {config.max_new_tokens:,} of them"
    if not jobs and not num_done:
        raise DataError(f"no prompt fits {policy.name}: {mend}; lower max_new_tokens or shorten the prompts.")
    if long:
        source, length = long[0]
        console.print(
            f"{policy.name}: {len(long):,} prompts are too long and left out, the first {source or 'of them'} with "
            f"{length:,} tokens; {mend}",
            markup=False,
        )
    return jobs


def answers_of(config: SampleConfig, sampler: OfPolicy, jobs: Sequence[Job]) -> list[list[Answer]]:
    """The different answers to each prompt, in the order of their first sample."""
    stops = tuple(stop_token_ids(sampler.policy.tokenizer))
    decoding = Decoding(config.max_new_tokens, config.temperature, config.top_p, stop_token_ids=stops)
    requests = [
        Request(tuple(ids), tuple(draw_seed(config.seed, ids, number) for number in numbers))
        for _, ids, numbers in jobs
    ]
    return [
        _different(numbers, completions, stops)
        for (_, _, numbers), completions in zip(jobs, sampler.sample(requests, decoding), strict=True)
    ]


def _different(numbers: Sequence[int], completions: Sequence[Completion], stops: Sequence[int]) -> list[Answer]:
    found: dict[str, Answer] = {}
    for number, completion in zip(numbers, completions, strict=True):
        text, ids = completion.text.strip(), completion.token_ids
        before = found.get(text)
        if before is None:
            ids = ids[:-1] if ids and ids[-1] in stops else ids
            found[text] = Answer(text, ids, (number,), completion.finish == "stop")
        else:
            found[text] = Answer(text, before.token_ids, (*before.samples, number), before.finished)
    return list(found.values())


def parameters_of(config: SampleConfig, folder: str) -> dict[str, Any]:
    """What an answer depends on beside the model's name; `weights` tells a model that was trained anew."""
    given = {name: getattr(config, name) for name in ("temperature", "top_p", "max_new_tokens", "seed")}
    return given | weights_digest(folder)


def weights_digest(folder: str) -> dict[str, str]:
    """`weights`: what tells the weights of a folder from others; nothing where they are not in it."""
    digest = hashlib.sha256()
    files = sorted(Path(folder).glob("*.safetensors"))
    for file in files:
        with file.open("rb") as handle:
            digest.update(hashlib.file_digest(handle, "sha256").digest())
    return {"weights": digest.hexdigest()[:16]} if files else {}
