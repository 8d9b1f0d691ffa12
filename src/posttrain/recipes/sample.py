"""`posttrain sample`: k answers to each prompt from one or more models, into a file or the preference store.

An answer depends on the seed, the prompt's tokens and the sample's number, not on the other prompts nor on batch_size,
but for the rounding of a batch's arithmetic (see rollouts/draws.py).
"""

import hashlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress

from posttrain.data.template import render_prompt, stop_token_ids
from posttrain.errors import DataError
from posttrain.models.attention import install_attention
from posttrain.models.load import Policy, context_length, load
from posttrain.recipes.policy import resolve_model
from posttrain.recipes.preview import bare_prompt
from posttrain.recipes.sample_config import SampleConfig
from posttrain.recipes.sample_file import Answer, FileOutput
from posttrain.recipes.sample_prompts import read_prompts
from posttrain.recipes.sample_store import StoreOutput
from posttrain.rollouts.draws import draw_seed
from posttrain.rollouts.generate import generate
from posttrain.types import Prompt

BATCHES_AT_ONCE = 8  # answers of like length share a batch, among so many batches


def run(config: SampleConfig) -> int:
    """Read the prompts, let each model answer what is not answered yet, and write it all down."""
    console = Console(highlight=False, soft_wrap=True)
    prompts = read_prompts(config.dataset, config.max_samples, lambda text: console.print(text, markup=False))
    output = (
        FileOutput(config.output, overwrite=config.overwrite)
        if config.output is not None
        else StoreOutput(str(config.store), overlap=config.overlap)
    )
    try:
        for name in config.model:
            _sample_model(config, name, prompts, output, console)
    finally:
        told = output.finish()  # after Ctrl-C too: the next call goes on from here
    console.print(f"{config.output or config.store}: {told}", markup=False)
    return 0


def _sample_model(
    config: SampleConfig, name: str, prompts: Sequence[Prompt], output: FileOutput | StoreOutput, console: Console
) -> None:
    parameters = _parameters(config, folder := resolve_model(name))
    missing = [
        (prompt, [number for number in range(config.num_samples) if number not in there])
        for prompt in prompts
        for there in [output.done(prompt, name, parameters)]
    ]
    missing = [(prompt, numbers) for prompt, numbers in missing if numbers]
    if len(missing) < len(prompts):
        passed = len(prompts) - len(missing)
        console.print(f"{name}: {passed:,} prompts have their answers already and are passed over", markup=False)
    if not missing:
        return
    policy = load(folder)
    install_attention(policy.model)
    jobs = _fitting(config, policy, missing, console)
    counts: Counter[str] = Counter()
    size = max(1, BATCHES_AT_ONCE * config.batch_size // config.num_samples)
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task(name, total=len(jobs))
        for start in range(0, len(jobs), size):
            chosen = jobs[start : start + size]
            for (prompt, _, numbers), answers in zip(chosen, _answers(config, policy, chosen), strict=True):
                again = output.add(prompt, name, parameters, answers)
                counts["answers"] += len(numbers)
                counts["said before"] += len(numbers) - len(answers) + again
                counts["cut at max_new_tokens"] += sum(not answer.finished for answer in answers)
                counts["empty"] += sum(not answer.content for answer in answers)
            progress.advance(task, len(chosen))
    left = "".join(f", {counts[what]:,} {what}" for what in list(counts)[1:] if counts[what])
    console.print(f"{name}: {counts['answers']:,} answers to {len(jobs):,} prompts{left}", markup=False)


Job = tuple[Prompt, list[int], list[int]]


def _fitting(
    config: SampleConfig, policy: Policy, missing: Sequence[tuple[Prompt, list[int]]], console: Console
) -> list[Job]:
    """Each prompt with its ids and the numbers to sample. One that leaves no room for the answer is left out, aloud."""
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
    if not jobs:
        raise DataError(f"no prompt fits {policy.name}: {mend}; lower max_new_tokens or shorten the prompts.")
    if long:
        source, length = long[0]
        console.print(
            f"{policy.name}: {len(long):,} prompts are too long and left out, the first {source or 'of them'} with "
            f"{length:,} tokens; {mend}",
            markup=False,
        )
    return jobs


def _answers(config: SampleConfig, policy: Policy, jobs: Sequence[Job]) -> list[list[Answer]]:
    """The different answers to each prompt, in the order of their first sample."""
    rows = [(index, ids, number) for index, (_, ids, numbers) in enumerate(jobs) for number in numbers]
    written = generate(
        policy,
        [ids for _, ids, _ in rows],
        max_new_tokens=config.max_new_tokens,
        stop_token_ids=stop_token_ids(policy.tokenizer),
        temperature=config.temperature,
        top_p=config.top_p,
        row_seeds=[draw_seed(config.seed, ids, number) for _, ids, number in rows],
        batch_size=config.batch_size,
    )
    found: list[dict[str, Answer]] = [{} for _ in jobs]
    for (index, _, number), ids in zip(rows, written, strict=True):
        text = policy.tokenizer.decode(ids, skip_special_tokens=True).strip()
        before = found[index].get(text)
        if before is None:
            found[index][text] = Answer(text, tuple(ids), (number,), len(ids) < config.max_new_tokens)
        else:
            found[index][text] = Answer(text, before.token_ids, (*before.samples, number), before.finished)
    return [list(answers.values()) for answers in found]


def _parameters(config: SampleConfig, folder: str) -> dict[str, Any]:
    """What an answer depends on beside the model's name; `weights` tells a model that was trained anew."""
    given = {name: getattr(config, name) for name in ("temperature", "top_p", "max_new_tokens", "seed")}
    digest = hashlib.sha256()
    files = sorted(Path(folder).glob("*.safetensors"))
    for file in files:
        with file.open("rb") as handle:
            digest.update(hashlib.file_digest(handle, "sha256").digest())
    return given | ({"weights": digest.hexdigest()[:16]} if files else {})
