"""`posttrain sample`: k answers to each prompt from one or more models, into a file or the preference store.

An answer depends on the seed, the prompt's tokens and the sample's number, not on the other prompts nor on batch_size,
but for the rounding of a batch's arithmetic (see rollouts/draws.py).
"""

from collections.abc import Sequence
from functools import partial

import torch
from rich.console import Console

from posttrain.models.attention import install_attention
from posttrain.models.load import load
from posttrain.recipes.sample_answers import answers_of
from posttrain.recipes.sample_config import SampleConfig
from posttrain.recipes.sample_file import FileOutput
from posttrain.recipes.sample_filling import Filling
from posttrain.recipes.sample_graded import Graded
from posttrain.recipes.sample_kept import keep_conversations, keep_pairs
from posttrain.recipes.sample_prompts import read_prompts
from posttrain.recipes.sample_store import StoreOutput
from posttrain.rollouts.policy import PolicySampler
from posttrain.types import Prompt


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
        if config.ray is not None:
            from posttrain.recipes.ray_sample import sample_over_ray

            sample_over_ray(config, prompts, output, console)
        else:
            for name in config.model:
                _sample_model(config, name, prompts, output, console)
    finally:
        told = output.finish()  # after Ctrl-C too: the next call goes on from here
    console.print(f"{config.output or config.store}: {told}", markup=False)
    if config.reward and isinstance(output, FileOutput):
        say = partial(console.print, markup=False)
        graded = Graded(config, prompts, output)
        keep_conversations(config, graded, say)
        if config.pairs != "none":
            keep_pairs(config, graded, say)
    return 0


def _sample_model(
    config: SampleConfig, name: str, prompts: Sequence[Prompt], output: FileOutput | StoreOutput, console: Console
) -> None:
    filling = Filling(config, name, prompts, output, console)
    if not filling.missing:
        return
    policy = load(filling.folder)
    install_attention(policy.model)
    parts = filling.parts(policy)
    sampler = PolicySampler(policy, dtype=torch.float32, slots=config.batch_size)
    filling.fill((part, answers_of(config, sampler, part)) for part in parts)
